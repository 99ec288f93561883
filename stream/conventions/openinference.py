"""OpenInference: ``llm.input_messages.N.message.*``, ``retrieval.documents.N.document.*``, ``input.value`` and so on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stream.conventions import messages
from stream.conventions.indexed import items
from stream.conventions.reading import Reading
from stream.conventions.values import REDACTED, amount, count, first, parsed, text, word, words
from stream.interaction_record import Document, Message, Part, ToolCall, ToolResult
from stream.spans import SpanView

_MODEL = ("llm.model_name", "embedding.model_name", "reranker.model_name")


def read(span: SpanView, reading: Reading) -> None:
    """Read everything but feedback, which :mod:`stream.conventions.evaluations` reads."""
    found = span.attributes
    kind = word(found.get("openinference.span.kind")).upper()
    if not kind and not any(key.startswith(_PREFIXES) for key in found):
        return
    fill = reading.fill
    fill("provider", word(first(found, ("llm.provider", "llm.system"))))
    asked = word(found.get("llm.request.model_name")) or _asked_model(found)
    # The plain name is that of the answer as soon as there is one, so the failures would be of no model.
    named = word(first(found, _MODEL))
    fill("request_model", asked or named)
    fill("response_model", word(found.get("llm.response.model_name")) or (named if asked != named else ""))
    fill("finish_reasons", words(found.get("llm.finish_reason")))
    fill("tool_definitions", messages.tool_definitions(items(found, "llm.tools")))
    fill("input_tokens", count(found.get("llm.token_count.prompt")))
    fill("output_tokens", count(found.get("llm.token_count.completion")))
    fill("cached_tokens", count(found.get("llm.token_count.prompt_details.cache_read")))
    fill("reasoning_tokens", count(found.get("llm.token_count.completion_details.reasoning")))
    fill("cost_usd", _cost(found))
    fill("documents", _documents(found))
    _messages(found, kind, reading)
    if kind == "TOOL":
        _tool(span, reading)


_PREFIXES = ("llm.", "retrieval.documents.", "reranker.", "input.value", "output.value")


def _asked_model(found: Mapping[str, Any]) -> str:
    parameters = parsed(found.get("llm.invocation_parameters"))
    return word(parameters.get("model")) if isinstance(parameters, dict) else ""


def _cost(found: Mapping[str, Any]) -> float | None:
    total = amount(found.get("llm.cost.total"))
    if total is not None:
        return total
    halves = [amount(found.get(key)) for key in ("llm.cost.prompt", "llm.cost.completion")]
    known = [half for half in halves if half is not None]
    return sum(known) if known else None


def _documents(found: Mapping[str, Any]) -> list[Document]:
    # After a reranker only its output is shown to the model.
    for prefix in ("reranker.output_documents", "retrieval.documents"):
        if listed := messages.documents(items(found, prefix)):
            return listed
    return []


def _messages(found: Mapping[str, Any], kind: str, reading: Reading) -> None:
    given = [messages.message(item, "user") for item in items(found, "llm.input_messages")]
    answered = [messages.message(item, "assistant") for item in items(found, "llm.output_messages")]
    given = given or _completion(items(found, "llm.prompts"), "prompt", "user")
    answered = answered or _completion(items(found, "llm.choices"), "completion", "assistant")
    if kind != "TOOL":
        given = given or _value(found, "input", "user")
        answered = answered or (_value(found, "output", "assistant") if kind != "RETRIEVER" else [])
    reading.fill_messages("input_messages", given)
    reading.fill_messages("output_messages", answered)


def _completion(listed: list[Any], key: str, role: str) -> list[Message]:
    texts = [
        text(inner.get("text"))
        for item in listed
        if isinstance(item, dict) and isinstance(inner := item.get(key), dict)
    ]
    return [Message(role, [Part("text", content)]) for content in texts if content]


def _value(found: Mapping[str, Any], side: str, role: str) -> list[Message]:
    value = found.get(f"{side}.value")
    if value is None or value == REDACTED:
        return []
    body = parsed(value) if found.get(f"{side}.mime_type") == "application/json" else value
    if isinstance(body, dict) and (
        isinstance(body.get("messages"), list) or isinstance(body.get("choices"), list) or "role" in body
    ):
        return messages.messages(body, role)
    content = text(value)
    return [Message(role, [Part("text", content)])] if content else []


def _tool(span: SpanView, reading: Reading) -> None:
    found = span.attributes
    name = word(found.get("tool.name")) or span.span.name[:512]
    identity = word(found.get("tool.id"))
    arguments = first(found, ("input.value", "tool.parameters"))
    reading.fill(
        "tool_calls", [ToolCall(name, identity, None if arguments == REDACTED else parsed(arguments))]
    )
    result = found.get("output.value")
    failed = (word(found.get("error.type")) or "_OTHER") if span.failed else ""
    if result is not None or failed:
        answer = None if result == REDACTED else parsed(result)
        reading.fill("tool_results", [ToolResult(name, identity, answer, failed)])
