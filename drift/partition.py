"""Everything the drift stage knows about one partition of the scores topic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from drift.direction import lower_is_better
from drift.intake import Columns, bad_facts, decode, one, read
from drift.lane import Lane
from drift.observations import Observations
from drift.operations import TRACES, OperationStreams, operation_settings, score_settings, tokens_of
from drift.origins import Origin, Origins
from drift.seen import id_hash, id_hashes
from drift.settings import DriftSettings, nanos
from stream.errors import Permanent
from stream.records import OperationsRecord, ScoreRecord, TraceFacts, stable_id
from stream.stage import Record, Reject, Result

_OFFSET_BYTES = 8
_OPERATIONS = "operations/"
_AT_ONCE = 10_000  # records taken at once
# Counts up when the same settings come to mean another test: 2 is one alpha for all that gates.
_MEANING = "2"


class _Tested(NamedTuple):
    """One value of an operational stream that gates or watches test."""

    facts: TraceFacts
    stream: str
    value: float  # the higher the better


def settings_id(settings: DriftSettings) -> str:
    """Return a name for the content of ``settings``; it goes into verdicts."""
    return stable_id(_MEANING, settings.model_dump_json())[:12]


class Partition:
    """Applies records in log order; the outputs depend on the records and the settings alone."""

    def __init__(self, settings: DriftSettings, state: Mapping[str, bytes], number: int = 0) -> None:
        self._skew = nanos(settings.max_skew)
        self._scores = Lane(score_settings(settings), settings_id(settings), number)
        self._operations = Lane(operation_settings(settings), settings_id(settings), number, _OPERATIONS)
        self._scores.rollouts.twin = self._operations.rollouts
        self._operations.rollouts.twin = self._scores.rollouts
        self._streams = OperationStreams(settings)
        self._origins = Origins()
        self._moved = False
        self.offset = -1
        if state:
            self._restore(state)

    def _restore(self, state: Mapping[str, bytes]) -> None:
        values: dict[str, bytes] = {}
        operations: dict[str, bytes] = {}
        latest = -1
        for key, raw in state.items():
            latest = max(latest, int.from_bytes(raw[:_OFFSET_BYTES], "big", signed=True))
            if key.startswith(_OPERATIONS):
                operations[key.removeprefix(_OPERATIONS)] = raw[_OFFSET_BYTES:]
            else:
                values[key] = raw[_OFFSET_BYTES:]
        self._scores.restore(values)
        self.offset = int.from_bytes(state["meta"][:_OFFSET_BYTES], "big", signed=True)
        if latest > self.offset:
            raise Permanent(
                "torn_state",
                "a part of the saved state includes later records than the rest; it was not saved in one transaction",
            )
        if operations:  # none where the state is older than operational streams
            self._operations.restore(operations)

    def apply(self, records: Sequence[Record], result: Result) -> None:
        """Take records in log order; outputs, rejects and counters go to ``result``."""
        fresh = []
        offset = self.offset
        for record in records:
            if record.offset > offset:  # else the saved state includes it
                fresh.append(record)
                offset = record.offset
        for start in range(0, len(fresh), _AT_ONCE):
            self._apply(fresh[start : start + _AT_ONCE], result)

    def _apply(self, records: Sequence[Record], result: Result) -> None:
        self._moved = True
        columns = read(records, self._skew, self._origins)
        start = 0
        # What is no score in order comes one by one, between the stretches of those that are.
        for place in [*np.flatnonzero(~columns.good).tolist(), len(records)]:
            if start < place:
                self._scores_in(records[start:place], columns.cut(start, place), result)
            if place < len(records):
                self._other(records[place], result)
            start = place + 1

    def _other(self, record: Record, result: Result) -> None:
        try:
            item = decode(record, self._skew)
        except Permanent as error:
            result.count("scores_in")
            result.count(f"scores_rejected.{error.reason}")
            result.rejects.append(Reject(record=record, reason=error.reason, error=error.detail))
        else:
            if isinstance(item, ScoreRecord):
                self._scores_in([record], one(item, self._origins), result)
            elif isinstance(item, OperationsRecord):
                result.count("operation_records")
                self._operations_in(item, record, result)
            else:
                for lane in (self._scores, self._operations):
                    lane.advance(item.time_unix_nano, self.offset, result)
                result.count("heartbeats")
        self.offset = record.offset

    # Scores --------------------------------------------------------------------------------------------------------

    def _scores_in(self, records: Sequence[Record], columns: Columns, result: Result) -> None:
        """Take scores in order, in stretches within which no tick is due."""
        lane = self._scores
        result.count("scores_in", len(records))
        reached = np.maximum.accumulate(np.maximum(columns.times, lane.clock.now))
        ticks = reached // lane.clock.step
        before = np.concatenate(
            [ticks[:1] if lane.clock.now == 0 else [lane.clock.now // lane.clock.step], ticks[:-1]]
        )
        cuts = np.flatnonzero(ticks > before).tolist()
        start = 0
        for end in [*cuts, len(records)]:
            if start < end:
                # The first score of a stretch may cross a boundary, none after it does.
                lane.advance(int(columns.times[start]), self.offset, result)
                lane.advance(int(reached[end - 1]), self.offset, result)
                self._stretch(columns.cut(start, end), result)
                self.offset = records[end - 1].offset
            start = end

    def _stretch(self, columns: Columns, result: Result) -> None:
        lane = self._scores
        keys = id_hashes(
            [
                f"{len(score.tenant)}:{score.tenant}{len(score.score_id)}:{score.score_id}"
                for score in columns.scores
            ]
        )
        rows: Sequence[int]
        if columns.plain.all() and not lane.budgets and (columns.times >= lane.clock.horizon).all():
            again = lane.seen.add_all(columns.times, keys)
            rows = range(len(keys))
            if again:
                result.count("scores_excluded.duplicate", len(again))
                twice = set(again)
                rows = [row for row in rows if row not in twice]
        else:
            rows = self._one_by_one(columns, keys, result)
        if rows:
            result.count("scores_used", len(rows))
            lane.add(columns.observations(rows), result)

    def _one_by_one(self, columns: Columns, keys: Sequence[int], result: Result) -> list[int]:
        """Return the rows that count, and do what is to do about the others."""
        rows = []
        for row, key in enumerate(keys):
            reason = self._excluded(columns, row, key, result)
            if reason:
                result.count(f"scores_excluded.{reason}")
            elif columns.scores[row].anchor:
                result.count("scores_used")  # of its judge
            else:
                rows.append(row)
        return rows

    def _excluded(self, columns: Columns, row: int, key: int, result: Result) -> str:
        """Return why a score is left out; "" if it is not, and for an anchor if its judge has it."""
        lane = self._scores
        score, origin = columns.scores[row], columns.origins[row]
        if score.status != "scored":
            place = (score.time_unix_nano, id_hash("cost", score.tenant, score.score_id))
            spent = score.cost_usd > 0 or score.input_tokens > 0 or score.output_tokens > 0
            if spent and lane.budgets and place[0] >= lane.clock.horizon and lane.seen.add(*place):
                self._judge_cost(score, origin, result)
            return score.status
        if score.time_unix_nano < lane.clock.horizon:
            return "late"
        if not lane.seen.add(score.time_unix_nano, key):
            return "duplicate"
        self._judge_cost(score, origin, result)
        if score.anchor:
            return lane.judges.take(score, origin.identity)
        # What people look at because it failed says nothing about how often it fails.
        if score.lane != "uniform":
            return score.lane
        return "unknown_probability" if score.probability is None else ""

    def _judge_cost(self, score: ScoreRecord, origin: Origin, result: Result) -> None:
        """Money is money, whatever lane the score is in and whether it came to anything."""
        tokens = score.input_tokens + score.output_tokens
        if self._scores.budgets and (score.cost_usd > 0 or tokens):
            attributes = {**origin.cohort, "evaluator": origin.identity}
            self._scores.budgets.add(
                score.tenant, attributes, score.time_unix_nano, score.cost_usd, tokens, result.count
            )

    # Operational streams -------------------------------------------------------------------------------------------

    def _operations_in(self, item: OperationsRecord, record: Record, result: Result) -> None:
        """Apply what the traces of a record did, in order."""
        lane = self._operations
        tested: list[_Tested] = []
        for facts in item.traces:
            result.count("operations_in")
            reason = bad_facts(facts, record, self._skew)
            if not reason:
                if lane.clock.crosses(facts.time_unix_nano):
                    self._test(item, tested, result)
                lane.advance(facts.time_unix_nano, self.offset, result)
                reason = self._facts(item, facts, tested, result)
            result.count(f"operations_excluded.{reason}" if reason else "operations_used")
        self._test(item, tested, result)

    def _facts(
        self, record: OperationsRecord, facts: TraceFacts, tested: list[_Tested], result: Result
    ) -> str:
        """Apply what one trace did, but for the tests; return why it was left out, if it was."""
        lane = self._operations
        time_ns = facts.time_unix_nano
        if time_ns < lane.clock.horizon:
            return "late"
        if not lane.seen.add(time_ns, id_hash(record.tenant, facts.trace_id)):
            return "duplicate"
        tenant, cohort = record.tenant, record.cohort
        for name, value, shown, is_tested in self._streams.values(facts):
            if shown:
                lane.windows.add_value(tenant, name, TRACES, cohort, time_ns, value, result.count)
            if is_tested:
                tested.append(_Tested(facts, name, 1.0 - value if lower_is_better(name) else value))
        for name, value in self._streams.metrics(facts):
            lane.windows.add_value(tenant, name, None, cohort, time_ns, value, result.count)
        lane.budgets.add(
            tenant, cohort, time_ns, facts.cost_usd or 0.0, tokens_of(facts) or 0, result.count
        )  # fmt: skip
        return ""

    def _test(self, record: OperationsRecord, tested: list[_Tested], result: Result) -> None:
        """Hand the values that gates and watches test to them."""
        if not tested:
            return
        origins = {
            name: self._origins.of(record.tenant, name, TRACES, record.cohort)
            for name in {one.stream for one in tested}
        }
        seen = Observations(
            [origins[one.stream] for one in tested],
            [one.facts.time_unix_nano for one in tested],
            [one.value for one in tested],
            [1.0] * len(tested),
            [one.facts.unit_id or one.facts.trace_id for one in tested],
            [one.facts.trace_id for one in tested],
        )
        tested.clear()
        self._operations.rollouts.add(seen, result.count)
        self._operations.watches.add(seen, result.count)

    def save(self) -> dict[str, bytes | None]:
        """Return the state that changed since the last call; every value starts with the offset it includes."""
        if not self._moved:
            return {}
        self._moved = False
        out = self._scores.save() | self._operations.save()
        offset = self.offset.to_bytes(_OFFSET_BYTES, "big", signed=True)
        return {key: None if value is None else offset + value for key, value in out.items()}
