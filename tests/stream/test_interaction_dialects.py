"""Every dialect, field by field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stream.interaction import (
    Document,
    Interaction,
    Message,
    Part,
    ToolCall,
    ToolDefinition,
    ToolResult,
    Usage,
    interactions,
)

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
INPUT = [
    {"role": "user", "parts": [{"type": "text", "content": "Weather in Paris?"}]},
    {
        "role": "assistant",
        "parts": [
            {"type": "reasoning", "content": "look it up"},
            {"type": "tool_call", "id": "call_1", "name": "weather", "arguments": {"city": "Paris"}},
        ],
    },
    {"role": "tool", "parts": [{"type": "tool_call_response", "id": "call_1", "response": {"c": 14}}]},
]
OUTPUT = [
    {"role": "assistant", "parts": [{"type": "text", "content": "14 degrees."}], "finish_reason": "stop"}
]
EXPECTED_INPUT = [
    Message("user", [Part("text", "Weather in Paris?")]),
    Message(
        "assistant",
        [
            Part("reasoning", "look it up"),
            Part("tool_call", id="call_1", name="weather", arguments={"city": "Paris"}),
        ],
    ),
    Message("tool", [Part("tool_call_response", id="call_1", response={"c": 14})]),
]
EXPECTED_OUTPUT = [Message("assistant", [Part("text", "14 degrees.")], "stop")]


def one(traces: Any) -> Interaction:
    found = interactions(traces, "acme")
    assert len(found) == 1
    return found[0]


@pytest.fixture
def read(make_span: Any, make_traces: Any) -> Any:
    def build(attributes: dict[str, Any] | None = None, **kwargs: Any) -> Interaction:
        return one(make_traces(make_span(attributes, **kwargs)))

    return build


@pytest.mark.parametrize("encode", [json.dumps, lambda value: value], ids=["json text", "structured"])
def test_genai_137_attributes(read: Any, encode: Any) -> None:
    """Messages in attributes, as JSON text or as structured values."""
    found = read(
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-5-mini",
            "gen_ai.response.model": "gpt-5-mini-2026-01-01",
            "gen_ai.output.type": "text",
            "gen_ai.system_instructions": encode([{"type": "text", "content": "Be brief."}]),
            "gen_ai.input.messages": encode(INPUT),
            "gen_ai.output.messages": encode(OUTPUT),
            "gen_ai.tool.definitions": encode(
                [{"type": "function", "name": "weather", "description": "now", "parameters": WEATHER}]
            ),
            "gen_ai.response.finish_reasons": ["stop"],
            "gen_ai.response.time_to_first_chunk": 0.25,
            "gen_ai.usage.input_tokens": 120,
            "gen_ai.usage.output_tokens": 30,
            "gen_ai.usage.cache_read.input_tokens": 100,
            "gen_ai.usage.reasoning.output_tokens": 10,
            "gen_ai.usage.cost": 0.0125,
            "gen_ai.conversation.id": "conv-7",
            "gen_ai.prompt.name": "support",
            "gen_ai.prompt.version": "v18",
            "gen_ai.agent.name": "helper",
            "user.id": "u1",
        },
        end=1.5,
    )
    assert found.tenant == "acme"
    assert found.trace_id == bytes(range(16)).hex()
    assert found.span_id == "0000000000000001"
    assert (found.operation, found.kind, found.provider) == ("chat", "llm", "openai")
    assert (found.request_model, found.response_model) == ("gpt-5-mini", "gpt-5-mini-2026-01-01")
    assert found.output_type == "text"
    assert found.system_instructions == [Part("text", "Be brief.")]
    assert found.system_text == "Be brief."
    assert found.input_messages == EXPECTED_INPUT
    assert found.output_messages == EXPECTED_OUTPUT
    assert found.tool_definitions == [ToolDefinition("weather", "now", WEATHER)]
    assert found.tool_results == [ToolResult(id="call_1", response={"c": 14})]
    assert found.finish_reasons == ["stop"]
    assert found.usage == Usage(120, 30, 100, 10)
    assert found.cost_usd == 0.0125
    assert found.time_to_first_chunk == 0.25
    assert found.latency_s == 1.5
    assert (found.session_id, found.unit_id) == ("conv-7", "conv-7")
    assert (found.prompt_name, found.prompt_version, found.route) == ("support", "v18", "helper")
    assert found.user_id == "u1"
    assert (found.input_text, found.output_text) == ("Weather in Paris?", "14 degrees.")
    assert found.has_content
    assert found.status == "unset"
    assert found.cohort() == {
        "route": "helper",
        "prompt_name": "support",
        "prompt_version": "v18",
        "model": "gpt-5-mini",
        "service": "shop",
    }


def test_tool_response_is_read_as_response_and_as_result(read: Any) -> None:
    """The schema says response, the registry's example says result."""
    for key in ("response", "result"):
        message = {"role": "tool", "parts": [{"type": "tool_call_response", "id": "1", key: "ok"}]}
        found = read({"gen_ai.operation.name": "chat", "gen_ai.input.messages": json.dumps([message])})
        assert found.input_messages[0].parts == [Part("tool_call_response", id="1", response="ok")]


@pytest.mark.parametrize("place", ["attributes", "body"])
def test_genai_details_event(read: Any, place: str) -> None:
    """Content only on the details event, in its attributes or in the joined log body."""
    content = {
        "gen_ai.input.messages": INPUT,
        "gen_ai.output.messages": OUTPUT,
        "gen_ai.system_instructions": [{"type": "text", "content": "Be brief."}],
        "gen_ai.usage.input_tokens": 3,
    }
    event = content if place == "attributes" else {"event.body": content}
    found = read(
        {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"},
        events=[("gen_ai.client.inference.operation.details", event)],
    )
    assert found.input_messages == EXPECTED_INPUT
    assert found.output_messages == EXPECTED_OUTPUT
    assert found.system_text == "Be brief."
    assert found.usage.input_tokens == 3


CALLS = [
    {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
    }
]
EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("gen_ai.system.message", {"content": "Be brief."}),
    ("gen_ai.user.message", {"content": "Weather in Paris?"}),
    ("gen_ai.assistant.message", {"tool_calls": CALLS}),
    ("gen_ai.tool.message", {"id": "call_1", "content": '{"c": 14}'}),
    (
        "gen_ai.choice",
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "14 degrees."}},
    ),
]


@pytest.mark.parametrize(
    "carry",
    [
        lambda body: {"event.body": body},
        lambda body: {"gen_ai.event.content": json.dumps(body)},
        lambda body: {k: v if isinstance(v, str | int) else json.dumps(v) for k, v in body.items()},
    ],
    ids=["joined log body", "JSON attribute", "flat attributes"],
)
def test_genai_128_message_events(read: Any, carry: Any) -> None:
    """One event per message, the default of instrumentations up to 1.36."""
    found = read(
        {"gen_ai.system": "openai", "gen_ai.request.model": "gpt-4o"},
        events=[(name, carry(body)) for name, body in EVENTS],
    )
    assert (found.kind, found.provider) == ("llm", "openai")
    assert [message.role for message in found.input_messages] == ["system", "user", "assistant", "tool"]
    assert found.system_text == "Be brief."
    assert found.input_text == "Weather in Paris?"
    assert found.input_messages[2].parts == [
        Part("tool_call", id="call_1", name="weather", arguments={"city": "Paris"})
    ]
    assert found.input_messages[3].parts == [Part("tool_call_response", id="call_1", response={"c": 14})]
    assert found.output_text == "14 degrees."
    assert found.finish_reasons == ["stop"]


def test_event_name_may_stand_in_an_attribute(read: Any) -> None:
    """Log records of older SDKs have their name in event.name."""
    events = [
        ("log", {"event.name": "gen_ai.user.message", "event.body": {"content": "hello"}}),
        ("log", {"event.name": "gen_ai.choice", "event.body": {"message": {"content": "hi"}}}),
    ]
    found = read({}, events=events)
    assert (found.input_text, found.output_text) == ("hello", "hi")


def test_genai_126_content_events(read: Any) -> None:
    """gen_ai.content.prompt and gen_ai.content.completion."""
    found = read(
        {"gen_ai.request.model": "m"},
        events=[
            ("gen_ai.content.prompt", {"gen_ai.prompt": json.dumps([{"role": "user", "content": "hello"}])}),
            (
                "gen_ai.content.completion",
                {"gen_ai.completion": json.dumps([{"role": "assistant", "content": "hi"}])},
            ),
        ],
    )
    assert (found.input_text, found.output_text) == ("hello", "hi")


def test_flattened_prompt_and_completion(read: Any) -> None:
    """gen_ai.prompt.N.* and gen_ai.completion.N.*, sent in any order."""
    found = read(
        {
            "gen_ai.system": "Cohere",
            "gen_ai.request.model": "command",
            "gen_ai.prompt.10.role": "user",
            "gen_ai.prompt.10.content": "last",
            "gen_ai.prompt.0.role": "system",
            "gen_ai.prompt.0.content": "Be brief.",
            "gen_ai.prompt.2.role": "user",
            "gen_ai.prompt.2.content": json.dumps([{"type": "text", "text": "Weather in Paris?"}]),
            "gen_ai.completion.0.role": "assistant",
            "gen_ai.completion.0.content": "14 degrees.",
            "gen_ai.completion.0.finish_reason": "tool_calls",
            "gen_ai.completion.0.tool_calls.0.id": "call_1",
            "gen_ai.completion.0.tool_calls.0.name": "weather",
            "gen_ai.completion.0.tool_calls.0.arguments": '{"city": "Paris"}',
            "gen_ai.usage.prompt_tokens": 11,
            "gen_ai.usage.completion_tokens": 7,
            "llm.request.functions.0.name": "weather",
            "llm.request.functions.0.description": "now",
            "llm.request.functions.0.parameters": json.dumps(WEATHER),
        }
    )
    assert [message.text for message in found.input_messages] == ["Be brief.", "Weather in Paris?", "last"]
    assert found.output_messages[0].parts == [
        Part("text", "14 degrees."),
        Part("tool_call", id="call_1", name="weather", arguments={"city": "Paris"}),
    ]
    assert found.tool_calls == [ToolCall("weather", "call_1", {"city": "Paris"})]
    assert found.tool_definitions == [ToolDefinition("weather", "now", WEATHER)]
    assert found.finish_reasons == ["tool_calls"]
    assert found.usage == Usage(11, 7)
    assert found.provider == "Cohere"


def test_prompt_name_is_no_message(read: Any) -> None:
    """gen_ai.prompt.name shares the prefix of gen_ai.prompt.N."""
    found = read({"gen_ai.operation.name": "chat", "gen_ai.prompt.name": "a", "gen_ai.prompt.version": "2"})
    assert found.input_messages == []
    assert (found.prompt_name, found.prompt_version) == ("a", "2")


def test_openinference_llm(read: Any) -> None:
    """All OpenInference names of an LLM span."""
    message = "llm.input_messages"
    found = read(
        {
            "openinference.span.kind": "LLM",
            "llm.provider": "anthropic",
            "llm.model_name": "claude",
            "llm.response.model_name": "claude-2026",
            f"{message}.0.message.role": "system",
            f"{message}.0.message.content": "Be brief.",
            f"{message}.1.message.role": "user",
            f"{message}.1.message.contents.0.message_content.type": "text",
            f"{message}.1.message.contents.0.message_content.text": "Weather in Paris?",
            f"{message}.1.message.contents.1.message_content.type": "image",
            f"{message}.1.message.contents.1.message_content.image.image.url": "data:…",
            f"{message}.2.message.role": "tool",
            f"{message}.2.message.tool_call_id": "call_1",
            f"{message}.2.message.content": '{"c": 14}',
            "llm.output_messages.0.message.role": "assistant",
            "llm.output_messages.0.message.content": "14 degrees.",
            "llm.output_messages.0.message.tool_calls.0.tool_call.id": "call_2",
            "llm.output_messages.0.message.tool_calls.0.tool_call.function.name": "weather",
            "llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments": '{"city": "Rome"}',
            "llm.tools.0.tool.json_schema": json.dumps(
                {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
            ),
            "llm.finish_reason": "tool_calls",
            "llm.token_count.prompt": 10,
            "llm.token_count.completion": 5,
            "llm.token_count.prompt_details.cache_read": 4,
            "llm.token_count.completion_details.reasoning": 2,
            "llm.cost.prompt": 0.001,
            "llm.cost.completion": 0.002,
            "llm.prompt_template.version": "v3",
            "session.id": "s1",
            "user.id": "u1",
            "input.value": "ignored, there are messages",
        }
    )
    assert (found.kind, found.provider, found.request_model) == ("llm", "anthropic", "claude")
    assert found.response_model == "claude-2026"
    assert found.system_text == "Be brief."
    assert found.input_messages[1].parts == [Part("text", "Weather in Paris?"), Part("other", name="image")]
    assert found.input_messages[2].parts == [Part("tool_call_response", id="call_1", response={"c": 14})]
    assert found.output_text == "14 degrees."
    assert found.tool_calls == [ToolCall("weather", "call_2", {"city": "Rome"})]
    assert found.tool_definitions == [ToolDefinition("weather", "", WEATHER)]
    assert found.finish_reasons == ["tool_calls"]
    assert found.usage == Usage(10, 5, 4, 2)
    assert found.cost_usd == pytest.approx(0.003)
    assert found.prompt_version == "v3"
    assert (found.session_id, found.user_id) == ("s1", "u1")


def test_openinference_other_kinds(read: Any) -> None:
    """Retriever, reranker, tool and chain spans."""
    retriever = read(
        {
            "openinference.span.kind": "RETRIEVER",
            "input.value": "paris",
            "retrieval.documents.1.document.id": "d2",
            "retrieval.documents.1.document.content": "second",
            "retrieval.documents.0.document.id": "d1",
            "retrieval.documents.0.document.content": "first",
            "retrieval.documents.0.document.score": 0.9,
        }
    )
    assert retriever.kind == "retriever"
    assert retriever.documents == [Document("d1", "first", 0.9), Document("d2", "second")]
    reranker = read(
        {
            "openinference.span.kind": "RERANKER",
            "reranker.input_documents.0.document.content": "dropped",
            "reranker.output_documents.0.document.content": "kept",
        }
    )
    assert reranker.documents == [Document(content="kept")]
    tool = read(
        {
            "openinference.span.kind": "TOOL",
            "tool.name": "weather",
            "tool.id": "call_1",
            "input.value": '{"city": "Paris"}',
            "output.value": "rain",
        }
    )
    assert tool.tool_calls == [ToolCall("weather", "call_1", {"city": "Paris"})]
    assert tool.tool_results == [ToolResult("weather", "call_1", "rain")]
    chain = read({"openinference.span.kind": "CHAIN", "input.value": "hello", "output.value": "hi"})
    assert (chain.kind, chain.input_text, chain.output_text) == ("chain", "hello", "hi")


def test_openllmetry(read: Any) -> None:
    """Entity input and output, tools, prompts, association properties, vector stores."""
    workflow = read(
        {
            "traceloop.span.kind": "workflow",
            "traceloop.workflow.name": "support_flow",
            "traceloop.entity.input": json.dumps({"inputs": {"question": "hello"}}),
            "traceloop.entity.output": json.dumps({"outputs": "hi"}),
            "traceloop.association.properties.user_cohort": "beta",
            "traceloop.association.properties.session_id": "s9",
            "traceloop.prompt.key": "support",
            "traceloop.prompt.version": 4,
        }
    )
    assert (workflow.kind, workflow.input_text, workflow.output_text) == ("chain", "hello", "hi")
    assert (workflow.route, workflow.user_cohort) == ("support_flow", "beta")
    assert (workflow.session_id, workflow.prompt_name, workflow.prompt_version) == ("s9", "support", "4")
    tool = read(
        {
            "traceloop.span.kind": "tool",
            "traceloop.entity.name": "weather",
            "traceloop.entity.input": '{"inputs": {"city": "Paris"}}',
            "traceloop.entity.output": '{"outputs": "rain"}',
        }
    )
    assert tool.tool_calls == [ToolCall("weather", "", {"city": "Paris"})]
    assert tool.tool_results == [ToolResult("weather", "", "rain")]
    store = read(
        {"db.system": "chroma", "db.vector.query.top_k": 2},
        events=[
            ("db.query.result", {"db.query.result.id": "d1", "db.query.result.document": "first"}),
            ("db.query.result", {"db.query.result.id": "d2", "db.query.result.document": "second"}),
        ],
    )
    assert store.kind == "retriever"
    assert store.documents == [Document("d1", "first"), Document("d2", "second")]
    assert read({"llm.request.type": "completion", "gen_ai.request.model": "m"}).kind == "llm"


def test_genai_tool_and_retrieval_spans(read: Any) -> None:
    """execute_tool and retrieval of GenAI 1.38 and 1.40."""
    tool = read(
        {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": "weather",
            "gen_ai.tool.call.id": "call_1",
            "gen_ai.tool.call.arguments": '{"city": "Paris"}',
            "error.type": "timeout",
        }
    )
    assert tool.kind == "tool"
    assert tool.tool_calls == [ToolCall("weather", "call_1", {"city": "Paris"})]
    assert tool.tool_results == [ToolResult("weather", "call_1", None, "timeout")]
    assert (tool.status, tool.error_type) == ("error", "timeout")
    retrieval = read(
        {
            "gen_ai.operation.name": "retrieval",
            "gen_ai.retrieval.documents": json.dumps([{"id": "d1", "score": 0.5}]),
        }
    )
    assert retrieval.documents == [Document("d1", "", 0.5)]


@pytest.mark.parametrize(
    ("attributes", "kind"),
    [
        ({"gen_ai.operation.name": "invoke_agent"}, "agent"),
        ({"gen_ai.operation.name": "embeddings"}, "embedding"),
        ({"gen_ai.operation.name": "something_new"}, "other"),
        ({"openinference.span.kind": "GUARDRAIL"}, "guardrail"),
        ({"openinference.span.kind": "EVALUATOR"}, "evaluator"),
        ({"gen_ai.request.model": "m"}, "llm"),
        ({"gen_ai.tool.name": "t"}, "tool"),
    ],
)
def test_kinds(read: Any, attributes: dict[str, Any], kind: str) -> None:
    """What a span is."""
    assert read(attributes).kind == kind


def test_copied_context_makes_no_genai_span(make_span: Any, make_traces: Any) -> None:
    """Names that processors copy onto every span do not make an HTTP call a GenAI span."""
    http = make_span(
        {
            "http.route": "/x",
            "traceloop.workflow.name": "flow",
            "traceloop.association.properties.user_cohort": "beta",
            "gen_ai.conversation.id": "c",
            "gen_ai.agent.name": "a",
            "gen_ai.prompt.name": "p",
            "gen_ai.prompt.version": "1",
            "session.id": "s",
        }
    )
    assert interactions(make_traces(http)) == []


def test_hidden_content_is_no_content(read: Any) -> None:
    """__REDACTED__ and NO_CONTENT leave nothing to read, and no text that says so."""
    hidden = read(
        {
            "openinference.span.kind": "LLM",
            "llm.input_messages.0.message.role": "user",
            "llm.input_messages.0.message.content": "__REDACTED__",
            "output.value": "__REDACTED__",
        }
    )
    assert not hidden.has_content
    assert (hidden.input_text, hidden.output_text) == ("", "")
    assert not read({"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}).has_content
    assert read({"gen_ai.operation.name": "chat", "gen_ai.output.messages": json.dumps(OUTPUT)}).has_content


def test_content_that_looks_like_parts_stays_text(read: Any) -> None:
    """A model that answers a JSON array of typed objects answered text."""
    answer = json.dumps([{"type": "text", "text": "x"}])
    messages = [{"role": "assistant", "parts": [{"type": "text", "content": answer}]}]
    found = read({"gen_ai.operation.name": "chat", "gen_ai.output.messages": json.dumps(messages)})
    assert found.output_text == answer


def test_wrong_types_are_as_good_as_nothing(read: Any) -> None:
    """Counts below zero, infinities, text where numbers belong."""
    found = read(
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": ["a", "list"],
            "gen_ai.usage.input_tokens": -5,
            "gen_ai.usage.output_tokens": "12",
            "gen_ai.usage.cost": float("inf"),
            "gen_ai.usage.reasoning.output_tokens": True,
            "gen_ai.response.time_to_first_chunk": "soon",
            "gen_ai.input.messages": "not json {",
            "gen_ai.output.messages": "[1, null, []]",
        }
    )
    assert found.request_model == ""
    assert found.usage == Usage(None, 12)
    assert found.cost_usd is None
    assert found.time_to_first_chunk is None
    assert found.input_text == "not json {"


def test_fetch_response_reports_no_tokens(read: Any) -> None:
    """Its tokens were counted when the response was made."""
    found = read({"gen_ai.operation.name": "fetch_response", "gen_ai.usage.input_tokens": 5})
    assert found.usage == Usage()
