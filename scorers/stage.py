"""The scoring stage: kept traces in, score records out.

Delivery: at least once. Score ids depend on what was scored and by whom, so a trace that is seen again gives records
with the same ids. A judge may answer differently the second time; the ledger and the ids stay right.

The ledger: traces_in = traces_scored + late_traces + traces_without_interaction + traces_own + traces_rejected, and
scores_expected = scores_scored + scores_skipped + scores_failed, and the same for anchors. Scores of other tools are
counted apart.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from google.protobuf.message import DecodeError
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from scorers.anchors import Anchors, Due, Turn, anchor_record
from scorers.intake import Intake
from scorers.judge import Judge
from scorers.loop_guard import is_own
from scorers.panel import Panel, Ticket
from scorers.recent import MAX_EMPTY, PREFIX_EMPTY, Recent, RecentTraces, key_of
from scorers.settings import ScorersSettings
from stream.interaction import Interaction, interactions, trace_carrier, trace_interaction
from stream.records import (
    HEADER_LANE,
    HEADER_LATE,
    HEADER_POLICY,
    HEADER_PROBABILITY,
    HEADER_TENANT,
    TOPIC_SAMPLED,
    TOPIC_SCORES,
    Lane,
    ScoreRecord,
)
from stream.stage import Batch, Output, Record, Reject, Result

STATE_SPEND = "judge_spend"
STATE_ANCHORS = "anchors"  # whose turn it is
MAX_REASONS = 200  # distinct reasons that get a counter of their own


class _Spend(msgspec.Struct):
    """What judges spent on one partition's traces during one UTC day, US dollars by rubric name.

    Not by identity: two judges may share one, and a day's money stays spent when a prompt changes.
    """

    day: int = 0
    usd: dict[str, float] = {}


class ScorerStage:
    """Scores every kept trace with every configured rubric and judge.

    Parameters
    ----------
    settings
        The ``scorers`` section.
    base
        Folder that plug-in files are relative to; the working directory if not given.

    Raises
    ------
    ConfigError
        A scorer cannot be loaded or does not take its options, or the file of anchors is no such file.
    """

    name = "scorer"
    topics: tuple[str, ...] = (TOPIC_SAMPLED,)

    def __init__(self, settings: ScorersSettings, base: Path | None = None) -> None:
        self._settings = settings
        self._panel = Panel(settings, base)
        self._intake = Intake(
            settings.external, {entry.rubric: entry.evaluator.id for entry in self._panel.entries}
        )
        self._recent = RecentTraces()
        self._empty = RecentTraces(MAX_EMPTY, PREFIX_EMPTY)
        self._runner: asyncio.Runner | None = None
        self._spend: dict[int, _Spend] = {}
        self._left: dict[int, _Spend] = {}  # of partitions that were given away
        self._reasons: set[str] = set()
        self._anchors: Anchors | None = None
        if settings.anchors.file is not None:
            path = (base or Path()) / settings.anchors.file
            self._anchors = Anchors(path, settings.anchors.rate, self._panel.entries)
        self._turns: dict[int, dict[str, Turn]] = {}

    def assign(self, partition: int, state: Mapping[str, bytes]) -> None:
        """Take over a partition: what judges spent for it today counts against their budgets."""
        self.revoke(partition)
        self._recent.assign(partition, state)
        self._empty.assign(partition, state)
        if raw := state.get(STATE_ANCHORS):
            self._turns[partition] = msgspec.json.decode(raw, type=dict[str, Turn])
        raw = state.get(STATE_SPEND)
        spend = msgspec.json.decode(raw, type=_Spend) if raw else _Spend()
        if (left := self._left.pop(partition, None)) is not None and left.day >= spend.day:
            # More than is saved: the money of a batch that could not be written was spent all the same.
            known = spend.usd if left.day == spend.day else {}
            names = {*known, *left.usd}
            spend = _Spend(
                left.day, {name: max(known.get(name, 0.0), left.usd.get(name, 0.0)) for name in names}
            )
        if spend.day:
            self._spend[partition] = spend
            for judge in self._panel.judges:
                judge.budget.at(spend.day * 86_400 * 10**9)
                judge.budget.adjust(spend.day, spend.usd.get(judge.name, 0.0))

    def revoke(self, partition: int) -> None:
        """Forget a partition; whoever takes it over counts its spending."""
        self._recent.revoke(partition)
        self._empty.revoke(partition)
        self._turns.pop(partition, None)
        spend = self._spend.pop(partition, None)
        if spend is not None:
            self._left[partition] = spend
            for judge in self._panel.judges:
                judge.budget.adjust(spend.day, -spend.usd.get(judge.name, 0.0))

    def close(self) -> None:
        """Close event loop and plug-in threads; idempotent."""
        self._panel.close()
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    def process(self, batch: Batch) -> Result:
        """Score a batch; judges and plug-ins run on the stage's own event loop."""
        result = Result()
        tickets = self._tickets(batch, result)
        scored = self._run(tickets) if self._panel.needs_loop else self._panel.score_now(tickets)
        due = self._due(batch, scored)
        anchored = self._runner.run(self._anchored(due)) if due and self._runner else []
        return self._finished(batch, scored, anchored, result)

    async def process_async(self, batch: Batch) -> Result:
        """Score a batch on the caller's event loop."""
        result = Result()
        tickets = self._tickets(batch, result)
        scored = await self._panel.score(tickets)
        return self._finished(batch, scored, await self._anchored(self._due(batch, scored)), result)

    def score_interactions(self, found: Sequence[Interaction], now_ns: int = 0) -> list[ScoreRecord]:
        """Score interactions offline with the same scorers; every one counts as its own trace.

        ``now_ns`` is the time for judges' budgets, Unix nanoseconds.
        """
        self._tick(now_ns)
        tickets = [
            Ticket(
                interaction=one, spans=(one,) if one.kind == "llm" else (), time_unix_nano=one.end_unix_nano
            )
            for one in found
        ]
        scored = self._run(tickets) if self._panel.needs_loop else self._panel.score_now(tickets)
        return [record for _, record in scored]

    def status(self) -> dict[str, Any]:
        """Return what runs, and which judges are blocked and why, for the web page and ``doctor``."""
        return {
            "rubrics": [
                {
                    "rubric": entry.rubric,
                    "evaluator": entry.evaluator.identity,
                    "kind": entry.evaluator.kind,
                    "target": entry.target,
                    "plugin": entry.plugin,
                }
                for entry in self._panel.entries
            ],
            "judges": [msgspec.to_builtins(judge.status()) for judge in self._panel.judges],
        }

    @property
    def rubrics(self) -> list[str]:
        """The names that the configured scorers and judges write."""
        return [entry.rubric for entry in self._panel.entries]

    @property
    def judges(self) -> list[Judge]:
        """The configured judges."""
        return list(self._panel.judges)

    def _run(self, tickets: list[Ticket]) -> list[tuple[Ticket, ScoreRecord]]:
        if self._runner is None:
            self._runner = asyncio.Runner()  # one loop for all batches: HTTP connections belong to their loop
        return self._runner.run(self._panel.score(tickets))

    def _tick(self, now_ns: int) -> None:
        for judge in self._panel.judges:
            judge.tick(now_ns)

    def _tickets(self, batch: Batch, result: Result) -> list[Ticket]:
        """Decode the batch; scores of other tools go out at once, the rest becomes tickets."""
        self._tick(batch.now_ns)
        tickets: list[Ticket] = []
        for index, record in enumerate(batch.records):
            result.count("traces_in")
            try:
                traces = TracesData.FromString(record.value)
            except DecodeError:
                result.rejects.append(Reject(record, "undecodable", "the value is no TracesData"))
                result.count("traces_rejected")
                continue
            ticket = self._ticket(index, record, traces, result)
            if ticket is not None:
                tickets.append(ticket)
                self._recent.note(record.partition, Recent.of(ticket.interaction))
        self._recent.save(result)
        self._empty.save(result)
        return tickets

    def _ticket(self, index: int, record: Record, traces: TracesData, result: Result) -> Ticket | None:
        tenant = record.header(HEADER_TENANT) or "default"
        late = record.header(HEADER_LATE) == "1"
        found = trace_interaction(traces, tenant)
        seen = found or trace_carrier(traces, tenant)
        if seen is not None and is_own(seen):
            result.count("late_traces" if late else "traces_own")
            return None
        ticket = None
        if seen is not None:
            ticket = self._made(index, record, seen, result)
            recall = partial(self._recent.find, record.partition, tenant)
            for made in self._intake.records(ticket, recall):
                self._emit(made, result)
                kind = "scores_feedback" if made.evaluator.kind == "feedback" else "scores_external"
                result.count(kind)
                result.count(f"{kind}.{made.status}")
        if late and not (found is not None and self._first(record.partition, found)):
            result.count("late_traces")
            return None
        if found is None or ticket is None:
            result.count("traces_without_interaction")
            for trace_id in _trace_ids(traces):
                self._empty.note(record.partition, Recent(key_of(tenant, trace_id), scored=False))
            return None
        result.count("traces_scored")
        if self._panel.needs_spans:
            return msgspec.structs.replace(ticket, spans=self._llm_spans(traces, tenant, result))
        return ticket

    def _first(self, partition: int, found: Interaction) -> bool:
        """Whether ``found``, which came late, is the first that its trace held: what came in time had nothing to score."""
        empty = self._empty.find(partition, found.tenant, found.trace_id)
        if empty is None or empty.scored:
            return False
        self._empty.note(partition, Recent(empty.key))
        return True

    def _llm_spans(self, traces: TracesData, tenant: str, result: Result) -> tuple[Interaction, ...]:
        spans = [one for one in interactions(traces, tenant) if one.kind == "llm" and not is_own(one)]
        limit = self._settings.max_spans_per_trace
        if len(spans) > limit:
            result.count("spans_over_limit", len(spans) - limit)
        return tuple(spans[:limit])

    def _made(self, index: int, record: Record, seen: Interaction, result: Result) -> Ticket:
        lane: Lane = "triage" if record.header(HEADER_LANE) == "triage" else "uniform"
        return Ticket(
            interaction=seen,
            time_unix_nano=self._time(record, seen, result),
            lane=lane,
            policy=record.header(HEADER_POLICY),
            probability=_probability(record.header(HEADER_PROBABILITY)),
            source=index,
        )

    def _time(self, record: Record, seen: Interaction, result: Result) -> int:
        """Return the interaction's time, or the log's where a clock is wrong: event time moves every cohort's windows."""
        given = seen.end_unix_nano or seen.start_unix_nano
        taken = record.timestamp_ns
        if not taken:
            return given
        early = taken - int(self._settings.max_age * 1e9)
        late = taken + int(self._settings.max_clock_skew * 1e9)
        if early <= given <= late:
            return given
        result.count("times_corrected")
        return taken

    def _due(self, batch: Batch, scored: list[tuple[Ticket, ScoreRecord]]) -> list[Due]:
        """Return the anchors whose turn it is after ``scored``."""
        if self._anchors is None:
            return []
        by_partition: dict[int, list[tuple[Ticket, ScoreRecord]]] = {}
        for item in scored:
            by_partition.setdefault(batch.records[item[0].source].partition, []).append(item)
        out: list[Due] = []
        for partition, items in by_partition.items():
            turns = self._turns.setdefault(partition, {})
            out += self._anchors.due(items, partition, turns)
        return out

    async def _anchored(self, due: Sequence[Due]) -> list[tuple[Due, ScoreRecord]]:
        answers = await self._panel.again([(one.entry, one.anchor.interaction) for one in due])
        return [(one, anchor_record(one, answer)) for one, answer in zip(due, answers, strict=True)]

    def _finished(
        self,
        batch: Batch,
        scored: list[tuple[Ticket, ScoreRecord]],
        anchored: list[tuple[Due, ScoreRecord]],
        result: Result,
    ) -> Result:
        spent: dict[int, dict[str, float]] = {}
        together = [(ticket, record, "scores") for ticket, record in scored]
        together += [(due.ticket, record, "anchors") for due, record in anchored]
        for ticket, record, what in together:
            result.count(f"{what}_expected")
            result.count(f"{what}_{record.status}")
            if record.reason:
                result.count(f"{what}_{record.status}.{self._reason(record.reason)}")
            if record.evaluator.kind == "judge" and record.cost_usd:
                usd = spent.setdefault(batch.records[ticket.source].partition, {})
                usd[record.rubric] = usd.get(record.rubric, 0.0) + record.cost_usd
            self._emit(record, result, ticket.interaction.cohort().get("route", ""))
        self._save(spent, batch.now_ns, result)
        for partition in {batch.records[ticket.source].partition for ticket, _ in scored}:
            if turns := self._turns.get(partition):
                result.state[partition, STATE_ANCHORS] = msgspec.json.encode(turns)
        return result

    def _save(self, spent: dict[int, dict[str, float]], now_ns: int, result: Result) -> None:
        day = now_ns // (86_400 * 10**9)
        for partition, usd in spent.items():
            known = self._spend.get(partition)
            if known is None or known.day < day or known.day > day + 1:  # as Budget.corrected
                known = self._spend[partition] = _Spend(day, {})
            for rubric, amount in usd.items():
                known.usd[rubric] = known.usd.get(rubric, 0.0) + amount
            result.state[partition, STATE_SPEND] = msgspec.json.encode(known)

    def _emit(self, record: ScoreRecord, result: Result, route: str | None = None) -> None:
        place = record.cohort.get("route", "") if route is None else route
        key = f"{record.tenant}/{place}".encode()
        result.outputs.append(Output(TOPIC_SCORES, msgspec.json.encode(record), key))

    def _reason(self, reason: str) -> str:
        if reason in self._reasons:
            return reason
        if len(self._reasons) >= MAX_REASONS:
            return "other"
        self._reasons.add(reason)
        return reason


def _probability(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 < value <= 1 else None


def _trace_ids(traces: TracesData) -> set[str]:
    """Return the ids of the traces in one record; the sampler sends one."""
    return {
        span.trace_id.hex()
        for resource in traces.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }
