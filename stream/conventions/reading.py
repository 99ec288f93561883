"""What the dialects read from one span, before it becomes an interaction."""

from __future__ import annotations

from typing import Any

import msgspec

from stream.interaction_record import Document, Message, Part, ToolCall, ToolDefinition, ToolResult


class Reading(msgspec.Struct, kw_only=True):
    """Content fields of an interaction. The first dialect that knows a field fills it."""

    operation: str = ""
    provider: str = ""
    request_model: str = ""
    response_model: str = ""
    output_type: str = ""
    time_to_first_chunk: float | None = None
    system_instructions: list[Part] = []
    input_messages: list[Message] = []
    output_messages: list[Message] = []
    documents: list[Document] = []
    tool_definitions: list[ToolDefinition] = []
    tool_calls: list[ToolCall] = []
    tool_results: list[ToolResult] = []
    finish_reasons: list[str] = []
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_usd: float | None = None

    def fill(self, field: str, value: Any) -> None:
        """Set ``field`` unless it is known already or ``value`` says nothing."""
        if value is None or value == "" or value == []:
            return
        known = getattr(self, field)
        if known is None or known == "" or known == []:
            setattr(self, field, value)

    def fill_messages(self, field: str, messages: list[Message]) -> None:
        """Set a message list; messages that carry something to read replace those that do not."""
        known: list[Message] = getattr(self, field)
        if messages and (not known or (any(m.parts for m in messages) and not any(m.parts for m in known))):
            setattr(self, field, messages)
