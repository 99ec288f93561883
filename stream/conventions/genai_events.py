"""GenAI 1.28 to 1.36, which instrumentations still emit by default: one event per message.

The content of an event is its log body (joined under ``event.body``), a JSON text in ``gen_ai.event.content``, or flat
event attributes. The two events of 1.26, ``gen_ai.content.prompt`` and ``gen_ai.content.completion``, are read too.
"""

from __future__ import annotations

from typing import Any

from stream.conventions import messages
from stream.conventions.genai import EVENT_BODY
from stream.conventions.reading import Reading
from stream.conventions.values import parsed
from stream.interaction_record import Message
from stream.spans import SpanEvent, SpanView

ROLES = {
    "gen_ai.system.message": "system",
    "gen_ai.user.message": "user",
    "gen_ai.assistant.message": "assistant",
    "gen_ai.tool.message": "tool",
}
CHOICE = "gen_ai.choice"


def read(span: SpanView, reading: Reading) -> None:
    """Collect the messages in event order."""
    given: list[Message] = []
    answered: list[Message] = []
    for event in span.events:
        if not event.name.startswith("gen_ai."):
            continue
        if role := ROLES.get(event.name):
            if len(given) < messages.MAX_MESSAGES:
                given.append(messages.message(_content(event), role, unpack=True))
        elif event.name == CHOICE:
            if len(answered) < messages.MAX_MESSAGES:
                answered.append(messages.message(_content(event), "assistant", unpack=True))
        elif event.name == "gen_ai.content.prompt":
            given += messages.messages(event.attributes.get("gen_ai.prompt"), "user")
        elif event.name == "gen_ai.content.completion":
            answered += messages.messages(event.attributes.get("gen_ai.completion"), "assistant")
    reading.fill_messages("input_messages", given[-messages.MAX_MESSAGES :])
    reading.fill_messages("output_messages", answered[: messages.MAX_MESSAGES])
    reading.fill("finish_reasons", [m.finish_reason for m in answered if m.finish_reason])


def _content(event: SpanEvent) -> Any:
    for key in (EVENT_BODY, "gen_ai.event.content", "body"):
        if key in event.attributes:
            body = parsed(event.attributes[key])
            return body if isinstance(body, dict) else {"content": body}
    found = {
        (name := key.removeprefix("gen_ai.")): value if name == "content" else parsed(value)
        for key, value in event.attributes.items()
    }
    # As attributes a nested message can only be JSON text.
    if isinstance(found.get("message"), str):
        found["content"] = found.pop("message")
    return found
