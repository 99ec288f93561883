"""GenAI up to 1.27 and OpenLLMetry's older instrumentations: ``gen_ai.prompt.N.*`` and ``gen_ai.completion.N.*``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stream.conventions import messages
from stream.conventions.indexed import items
from stream.conventions.reading import Reading
from stream.interaction_record import Message
from stream.spans import SpanView


def read(span: SpanView, reading: Reading) -> None:
    """Read the flattened names, and ``gen_ai.prompt``/``gen_ai.completion`` as JSON or plain text."""
    found = span.attributes
    for prefix in ("gen_ai", "llm"):  # llm.* is how the first releases spelt it
        given = _messages(found, f"{prefix}.prompt" if prefix == "gen_ai" else "llm.prompts", "user")
        answered = _messages(
            found, f"{prefix}.completion" if prefix == "gen_ai" else "llm.completions", "assistant"
        )
        reading.fill_messages("input_messages", given)
        reading.fill_messages("output_messages", answered)
        reading.fill("finish_reasons", [m.finish_reason for m in answered if m.finish_reason])


def _messages(found: Mapping[str, Any], prefix: str, role: str) -> list[Message]:
    if listed := items(found, prefix):
        return [messages.message(item, role, unpack=True) for item in listed]
    return messages.messages(found.get(prefix), role)
