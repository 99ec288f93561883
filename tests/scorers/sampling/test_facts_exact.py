"""Facts are read in a quick way; they must be those of the plain one, whatever spans look like on the wire."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from plain_facts import plain_facts

from scorers.sampling import fact_keys as keys
from scorers.sampling.facts import FactReader
from scorers.sampling.operations_settings import OperationsSettings
from scorers.sampling.trace import Trace
from scorers.sampling.wire import Group, RawLog, RawSpan
from stream.interaction_record import SESSION_KEYS

SETTINGS = OperationsSettings()
# One for all examples: what it remembers of one trace must not show in another.
READER = FactReader(SETTINGS)
NOW = 1_700_000_000 * 10**9

KEYS = (
    "gen_ai.operation.name", "openinference.span.kind", "traceloop.span.kind", "llm.request.type", "gen_ai.tool.call.id",
    "gen_ai.tool.name", "tool.name", "db.vector.query.top_k", "gen_ai.prompt", "gen_ai.prompt.name",
    "gen_ai.prompt.0.content", "gen_ai.input.messages", "llm.output_messages.0.message.content",
    "retrieval.documents.0.document.content", "annotations.0.annotation.annotator_kind",
    "annotations.0.annotation.score", "trace.evaluations.1.evaluation.label", "error.type", "driftgate.judge",
    "http.route", "some.other.key", "k" * 130, "",
    *keys.REQUEST_MODEL, *keys.RESPONSE_MODEL, *(key for names in keys.AMOUNTS for key in names[:3]), *keys.COST_HALVES,
    *keys.FIRST_TOKEN, *keys.FINISH_REASONS, *keys.STATUS_CODES, *SESSION_KEYS,
    *(key for _, names in keys.COHORTS for key in names[:2]), "guardrail.triggered",
    *(names[0] for names in (SETTINGS.retry, SETTINGS.fallback, SETTINGS.cache_hit, SETTINGS.escalation)),
)  # fmt: skip
TEXTS = (
    "chat", "execute_tool", "invoke_agent", "fetch_response", "embeddings", "retrieval", "LLM", "AGENT", "EVALUATOR",
    "GUARDRAIL", "HUMAN", "workflow", "", "__REDACTED__", "driftgate", "APITimeoutError", "content_filter", "false", "down",
    "transfer_to_human", "12", "0.5", "x" * 200, "ä",
)  # fmt: skip

texts = st.sampled_from(TEXTS)
numbers = st.one_of(
    st.sampled_from([0, 1, -1, 127, 128, 504, 16384, 2**53, 2**53 + 1, 2**63 - 1, -(2**63)]),
    st.floats(),
    st.floats(0, 10),
    st.integers(0, 5000),
    st.booleans(),
)
values = st.one_of(
    texts, texts, numbers, numbers, st.none(), st.binary(max_size=3), st.lists(texts, max_size=2),
    st.dictionaries(texts, numbers, max_size=2),
)  # fmt: skip


def put(target: Any, value: Any) -> None:
    match value:
        case None:
            pass
        case bool():
            target.bool_value = value
        case int():
            target.int_value = value
        case float():
            target.double_value = value
        case str():
            target.string_value = value
        case bytes():
            target.bytes_value = value
        case list():
            target.array_value.SetInParent()
            for item in value:
                put(target.array_value.values.add(), item)
        case _:
            target.kvlist_value.SetInParent()
            for key, item in value.items():
                put(target.kvlist_value.values.add(key=key).value, item)


@st.composite
def events(draw: st.DrawFn) -> Span.Event:
    event = Span.Event(
        name=draw(
            st.sampled_from(["exception", "gen_ai.user.message", "gen_ai.choice", "db.query.result", "x"])
        )
    )
    if draw(st.booleans()):
        event.name = "gen_ai.evaluation.result"
        put(event.attributes.add(key="gen_ai.evaluation.name").value, "thumbs")
        put(event.attributes.add(key="gen_ai.evaluation.score.value").value, draw(st.sampled_from([0, 1])))
    put(
        event.attributes.add(key=draw(st.sampled_from(["exception.type", "event.name"]))).value,
        draw(st.sampled_from(["DEADLINE_EXCEEDED", "ValueError", "gen_ai.choice"])),
    )
    return event


@st.composite
def wires(draw: st.DrawFn, number: int, count: int) -> RawSpan:
    span_id = number.to_bytes(8, "big")
    parent = draw(
        st.one_of(
            st.integers(1, count).map(lambda n: n.to_bytes(8, "big")),
            st.sampled_from([b"", b"\0" * 8, b"\0", b"gone...."]),
        )
    )
    start = draw(st.sampled_from([0, NOW, NOW + 1, NOW + 10**9]))
    end = draw(st.sampled_from([0, NOW + 1, NOW + 10**9, NOW + 2 * 10**9, NOW + 10**15]))
    span = Span(
        trace_id=b"t" * 16,
        span_id=span_id,
        parent_span_id=parent,
        kind=draw(st.sampled_from([0, 3])),
        start_time_unix_nano=start,
        end_time_unix_nano=end,
    )
    span.status.code = status = draw(st.sampled_from([0, 0, 1, 2]))
    if draw(st.integers(0, 3)):
        put(
            span.attributes.add(key="gen_ai.operation.name").value,
            draw(st.sampled_from(["chat", "chat", "execute_tool", "invoke_agent"])),
        )
    for key, value in draw(st.lists(st.tuples(st.sampled_from(KEYS), values), max_size=8)):
        put(span.attributes.add(key=key).value, value)
    if not draw(st.integers(0, 3)):
        span.events.extend(draw(st.lists(events(), max_size=2)))
    raw = span.SerializeToString()
    if not draw(st.integers(0, 5)):
        raw += draw(st.sampled_from(ODD))
    return RawSpan(raw, draw(st.sampled_from(GROUPS)), b"t" * 16, span_id, parent, b"", start, end, status)


def odd(*fields: bytes) -> bytes:
    """An attribute that is written in another form than encoders write."""
    body = b"".join(fields)
    return b"\x4a" + bytes((len(body),)) + body


KEY, MODEL = (
    KeyValue(key=key).SerializeToString() for key in ("gen_ai.usage.input_tokens", "gen_ai.request.model")
)
ODD = (
    odd(b"\x12\x02\x18\x05", KEY),  # the value comes first
    odd(KEY, b"\x12\x02\x18\x05", b"\x12\x02\x18\x07"),  # twice
    odd(KEY, b"\x12\x02\x18\x05", MODEL),  # two keys
    odd(KEY, b"\x12\x03\x18\x85\x00"),  # a longer form of 5
    odd(KEY, b"\x12\x04\x18\x05\x18\x06"),
    odd(KEY, b"\x12\x05\x0a\x01a\x18\x06"),  # text, then a number
    odd(KEY, b"\x18\x01", b"\x12\x02\x18\x05"),  # with a field for profiles
    odd(KEY, b"\x78\x01", b"\x12\x02\x18\x05"),  # with one that nobody knows
    odd(KEY),
    odd(MODEL, b"\x12\x03\x0a\x01\xff"),  # no UTF-8: the span cannot be decoded
    odd(b"\x0a\x01\xff", b"\x12\x03\x0a\x01a"),
    odd(KEY, b"\x12\x02\x18"),  # cut short
    odd(),
    b"\x48\x01",  # an attribute that is a number
    b"\xc0\x3e\x01",
)  # fmt: skip


def group(**pairs: str) -> Group:
    resource = Resource()
    for key, value in pairs.items():
        resource.attributes.add(key=key.replace("_", ".")).value.string_value = value
    return Group(resource.SerializeToString(), b"", b"", b"")


GROUPS = (
    group(service_name="shop"),
    group(service_name="x", gen_ai_request_model="m"),
    Group(b"\xff", b"", b"", b""),
)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    trace = Trace(b"t" * 16, "default", b"", 1, draw(st.sampled_from([0, NOW, NOW + 10**18])))
    trace.suspect = True
    count = draw(st.integers(1, 6))
    for number in range(1, count + 1):
        trace.add_span(draw(wires(number, count)))
    for event in draw(st.lists(events(), max_size=1)):
        span_id = draw(st.integers(1, count)).to_bytes(8, "big")
        trace.add_log(RawLog(b"t" * 16, span_id, event.name, event.SerializeToString()))
    return trace


@settings(max_examples=200, deadline=None)
@given(traces())
def test_the_quick_way_says_what_the_plain_one_says(trace: Trace) -> None:
    assert repr(READER.read(trace)) == repr(plain_facts(trace, SETTINGS))


def test_more_attributes_than_are_looked_at() -> None:
    for extra in (19_998, 19_999, 20_000):
        span = Span(trace_id=b"t" * 16, span_id=b"s" * 8)
        put(span.attributes.add(key="gen_ai.operation.name").value, "chat")
        for _ in range(extra):
            span.attributes.add(key="same")
        put(span.attributes.add(key="gen_ai.usage.input_tokens").value, 7)
        trace = Trace(b"t" * 16, "default", b"", 1, NOW)
        trace.add_span(RawSpan(span.SerializeToString(), GROUPS[0], b"t" * 16, b"s" * 8, b"", b"", 0, 0, 0))
        found = READER.read(trace)
        assert found == plain_facts(trace, SETTINGS)
        assert found[1].input_tokens == (7 if extra <= 19_998 else None)  # type: ignore[union-attr]


@pytest.mark.parametrize("different", ["keys", "values"])
def test_what_is_remembered_is_bounded(different: str) -> None:
    """Other keys or other operations in every span: what follows is read as before."""
    reader = FactReader(SETTINGS)
    for number in range(1_200):
        span = Span(trace_id=b"t" * 16, span_id=b"s" * 8)
        operation = "chat" if different == "keys" or number % 2 else f"operation {number}"
        put(span.attributes.add(key="gen_ai.operation.name").value, operation)
        if different == "keys":
            put(span.attributes.add(key=f"key.{number}").value, 1)
        trace = Trace(b"t" * 16, "default", b"", 1, NOW)
        trace.add_span(RawSpan(span.SerializeToString(), GROUPS[0], b"t" * 16, b"s" * 8, b"", b"", 0, 0, 0))
        assert isinstance(reader.read(trace), tuple) == (operation == "chat")
    shapes = reader._glances._shapes
    assert len(shapes) <= 1_000
    assert all(len(shape.kinds) <= 100 for shape in shapes.values())


def test_a_span_without_events_says_nothing_of_one_with_events() -> None:
    """Both have the same attributes; only the event tells that the second asked a model."""
    reader = FactReader(SETTINGS)
    answers = []
    for names in ([], ["gen_ai.choice"], []):
        span = Span(trace_id=b"t" * 16, span_id=b"s" * 8, events=[Span.Event(name=name) for name in names])
        put(span.attributes.add(key="gen_ai.prompt.name").value, "answer")
        trace = Trace(b"t" * 16, "default", b"", 1, NOW)
        trace.add_span(RawSpan(span.SerializeToString(), GROUPS[0], b"t" * 16, b"s" * 8, b"", b"", 0, 0, 0))
        answers.append(reader.read(trace) != "no_interaction")
    assert answers == [False, True, False]


@pytest.mark.parametrize("form", ODD)
def test_odd_forms_on_the_wire(form: bytes) -> None:
    span = Span(trace_id=b"t" * 16, span_id=b"s" * 8)
    put(span.attributes.add(key="gen_ai.operation.name").value, "chat")
    trace = Trace(b"t" * 16, "default", b"", 1, NOW)
    raw = span.SerializeToString() + form
    trace.add_span(RawSpan(raw, GROUPS[0], b"t" * 16, b"s" * 8, b"", b"", 0, 0, 0))
    assert repr(READER.read(trace)) == repr(plain_facts(trace, SETTINGS))
