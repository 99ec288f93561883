"""Money a judge may spend per UTC day."""

from __future__ import annotations

_DAY_NS = 86_400 * 10**9


class Budget:
    """Counts what is spent and what calls under way may still cost, so that many at once cannot overspend.

    Parameters
    ----------
    limit
        US dollars per UTC day; ``None`` for no limit.
    """

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.day = 0
        self.spent = 0.0
        self._reserved = 0.0

    def at(self, now_ns: int) -> None:
        """Move to the day of ``now_ns``; a new day starts at nothing spent. Time never runs backwards here."""
        day = now_ns // _DAY_NS
        if day > self.day:
            self.day = day
            self.spent = 0.0

    def corrected(self, now_ns: int) -> None:
        """Go back to the day of ``now_ns``, which a clock tells, where the present one is more than a day ahead.

        The clock was wrong then: waiting for that day would block a judge for as long as it was wrong by.
        """
        day = now_ns // _DAY_NS
        if 0 < day < self.day - 1:
            self.day = day
            self.spent = 0.0

    def next_day_ns(self) -> int:
        """When the next day starts."""
        return (self.day + 1) * _DAY_NS

    def reserve(self, usd: float) -> bool:
        """Set ``usd`` aside for a call; False when that much is not left."""
        if self.limit is not None and (self.limit == 0 or self.spent + self._reserved + usd > self.limit):
            return False
        self._reserved += usd
        return True

    def exhausted(self, usd: float) -> bool:
        """True when ``usd`` would not be left even if the calls under way cost nothing."""
        return self.limit is not None and (self.limit == 0 or self.spent + usd > self.limit)

    def settle(self, reserved: float, spent: float) -> None:
        """Give back what was reserved and count what was really spent."""
        self._reserved = max(0.0, self._reserved - reserved)
        self.spent += spent

    def adjust(self, day: int, usd: float) -> None:
        """Add what another run spent on ``day`` (or take it back, if negative)."""
        if day == self.day:
            self.spent = max(0.0, self.spent + usd)
