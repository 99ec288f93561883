"""OpenLLMetry: ``traceloop.entity.*``, ``llm.request.functions.N.*``, and vector stores' ``db.query.result`` events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stream.conventions import messages
from stream.conventions.indexed import items
from stream.conventions.reading import Reading
from stream.conventions.values import REDACTED, count, number, parsed, text, word
from stream.interaction_record import Document, Message, Part, ToolCall, ToolResult
from stream.spans import SpanView

RESULT_EVENT = "db.query.result"


def read(span: SpanView, reading: Reading) -> None:
    """Read what OpenLLMetry adds to the GenAI names."""
    found = span.attributes
    kind = word(found.get("traceloop.span.kind"))
    reading.fill("operation", word(found.get("llm.request.type")))
    reading.fill("tool_definitions", messages.tool_definitions(items(found, "llm.request.functions")))
    reading.fill("documents", _results(span))
    reading.fill("cached_tokens", count(found.get("gen_ai.usage.cache_read_input_tokens")))
    if kind == "tool":
        _tool(span, reading)
    elif kind:
        reading.fill_messages("input_messages", _entity(found, "input", "user"))
        reading.fill_messages("output_messages", _entity(found, "output", "assistant"))


def _unwrapped(found: Mapping[str, Any], side: str) -> Any:
    value = found.get(f"traceloop.entity.{side}")
    if value == REDACTED:
        return None
    body = parsed(value)
    if isinstance(body, dict) and f"{side}s" in body:
        return body[f"{side}s"]
    if isinstance(body, dict) and set(body) == {side, "kwargs"}:  # what LangChain hands to its callbacks
        return parsed(body[side])
    return body


def _entity(found: Mapping[str, Any], side: str, role: str) -> list[Message]:
    value = _unwrapped(found, side)
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        return messages.messages(value, role)
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    content = text(value) if value not in (None, {}, []) else ""
    return [Message(role, [Part("text", content)])] if content else []


def _results(span: SpanView) -> list[Document]:
    found: list[Document] = []
    for event in span.events:
        if event.name == RESULT_EVENT and len(found) < messages.MAX_DOCUMENTS:
            content = text(event.attributes.get("db.query.result.document"))
            identity = word(event.attributes.get("db.query.result.id"))
            if content or identity:
                found.append(
                    Document(identity, content, number(event.attributes.get("db.query.result.score")))
                )
    return found


def _tool(span: SpanView, reading: Reading) -> None:
    found = span.attributes
    name = word(found.get("traceloop.entity.name")) or span.span.name[:512]
    identity = word(found.get("gen_ai.tool.call.id"))
    reading.fill("tool_calls", [ToolCall(name, identity, _unwrapped(found, "input"))])
    result = _unwrapped(found, "output")
    failed = (word(found.get("error.type")) or "_OTHER") if span.failed else ""
    if result is not None or failed:
        reading.fill("tool_results", [ToolResult(name, identity, result, failed)])
