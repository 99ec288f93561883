"""How bad it is now: weighted means of both arms over the last minutes."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec
import numpy as np

from drift.pairing import UnitMean
from stream.records import WindowEvidence

_PANES = 15  # panes of the shorter window
LONGER = 4  # the longer window is this many times as long
_SUMS = 6  # n, sum w, sum w x, sum w^2, sum w^2 x, sum w^2 x^2
_WORST = 5


class PresentWindows(msgspec.Struct):
    """Sums per pane of the units that ended in it, for both arms, over the longer window."""

    seconds: float
    pane: int  # nanoseconds
    candidate: dict[int, list[float]] = {}
    incumbent: dict[int, list[float]] = {}
    worst: list[tuple[float, int, str]] = []  # value, time, trace of the worst candidate units

    @classmethod
    def over(cls, seconds: float, bucket_ns: int) -> PresentWindows:
        """Return empty windows of ``seconds`` and four times that."""
        return cls(seconds=seconds, pane=max(bucket_ns, round(seconds * 1e9) // _PANES))

    def add(self, end: int, candidates: Iterable[UnitMean], incumbents: Iterable[UnitMean]) -> None:
        """Add the units of the bucket that ends at ``end`` (Unix nanoseconds)."""
        index = (end - 1) // self.pane
        candidates = list(candidates)
        _add(self.candidate, index, candidates)
        _add(self.incumbent, index, incumbents)
        oldest = index - self._panes(LONGER)
        for panes in (self.candidate, self.incumbent):
            for stale in [one for one in panes if one <= oldest]:
                del panes[stale]
        self.worst = sorted(
            [item for item in self.worst if item[1] > end - round(self.seconds * 1e9)]
            + [(unit.value, unit.time_ns, unit.trace_id) for unit in candidates]
        )[:_WORST]

    def _panes(self, times: int) -> int:
        return max(1, math.ceil(times * self.seconds * 1e9 / self.pane))

    def windows(self, now: int) -> list[WindowEvidence]:
        """Return the shorter and the longer window that end with the pane before ``now`` (Unix nanoseconds)."""
        return [self._window(now, times) for times in (1, LONGER)]

    def _window(self, now: int, times: int) -> WindowEvidence:
        first = (now - 1) // self.pane - self._panes(times)
        c_n, c_mean, c_var = _estimate(self.candidate, first)
        i_n, i_mean, i_var = _estimate(self.incumbent, first)
        both = c_mean is not None and i_mean is not None
        return WindowEvidence(
            seconds=max(1, round(self.seconds * times)),
            incumbent_mean=i_mean,
            candidate_mean=c_mean,
            difference=c_mean - i_mean if c_mean is not None and i_mean is not None else None,
            standard_error=math.sqrt(c_var + i_var) if both and c_n > 1 and i_n > 1 else None,
            incumbent_n=i_n,
            candidate_n=c_n,
        )


def _add(panes: dict[int, list[float]], index: int, units: Iterable[UnitMean]) -> None:
    """Add units one after the other: sums of floating point numbers depend on the order, and it must stay what it is."""
    units = list(units)
    if not units:
        return
    w, x = np.array([unit.weight for unit in units]), np.array([unit.value for unit in units])
    terms = np.empty((len(units) + 1, _SUMS))
    terms[0] = panes.get(index, 0.0)
    for place, term in enumerate((1.0, w, w * x, w * w, w * w * x, w * w * x * x)):
        terms[1:, place] = term
    panes[index] = np.add.accumulate(terms, axis=0)[-1].tolist()


def _estimate(panes: dict[int, list[float]], after: int) -> tuple[int, float | None, float]:
    """Return (n, Hájek mean, its variance) over the panes later than ``after``."""
    chosen = [panes[index] for index in sorted(panes) if index > after]
    if not chosen:
        return 0, None, 0.0
    n, w, wx, ww, wwx, wwxx = (math.fsum(column) for column in zip(*chosen, strict=True))
    mean = wx / w
    if n < 2:
        return int(n), mean, 0.0
    # Linearised variance of a ratio of sums, with the small-sample factor n / (n - 1).
    variance = max(0.0, wwxx - 2.0 * mean * wwx + mean * mean * ww) / (w * w) * n / (n - 1.0)
    return int(n), mean, variance
