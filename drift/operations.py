"""From what a trace did to the values of operational streams."""

from __future__ import annotations

from collections.abc import Iterator

from drift.direction import EVALUATOR, STREAMS
from drift.settings import DriftSettings, OperationSettings
from stream.records import Evaluator, TraceFacts

TRACES = Evaluator(id=EVALUATOR)
"""The evaluator of operational streams."""

_FLAGS = {
    "error_rate": "error",
    "timeout_rate": "timeout",
    "retry_rate": "retry",
    "fallback_rate": "fallback",
    "guardrail_rate": "guardrail",
    "negative_feedback_rate": "negative_feedback",
    "escalation_rate": "escalation",
}


class OperationStreams:
    """Values of the streams that something uses: a window, a gate or a watch.

    A stream is bounded, so the tests need no new mathematics: a share of traces is the mean of 1{x}, a percentile above a
    limit is a share above .05, and tokens and cost are taken as parts of a limit, at most 1.
    """

    def __init__(self, settings: DriftSettings) -> None:
        self._settings = settings.operations
        tested = {name for rollout in settings.rollouts for name in rollout.operations}
        tested |= {name for watch in settings.watches for name in watch.operations}
        self._shown = frozenset(settings.operations.streams)
        self._tested = frozenset(tested)
        self._names = [name for name in STREAMS if name in self._shown or name in self._tested]

    def values(self, facts: TraceFacts) -> Iterator[tuple[str, float, bool, bool]]:
        """Yield (stream, value, shown, tested) of the streams of which the trace reports something.

        The value has the stream's own direction.
        """
        flags = frozenset(facts.flags)
        for name in self._names:
            value = self._value(name, facts, flags, self._settings)
            if value is not None:
                yield name, value, name in self._shown, name in self._tested

    def metrics(self, facts: TraceFacts) -> Iterator[tuple[str, float]]:
        """Yield (name, value) of the metrics that get windows and that the trace reports: seconds, tokens, US dollars."""
        values = {
            "latency_s": facts.latency_s,
            "first_token_s": facts.first_token_s,
            "tokens_used": tokens_of(facts),
            "cost_usd": facts.cost_usd,
        }
        for name in self._settings.metrics:
            value = values[name]
            if value is not None:
                yield name, float(value)

    @staticmethod
    def _value(
        name: str, facts: TraceFacts, flags: frozenset[str], settings: OperationSettings
    ) -> float | None:
        flag = _FLAGS.get(name)
        if flag is not None:
            return 1.0 if flag in flags else 0.0
        if name == "slow_rate":
            return _over(facts.latency_s, settings.slow)
        if name == "slow_first_token_rate":
            return _over(facts.first_token_s, settings.slow_first_token)
        if name == "tokens":
            used = tokens_of(facts)
            return None if used is None else min(1.0, used / settings.tokens)
        if name == "cost":
            return None if facts.cost_usd is None else min(1.0, facts.cost_usd / settings.cost)
        if name == "tool_success_rate":
            return 1.0 - facts.tool_failures / facts.tool_calls if facts.tool_calls else None
        if facts.cache_hit is not None:  # cache_hit_rate
            return 1.0 if facts.cache_hit else 0.0
        return None


def tokens_of(facts: TraceFacts) -> int | None:
    """Return input and output tokens, None where neither is known."""
    if facts.input_tokens is None and facts.output_tokens is None:
        return None
    return (facts.input_tokens or 0) + (facts.output_tokens or 0)


def _over(value: float | None, limit: float) -> float | None:
    return None if value is None else float(value > limit)


def operation_settings(settings: DriftSettings) -> DriftSettings:
    """Return the settings by which operational streams are tested: the same rollouts and watches on other rubrics.

    Every stream that gates is tested like a severe rubric: by itself, after few units.
    """
    rollouts = [
        rollout.model_copy(
            update={
                "rubrics": [],
                "severe": rollout.operations,
                "severe_alpha": rollout.operations_share,
                "operations": [],
            }
        )
        for rollout in settings.rollouts
        if rollout.operations
    ]
    watches = [
        watch.model_copy(update={"rubrics": watch.operations, "operations": []})
        for watch in settings.watches
        if watch.operations
    ]
    budgets = [budget for budget in settings.budgets if budget.of == "application"]
    return settings.model_copy(update={"rollouts": rollouts, "watches": watches, "budgets": budgets})


def score_settings(settings: DriftSettings) -> DriftSettings:
    """Return the settings by which scores are tested."""
    rollouts = [rollout for rollout in settings.rollouts if rollout.rubrics or rollout.severe]
    watches = [watch for watch in settings.watches if watch.rubrics]
    budgets = [budget for budget in settings.budgets if budget.of == "judges"]
    return settings.model_copy(update={"rollouts": rollouts, "watches": watches, "budgets": budgets})
