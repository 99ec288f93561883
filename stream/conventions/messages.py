"""Chat messages from whatever JSON shape they come in.

Read are the GenAI message schema (``parts``), the chat completions shape (``content``, ``tool_calls``,
``tool_call_id``), content blocks (``tool_use``, ``tool_result``, ``thinking``) and OpenInference's nesting
(``message.contents.N.message_content``). What is unknown becomes an ``other`` part; nothing raises.
"""

from __future__ import annotations

from typing import Any

from stream.conventions.values import REDACTED, number, parsed, text, word
from stream.interaction_record import Document, Message, Part, ToolDefinition

MAX_MESSAGES = 1_000
MAX_PARTS = 256
MAX_DOCUMENTS = 1_000

_ROLES = {"human": "user", "ai": "assistant", "model": "assistant"}
_TEXT = frozenset(("text", "input_text", "output_text"))
_REASONING = frozenset(("reasoning", "thinking"))
_CALL = frozenset(("tool_call", "server_tool_call", "tool_use", "function_call", "function"))
_RESPONSE = frozenset(
    ("tool_call_response", "server_tool_call_response", "tool_result", "function_call_output")
)


def messages(value: Any, role: str) -> list[Message]:
    """Return the messages in ``value`` (JSON text, list, one message, or plain text said by ``role``)."""
    value = parsed(value)
    if isinstance(value, dict):
        for wrapper in ("messages", "choices"):
            if isinstance(value.get(wrapper), list):
                return messages(value[wrapper], role)
        return [message(value, role)]
    if isinstance(value, list):
        # The end of an overlong conversation is what the model answered.
        return [message(item, role) for item in value[-MAX_MESSAGES:]]
    content = text(value)
    return [Message(role, [Part("text", content)])] if content else []


def message(value: Any, role: str, *, unpack: bool = False) -> Message:
    """Return one message; ``unpack`` says that text content may be a JSON list of typed parts (older dialects)."""
    if not isinstance(value, dict):
        return Message(role, parts(value))
    outer = value
    inner = value.get("message")
    if isinstance(inner, dict):
        value = inner
    said = word(value.get("role"))
    role = _ROLES.get(said, said) or role
    content = value.get("content")
    found = parts(value["parts"]) if "parts" in value else parts(content, unpack=unpack)
    contents = value.get("contents")
    if isinstance(contents, list):
        found += parts([_content(item) for item in contents])
    call_id = word(value.get("tool_call_id") or (value.get("id") if role == "tool" else ""))
    if role in ("tool", "function") and isinstance(content, dict) and "type" not in content:
        found = [Part("tool_call_response", id=call_id, name=word(value.get("name")), response=content)]
    elif role in ("tool", "function") and found and all(part.type == "text" for part in found):
        said_text = "\n".join(part.content for part in found)
        found = [
            Part("tool_call_response", id=call_id, name=word(value.get("name")), response=parsed(said_text))
        ]
    known = {part.id for part in found if part.type == "tool_call" and part.id}
    # Some senders tell a call twice, between the texts and in a list of its own.
    found += [part for part in _calls(value) if part.id not in known]
    if refusal := text(value.get("refusal")):
        found.append(Part("text", refusal))
    if reasoning := text(value.get("reasoning_content")):
        found.insert(0, Part("reasoning", reasoning))
    finish = word(value.get("finish_reason") or outer.get("finish_reason") or outer.get("stop_reason"))
    return Message(role, found[:MAX_PARTS], finish, word(value.get("name")))


def _content(item: Any) -> Any:
    """Return what stands in ``message.contents.N`` as one typed part; a tool call stands beside its type there."""
    if not isinstance(item, dict):
        return item
    inner = item.get("message_content", item)
    call = item.get("tool_call")
    return {**inner, **call} if isinstance(inner, dict) and isinstance(call, dict) else inner


def _calls(value: dict[str, Any]) -> list[Part]:
    calls = parsed(value.get("tool_calls"))
    found = [_call(item.get("tool_call", item)) for item in _dicts(calls)]
    single = parsed(value.get("function_call"))
    if isinstance(single, dict):
        found.append(_call(single))
    return found


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value[:MAX_PARTS] if isinstance(item, dict)] if isinstance(value, list) else []


def _call(value: Any) -> Part:
    if not isinstance(value, dict):
        return Part("tool_call")
    function = value.get("function")
    body = function if isinstance(function, dict) else value
    name = body.get("name") or value.get("name") or value.get("function.name")
    arguments: Any = None
    for key in ("arguments", "input", "args", "server_tool_call"):
        if (given := body.get(key)) is not None:
            arguments = given
            break
    if arguments is None:
        arguments = value.get("function.arguments")
    identity = value.get("id") or value.get("call_id")
    return Part("tool_call", id=word(identity), name=word(name), arguments=_visible(arguments))


def _visible(value: Any) -> Any:
    return None if value == REDACTED else parsed(value)


def parts(value: Any, *, unpack: bool = False) -> list[Part]:
    """Return the parts in ``value``: text, one part, or a list of parts."""
    if isinstance(value, str):
        if unpack and value.lstrip()[:1] == "[":
            typed = parsed(value)
            if isinstance(typed, list) and typed and all(isinstance(i, dict) and "type" in i for i in typed):
                return parts(typed)
        content = text(value)
        return [Part("text", content)] if content else []
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        return []
    found = (_part(item) for item in value[:MAX_PARTS])
    return [part for part in found if part is not None]


def _part(value: Any) -> Part | None:
    if not isinstance(value, dict):
        content = text(value)
        return Part("text", content) if content else None
    kind = word(value.get("type")) or ("text" if "text" in value else "")
    if kind in _TEXT:
        content = text(value.get("content", value.get("text")))
        return Part("text", content) if content else None
    if kind == "refusal":
        content = text(value.get("refusal", value.get("content")))
        return Part("text", content) if content else None
    if kind in _REASONING:
        content = text(value.get("content", value.get("thinking", value.get("text"))))
        return Part("reasoning", content) if content else None
    if kind in _CALL:
        return _call(value)
    if kind in _RESPONSE:
        identity = (
            value.get("id") or value.get("tool_use_id") or value.get("tool_call_id") or value.get("call_id")
        )
        answer: Any = None
        # The schema says "response"; the registry's own example writes "result".
        for key in ("response", "result", "server_tool_call_response", "content", "output"):
            if (given := value.get(key)) is not None:
                answer = given
                break
        return Part(
            "tool_call_response", id=word(identity), name=word(value.get("name")), response=_visible(answer)
        )
    return Part("other", name=kind or "unknown")


def tool_definitions(value: Any) -> list[ToolDefinition]:
    """Return the tools in ``value``: GenAI ``gen_ai.tool.definitions`` or any provider's own shape."""
    value = parsed(value)
    listed = value if isinstance(value, list) else [value]
    found: list[ToolDefinition] = []
    for item in listed[:MAX_PARTS]:
        body = parsed(item)
        if not isinstance(body, dict):
            continue
        inner = body.get("tool")
        body = inner if isinstance(inner, dict) else body
        body = parsed(body.get("json_schema", body))
        if isinstance(body, dict) and isinstance(body.get("function"), dict):
            body = body["function"]
        if not isinstance(body, dict) or not (name := word(body.get("name"))):
            continue
        schema: Any = None
        for key in ("parameters", "input_schema", "inputSchema"):
            if isinstance(schema := parsed(body.get(key)), dict):
                break
        found.append(
            ToolDefinition(
                name, text(body.get("description"), 10_000), schema if isinstance(schema, dict) else None
            )
        )
    return found


def documents(value: Any) -> list[Document]:
    """Return the documents in ``value``, a list of ``{id, content, score}`` under any of their usual names."""
    value = parsed(value)
    found: list[Document] = []
    for item in value[:MAX_DOCUMENTS] if isinstance(value, list) else []:
        if isinstance(item, dict):
            inner = item.get("document")
            body: dict[str, Any] = inner if isinstance(inner, dict) else item
            content = text(
                body.get("content") or body.get("text") or body.get("page_content") or body.get("document")
            )
            document = Document(word(body.get("id")), content, number(body.get("score")))
        else:
            document = Document(content=text(item))
        if document.id or document.content:
            found.append(document)
    return found
