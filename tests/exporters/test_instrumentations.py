"""Instrumentations that others wrote, on recorded provider answers: what they send becomes the same interaction.

Each runs in a process of its own (``python/play.py``) and exports with the real SDK to the real receivers; spans and
log events are then joined by the real sampler.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from joined import joined
from provider import Provider

from stream.interaction import (
    Interaction,
    Message,
    Part,
    ToolCall,
    ToolDefinition,
    interactions,
    trace_interaction,
)

PLAY = Path(__file__).parent / "python" / "play.py"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ASKED = {"city": "Lisbon", "notify": "[EMAIL]"}
RESULT = {"degrees": 21}
ANSWER = "It is 21 degrees in Lisbon."
SYSTEM = "You are a weather service."
QUESTION = "What is the weather in Lisbon? Tell [EMAIL]"
ANTHROPIC = ("anthropic", "claude-sonnet-4-5", "claude-sonnet-4-5-20250929", "toolu_weather_1")
OPENAI = ("openai", "gpt-4.1-mini", "gpt-4.1-mini-2025-04-14", "call_weather_1")


class Dialect(NamedTuple):
    """What an instrumentation tells and how it spells it."""

    name: str
    finish: tuple[str, str]
    cached: int | None = 64
    tools: bool = True  # tells the tool definitions
    operation: str = "chat"
    error: str = "NotFoundError"
    stream_finish: bool = True


DIALECTS = [
    Dialect("openinference-openai", ("tool_calls", "stop"), operation="", error="openai.NotFoundError"),
    Dialect("openinference-anthropic", ("tool_use", "end_turn"), operation=""),
    Dialect("openllmetry-openai", ("tool_call", "stop")),
    Dialect("openllmetry-anthropic", ("tool_call", "stop")),
    Dialect("openllmetry-langchain", ("tool_call", "stop")),
    Dialect("official-openai", ("tool_calls", "stop"), None, tools=False),
    Dialect("official-openai-spans", ("tool_calls", "stop"), None, tools=False),
    Dialect("official-openai-events", ("tool_calls", "stop"), None, tools=False),
]


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    stub = Provider()
    yield stub
    stub.close()


def play(name: str, provider: Provider, running: Any) -> tuple[list[Interaction], Interaction]:
    """Run the application under ``name`` and return the model calls and the whole trace as driftgate sees them."""
    done = subprocess.run(
        [sys.executable, str(PLAY), name, provider.url, running.http],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "LANGSMITH_TRACING": "false", "NO_PROXY": "127.0.0.1"},
    )
    assert done.returncode == 0, done.stderr
    assert not any(
        b"jane.doe" in output.value or b"ann.smith" in output.value for output in running.log.outputs
    )
    assert running.log.counters["spans_refused"] == 0
    assert running.log.counters.get("logs_refused", 0) == 0
    (trace,) = joined(running.log.outputs)
    whole = trace_interaction(trace)
    assert whole is not None
    return interactions(trace), whole


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_every_field_of_the_interaction(start: Any, provider: Provider, dialect: Dialect) -> None:
    running = start()
    found, whole = play(dialect.name, provider, running)
    calls = [one for one in found if one.kind == "llm" and one.has_content]
    vendor, model, answered, call_id = ANTHROPIC if "anthropic" in dialect.name else OPENAI
    streams = dialect.name.endswith(("openai", "spans", "events"))
    assert len(calls) == (4 if streams else 2)
    tools = [ToolDefinition("get_weather", "Weather of a city", SCHEMA)] if dialect.tools else []
    call = ToolCall("get_weather", call_id, ASKED)

    for one in calls:
        assert (one.operation, one.provider) == (dialect.operation, vendor)
        assert one.system_text == SYSTEM
        assert one.input_text == QUESTION
        assert (one.route, one.session_id, one.service, one.environment) == ("/ask", "s1", "weather", "test")
        assert one.latency_s is not None
    for one in calls[:3]:
        assert (one.request_model, one.response_model) == (model, answered)
        assert one.error_type == ""
        assert one.status in ("ok", "unset")
        definitions = [(t.name, t.description.rstrip("."), t.parameters) for t in one.tool_definitions]
        assert definitions == [(t.name, t.description, t.parameters) for t in tools]

    first, second = calls[0], calls[1]
    assert first.tool_calls == [call]
    assert first.tool_results == []
    said = "I will look it up." if vendor == "anthropic" else ""
    assert first.output_text == said
    assert [m.role for m in first.output_messages] == ["assistant"]
    assert first.finish_reasons == [dialect.finish[0]]
    assert (first.usage.input_tokens, first.usage.output_tokens) == (82, 17)
    assert first.usage.cached_tokens == dialect.cached

    assert second.output_messages == [
        Message("assistant", [Part("text", ANSWER)], second.output_messages[0].finish_reason)
    ]
    assert second.tool_calls == []
    assert [(r.id, r.response, r.error_type) for r in second.tool_results] == [(call_id, RESULT, "")]
    asked = [part for message in second.input_messages for part in message.parts if part.type == "tool_call"]
    assert asked == [Part("tool_call", id=call_id, name="get_weather", arguments=ASKED)]
    assert second.finish_reasons == [dialect.finish[1]]
    assert (second.usage.input_tokens, second.usage.output_tokens) == (120, 9)

    if streams:
        streamed, broken = calls[2], calls[3]
        assert streamed.output_text.strip() == ANSWER
        assert streamed.finish_reasons == ["stop"]
        assert (streamed.usage.input_tokens, streamed.usage.output_tokens) == (120, 9)
        assert (broken.status, broken.error_type) == ("error", dialect.error)
        assert broken.model == "broken"
        assert broken.output_messages == []

    assert whole.kind == "llm"
    assert whole.output_text.strip() == ANSWER
    assert whole.model == model
    assert [(c.name, c.arguments) for c in whole.tool_calls] == [("get_weather", ASKED)]
    assert [r.response for r in whole.tool_results] == [RESULT]
    expected = (322, 35) if streams else (202, 26)
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == expected
    assert whole.route == "/ask"


def test_without_content_there_is_none_and_the_figures_stay(start: Any, provider: Provider) -> None:
    found, whole = play("official-openai-silent", provider, start())
    calls = [one for one in found if one.kind == "llm"]
    assert not any(one.has_content for one in calls)
    assert [one.request_model for one in calls] == ["gpt-4.1-mini"] * 3 + ["broken"]
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (322, 35)


def test_the_own_spans_of_a_client_library_are_not_routes_of_the_application(
    start: Any, provider: Provider
) -> None:
    """The client library of Anthropic makes spans by itself, with the provider's route on them."""
    found, _ = play("openllmetry-anthropic", provider, start())
    inner = [one for one in found if one.kind == "llm" and not one.has_content]
    assert len(inner) == 2
    assert {one.attributes["http.route"] for one in inner} == {"/v1/messages"}
    assert {one.route for one in inner} == {"/ask"}
