"""Read a judge's answer: JSON as asked for, wherever it stands in the text."""

from __future__ import annotations

import json
import re
from typing import Any

MAX_CHARS = 50_000
MAX_OBJECTS = 50

_NUMBER = re.compile(r"\s*(\d{1,3})(?:\.0+)?(?:\s*/\s*\d{1,3})?\s*")
_DECODER = json.JSONDecoder()


def read(text: str, levels: frozenset[int]) -> tuple[int, str] | None:
    """Return level and explanation, or ``None`` when the text has no JSON object with one of ``levels`` as its score.

    Of several objects the last one counts: models that think aloud draft before they decide.
    """
    found: tuple[int, str] | None = None
    start = (text := text[:MAX_CHARS]).find("{")
    for _ in range(MAX_OBJECTS):
        if start < 0:
            break
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            level = _level(value.get("score")) if isinstance(value, dict) else None
            if level is not None and level in levels:
                explanation = value.get("explanation", value.get("reason", ""))
                found = level, explanation if isinstance(explanation, str) else ""
        start = text.find("{", end)
    return found


def _level(value: Any) -> int | None:
    if isinstance(value, bool | int):
        return int(value)
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str) and (match := _NUMBER.fullmatch(value)):
        return int(match[1])
    return None
