"""One rubric of one cohort against its own past: learn what is normal, then say when it no longer is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from drift.advisory import Advisory
from drift.anchors import JudgeMonitor
from drift.baseline import Baseline, Learning
from drift.change_detector import ChangeDetector, Task, update_all
from drift.cohorts import HOUR
from drift.digest import PeriodEvidence
from drift.direction import lower_is_better
from drift.esr import ShiryaevRoberts
from drift.pairing import UnitMean
from drift.present import PresentWindows
from drift.remainder import Remainder
from drift.settings import AnchorSettings, WatchSettings, nanos
from stream.records import Attribution, Evidence, JudgeEvidence, VerdictState, WindowEvidence

_RECOVERY_HORIZON = 1000
_RECOVERY_ALPHA = 0.05
MIN_THRESHOLD = 10_000.0
_ROOM = 10.0  # a proven rise is held at so many thresholds, so that it is told no longer than it lasts


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
    weight: float = 0.0  # sums of their sampling weights
    weight_squared: float = 0.0
    period: PeriodEvidence | None = None  # since the period of the digest began
    attribution: Attribution = ""
    guard_from: int = 0  # anchor scores of the judge when the alarm began
    remainder: Remainder | None = None  # there while an alarm is on and anchors are scored
    first_offset: int = -1
    peak: float = 0.0  # e-SR value at the alarm
    worst: Literal["", "warn", "regressed"] = ""  # state since the alarm began; silence does not soften it
    state: VerdictState | None = None
    reported: int = 0

    def take(
        self,
        end: int,
        units: Sequence[tuple[str, UnitMean]],
        settings: WatchSettings,
        offset: int,
        later: list[Task] | None = None,
    ) -> None:
        """Take the units of the bucket that ends at ``end``, in the order in which they are to be judged.

        What is to do for ``drop`` and ``rise`` is put into ``later``, if given, so that many watches can be updated at once
        (:func:`drift.change_detector.update_all`), before anything else is done with this one.
        """
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
            tasks = self._judge_units(end, ours, self.baseline)
            if later is None:
                update_all(tasks)
            else:
                later += tasks

    def _judge_units(self, end: int, units: list[UnitMean], baseline: Baseline) -> list[Task]:
        mean, tolerance = baseline.at(unit.time_ns for unit in units)
        x = np.array([unit.value for unit in units])
        weight = np.minimum([unit.weight for unit in units], baseline.cap) / baseline.cap
        self.period = self.period or PeriodEvidence()
        self.period.update(x, mean, mean - tolerance, weight)
        if self.recovery is not None:
            # Hypothesis: still at or below the baseline minus the tolerance.
            least = np.maximum(mean - tolerance, 0.01)
            self.recovery.update(weight * (least - x) / least)
        expected = [
            msgspec.structs.replace(unit, value=float(one)) for unit, one in zip(units, mean, strict=True)
        ]
        self.present.add(end, units, expected)
        if self.remainder is not None:
            self.remainder.add_units(x, mean, np.broadcast_to(tolerance, x.shape), weight)
        self.units += len(units)
        self.weight += math.fsum(unit.weight for unit in units)
        self.weight_squared += math.fsum(unit.weight * unit.weight for unit in units)
        return [
            (self.drop, x, mean - tolerance, weight),
            (self.rise, 1.0 - x, 1.0 - mean - tolerance, weight),
        ]

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
            self.weight = self.weight_squared = 0.0
            # What the old evaluator showed is no evidence about the new one; that it is dropped depends on no score.
            self.period = None
            self.attribution, self.remainder = "", None
            self.worst = ""
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
            self.drop, self.recovery, self.worst = ChangeDetector(), None, ""
        if self.recovery is None and self.drop.value >= threshold:
            self.recovery = ShiryaevRoberts(horizon=_RECOVERY_HORIZON)
            self.peak = self.drop.value
        evidence = Evidence(
            sr_value=self.drop.value,
            sr_threshold=threshold,
            margin=settings.margin,
            candidate_units=self.units,
            incumbent_units=self.baseline.units if self.baseline else 0,
            effective_units=self.weight**2 / self.weight_squared if self.weight_squared else 0.0,
            windows=windows,
            worst_trace_ids=[trace for _, _, trace in self.present.worst],
            first_offset=max(0, self.first_offset),
            last_offset=offset,
        )
        state, reason = self._state(horizon, window, threshold, settings)
        if state == "regressed" or state == "warn":
            self.worst = state
        self.rise.hold(_ROOM * threshold)
        if recovered and self.recovery is None:
            reason += " It has recovered."
        if self.advisory is not None:
            reason = reason.removesuffix(".") + self.advisory.text(now - 24 * HOUR) + "."
        return state, reason, evidence

    def attribute(
        self, judge: JudgeMonitor | None, evidence: Evidence, now: int, settings: AnchorSettings, size: float
    ) -> tuple[JudgeEvidence | None, str]:
        """Say what moved while an alarm is on.

        It may come to be known better while the alarm lasts: a judge that is found to have moved later, or a drop beside its
        shift that is proven later, changes what is said; neither is taken back before the alarm ends.

        Parameters
        ----------
        judge
            What anchors say about the evaluator; None if it scores none.
        size
            Least drop beside the judge's shift that is called the system's own.

        Returns
        -------
        (evidence, sentence)
            The sentence is empty where nothing is bad.
        """
        if self.state not in ("regressed", "warn"):
            if self.recovery is None:
                self.attribution, self.remainder = "", None
            return None, ""
        if not self.attribution:
            self.guard_from = judge.anchors if judge is not None else 0
        if judge is None or not judge.ready:
            why = "no labelled examples are re-scored" if judge is None else "its baseline is being learned"
            self.attribution = self.attribution or "unknown"
            return None, f" Attribution: {self.attribution}; of the judge nothing is known, as {why}."
        self.remainder = self.remainder or Remainder(taken=judge.anchors)
        self.remainder.take_anchors(judge.anchors, [change for _, change, _ in judge.recent], judge.tolerance)
        own = self.remainder.mean
        left = max(0, settings.guard - (judge.anchors - self.guard_from))
        if self.attribution in ("judge", "both") or judge.changed(settings):
            proven = self.remainder.proven and own is not None and -own >= size
            self.attribution = "both" if proven or self.attribution == "both" else "judge"
        elif self.attribution != "system":
            self.attribution = "unknown" if left else "system"
        window = next((one for one in evidence.windows if one.difference is not None), None)
        told = judge.evidence(now, settings, None if window is None else float(window.seconds))
        told = msgspec.structs.replace(
            told, guard_left=left, remaining=own, remaining_value=self.remainder.process.value
        )
        if self.attribution in ("judge", "both"):
            also = ""
            if self.attribution == "both":
                also = f"; the system is worse by {-(own or 0.0):.3f} beside that"
            moved = f"by {told.shift:+.3f} " if told.shift is not None else ""
            return (
                told,
                f" Attribution: {self.attribution}; the judge moved {moved}on labelled examples{also}.",
            )
        if self.attribution == "system":
            return told, " Attribution: system; the judge scores labelled examples as before."
        return told, f" Attribution: unknown until {left} more labelled examples were scored."

    def _state(
        self, horizon: int, window: WindowEvidence, threshold: float, settings: WatchSettings
    ) -> tuple[VerdictState, str]:
        if horizon - self.last >= nanos(settings.no_data_after):
            return "no_data", f"No unit of {self.rubric} for {settings.no_data_after:g} s of event time."
        if self.baseline is None:
            known = self.learning.units if self.learning is not None else 0
            text = f"{self.rubric}: learning baseline {self.version} from {known} units so far."
            return ("judge_changed" if self.version > 1 else "warming_up"), text
        drop = -window.difference if window.difference is not None else 0.0
        below = (drop >= 0) != lower_is_better(self.rubric)
        size = (
            f"{self.rubric} is {abs(drop):.3f} {'below' if below else 'above'} baseline {self.version} over the "
            f"last {window.seconds} s ({window.candidate_n} units)"
        )
        if self.recovery is not None:
            proof = f"e-SR reached {self.peak:.3g} of {threshold:.3g}"
            if "regressed" in (self.worst, self.state) or drop >= settings.page_size:
                return "regressed", f"{size}; {proof}."
            if "warn" in (self.worst, self.state) or drop >= settings.warn_size:
                return "warn", f"{size}; {proof}."
        if window.candidate_n < settings.min_present:
            return "insufficient_data", f"{size}; {settings.min_present} are needed."
        better = "; the improvement is proven" if self.rise.value >= threshold else ""
        return "ok", f"{size}; e-SR {self.drop.value:.3g} of {threshold:.3g}{better}."
