"""Which windows there are, of which panes each is made, and for which moments it is published."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from drift.bins import Ints
from drift.panes import Pane, Tier
from drift.settings import DriftSettings, nanos

_FINE = 64  # a window of at most so many buckets is made of buckets
_COARSE = 24  # a longer one of so many panes: its start moves in steps of 1/24 of its length
_STEADY = 1000  # a window is refreshed when it has moved by 1/1000 of its length (never below a bucket)
_MAX_CORRECTIONS = 60  # earlier ends of a window that late data may correct


class Window(NamedTuple):
    """One length; times in nanoseconds."""

    length: int
    refresh: int
    tier: int
    corrected: bool  # whether late data corrects ends already published


class WindowPlan:
    """The windows of a partition and the tiers of panes that they are made of.

    ``tiers[0]`` has the width of a bucket. ``keep`` is how long a stream may be silent before no window needs it any more.
    """

    def __init__(self, settings: DriftSettings) -> None:
        bucket = nanos(settings.bucket)
        lengths = [nanos(window) for window in settings.windows]
        widths = [
            bucket if length <= _FINE * bucket else _up(length // _COARSE, bucket) for length in lengths
        ]
        tiers = sorted({bucket, *widths})
        self.windows = [
            Window(length, max(bucket, _up(length // _STEADY, bucket)), tiers.index(width), width == bucket)
            for length, width in zip(lengths, widths, strict=True)
        ]
        # What is not late can be no older than this, so older ends need no correction.
        self._corrections = min(_MAX_CORRECTIONS, nanos(settings.lateness) // bucket + 2)
        slack = nanos(settings.lateness) + self._corrections * bucket
        self.tiers = [
            Tier(
                number,
                width,
                slack + max((one for one, of in zip(lengths, widths, strict=True) if of == width), default=0),
            )
            for number, width in enumerate(tiers)
        ]
        self.keep = max(lengths) + max(widths) + slack

    def ends(self, window: Window, before: int, oldest: Ints) -> tuple[range, Ints]:
        """Return the ends to publish after ``before``, and from which of them on each row is.

        ``oldest`` holds the oldest score of each row since the window was last published, shape (rows,).
        """
        last = (before // window.refresh + 1) * window.refresh
        first = np.full(len(oldest), last)
        if window.corrected:
            first = (oldest // window.refresh + 1) * window.refresh
            first = np.maximum(first, last - (self._corrections - 1) * window.refresh)
        return range(int(first.min()), last + 1, window.refresh), first

    def panes(self, window: Window, end: int, rolled: int) -> Iterator[Pane]:
        """Yield the panes of the window that ends at ``end``; buckets up to ``rolled`` are in the coarse tiers."""
        start = end - window.length
        yield from self.tiers[window.tier].within(start, end)
        if window.tier:
            # What is not final yet is in the buckets only.
            fine = self.tiers[0]
            yield from fine.within(max(start, rolled // fine.width * fine.width), end)


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
