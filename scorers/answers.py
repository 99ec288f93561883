"""What a scorer returned, checked: whatever it is becomes a score, a skip or a failure with a reason."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping
from typing import Any

from scorers.api import PASS_FAIL, Answer, Failed, Score, Skipped

MAX_LABEL = 128
MAX_EXPLANATION = 4_000

_NOT_WORD = re.compile(r"[^A-Za-z0-9_.:-]+")


def settled(raw: Any, labels: Mapping[str, float]) -> Answer:
    """Return ``raw`` as a valid answer; values outside [0, 1] and NaN are ``out_of_range``."""
    if raw is None:
        return Skipped("not_applicable")
    if isinstance(raw, Skipped):
        return Skipped(word(raw.reason), clean(raw.explanation, MAX_EXPLANATION))
    if isinstance(raw, Failed):
        return Failed(
            word(raw.reason),
            clean(raw.explanation, MAX_EXPLANATION),
            _amount(raw.cost_usd),
            int(_amount(raw.input_tokens)),
            int(_amount(raw.output_tokens)),
        )
    if isinstance(raw, str):
        raw = Score(label=raw)
    elif isinstance(raw, numbers.Real):
        raw = Score(raw)  # type: ignore[arg-type]
    if not isinstance(raw, Score):
        return Failed("not_a_score", f"returned {raw.__class__.__name__}")
    value: Any = raw.value
    if value is None:
        label: Any = raw.label
        if not isinstance(label, str):
            label = clean(label, MAX_LABEL)
        value = labels.get(label, PASS_FAIL.get(label.strip().lower())) if label else None
        if value is None:
            return Failed("unmapped_label" if label else "no_value", clean(label, MAX_LABEL))
    if not isinstance(value, numbers.Real):
        return Failed("not_a_number", f"value is {value.__class__.__name__}")
    try:
        number = float(value)
    except OverflowError:
        return Failed("out_of_range", "larger than any float")
    if not 0.0 <= number <= 1.0:  # also false for NaN
        return Failed("out_of_range", f"{number:g} is not in [0, 1]")
    return Score(
        number,
        clean(raw.label, MAX_LABEL),
        clean(raw.explanation, MAX_EXPLANATION),
        clean(raw.version, 64),
        _amount(raw.cost_usd),
        int(_amount(raw.input_tokens)),
        int(_amount(raw.output_tokens)),
    )


def _amount(value: Any) -> float:
    try:
        number = float(value) if isinstance(value, numbers.Real) else 0.0
    except OverflowError:
        return 0.0
    return number if math.isfinite(number) and 0 <= number < 2**53 else 0.0


def clean(text: Any, limit: int) -> str:
    """Return text that any encoder takes: no lone surrogates, at most ``limit`` characters."""
    if not isinstance(text, str):
        text = "" if text is None else str(text)
    cut: str = text[:limit]
    return cut.encode("utf-8", "replace").decode("utf-8")


def word(text: Any) -> str:
    """Return a reason as one short word, fit for a metric label."""
    short = _NOT_WORD.sub("_", clean(text, 64)).strip("_")
    return short or "unspecified"
