"""OpenTelemetry GenAI semantic conventions from 1.37 on: messages in attributes or in one details event.

Also the names all vintages share: models, usage, finish reasons, tools, retrieval.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stream.conventions import messages
from stream.conventions.reading import Reading
from stream.conventions.values import REDACTED, amount, count, first, parsed, word, words
from stream.interaction_record import ToolCall, ToolResult
from stream.spans import SpanView

DETAILS_EVENT = "gen_ai.client.inference.operation.details"
EVENT_BODY = "event.body"  # where a joined log event carries its body

_INPUT_TOKENS = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens")
_OUTPUT_TOKENS = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens")
_CACHED_TOKENS = (
    "gen_ai.usage.cache_read.input_tokens",
    "gen_ai.usage.cache_read_input_tokens",
    "gen_ai.usage.cache_read_tokens",
    "gen_ai.usage.details.cache_read_tokens",
    "gen_ai.usage.details.cache_read_input_tokens",
    "gen_ai.usage.prompt_details.cache_read",
    "gen_ai.usage.input_cached_tokens",
)
_REASONING_TOKENS = (
    "gen_ai.usage.reasoning.output_tokens",
    "gen_ai.usage.reasoning_tokens",
    "gen_ai.usage.details.reasoning_tokens",
)
_COST = ("gen_ai.usage.cost", "gen_ai.usage.total_cost", "gen_ai.usage.cost_usd", "driftgate.cost_usd")
_FINISH = ("gen_ai.response.finish_reasons", "gen_ai.response.finish_reason")


def read(span: SpanView, reading: Reading) -> None:
    """Read the span's own attributes, then its details events."""
    _attributes(span.attributes, reading)
    for event in span.events:
        if event.name == DETAILS_EVENT:
            body = event.attributes.get(EVENT_BODY)
            _attributes({**body, **event.attributes} if isinstance(body, dict) else event.attributes, reading)
    _tool_span(span, reading)


def _attributes(found: Mapping[str, Any], reading: Reading) -> None:
    fill = reading.fill
    fill("operation", word(found.get("gen_ai.operation.name")))
    fill("provider", word(first(found, ("gen_ai.provider.name", "gen_ai.system"))))
    fill("request_model", word(found.get("gen_ai.request.model")))
    fill("response_model", word(found.get("gen_ai.response.model")))
    fill("output_type", word(found.get("gen_ai.output.type")))
    fill("time_to_first_chunk", amount(found.get("gen_ai.response.time_to_first_chunk")))
    fill("system_instructions", messages.parts(parsed(found.get("gen_ai.system_instructions"))))
    reading.fill_messages("input_messages", messages.messages(found.get("gen_ai.input.messages"), "user"))
    reading.fill_messages(
        "output_messages", messages.messages(found.get("gen_ai.output.messages"), "assistant")
    )
    fill("tool_definitions", messages.tool_definitions(found.get("gen_ai.tool.definitions")))
    fill("documents", messages.documents(found.get("gen_ai.retrieval.documents")))
    fill("finish_reasons", words(first(found, _FINISH)))
    # fetch_response returns a stored answer whose tokens were counted when it was made.
    if found.get("gen_ai.operation.name") != "fetch_response":
        fill("input_tokens", count(first(found, _INPUT_TOKENS)))
        fill("output_tokens", count(first(found, _OUTPUT_TOKENS)))
        fill("cached_tokens", count(first(found, _CACHED_TOKENS)))
        fill("reasoning_tokens", count(first(found, _REASONING_TOKENS)))
        fill("cost_usd", amount(first(found, _COST)))


def _tool_span(span: SpanView, reading: Reading) -> None:
    found = span.attributes
    name = word(found.get("gen_ai.tool.name"))
    if not name or (found.get("traceloop.span.kind") == "tool" and "traceloop.entity.input" in found):
        return  # OpenLLMetry repeats its wrapped entity under these names; its own reader unwraps it
    identity = word(found.get("gen_ai.tool.call.id"))
    arguments = found.get("gen_ai.tool.call.arguments")
    reading.fill(
        "tool_calls", [ToolCall(name, identity, None if arguments == REDACTED else parsed(arguments))]
    )
    result = found.get("gen_ai.tool.call.result")
    failed = (word(found.get("error.type")) or "_OTHER") if span.failed else ""
    if result is not None or failed:
        answer = None if result == REDACTED else parsed(result)
        reading.fill("tool_results", [ToolResult(name, identity, answer, failed)])
