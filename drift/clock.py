"""Event time: how far the records say time has come. No wall clock is read anywhere in this stage."""

from __future__ import annotations

import msgspec


class EventClock(msgspec.Struct):
    """The latest event time seen on a partition, and the horizon up to which everything is taken to have arrived.

    Time moves in ticks of ``step`` nanoseconds, so that what happens at a tick does not depend on how the records were
    cut into batches. ``horizon`` is the last tick boundary that lies at least ``lateness`` behind the latest record; a
    score older than it is late.
    """

    step: int
    lateness: int
    now: int = 0
    horizon: int = 0

    def advance(self, time_ns: int) -> bool:
        """Move on to ``time_ns`` if that is later; return whether a tick boundary was crossed."""
        if time_ns <= self.now:
            return False
        crossed = self.crosses(time_ns)
        if crossed or self.now == 0:
            # Never back, also where a restart has brought a longer lateness: what has been closed stays closed.
            self.horizon = max(self.horizon, (time_ns - self.lateness) // self.step * self.step)
        self.now = time_ns
        return crossed

    def crosses(self, time_ns: int) -> bool:
        """Whether moving on to ``time_ns`` would cross a tick boundary."""
        return self.now > 0 and time_ns // self.step > self.now // self.step
