"""What one gate knows about one rubric: pairs, evidence, interval and present windows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from drift.confidence import ConfidenceSequence
from drift.eprocess import BettingEProcess
from drift.esr import ShiryaevRoberts
from drift.pairing import UnitMean, make_pairs
from drift.present import PresentWindows
from drift.settings import RolloutSettings
from stream.records import VerdictState, WindowEvidence

_WEIGHT_MEMORY = 16  # buckets whose sampling weights bound those of the next

Stratum = tuple[int, int]
"""Length class and hash of the covariates; only units of one stratum are paired."""

Scored = tuple[str, Stratum, UnitMean]
"""Evaluator identity, stratum, mean of one unit."""


class RubricGate(msgspec.Struct):
    """Evidence on one rubric of a candidate against an incumbent.

    Everything since the evaluator last changed: a score by another judge model, prompt or version is another quantity.
    Restarting costs evidence and never adds any, so the bound on false alarms holds over changes of the evaluator.
    """

    rubric: str
    process: BettingEProcess
    detector: ShiryaevRoberts
    sequence: ConfidenceSequence
    present: PresentWindows
    severe: bool = False  # tested on its own, with fewer units
    evaluator: str = ""
    changes: int = 0  # of the evaluator
    foreign: int = 0  # candidate units in a row that another evaluator scored
    foreign_incumbents: int = 0
    pairs: int = 0
    sum_difference: float = 0.0
    sum_weight: float = 0.0
    candidate_units: int = 0
    incumbent_units: int = 0
    candidate_weight: float = 0.0
    candidate_weight_squared: float = 0.0
    recent_weights: list[tuple[float, float]] = []  # smallest and largest weight per bucket
    state: VerdictState | None = None

    @classmethod
    def fresh(
        cls, rubric: str, settings: RolloutSettings, bucket_ns: int, severe: bool = False
    ) -> RubricGate:
        """Return a gate that has seen nothing."""
        return cls(
            rubric=rubric,
            severe=severe,
            process=BettingEProcess(),
            detector=ShiryaevRoberts(horizon=settings.max_units),
            sequence=ConfidenceSequence.with_margin(_alpha(settings, severe), settings.margin),
            present=PresentWindows.over(settings.present_window, bucket_ns),
        )

    def take(
        self,
        end: int,
        candidates: Sequence[Scored],
        incumbents: Sequence[Scored],
        settings: RolloutSettings,
    ) -> None:
        """Take the units of the bucket that ends at ``end``."""
        if not candidates and not incumbents:
            return
        self._follow_evaluator(candidates, incumbents, settings)
        ours = [item for item in candidates if item[0] == self.evaluator]
        theirs = [item for item in incumbents if item[0] == self.evaluator]
        self.foreign = 0 if ours else self.foreign + len(candidates)
        self.foreign_incumbents = 0 if theirs else self.foreign_incumbents + len(incumbents)
        self.candidate_units += len(ours)
        self.incumbent_units += len(theirs)
        for _, _, unit in ours:
            self.candidate_weight += unit.weight
            self.candidate_weight_squared += unit.weight * unit.weight
        self.present.add(end, (unit for _, _, unit in ours), (unit for _, _, unit in theirs))
        if weights := [unit.weight for _, _, unit in (*ours, *theirs)]:
            cap = self._cap(weights, settings.max_weight_ratio)
            for stratum in sorted({stratum for _, stratum, _ in ours}):
                self._bet(_of(stratum, ours), _of(stratum, theirs), settings.margin, cap)
            self.recent_weights = [*self.recent_weights[1 - _WEIGHT_MEMORY :], (min(weights), max(weights))]

    def _bet(self, ours: list[UnitMean], theirs: list[UnitMean], margin: float, cap: float) -> None:
        pairs = make_pairs(ours, theirs, margin=margin, cap=cap)
        self.process.update(pairs.z)
        self.detector.update(pairs.z)
        self.sequence.update(pairs.difference, pairs.weight)
        self.pairs += len(pairs.z)
        self.sum_difference += float(pairs.difference.sum())
        self.sum_weight += float(pairs.weight.sum())

    def _cap(self, weights: list[float], ratio: float) -> float:
        # From buckets that are over, so that it cannot depend on the scores it is used with; the very first has only
        # itself to go by.
        recent = self.recent_weights or [(min(weights), max(weights))]
        return min(max(high for _, high in recent), ratio * min(low for low, _ in recent))

    def _follow_evaluator(
        self, candidates: Iterable[Scored], incumbents: Iterable[Scored], settings: RolloutSettings
    ) -> None:
        counts = Counter(evaluator for evaluator, _, _ in (*candidates, *incumbents))
        if self.evaluator in counts:
            return
        chosen = min(counts, key=lambda evaluator: (-counts[evaluator], evaluator))
        if self.evaluator:
            self.changes += 1
            self.process.restart()
            self.detector.restart()
            self.sequence = ConfidenceSequence.with_margin(self.alpha(settings), settings.margin)
            self.present = PresentWindows(seconds=self.present.seconds, pane=self.present.pane)
            self.pairs = self.candidate_units = self.incumbent_units = 0
            self.sum_difference = self.sum_weight = 0.0
            self.candidate_weight = self.candidate_weight_squared = 0.0
        self.evaluator = chosen

    @property
    def mean_difference(self) -> float | None:
        """Weighted mean of the paired differences."""
        return self.sum_difference / self.sum_weight if self.pairs else None

    def interval(self) -> tuple[float, float] | None:
        """Return the always-valid interval for the mean difference."""
        return self.sequence.interval() if self.pairs else None

    @property
    def effective_units(self) -> float:
        """Kish's effective number of candidate units."""
        if not self.candidate_units:
            return 0.0
        return self.candidate_weight**2 / self.candidate_weight_squared

    def alpha(self, settings: RolloutSettings) -> float:
        """Return the part of the rollout's alpha that this rubric shares with its like."""
        return _alpha(settings, self.severe)

    def min_units(self, settings: RolloutSettings) -> int:
        """Return how many units each arm needs before any decision."""
        return settings.severe_min_units if self.severe else settings.min_units

    def judge_differs(self, min_units: int) -> bool:
        """Whether scores since the last change of the evaluator are too few, or the arms have different ones."""
        few = min(self.candidate_units, self.incumbent_units) < min_units
        foreign = max(self.foreign, self.foreign_incumbents)
        return (self.changes > 0 and few) or foreign >= min(10, min_units)

    def size_window(self, windows: list[WindowEvidence], min_units: int) -> WindowEvidence:
        """Return the shortest window that holds enough units of both arms, else the longest."""
        for window in windows:
            if min(window.candidate_n, window.incumbent_n) >= min_units:
                return window
        return windows[-1]


def _alpha(settings: RolloutSettings, severe: bool) -> float:
    return settings.severe_share if severe else settings.rubric_alpha


def _of(stratum: Stratum, units: list[Scored]) -> list[UnitMean]:
    return [unit for _, one, unit in units if one == stratum]
