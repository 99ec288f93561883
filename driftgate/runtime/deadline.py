"""One budget of time that every step of a stop shares."""

from __future__ import annotations

import time


class Deadline:
    """Runs from :meth:`start`; before it, all of the time is left."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end: float | None = None

    def start(self) -> None:
        """Start the clock; again changes nothing."""
        if self._end is None:
            self._end = time.monotonic() + self._seconds

    def left(self) -> float:
        """Return the seconds left, never below zero."""
        return self._seconds if self._end is None else max(0.0, self._end - time.monotonic())
