"""The books: what every stage says it did must add up, and agree with what the log and the store hold."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from stream.records import TOPIC_SAMPLED, TOPIC_SCORES, TOPIC_VERDICTS

Counters = Mapping[str, Mapping[str, int]]
Offsets = Mapping[str, Mapping[tuple[str, int], int]]


class Line(msgspec.Struct, frozen=True):
    """One equation of the ledger; it balances when ``left == right``."""

    name: str
    left: int
    right: int
    terms: str  # how the right side came about

    @property
    def balanced(self) -> bool:
        """Whether both sides are equal."""
        return self.left == self.right


def balance(counters: Counters, committed: Offsets) -> list[Line]:
    """Return every equation that the log alone can answer.

    Parameters
    ----------
    counters
        group -> counter -> value, from the log.
    committed
        group -> (topic, partition) -> next offset. A record is handled exactly when its offset is committed.
    """
    collector, sampler, scorer, drift, alerter = (
        _Terms(counters.get(name, {})) for name in ("collector", "sampler", "scorer", "drift", "alerter")
    )

    def handled(group: str, topic: str) -> int:
        return sum(end for (name, _), end in committed.get(group, {}).items() if name == topic)

    return [
        collector.line(
            "spans received", "spans_received", "spans_published", "spans_refused", "spans_quarantined"
        ),
        collector.line(
            "log records received",
            "logs_received",
            "logs_published",
            "logs_refused",
            "logs_ignored",
            "logs_quarantined",
        ),
        sampler.line(
            "spans sampled",
            "spans_in",
            "spans_kept",
            "spans_dropped",
            "spans_duplicate",
            "spans_invalid",
            "spans_pending",
            "spans_lost",
        ),
        sampler.line(
            "log records sampled", "logs_in", "logs_joined", "logs_dropped", "logs_pending", "logs_lost"
        ),
        scorer.line(
            "traces scored",
            "traces_in",
            "traces_scored",
            "late_traces",
            "traces_without_interaction",
            "traces_own",
            "traces_rejected",
        ),
        scorer.line("scores expected", "scores_expected", "scores_scored", "scores_skipped", "scores_failed"),
        _handled(
            "kept traces taken",
            handled("scorer", TOPIC_SAMPLED),
            scorer,
            "traces_in",
            "poisoned",
        ),
        _handled(
            "scores taken", handled("drift", TOPIC_SCORES), drift, "scores_in", "heartbeats", "poisoned"
        ),
        drift.line("scores used", "scores_in", "scores_used", "scores_excluded.", "scores_rejected."),
        _handled("verdicts taken", handled("alerter", TOPIC_VERDICTS), alerter, "verdicts_in", "poisoned"),
    ]


def pending_spans(counters: Counters) -> int:
    """Return spans that were published and not yet taken in by the sampler; negative means books that cannot be."""
    published = counters.get("collector", {}).get("spans_published", 0)
    return published - counters.get("sampler", {}).get("spans_in", 0)


class _Terms:
    def __init__(self, values: Mapping[str, int]) -> None:
        self.values = values

    def sum(self, names: tuple[str, ...]) -> tuple[int, str]:
        parts = [(name, self._of(name)) for name in names]
        return sum(number for _, number in parts), " + ".join(
            f"{name} {number:,}" for name, number in parts if number
        )

    def _of(self, name: str) -> int:
        """Return one counter, or the sum of all that start with ``name`` when it ends with a dot."""
        if name.endswith("."):
            return sum(value for key, value in self.values.items() if key.startswith(name))
        return self.values.get(name, 0)

    def line(self, title: str, total: str, *names: str) -> Line:
        right, terms = self.sum(names)
        return Line(title, self.values.get(total, 0), right, terms or "0")


def _handled(title: str, left: int, terms: _Terms, *names: str) -> Line:
    right, text = terms.sum(names)
    return Line(title, left, right, text or "0")
