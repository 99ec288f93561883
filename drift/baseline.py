"""What is normal for a cohort at this hour of the week: learned once, then frozen.

A baseline that kept learning would learn a slow decline as well. One without the hour would call every night a drift.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec
import numpy as np

from drift.cohorts import HOUR
from drift.eprocess import Floats
from drift.pairing import UnitMean

HOURS = 168
_SUMS = 6  # n, sum w, sum w x, sum w^2, sum w^2 x, sum w^2 x^2
_ONE_SIDED_95 = 1.645


class Baseline(msgspec.Struct, frozen=True):
    """Frozen expectation per hour of the week (UTC, hour 0 is that of the Unix epoch: Thursday, 00:00)."""

    version: int
    units: int
    start: int  # event time of the first and last unit it was learned from, Unix nanoseconds
    end: int
    cap: float  # sampling weight that counts in full
    means: bytes  # float32 per hour, in [0, 1]
    tolerances: bytes  # float32 per hour: drop below the mean that is not evidence

    def at(self, times: Iterable[int]) -> tuple[Floats, Floats]:
        """Return the expected means and the tolerances at ``times`` (Unix nanoseconds)."""
        hours = [hour_of_week(time) for time in times]
        means = np.frombuffer(self.means, dtype=np.float32)[hours]
        tolerances = np.frombuffer(self.tolerances, dtype=np.float32)[hours]
        return means.astype(np.float64), tolerances.astype(np.float64)

    @property
    def units_per_day(self) -> float:
        """Rate of the units it was learned from."""
        return self.units / max(1.0, (self.end - self.start) / (24 * HOUR))


class Learning(msgspec.Struct):
    """Sums per hour of the week from which a baseline will be made."""

    sums: dict[int, list[float]] = {}
    first: int = 0
    last: int = 0
    smallest: float = math.inf
    largest: float = 0.0

    def add(self, units: Iterable[UnitMean]) -> None:
        """Take units in any order."""
        for unit in units:
            w, x = unit.weight, unit.value
            sums = self.sums.setdefault(hour_of_week(unit.time_ns), [0.0] * _SUMS)
            for place, term in enumerate((1.0, w, w * x, w * w, w * w * x, w * w * x * x)):
                sums[place] += term
            self.first = min(self.first or unit.time_ns, unit.time_ns)
            self.last = max(self.last, unit.time_ns)
            self.smallest, self.largest = min(self.smallest, w), max(self.largest, w)

    @property
    def units(self) -> int:
        """Units taken so far."""
        return int(sum(sums[0] for sums in self.sums.values()))

    def freeze(self, version: int, *, min_units: int, margin: float, max_weight_ratio: float) -> Baseline:
        """Return the baseline.

        An hour of the week with fewer than ``min_units`` units takes the same hour of all days; if that has too few the
        quarter of the day; if that has, everything. The tolerance is the margin, or half of it plus the one-sided 95 %
        error of the mean where that is more: a baseline that is too high by chance would raise alarms for ever.
        """
        table = np.zeros((HOURS, _SUMS))
        for place, sums in self.sums.items():
            table[place] = sums
        hour = np.arange(HOURS)
        means, errors, settled = np.zeros(HOURS), np.zeros(HOURS), np.zeros(HOURS, dtype=bool)
        for group in (hour, hour % 24, hour % 24 // 6, hour * 0):
            pooled = np.zeros((HOURS, _SUMS))
            np.add.at(pooled, group, table)
            mean, error = _estimate(pooled[group])
            new = ~settled & ((pooled[group, 0] >= min_units) | (group.max() == 0))
            means[new], errors[new] = mean[new], error[new]
            settled |= new
        tolerances = np.maximum(margin, 0.5 * margin + _ONE_SIDED_95 * errors)
        return Baseline(
            version=version,
            units=self.units,
            start=self.first,
            end=self.last,
            cap=min(self.largest, max_weight_ratio * self.smallest),
            means=means.astype(np.float32).tobytes(),
            tolerances=tolerances.astype(np.float32).tobytes(),
        )


def hour_of_week(time_ns: int) -> int:
    """Return the hour of the week, 0 to 167, of Unix nanoseconds."""
    return time_ns // HOUR % HOURS


def _estimate(sums: Floats) -> tuple[Floats, Floats]:
    """Return Hájek mean and its standard error per row; rows without units give 0."""
    n, w, wx, ww, wwx, wwxx = sums.T
    some = np.where(w > 0, w, 1.0)
    mean = wx / some
    spread = np.maximum(0.0, wwxx - 2.0 * mean * wwx + mean * mean * ww)
    return mean, np.sqrt(spread / (some * some) * n / np.maximum(1.0, n - 1.0))
