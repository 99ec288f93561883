"""Simulated judges and cohorts: who moved, the system or the judge; and digests over many cohorts."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from cohort_drift import MINUTE, START, Cohort
from score_streams import MEAN, likert, one_level_lower

from drift.anchors import JudgeMonitor
from drift.change_detector import SHARES
from drift.digest import e_bh
from drift.eprocess import bets, log_mixture
from drift.settings import AnchorSettings

ANCHORS = 100
SETTLE = 480
_NOISE = (0.15, 0.7, 0.15)  # a judge gives one level less than people, the same, one more: anew every time


class Anchored:
    """A watched cohort at one unit a minute, and its judge, who also scores ``rate`` anchors a minute."""

    def __init__(self, rng: np.random.Generator, rate: float = 1.0) -> None:
        self._rng, self._rate = rng, rate
        self.cohort = Cohort(rng, 0.1 * int(rng.integers(0, 2)))
        self.settings = AnchorSettings()
        self.judge = JudgeMonitor()
        self._labels = likert(rng, (ANCHORS,))
        self._turn = 0
        while not self.judge.ready:
            self._anchor(START, 0.0)

    def _anchor(self, time_ns: int, drop: float) -> None:
        place = self._turn % ANCHORS
        self._turn += 1
        label = self._labels[place]
        step = self._rng.choice(3, p=_NOISE) - 1
        score = np.clip(label + 0.25 * step, 0.0, 1.0)
        if drop:
            score = one_level_lower(self._rng, np.array([score]), drop)[0]
        self.judge.take(str(place), time_ns, float(score), float(label), self.settings)

    def outcome(self, judge_drop: float, system_drop: float, limit: int, settle: int) -> tuple[str, int, int]:
        """Return the attribution ``settle`` units after the alarm, units until the alarm, and since when it is that.

        The attribution is "" without an alarm. It may have been another before.
        """
        watch, alarm, since, last, owed = self.cohort.watch, 0, 0, "", 0.0
        for begin in range(0, limit, 10):
            now = self.cohort.step(judge_drop + system_drop)
            owed += 10 * self._rate
            while owed >= 1.0:
                owed -= 1.0
                self._anchor(now - int(owed), judge_drop)
            watch.state, _, evidence = watch.judge(now, now, 200, self.cohort.settings, 0)
            watch.attribute(self.judge, evidence, now, self.settings, self.cohort.settings.page_size)
            if watch.attribution and not alarm:
                alarm = begin + 10
            if watch.attribution != last:
                last, since = watch.attribution, begin + 10
            if alarm and begin + 10 >= alarm + settle:
                break
        return last, alarm, since


def attributed(
    judge_drop: float,
    system_drop: float,
    runs: int,
    seed: int,
    rate: float = 1.0,
    limit: int = 2880,
    settle: int = SETTLE,
) -> tuple[Counter[str], list[int], list[int]]:
    """Return the outcomes of ``runs`` simulations, and units to the alarm and from there to the attribution."""
    rng = np.random.default_rng(seed)
    found: Counter[str] = Counter()
    alarms, waits = [], []
    for _ in range(runs):
        what, alarm, known = Anchored(rng, rate).outcome(judge_drop, system_drop, limit, settle)
        found[what or "no alarm"] += 1
        if alarm:
            alarms.append(alarm)
            waits.append(known - alarm)
    return found, alarms, waits


def judge_false_alarms(runs: int, anchors: int, seed: int, settings: AnchorSettings | None = None) -> int:
    """Return how many of ``runs`` judges that do not change are called changed within ``anchors`` anchor scores."""
    rng = np.random.default_rng(seed)
    settings = settings or AnchorSettings()
    hits = 0
    for _ in range(runs):
        labels, judge = likert(rng, (ANCHORS,)), JudgeMonitor()
        for turn in range(settings.learn + anchors):
            label = labels[turn % ANCHORS]
            score = float(np.clip(label + 0.25 * (rng.choice(3, p=_NOISE) - 1), 0.0, 1.0))
            judge.take(str(turn % ANCHORS), START + turn * MINUTE, score, float(label), settings)
            if judge.changed(settings):
                hits += 1
                break
    return hits


def digests(
    streams: int,
    bad: int,
    drop: float,
    shared: float,
    excess: float,
    units: int,
    runs: int,
    seed: int,
    alpha: float,
) -> tuple[Any, Any]:
    """Return, per digest, the share of wrong findings among all findings, and the share of bad streams found.

    Parameters
    ----------
    shared
        Share of the units of a moment that all cohorts have in common: 1 makes their scores equal, but for the drop.
    excess
        How far the healthy cohorts' mean is above the tolerated minimum m; 0 is the edge of the hypothesis.
    """
    rng = np.random.default_rng(seed)
    m = MEAN - excess
    wrong, power = np.zeros(runs), np.zeros(runs)
    is_bad = np.arange(streams) < bad
    for run in range(runs):
        own = likert(rng, (streams, units))
        common = likert(rng, (1, units))
        x = np.where(rng.random((1, units)) < shared, common, own)
        if drop:
            x[:bad] = one_level_lower(rng, x[:bad], drop)
        z = (x - m) / (1.0 - m)
        e_values = np.exp(np.minimum(log_mixture(bets(z).sum(axis=-1), SHARES), 600.0))
        found = np.array(e_bh(e_values.tolist(), alpha))
        wrong[run] = (found & ~is_bad).sum() / max(1, found.sum())
        power[run] = (found & is_bad).sum() / max(1, bad)
    return wrong, power
