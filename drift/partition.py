"""Everything the drift stage knows about one partition of the scores topic."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from drift.clock import EventClock
from drift.intake import decode
from drift.rollouts import Rollouts
from drift.seen import SeenIds, id_hash
from drift.settings import DriftSettings, nanos
from drift.watches import Watches
from drift.windows import WindowTable
from stream.errors import Permanent
from stream.records import (
    HEADER_TENANT,
    TOPIC_VERDICTS,
    TOPIC_WINDOWS,
    CohortWindow,
    Heartbeat,
    ScoreRecord,
    Verdict,
    stable_id,
)
from stream.stage import Output, Record, Reject, Result

_META = "meta"
_OFFSET_BYTES = 8
_WINDOW_STATE = ("stream/", "pane/", "pending", "seen/")

_encode = msgspec.json.Encoder().encode


class _Meta(msgspec.Struct):
    """Where the partition stands. ``layout`` names the settings that the saved windows were made with."""

    now: int
    horizon: int
    layout: str


class Partition:
    """Applies records in log order; the outputs depend on the records and the settings alone."""

    def __init__(self, settings: DriftSettings, state: Mapping[str, bytes]) -> None:
        self._skew = nanos(settings.max_skew)
        step = nanos(settings.bucket)
        self._clock = EventClock(step=step, lateness=nanos(settings.lateness))
        self._seen = SeenIds(step)
        self._rollouts = Rollouts(settings)
        self._watches = Watches(settings)
        self._windows = WindowTable(settings)
        self._layout = stable_id(repr(settings.bucket), repr(settings.windows))
        self._outdated: list[str] = []
        self._moved = False
        self.offset = -1
        if state:
            self._restore(state)

    def _restore(self, state: Mapping[str, bytes]) -> None:
        values: dict[str, bytes] = {}
        latest = -1
        for key, raw in state.items():
            latest = max(latest, int.from_bytes(raw[:_OFFSET_BYTES], "big", signed=True))
            values[key] = raw[_OFFSET_BYTES:]
        if _META not in values:
            raise Permanent(
                "torn_state", "saved state of the drift stage has no clock; delete it to start anew"
            )
        self.offset = int.from_bytes(state[_META][:_OFFSET_BYTES], "big", signed=True)
        if latest > self.offset:
            raise Permanent(
                "torn_state",
                "a part of the saved state includes later records than the rest; it was not saved in one transaction",
            )
        meta = msgspec.msgpack.decode(values[_META], type=_Meta)
        self._clock.now, self._clock.horizon = meta.now, meta.horizon
        if meta.layout != self._layout:
            # Panes of another width cannot be converted; the windows fill again, the gates keep their evidence.
            self._outdated = [key for key in values if key.startswith(_WINDOW_STATE)]
            for key in self._outdated:
                del values[key]
        self._seen.restore(values)
        self._rollouts.restore(values)
        self._watches.restore(values)
        self._windows.restore(values)

    def apply(self, record: Record, result: Result) -> None:
        """Take one record; outputs, rejects and counters go to ``result``."""
        if record.offset <= self.offset:
            return  # included in the saved state already
        self._moved = True
        try:
            item = decode(record, self._skew)
        except Permanent as error:
            result.count("scores_in")
            result.count(f"scores_rejected.{error.reason}")
            result.rejects.append(Reject(record=record, reason=error.reason, error=error.detail))
            self.offset = record.offset
            return
        before = self._clock.now
        if self._clock.advance(item.time_unix_nano):
            self._tick(before, result)
        if isinstance(item, Heartbeat):
            result.count("heartbeats")
        else:
            result.count("scores_in")
            reason = self._score(item, result)
            result.count(f"scores_excluded.{reason}" if reason else "scores_used")
        self.offset = record.offset

    def _score(self, score: ScoreRecord, result: Result) -> str:
        """Apply one score; return why it was left out, if it was."""
        if score.status != "scored":
            return score.status
        if score.time_unix_nano < self._clock.horizon:
            return "late"
        if not self._seen.add(score.time_unix_nano, id_hash(score.tenant, score.score_id)):
            return "duplicate"
        # What people look at because it failed says nothing about how often it fails.
        if score.lane != "uniform":
            return score.lane
        if score.probability is None:
            return "unknown_probability"
        weight = 1.0 / score.probability
        self._windows.add(score, weight, result.count)
        self._rollouts.add(score, weight, result.count)
        self._watches.add(score, weight, result.count)
        return ""

    def _tick(self, before: int, result: Result) -> None:
        step = self._clock.step
        now = self._clock.now // step * step
        for window in self._windows.tick(before, self._clock.now, max(0, self.offset)):
            result.outputs.append(_window_output(window))
            result.count("windows")
        for stage in (self._rollouts, self._watches):
            for verdict in stage.tick(now, self._clock.horizon, max(0, self.offset), result.count):
                result.outputs.append(_verdict_output(verdict))
                result.count("verdicts")
        self._seen.forget_before(self._clock.horizon)

    def save(self) -> dict[str, bytes | None]:
        """Return the state that changed since the last call; every value starts with the offset it includes."""
        if not self._moved:
            return {}
        self._moved = False
        out: dict[str, bytes | None] = dict.fromkeys(self._outdated)
        self._outdated = []
        out.update(self._windows.save())
        out.update(self._rollouts.save())
        out.update(self._watches.save())
        out.update(self._seen.save())
        out[_META] = msgspec.msgpack.encode(
            _Meta(now=self._clock.now, horizon=self._clock.horizon, layout=self._layout)
        )
        offset = self.offset.to_bytes(_OFFSET_BYTES, "big", signed=True)
        return {key: None if value is None else offset + value for key, value in out.items()}


def _window_output(window: CohortWindow) -> Output:
    return Output(
        topic=TOPIC_WINDOWS,
        value=_encode(window),
        key=f"{window.tenant}/{window.cohort}".encode("utf-8", "surrogatepass"),
        headers=((HEADER_TENANT, window.tenant.encode("utf-8", "surrogatepass")),),
    )


def _verdict_output(verdict: Verdict) -> Output:
    return Output(
        topic=TOPIC_VERDICTS,
        value=_encode(verdict),
        key=f"{verdict.tenant}/{verdict.route}".encode("utf-8", "surrogatepass"),
        headers=((HEADER_TENANT, verdict.tenant.encode("utf-8", "surrogatepass")),),
    )
