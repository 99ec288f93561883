"""Rules that others use to call a canary bad, watched every minute, for comparison on the same streams."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from vector_gate import Minute

MIN_UNITS = 30
WINDOW = 15


class ArmSums:
    """Count, sum and sum of squares per arm: cumulative and over the last 15 minutes. One stratum, no weights."""

    def __init__(self, runs: int) -> None:
        self.total = np.zeros((2, 3, runs))
        self._ring = np.zeros((WINDOW, 2, 3, runs))
        self._at = 0

    def add(self, minute: Minute) -> None:
        ((candidate, incumbent),) = minute.strata
        now = self._ring[self._at % WINDOW]
        for arm, side in enumerate((candidate, incumbent)):
            x = np.where(side.real, side.value, 0.0)
            now[arm] = side.count, x.sum(axis=1), (x * x).sum(axis=1)
        self.total += now
        self._at += 1

    @property
    def window(self) -> Any:
        return self._ring.sum(axis=0)


def _difference(sums: Any) -> tuple[Any, Any, Any]:
    """Return (candidate minus incumbent, its standard error, whether there are enough units)."""
    n, s, ss = sums[:, 0], sums[:, 1], sums[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = s / n
        variance = np.maximum(0.0, ss / n - mean * mean) * n / (n - 1.0)
        error = np.sqrt((variance / n).sum(axis=0))
    return mean[0] - mean[1], error, n.min(axis=0) >= MIN_UNITS


def threshold_rule(sums: ArmSums) -> Any:
    """Mean of the last 15 minutes more than .05 below, at least 30 units in both arms."""
    difference, _, enough = _difference(sums.window)
    return enough & (difference < -0.05)


def z_test(sums: ArmSums) -> Any:
    """One-sided z-test at 5 % over the last 15 minutes, at least 30 units in both arms."""
    difference, error, enough = _difference(sums.window)
    return enough & (difference < -1.6449 * error)


def asymptotic_sequence(sums: ArmSums, alpha: float = 0.05, tuned_for: int = 5000) -> Any:
    """One-sided asymptotic confidence sequence as in GrowthBook (arXiv:2103.06476), from the start, 30 units."""
    difference, error, enough = _difference(sums.total)
    n = sums.total[:, 0].sum(axis=0)
    a = 2.0 * alpha
    rho2 = (-2.0 * math.log(a) + math.log(-2.0 * math.log(a) + 1.0)) / tuned_for
    x = n * rho2
    with np.errstate(divide="ignore", invalid="ignore"):
        half = error * np.sqrt(2.0 * (x + 1.0) / x * np.log(1.0 + np.sqrt(x + 1.0) / a))
    return enough & (difference + half < 0.0)


class Adwin:
    """river's ADWIN with default settings on the candidate's score minus the incumbents' mean of the minute."""

    def __init__(self, runs: int) -> None:
        from river.drift import ADWIN

        self._detectors = [ADWIN() for _ in range(runs)]
        self._fired = np.zeros(runs, dtype=bool)

    def step(self, minute: Minute) -> Any:
        ((candidate, incumbent),) = minute.strata
        differences = candidate.value - incumbent.value.mean(axis=1, keepdims=True)
        for run in np.flatnonzero(~self._fired).tolist():
            detector = self._detectors[run]
            for value in differences[run].tolist():
                before = detector.estimation
                detector.update(value)
                if detector.drift_detected and detector.estimation < before:
                    self._fired[run] = True
        return self._fired
