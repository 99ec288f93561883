"""Attribute values as the types a field needs; a value of another type is as good as none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

REDACTED = "__REDACTED__"  # what OpenInference instrumentations write where content is hidden

MAX_TEXT = 1_000_000  # characters of one text
MAX_JSON = 16_000_000  # characters of JSON that are parsed at all
MAX_JSON_DEPTH = 64


def text(value: Any, limit: int = MAX_TEXT) -> str:
    """Return ``value`` as text: strings as they are, ``__REDACTED__`` and ``None`` as "", anything else as JSON."""
    if value is None:
        return ""
    if not isinstance(value, str):
        value = dumps(value)
    return "" if value == REDACTED else value[:limit]


def word(value: Any, limit: int = 512) -> str:
    """Return a short scalar as text; lists and maps are no words."""
    if isinstance(value, str):
        return "" if value == REDACTED else value[:limit]
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)[:limit] if isinstance(value, int | float) else ""


def words(value: Any, limit: int = 64) -> list[str]:
    """Return a list of short scalars."""
    items = value if isinstance(value, list) else [value]
    return [found for item in items[:limit] if (found := word(item))]


def number(value: Any) -> float | None:
    """Return a finite float; text that is a number counts (some emitters send scores as strings)."""
    if isinstance(value, str) and len(value) <= 64:
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        result = float(value)
    except OverflowError:
        return None
    return result if math.isfinite(result) else None


def amount(value: Any) -> float | None:
    """Return a finite number >= 0."""
    result = number(value)
    return result if result is not None and result >= 0 else None


def count(value: Any) -> int | None:
    """Return a count >= 0 that fits in 63 bits."""
    result = amount(value)
    return int(result) if result is not None and result < 2**63 else None


def first(attributes: Mapping[str, Any], keys: Iterable[str]) -> Any:
    """Return the first value under ``keys`` that is neither missing nor empty."""
    for key in keys:
        value = attributes.get(key)
        if value is not None and value not in ("", [], {}):
            return value
    return None


def parsed(value: Any) -> Any:
    """Return the JSON object or array in a string; any other value, or what is not JSON, as it is."""
    if not isinstance(value, str) or len(value) > MAX_JSON:
        return value
    start = value.lstrip()[:1]
    if start not in ("{", "["):
        return value
    try:
        result = orjson.loads(value)
    except orjson.JSONDecodeError:
        return value
    # Whoever walks the value later recurses; few brackets cannot nest deeply, so most values are not walked here.
    if value.count("{") + value.count("[") > MAX_JSON_DEPTH and _deeper_than(result, MAX_JSON_DEPTH):
        return value
    return result


def _deeper_than(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(v for v in item.values() if isinstance(v, dict | list))
            elif isinstance(item, list):
                inner.extend(v for v in item if isinstance(v, dict | list))
        if not inner:
            return False
        level = inner
    return True


def dumps(value: Any) -> str:
    """Return ``value`` as JSON text; what JSON cannot carry becomes its ``repr``."""
    try:
        return orjson.dumps(value, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
    except (orjson.JSONEncodeError, RecursionError):
        return repr(value)
