"""Simulated cohorts that are watched against their own baseline: time to false alarms, pages, delays."""

from __future__ import annotations

from typing import Any

import numpy as np
from score_streams import MEAN, likert, one_level_lower

from drift.baseline import Learning
from drift.change_detector import SHARES
from drift.cohorts import HOUR
from drift.eprocess import GRID, bets, log_mixture
from drift.esr import advance
from drift.pairing import UnitMean
from drift.present import PresentWindows
from drift.settings import WatchSettings
from drift.watch import Watch

MINUTE = 60 * 10**9
START = 168 * HOUR * 2800


def run_lengths(threshold: float, excess: float, runs: int, limit: int, seed: int) -> Any:
    """Return units until a false alarm (cut off at ``limit``) where the mean is ``excess`` above m; shape (runs,)."""
    rng = np.random.default_rng(seed)
    sums = np.full((runs, len(GRID)), -np.inf)
    lengths = np.full(runs, limit)
    m = MEAN - excess
    for t in range(0, limit, 20):
        z = (likert(rng, (runs, 20)) - m) / (1.0 - m)
        sums = advance(sums, bets(z), np.zeros((runs, 20)))
        alarm = (log_mixture(sums, SHARES) >= np.log(threshold)) & (lengths == limit)
        lengths[alarm] = t + 20
    return lengths


class Cohort:
    """One watched cohort at one unit a minute, with a daily swing, after its week of learning."""

    def __init__(self, rng: np.random.Generator, swing: float) -> None:
        self._rng, self._swing = rng, swing
        self._settings = WatchSettings(rubrics=["quality"])
        self.watch = Watch(
            rubric="quality", present=PresentWindows.over(self._settings.present_window, MINUTE)
        )
        self._minute = 7 * 1440
        learning = Learning()
        values = self._values(0, self._minute, 0.0)
        learning.add(_unit(at, float(value)) for at, value in enumerate(values))
        self.watch.evaluator = "judge"
        self.watch.learning = None
        self.watch.baseline = learning.freeze(
            1,
            min_units=self._settings.min_units,
            margin=self._settings.margin,
            max_weight_ratio=self._settings.max_weight_ratio,
        )

    def _values(self, first: int, count: int, drop: float) -> Any:
        minutes = np.arange(first, first + count)
        scores = likert(self._rng, (count,))
        if drop:
            scores = one_level_lower(self._rng, scores, drop)
        return np.clip(scores + self._swing * np.sin(2 * np.pi * minutes / 1440), 0.0, 1.0)

    @property
    def settings(self) -> WatchSettings:
        """The watch's settings."""
        return self._settings

    def step(self, drop: float = 0.0) -> int:
        """Let ten minutes pass, one unit each; return the time reached, Unix nanoseconds."""
        values = self._values(self._minute, 10, drop)
        units = [("judge", _unit(self._minute + i, float(value))) for i, value in enumerate(values)]
        self._minute += 10
        now = START + self._minute * MINUTE
        self.watch.take(now, units, self._settings, 0)
        return now

    def until_page(self, minutes: int, streams: int, drop: float = 0.0) -> int | None:
        """Watch for ``minutes``, ten at a time; return the units until a page, None if there is none."""
        for begin in range(0, minutes, 10):
            now = self.step(drop)
            self.watch.state, _, _ = self.watch.judge(now, now, streams, self._settings, 0)
            if self.watch.state == "regressed":
                return begin + 10
        return None


def _unit(minute: int, value: float) -> UnitMean:
    return UnitMean(key=0, value=value, weight=1.0, time_ns=START + minute * MINUTE, trace_id="")
