"""Placeholders in a target's URL, headers and body: ``{{candidate}}`` and its like.

A placeholder is replaced after the YAML was parsed and before the JSON is written, so a value can change what a string
says but never the shape of the request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

PLACEHOLDERS = frozenset(
    {
        "tenant",
        "rollout",
        "route",
        "arm",
        "incumbent",
        "candidate",
        "prompt_name",
        "incident_id",
        "decision_id",
        "rollback_id",
        "reason",
        "previous",
    }
)
_PLACEHOLDER = re.compile(r"\{\{\s*([A-Za-z_]+)\s*\}\}")
_DEPTH = 32


def check_template(value: Any, *, depth: int = 0) -> set[str]:
    """Return the placeholders in ``value`` (text, list or mapping).

    Raises
    ------
    ValueError
        An unknown placeholder, an unclosed one, or nesting beyond 32.
    """
    if depth > _DEPTH:
        raise ValueError(f"nested more than {_DEPTH} deep")
    found: set[str] = set()
    if isinstance(value, str):
        found = set(_PLACEHOLDER.findall(value))
        if unknown := found - PLACEHOLDERS:
            raise ValueError(
                f"unknown placeholder {{{{{min(unknown)}}}}}; known: {', '.join(sorted(PLACEHOLDERS))}"
            )
        if "{{" in _PLACEHOLDER.sub("", value):
            raise ValueError("a placeholder is not closed; write {{candidate}}")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            found |= check_template(key, depth=depth + 1) | check_template(item, depth=depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            found |= check_template(item, depth=depth + 1)
    return found


def render(value: Any, values: Mapping[str, Any]) -> Any:
    """Return ``value`` with its placeholders replaced; a string that is exactly one placeholder takes the value's type."""
    if isinstance(value, str):
        if whole := _PLACEHOLDER.fullmatch(value.strip()):
            return values.get(whole[1])
        return _PLACEHOLDER.sub(lambda match: _text(values.get(match[1])), value)
    if isinstance(value, Mapping):
        return {str(render(key, values)): render(item, values) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [render(item, values) for item in value]
    return value


def render_url(url: str, values: Mapping[str, Any]) -> str:
    """Return ``url`` with its placeholders replaced, percent-encoded so that none can reach another path or host.

    Raises
    ------
    ValueError
        A value is empty or ``.`` or ``..``, which would make it another path.
    """
    return _PLACEHOLDER.sub(lambda match: _segment(_text(values.get(match[1]))), url)


def render_header(text: str, values: Mapping[str, Any]) -> str:
    """Return ``text`` with its placeholders replaced; control characters and what is not Latin-1 are percent-encoded."""
    return _PLACEHOLDER.sub(lambda match: quote(_text(values.get(match[1])), safe=_VISIBLE), text)


def render_pointer(pointer: str, values: Mapping[str, Any]) -> str:
    """Return a JSON Pointer with its placeholders replaced, escaped as RFC 6901 section 3 says."""
    return _PLACEHOLDER.sub(
        lambda match: _text(values.get(match[1])).replace("~", "~0").replace("/", "~1"), pointer
    )


_VISIBLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def _segment(text: str) -> str:
    if text in ("", ".", ".."):
        raise ValueError(f"{text!r} cannot stand in a URL")
    return quote(text, safe="")


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
