"""Hostile input: nothing raises, nothing grows, nothing takes long."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, TracesData

from stream.conventions.indexed import MAX_ITEMS, items
from stream.conventions.messages import MAX_MESSAGES
from stream.conventions.values import MAX_TEXT
from stream.interaction import interactions, trace_carrier, trace_interaction
from stream.spans import any_value

NAMES = [
    "gen_ai.operation.name",
    "gen_ai.system",
    "gen_ai.request.model",
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.tool.definitions",
    "gen_ai.tool.name",
    "gen_ai.tool.call.arguments",
    "gen_ai.tool.call.result",
    "gen_ai.retrieval.documents",
    "gen_ai.response.finish_reasons",
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.cost",
    "gen_ai.prompt",
    "gen_ai.prompt.0",
    "gen_ai.prompt.0.role",
    "gen_ai.prompt.0.content",
    "gen_ai.prompt.99999999.content",
    "gen_ai.completion.0.tool_calls.0.name",
    "gen_ai.completion.0.tool_calls",
    "openinference.span.kind",
    "llm.input_messages.0.message.contents.0.message_content.text",
    "llm.input_messages.0.message",
    "llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments",
    "llm.tools.0.tool.json_schema",
    "llm.token_count.prompt",
    "llm.cost.total",
    "retrieval.documents.0.document.content",
    "retrieval.documents.0.document",
    "input.value",
    "input.mime_type",
    "output.value",
    "tool.name",
    "annotations.0.annotation.name",
    "annotations.0.annotation.score",
    "trace.annotations.0.annotation",
    "traceloop.span.kind",
    "traceloop.entity.input",
    "traceloop.entity.output",
    "llm.request.functions.0.parameters",
    "llm.request.type",
    "error.type",
    "http.route",
    "session.id",
    "event.body",
    "event.name",
    "gen_ai.event.content",
    "content",
    "message",
    "gen_ai.evaluation.name",
    "gen_ai.evaluation.score.value",
    "driftgate.feedback.score",
    "db.query.result.document",
]
EVENTS = [
    "gen_ai.user.message",
    "gen_ai.tool.message",
    "gen_ai.assistant.message",
    "gen_ai.choice",
    "gen_ai.client.inference.operation.details",
    "gen_ai.content.prompt",
    "gen_ai.evaluation.result",
    "db.query.result",
    "exception",
    "other",
]
WORDS = [
    "chat",
    "execute_tool",
    "retrieval",
    "LLM",
    "TOOL",
    "CHAIN",
    "EVALUATOR",
    "workflow",
    "application/json",
]

keys = st.sampled_from(
    ["role", "parts", "content", "type", "text", "tool_calls", "function", "arguments", "id", "name", "message",
     "messages", "choices", "response", "parameters", "document", "inputs", "outputs", "score", "finish_reason"]
)  # fmt: skip
types = st.sampled_from(
    ["text", "tool_call", "tool_call_response", "reasoning", "image", "tool_use", "user", "tool"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=20) | types,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
json_texts = values.map(lambda value: json.dumps(value, default=str))


def proto(value: Any) -> AnyValue:
    made = AnyValue()
    if isinstance(value, bool):
        made.bool_value = value
    elif isinstance(value, str):
        made.string_value = value.encode("utf-8", "replace").decode()
    elif isinstance(value, int):
        made.int_value = value
    elif isinstance(value, float):
        made.double_value = value
    elif isinstance(value, bytes):
        made.bytes_value = value
    elif isinstance(value, list):
        made.array_value.SetInParent()
        made.array_value.values.extend(proto(item) for item in value)
    elif isinstance(value, dict):
        made.kvlist_value.SetInParent()
        made.kvlist_value.values.extend(KeyValue(key=key, value=proto(item)) for key, item in value.items())
    return made


attributes = st.dictionaries(
    st.sampled_from(NAMES) | st.text(max_size=8).map(lambda text: text.encode("utf-8", "replace").decode()),
    st.sampled_from(WORDS) | json_texts | values | st.binary(max_size=8),
    max_size=8,
)
events = st.lists(st.tuples(st.sampled_from(EVENTS), attributes), max_size=3)
times = st.sampled_from([0, 1, 1_760_000_000 * 10**9, 2**63, 2**64 - 1])
ids = st.sampled_from([b"", b"\x01", b"\x00" * 8, b"\x02" * 8, b"\x03" * 8, b"\x04" * 40])


@st.composite
def spans(draw: st.DrawFn) -> Span:
    return Span(
        trace_id=draw(ids),
        span_id=draw(ids),
        parent_span_id=draw(ids),
        start_time_unix_nano=draw(times),
        end_time_unix_nano=draw(times),
        attributes=[KeyValue(key=k, value=proto(v)) for k, v in draw(attributes).items()],
        events=[
            Span.Event(name=name, attributes=[KeyValue(key=k, value=proto(v)) for k, v in found.items()])
            for name, found in draw(events)
        ],
        links=[Span.Link(trace_id=b"\x01" * 16)] * draw(st.integers(0, 2)),
    )


@settings(max_examples=400, deadline=None)
@given(st.lists(spans(), max_size=5))
def test_arbitrary_spans_never_raise(found: list[Span]) -> None:
    """Any span in any place, with names that mean something and values that do not fit them."""
    traces = TracesData(resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=found)])])
    for one in [*interactions(traces), trace_interaction(traces), trace_carrier(traces)]:
        if one is not None:
            assert all(isinstance(value, str) and value for value in one.cohort().values())
            assert isinstance(one.output_text + one.input_text + one.system_text + one.unit_id, str)
            assert isinstance(one.has_content, bool)
            assert one.latency_s is None or one.latency_s >= 0


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_arbitrary_bytes_that_decode_never_raise(raw: bytes) -> None:
    """Whatever protobuf accepts."""
    try:
        traces = TracesData.FromString(raw)
    except DecodeError:
        return
    interactions(traces)
    trace_interaction(traces)


def test_an_index_costs_nothing() -> None:
    """gen_ai.prompt.99999999.content is a list of one."""
    bomb = {
        "gen_ai.prompt.99999999.content": "late",
        "gen_ai.prompt.7.content": "early",
        "gen_ai.prompt.999999999999999999999999.content": "no index",
        f"gen_ai.prompt.{'9' * 5000}.content": "no index",
        "gen_ai.prompt.-1.content": "no index",
        "gen_ai.prompt.²³.content": "no index",
    }
    tracemalloc.start()
    try:
        assert items(bomb, "gen_ai.prompt") == [{"content": "early"}, {"content": "late"}]
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_flattened_lists_and_depth_are_capped() -> None:
    """Many indexes, and names that nest without end."""
    many = {f"x.{index}.a": index for index in range(MAX_ITEMS + 500)}
    assert len(items(many, "x")) == MAX_ITEMS
    deep = {"x.0." + ".".join("a" * 5000): 1}
    assert items(deep, "x")


def test_a_leaf_and_a_branch_of_one_name() -> None:
    """The branch wins, in either order."""
    for pairs in (("x.0", "x.0.a"), ("x.0.a", "x.0")):
        assert items(dict.fromkeys(pairs, 1), "x") == [{"a": 1}]


def test_long_lists_and_texts_are_capped(make_span: Any, make_traces: Any) -> None:
    """The end of an overlong conversation is kept, an overlong text is cut."""
    messages = [{"role": "user", "content": str(index)} for index in range(MAX_MESSAGES + 5)]
    output = [{"role": "assistant", "content": "x" * (MAX_TEXT + 5)}]
    found = interactions(
        make_traces(
            make_span(
                {
                    "gen_ai.operation.name": "chat",
                    "gen_ai.input.messages": json.dumps(messages),
                    "gen_ai.output.messages": json.dumps(output),
                }
            )
        )
    )[0]
    assert len(found.input_messages) == MAX_MESSAGES
    assert found.input_text == str(MAX_MESSAGES + 4)
    assert len(found.output_text) == MAX_TEXT


def test_deep_json_stays_text(make_span: Any, make_traces: Any) -> None:
    """Arguments nested 10,000 deep are kept as text, so that nobody who walks them overflows."""
    for depth in (100, 900, 10_000):
        deep = "[" * depth + "]" * depth
        found = interactions(
            make_traces(make_span({"gen_ai.tool.name": "t", "gen_ai.tool.call.arguments": deep}))
        )[0]
        assert found.tool_calls[0].arguments == deep


def test_any_value_is_bounded() -> None:
    """Depth and number of items."""
    value = AnyValue(string_value="leaf")
    for _ in range(40):
        outer = AnyValue()
        outer.array_value.values.append(value)
        value = outer
    found, depth = any_value(value, max_depth=5), 0
    while isinstance(found, list) and found:
        found, depth = found[0], depth + 1
    assert depth == 5
    wide = AnyValue()
    wide.array_value.values.extend([AnyValue(int_value=1)] * 50)
    assert any_value(wide, max_items=10) == [1] * 10
    assert any_value(AnyValue(bytes_value=b"\x00\xff")) == "AP8="
    assert any_value(AnyValue()) is None
