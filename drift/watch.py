"""One rubric of one cohort against its own past: learn what is normal, then say when it no longer is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np

from drift.advisory import Advisory
from drift.baseline import Baseline, Learning
from drift.change_detector import ChangeDetector
from drift.cohorts import HOUR
from drift.esr import ShiryaevRoberts
from drift.pairing import UnitMean
from drift.present import PresentWindows
from drift.settings import WatchSettings, nanos
from stream.records import Evidence, VerdictState, WindowEvidence

_RECOVERY_HORIZON = 1000
_RECOVERY_ALPHA = 0.05
MIN_THRESHOLD = 10_000.0


class Watch(msgspec.Struct):
    """Learning, baseline and detectors of one cohort and rubric.

    ``drop`` looks for means below the baseline by more than the tolerance, ``rise`` for means above it by as much; only
    the first raises alarms. After an alarm ``recovery`` collects evidence that the mean is back within the tolerance;
    only that ends the alarm.

    Another evaluator is another quantity: when only others have scored ``min_present`` units in a row, everything starts
    anew.
    """

    rubric: str
    present: PresentWindows
    evaluator: str = ""
    foreign: int = 0  # units in a row that only other evaluators scored
    version: int = 1  # of the baseline
    last: int = 0  # event time of its latest unit
    learning: Learning | None = msgspec.field(default_factory=Learning)
    baseline: Baseline | None = None
    drop: ChangeDetector = msgspec.field(default_factory=ChangeDetector)
    rise: ChangeDetector = msgspec.field(default_factory=ChangeDetector)
    recovery: ShiryaevRoberts | None = None  # there while an alarm is on
    advisory: Advisory | None = None
    units: int = 0  # since the baseline was frozen
    first_offset: int = -1
    peak: float = 0.0  # e-SR value at the alarm
    state: VerdictState | None = None
    reported: int = 0

    def take(
        self, end: int, units: Sequence[tuple[str, UnitMean]], settings: WatchSettings, offset: int
    ) -> None:
        """Take the units of the bucket that ends at ``end``, in the order in which they are to be judged."""
        if not units:
            return
        self._follow_evaluator(units, settings.min_present)
        ours = [unit for evaluator, unit in units if evaluator == self.evaluator]
        self.last = end
        if settings.advisory:
            self.advisory = self.advisory or Advisory()
            self.advisory.update(settings.advisory, [(unit.time_ns, unit.value) for unit in ours])
        if self.learning is not None:
            self.learning.add(ours)
            old_enough = end - self.learning.first >= nanos(settings.learn)
            if ours and old_enough and self.learning.units >= settings.min_units:
                self.baseline = self.learning.freeze(
                    self.version,
                    min_units=settings.min_units,
                    margin=settings.margin,
                    max_weight_ratio=settings.max_weight_ratio,
                )
                self.learning = None
                self.first_offset = offset
            return
        if self.baseline is not None and ours:
            self._judge_units(end, ours, self.baseline)

    def _judge_units(self, end: int, units: list[UnitMean], baseline: Baseline) -> None:
        mean, tolerance = baseline.at(unit.time_ns for unit in units)
        x = np.array([unit.value for unit in units])
        weight = np.minimum([unit.weight for unit in units], baseline.cap) / baseline.cap
        self.drop.update(x, mean - tolerance, weight)
        self.rise.update(1.0 - x, 1.0 - mean - tolerance, weight)
        if self.recovery is not None:
            # Hypothesis: still at or below the baseline minus the tolerance.
            least = np.maximum(mean - tolerance, 0.01)
            self.recovery.update(weight * (least - x) / least)
        expected = [
            msgspec.structs.replace(unit, value=float(one)) for unit, one in zip(units, mean, strict=True)
        ]
        self.present.add(end, units, expected)
        self.units += len(units)

    def _follow_evaluator(self, units: Sequence[tuple[str, UnitMean]], patience: int) -> None:
        counts = Counter(evaluator for evaluator, _ in units)
        if self.evaluator in counts:
            self.foreign = 0
            return
        # A second evaluator that scores now and then must not cost a baseline that took a week.
        self.foreign += len(units)
        if self.evaluator and self.foreign < patience:
            return
        self.foreign = 0
        chosen = min(counts, key=lambda evaluator: (-counts[evaluator], evaluator))
        if self.evaluator:
            self.version += 1
            self.learning, self.baseline = Learning(), None
            self.drop, self.rise, self.recovery = ChangeDetector(), ChangeDetector(), None
            self.advisory = None
            self.present = PresentWindows(seconds=self.present.seconds, pane=self.present.pane)
            self.units = 0
        self.evaluator = chosen

    def threshold(self, streams: int, settings: WatchSettings) -> float:
        """Return A for ``streams`` watched at once, so that all of them give the allowed number of false pages."""
        if self.baseline is None:
            return MIN_THRESHOLD
        per_week = streams * 7.0 * self.baseline.units_per_day
        return max(MIN_THRESHOLD, per_week / settings.false_pages_per_week)

    def judge(
        self, now: int, horizon: int, streams: int, settings: WatchSettings, offset: int
    ) -> tuple[VerdictState, str, Evidence]:
        """Return state, reason and evidence at ``now`` (Unix nanoseconds)."""
        threshold = self.threshold(streams, settings)
        windows = self.present.windows(horizon)
        window = next((one for one in windows if one.candidate_n >= settings.min_present), windows[-1])
        recovered = self.recovery is not None and (self.recovery.value >= _RECOVERY_HORIZON / _RECOVERY_ALPHA)
        if recovered:
            self.drop, self.recovery = ChangeDetector(), None
        if self.recovery is None and self.drop.value >= threshold:
            self.recovery = ShiryaevRoberts(horizon=_RECOVERY_HORIZON)
            self.peak = self.drop.value
        evidence = Evidence(
            sr_value=self.drop.value,
            sr_threshold=threshold,
            margin=settings.margin,
            candidate_units=self.units,
            incumbent_units=self.baseline.units if self.baseline else 0,
            windows=windows,
            worst_trace_ids=[trace for _, _, trace in self.present.worst],
            first_offset=max(0, self.first_offset),
            last_offset=offset,
        )
        state, reason = self._state(now, window, threshold, settings)
        if recovered and self.recovery is None:
            reason += " It has recovered."
        if self.advisory is not None:
            reason = reason.removesuffix(".") + self.advisory.text(now - 24 * HOUR) + "."
        return state, reason, evidence

    def _state(
        self, now: int, window: WindowEvidence, threshold: float, settings: WatchSettings
    ) -> tuple[VerdictState, str]:
        if now - self.last >= nanos(settings.no_data_after):
            return "no_data", f"No unit of {self.rubric} for {settings.no_data_after:g} s of event time."
        if self.baseline is None:
            known = self.learning.units if self.learning is not None else 0
            text = f"{self.rubric}: learning baseline {self.version} from {known} units so far."
            return ("judge_changed" if self.version > 1 else "warming_up"), text
        drop = -window.difference if window.difference is not None else 0.0
        size = (
            f"{self.rubric} is {abs(drop):.3f} {'below' if drop >= 0 else 'above'} baseline {self.version} over the "
            f"last {window.seconds} s ({window.candidate_n} units)"
        )
        if self.recovery is not None:
            proof = f"e-SR reached {self.peak:.3g} of {threshold:.3g}"
            if self.state == "regressed" or drop >= settings.page_size:
                return "regressed", f"{size}; {proof}."
            if self.state == "warn" or drop >= settings.warn_size:
                return "warn", f"{size}; {proof}."
        if window.candidate_n < settings.min_present:
            return "insufficient_data", f"{size}; {settings.min_present} are needed."
        better = "; the rise is proven" if self.rise.value >= threshold else ""
        return "ok", f"{size}; e-SR {self.drop.value:.3g} of {threshold:.3g}{better}."
