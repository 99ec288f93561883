"""One flow of observations with its own event time: scores, or what traces did.

Scores come when a judge has answered, operational facts when a trace is complete. If they shared a clock, facts would
carry it ahead of slow scores, which would then all be late.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from drift.budgets import Budgets
from drift.clock import EventClock
from drift.judges import Judges
from drift.observations import Observations
from drift.rollouts import Rollouts
from drift.seen import SeenIds
from drift.settings import DriftSettings, nanos
from drift.watches import Watches
from drift.windows import WindowTable
from stream.errors import Permanent
from stream.records import (
    HEADER_TENANT,
    TOPIC_VERDICTS,
    TOPIC_WINDOWS,
    CohortWindow,
    Verdict,
    stable_id,
)
from stream.stage import Output, Result

_META = "meta"
_WINDOW_STATE = ("stream/", "slot/", "pane/", "windows", "pending")
_SEEN = "seen/"

_encode = msgspec.json.Encoder().encode


class _Meta(msgspec.Struct):
    """Where the lane stands. ``layout`` names the settings that the saved windows were made with, ``step`` their bucket."""

    now: int
    horizon: int
    layout: str
    step: int = 0


class Lane:
    """Clock, windows, gates, watches and budgets of one flow.

    Parameters
    ----------
    settings
        With the rollouts, watches and budgets of this flow only.
    settings_id
        Name of the whole settings' content; it goes into verdicts.
    partition
        Its number; what is kept per partition says so in its verdicts.
    prefix
        Of the keys of its saved state.
    """

    def __init__(
        self, settings: DriftSettings, settings_id: str, partition: int = 0, prefix: str = ""
    ) -> None:
        self.prefix = prefix
        self._settings_id = settings_id
        self.clock = EventClock(step=nanos(settings.bucket), lateness=nanos(settings.lateness))
        self.seen = SeenIds(nanos(settings.bucket))
        self.rollouts = Rollouts(settings, settings_id)
        self.judges = Judges(settings.anchors, partition)
        self.watches = Watches(settings, self.judges)
        self.windows = WindowTable(settings)
        self.budgets = Budgets(settings, partition)
        self._layout = stable_id("slots", repr(settings.bucket), repr(settings.windows))
        self._outdated: list[str] = []

    def restore(self, state: Mapping[str, bytes]) -> None:
        """Take over saved state: the values of this lane, by key without prefix."""
        if _META not in state:
            raise Permanent(
                "torn_state", "saved state of the drift stage has no clock; delete it to start anew"
            )
        values = dict(state)
        meta = msgspec.msgpack.decode(values[_META], type=_Meta)
        self.clock.now, self.clock.horizon = meta.now, meta.horizon
        if meta.layout != self._layout:
            # Panes of another width cannot be converted; the windows fill again, the gates keep their evidence.
            # Ids are kept by bucket.
            outdated = _WINDOW_STATE if meta.step == self.clock.step else (*_WINDOW_STATE, _SEEN)
            self._outdated = [key for key in values if key.startswith(outdated)]
            for key in self._outdated:
                del values[key]
        self.seen.restore(values)
        self.rollouts.restore(values)
        self.judges.restore(values)
        self.watches.restore(values)
        self.windows.restore(values)
        self.budgets.restore(values)

    def advance(self, time_ns: int, offset: int, result: Result) -> None:
        """Move event time on and do what is due; ``offset`` is the last one included."""
        before = self.clock.now
        if self.clock.advance(time_ns):
            self._tick(before, max(0, offset), result)

    def add(self, seen: Observations, result: Result) -> None:
        """Take scores that nothing speaks against."""
        self.judges.note(seen)
        self.windows.add(seen, result.count)
        self.rollouts.add(seen, result.count)
        self.watches.add(seen, result.count)

    def _tick(self, before: int, offset: int, result: Result) -> None:
        step = self.clock.step
        now, horizon = self.clock.now // step * step, self.clock.horizon
        for window in self.windows.tick(before, self.clock.now, horizon, offset):
            result.outputs.append(_window_output(window))
            result.count("windows")
        verdicts = self.rollouts.tick(before, now, horizon, offset, result.count)
        verdicts += self.judges.tick(now, offset)
        verdicts += self.watches.tick(now, horizon, offset, result.count)
        verdicts += self.budgets.tick(now, horizon, offset)
        for verdict in verdicts:
            result.outputs.append(
                _verdict_output(msgspec.structs.replace(verdict, settings=self._settings_id))
            )
            result.count("verdicts")
        self.seen.forget_before(horizon)

    def save(self) -> dict[str, bytes | None]:
        """Return the state that changed since the last call."""
        out: dict[str, bytes | None] = dict.fromkeys(self._outdated)
        self._outdated = []
        for part in (self.windows, self.rollouts, self.judges, self.watches, self.budgets, self.seen):
            out.update(part.save())
        out[_META] = msgspec.msgpack.encode(
            _Meta(now=self.clock.now, horizon=self.clock.horizon, layout=self._layout, step=self.clock.step)
        )
        return {self.prefix + key: value for key, value in out.items()}


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
