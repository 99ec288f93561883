"""The canary gate over many simulated rollouts at once: the stage's own mathematics on arrays.

Pairing, bets, e-SR and its weights are the functions of ``drift``; what is repeated here is only the bookkeeping around
them (present windows, cap of the weights, restart on another evaluator). ``tests/drift/test_statistics_bench.py`` holds
this and :class:`drift.gate.Gate` to the same verdicts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from drift.eprocess import GRID, bets, log_mixture
from drift.esr import LATE_WEIGHTS, advance, log_start_weights
from drift.pairing import pair_arrays
from drift.settings import RolloutSettings

_WEIGHT_MEMORY = 16
_PANES = 60  # minutes of the longer present window
_SHORT = 15


@dataclass
class Side:
    """Units of one arm in one minute and stratum: shape (R, n), of which the first ``count`` of a row are real."""

    value: Any
    count: Any
    weight: Any = None

    def __post_init__(self) -> None:
        if self.weight is None:
            self.weight = np.ones_like(self.value)

    @property
    def real(self) -> Any:
        return np.arange(self.value.shape[1]) < self.count[:, None]


@dataclass
class Minute:
    """One minute of R rollouts: per stratum the candidate's and the incumbent's units."""

    strata: list[tuple[Side, Side]]
    evaluator: str = "judge"


class VectorGate:
    """``runs`` gates with one rubric each, fed minute by minute (bucket and pane of one minute, window 15 minutes).

    With ``severe`` the rubric is tested by itself, like an operational stream, at that part of alpha.
    """

    def __init__(self, runs: int, settings: RolloutSettings, severe: float | None = None) -> None:
        assert settings.present_window == 60 * _SHORT
        self._settings = settings
        self._alpha = settings.rubric_alpha if severe is None else severe
        self._min_units = settings.min_units if severe is None else settings.severe_min_units
        self._runs = runs
        self._capital = np.zeros((runs, len(GRID)))
        self._sums = np.full((runs, len(GRID)), -np.inf)
        self._position = np.zeros(runs)
        self._minute = 0
        self._low = np.full((runs, _WEIGHT_MEMORY), np.inf)
        self._high = np.full((runs, _WEIGHT_MEMORY), -np.inf)
        self._buckets = np.zeros(runs, dtype=np.int64)
        self._evaluator = ""
        self._fresh()
        self.regressed = np.zeros(runs, dtype=bool)

    def _fresh(self) -> None:
        self.pairs = np.zeros(self._runs, dtype=np.int64)
        self._units = np.zeros((2, self._runs), dtype=np.int64)
        self._panes = np.zeros((2, 3, self._runs, _PANES))  # arm; n, sum w, sum wx

    @property
    def log_e(self) -> Any:
        return log_mixture(self._capital)

    @property
    def log_sr(self) -> Any:
        return log_mixture(self._sums, LATE_WEIGHTS)

    def step(self, minute: Minute) -> Any:
        """Take a minute and return which rollouts are or have been ``regressed``, shape (R,)."""
        self.take(minute)
        self.regressed |= self.judge(self.log_e, self.log_sr)
        return self.regressed

    def take(self, minute: Minute) -> None:
        """Take a minute."""
        if minute.evaluator != self._evaluator:
            if self._evaluator:
                self._capital -= np.maximum(0.0, self.log_e)[:, None]
                self._sums[:] = -np.inf
                self._fresh()
            self._evaluator = minute.evaluator
        place = self._minute % _PANES
        self._minute += 1
        self._panes[:, :, :, place] = 0.0
        low, high = np.full(self._runs, np.inf), np.full(self._runs, -np.inf)
        for sides in minute.strata:
            for arm, side in enumerate(sides):
                real = side.real
                self._units[arm] += side.count
                self._panes[arm, 0, :, place] += side.count
                self._panes[arm, 1, :, place] += np.where(real, side.weight, 0.0).sum(axis=1)
                self._panes[arm, 2, :, place] += np.where(real, side.weight * side.value, 0.0).sum(axis=1)
                low = np.minimum(low, np.where(real, side.weight, np.inf).min(axis=1, initial=np.inf))
                high = np.maximum(high, np.where(real, side.weight, -np.inf).max(axis=1, initial=-np.inf))
        cap = self._cap(low, high)
        for candidate, incumbent in minute.strata:
            self._bet(candidate, incumbent, cap)
        any_units = np.isfinite(low)
        slot = self._buckets % _WEIGHT_MEMORY
        rows = np.flatnonzero(any_units)
        self._low[rows, slot[rows]] = low[rows]
        self._high[rows, slot[rows]] = high[rows]
        self._buckets += any_units

    def _cap(self, low: Any, high: Any) -> Any:
        first = self._buckets == 0
        lowest = np.where(first, low, self._low.min(axis=1))
        highest = np.where(first, high, self._high.max(axis=1))
        cap = np.minimum(highest, self._settings.max_weight_ratio * lowest)
        return np.where(np.isfinite(cap), cap, 1.0)

    def _bet(self, candidate: Side, incumbent: Side, cap: Any) -> None:
        z, _, _, real = pair_arrays(
            candidate.value, candidate.weight, candidate.count, incumbent.value, incumbent.weight, incumbent.count,
            margin=self._settings.margin, cap=cap,
        )  # fmt: skip
        if not z.shape[1]:
            return
        factors = bets(z)  # log 1 = 0 where there is no pair
        self._capital += factors.sum(axis=-1)
        position = self._position[:, None] + np.cumsum(real, axis=1)
        weights = np.where(
            real, log_start_weights(np.maximum(position, 1.0), self._settings.max_units), -np.inf
        )
        self._sums = advance(self._sums, factors, weights)
        self._position += real.sum(axis=1)
        self.pairs += real.sum(axis=1)

    def judge(self, log_e: Any, log_sr: Any) -> Any:
        """Return which are ``regressed`` now, where the two values are the means over all rubrics that share alpha."""
        settings = self._settings
        back = (self._minute - 1 - np.arange(_SHORT)) % _PANES
        short, long = self._panes[..., back].sum(axis=-1), self._panes.sum(axis=-1)
        enough = short[:, 0].min(axis=0) >= self._min_units
        sums = np.where(enough, short, long)
        both = sums[:, 0].min(axis=0) > 0
        with np.errstate(divide="ignore", invalid="ignore"):
            means = sums[:, 2] / sums[:, 1]
        drop = np.where(both, means[1] - means[0], -1.0)
        e_bar = -np.log(self._alpha * (1.0 - settings.late_share))
        sr_bar = np.log(settings.max_units / (self._alpha * settings.late_share))
        # The rubric's own value counts as well: its neighbours must not condemn it.
        evidence = (np.minimum(log_e, self.log_e) >= e_bar) | (np.minimum(log_sr, self.log_sr) >= sr_bar)
        units = self._units.min(axis=0) >= self._min_units
        return evidence & units & (drop >= settings.size)


class VectorRollout:
    """``runs`` rollouts that gate on several rubrics and on one operational stream, as the default settings do."""

    def __init__(self, runs: int, settings: RolloutSettings) -> None:
        assert len(settings.operations) == 1
        self.rubrics = [VectorGate(runs, settings) for _ in settings.rubrics]
        self.operations = VectorGate(runs, settings, settings.operations_share)

    def step(self, rubrics: list[Minute], operations: Minute) -> Any:
        """Take a minute and return what is or has been ``regressed``, shape (rubrics + 1, R): the stream is last."""
        for gate, minute in zip(self.rubrics, rubrics, strict=True):
            gate.take(minute)
        count = np.log(len(self.rubrics))
        log_e = np.logaddexp.reduce([gate.log_e for gate in self.rubrics], axis=0) - count
        log_sr = np.logaddexp.reduce([gate.log_sr for gate in self.rubrics], axis=0) - count
        for gate in self.rubrics:
            gate.regressed |= gate.judge(log_e, log_sr)
        self.operations.step(operations)
        return np.array([gate.regressed for gate in (*self.rubrics, self.operations)])
