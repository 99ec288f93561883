"""The books: what every stage says it did must add up, and agree with what the log and the store hold."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from stream.records import TOPIC_SAMPLED, TOPIC_SCORES, TOPIC_VERDICTS

Counters = Mapping[str, Mapping[str, int]]

# group, topic -> counters that add up to the records the stage says it took.
TAKEN = {
    ("scorer", TOPIC_SAMPLED): ("traces_in", "poisoned"),
    ("drift", TOPIC_SCORES): ("scores_in", "operation_records", "heartbeats", "poisoned"),
    ("alerter", TOPIC_VERDICTS): ("verdicts_in", "poisoned"),
}


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


def taken(counters: Counters, group: str, topic: str) -> int:
    """Return how many records of ``topic`` the stage ``group`` says it took."""
    values = counters.get(group, {})
    return sum(values.get(name, 0) for name in TAKEN[group, topic])


def balance(counters: Counters, handled: Mapping[tuple[str, str], int]) -> list[Line]:
    """Return every equation that the log alone can answer.

    Parameters
    ----------
    counters
        group -> counter -> value, from the log.
    handled
        group, topic -> records that the log says the group is done with.
    """
    collector, intake, sampler, scorer, drift, alerter = (
        _Terms(counters.get(name, {}))
        for name in ("collector", "intake", "sampler", "scorer", "drift", "alerter")
    )

    def took(title: str, group: str, topic: str, terms: _Terms) -> Line:
        right, text = terms.sum(TAKEN[group, topic])
        return Line(title, handled.get((group, topic), 0), right, text or "0")

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
        intake.line(
            "foreign spans received",
            "spans_received",
            "spans_published",
            "spans_refused",
            "spans_quarantined",
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
        sampler.line("traces told about", "operations_seen", "operations_sent", "operations_skipped."),
        scorer.line("scores expected", "scores_expected", "scores_scored", "scores_skipped", "scores_failed"),
        scorer.line(
            "anchors expected", "anchors_expected", "anchors_scored", "anchors_skipped", "anchors_failed"
        ),
        took("kept traces taken", "scorer", TOPIC_SAMPLED, scorer),
        took("scores taken", "drift", TOPIC_SCORES, drift),
        drift.line("scores used", "scores_in", "scores_used", "scores_excluded.", "scores_rejected."),
        drift.line("operations used", "operations_in", "operations_used", "operations_excluded."),
        took("verdicts taken", "alerter", TOPIC_VERDICTS, alerter),
    ]


def spans_published(counters: Counters) -> int:
    """Return the spans that came into the log: the collectors', and those of other producers once the sampler saw them."""
    return (
        counters.get("collector", {}).get("spans_published", 0)
        + counters.get("intake", {}).get("spans_published", 0)
        + counters.get("replay", {}).get("spans_replayed", 0)
        + counters.get("sampler", {}).get("spans_foreign", 0)
    )


def pending_spans(counters: Counters) -> int:
    """Return spans that were published and not yet taken in by the sampler; negative means books that cannot be."""
    return spans_published(counters) - counters.get("sampler", {}).get("spans_in", 0)


class _Terms:
    def __init__(self, values: Mapping[str, int]) -> None:
        self.values = values

    def sum(self, names: tuple[str, ...]) -> tuple[int, str]:
        parts = [(name, self._of(name)) for name in names]
        return sum(number for _, number in parts), " + ".join(
            f"{name.removesuffix('.')} {number:,}" for name, number in parts if number
        )

    def _of(self, name: str) -> int:
        """Return one counter, or the sum of all that start with ``name`` when it ends with a dot."""
        if name.endswith("."):
            return sum(value for key, value in self.values.items() if key.startswith(name))
        return self.values.get(name, 0)

    def line(self, title: str, total: str, *names: str) -> Line:
        right, terms = self.sum(names)
        return Line(title, self.values.get(total, 0), right, terms or "0")
