"""What is left of a cohort's drop beside its judge's shift: is the application worse as well?"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from drift.eprocess import BettingEProcess, Floats

ALPHA = 0.01
"""Largest probability that a drop that the judge's shift explains is ever called the application's own."""

_WAITING = 300  # units or anchor scores that wait for partners; older ones are left out


class Remainder(msgspec.Struct):
    """Units and anchor scores of one judge since an alarm began, compared with each other.

    A unit's change against its baseline has the judge's shift in it, an anchor score's change has nothing else. As many
    pairs are formed as the rarer of the two allows, from all of both: means of consecutive groups, whose sizes depend on
    counts only. With d = change of the units − change of the anchor scores, one betting e-process tests "d is on average not
    below −tolerance", the tolerance being that of both baselines. It starts at the alarm, so that what raised the alarm is
    no evidence; if the judge's shift is the same on both, P(ever called the application's own | it is not) <= ALPHA.
    """

    taken: int  # anchor scores of the judge that were there before, or have been taken
    process: BettingEProcess = msgspec.field(default_factory=BettingEProcess)
    units: list[
        tuple[float, float, float, float]
    ] = []  # that wait: v, v (x − mean), v tolerance, bound of the last two
    changes: list[float] = []  # of anchor scores that wait
    pairs: int = 0
    total: float = 0.0  # of d, weighted
    weight: float = 0.0
    proven: bool = False

    def add_units(self, x: Floats, mean: Floats, tolerance: Floats, weight: Floats) -> None:
        """Take units: values, what was expected of them, its tolerance and weights in (0, 1], each of shape (n,)."""
        rows = np.column_stack([weight, weight * (x - mean), weight * tolerance, 1.0 - mean + tolerance])
        self.units = [*self.units, *(tuple(row) for row in rows.tolist())][-_WAITING:]

    def take_anchors(self, count: int, recent: Sequence[float], tolerance: float) -> None:
        """Take the judge's ``count``-th anchor score and those before it that were not taken yet, and bet.

        ``recent`` holds the changes of the latest ones, ``tolerance`` is that of the judge's baseline.
        """
        fresh = min(count - self.taken, len(recent))
        self.taken = count
        if fresh > 0:
            self.changes = [*self.changes, *recent[-fresh:]][-_WAITING:]
        number = min(len(self.units), len(self.changes))
        if not number:
            return
        units = np.array(self.units)
        weight, change, allowed = (_group_means(units[:, place], number) for place in range(3))
        d = change - weight * _group_means(np.array(self.changes), number)
        largest = float(units[:, 3].max()) + 1.0 + tolerance
        self.process.update((d + allowed + weight * tolerance) / largest)
        self.units, self.changes = [], []
        self.pairs += number
        self.total += float(d.sum())
        self.weight += float(weight.sum())
        self.proven = self.proven or self.process.value >= 1.0 / ALPHA

    @property
    def mean(self) -> float | None:
        """Mean of d: the application's own change so far."""
        return self.total / self.weight if self.weight else None


def _group_means(values: Floats, groups: int) -> Floats:
    """Return the means of ``groups`` consecutive groups of about equal size."""
    starts = np.arange(groups) * len(values) // groups
    means: Floats = np.add.reduceat(values, starts) / np.diff(np.append(starts, len(values)))
    return means
