"""Operational streams by name, and which way each of them is good.

Tests work on goodness: a value in [0, 1], higher is better. Where a stream counts what is bad, windows, evidence and texts
show it as people do, as an error rate that rises.
"""

from __future__ import annotations

import msgspec

from stream.records import Evidence, WindowEvidence

HIGHER_IS_BETTER = ("cache_hit_rate", "tool_success_rate")
LOWER_IS_BETTER = (
    "error_rate",
    "timeout_rate",
    "retry_rate",
    "fallback_rate",
    "slow_rate",
    "slow_first_token_rate",
    "tokens",
    "cost",
    "guardrail_rate",
    "negative_feedback_rate",
    "escalation_rate",
)
STREAMS = (*LOWER_IS_BETTER, *HIGHER_IS_BETTER)
"""Names of all operational streams; no rubric of a scorer may have one of them."""

EVALUATOR = "operations"
"""Evaluator of operational streams: nobody judges, the spans say it."""

_LOWER = frozenset(LOWER_IS_BETTER)


def lower_is_better(rubric: str) -> bool:
    """Whether ``rubric`` is an operational stream that counts what is bad."""
    return rubric in _LOWER


def in_own_direction(rubric: str, evidence: Evidence) -> Evidence:
    """Return ``evidence`` about goodness as evidence about ``rubric`` itself: means and differences turned round."""
    if rubric not in _LOWER:
        return evidence
    low, high = evidence.interval_low, evidence.interval_high
    return msgspec.structs.replace(
        evidence,
        mean_difference=_negative(evidence.mean_difference),
        interval_low=_negative(high),
        interval_high=_negative(low),
        windows=[_turned(window) for window in evidence.windows],
        lower_is_better=True,
    )


def _turned(window: WindowEvidence) -> WindowEvidence:
    return msgspec.structs.replace(
        window,
        incumbent_mean=_complement(window.incumbent_mean),
        candidate_mean=_complement(window.candidate_mean),
        difference=_negative(window.difference),
    )


def _negative(value: float | None) -> float | None:
    return None if value is None else 0.0 - value


def _complement(value: float | None) -> float | None:
    return None if value is None else 1.0 - value
