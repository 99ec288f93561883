"""The canary gate: from evidence to a state, a reason and at most one rollback."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from drift.rubric_gate import RubricGate, Scored
from drift.sample_ratio import SampleRatio
from drift.settings import RolloutSettings, nanos
from drift.units import ClosedUnit
from stream.records import Evidence, VerdictState, WindowEvidence

LastSeen = Mapping[str, int]
"""Rubric -> event time of an arm's last score, Unix nanoseconds."""


class Finding(msgspec.Struct, frozen=True):
    """The state of one rubric at one moment."""

    rubric: str
    evaluator: str
    state: VerdictState
    previous: VerdictState | None
    reason: str
    evidence: Evidence
    quiet: bool  # severity "none" although the state would warn
    rollback: bool = False
    promote: bool = False


class Gate(msgspec.Struct):
    """One candidate against one incumbent in one scope, over all gated rubrics.

    A rubric is ``regressed`` when all of this holds:

    - evidence: the mean over the gated rubrics of their e-values is at least 1/alpha_1 and so is its own, or the same
      for e-SR with N_max/alpha_2, where alpha_1 + alpha_2 = alpha;
    - size: the present window shows a drop of at least the rollout's size;
    - each arm has the minimum number of units, all scored by the same evaluator;
    - the sample-ratio check does not reject.

    The first condition alone keeps P(ever regressed | not worse by more than the margin) <= alpha.
    """

    incumbent: str
    candidate: str
    start: int  # only units that began at or after this count
    first_offset: int
    rubrics: list[RubricGate]
    ratio: SampleRatio | None = None
    contaminated: int = 0
    acted: bool = False
    promoted: bool = False
    reported: int = 0

    @classmethod
    def opened(
        cls,
        incumbent: str,
        candidate: str,
        start: int,
        offset: int,
        settings: RolloutSettings,
        bucket_ns: int,
    ) -> Gate:
        """Return a gate that has seen nothing."""
        return cls(
            incumbent=incumbent,
            candidate=candidate,
            start=start,
            first_offset=offset,
            rubrics=[RubricGate.fresh(rubric, settings, bucket_ns) for rubric in settings.rubrics],
            ratio=None if settings.expected_share is None else SampleRatio(share=settings.expected_share),
        )

    def take(self, end: int, units: Sequence[ClosedUnit], bucket_ns: int, settings: RolloutSettings) -> None:
        """Take the scope's units of the bucket that ends at ``end``."""
        candidates: dict[str, list[Scored]] = {}
        incumbents: dict[str, list[Scored]] = {}
        counts = [0, 0]
        for unit in units:
            if unit.arm not in (self.candidate, self.incumbent) or unit.start < self.start:
                continue
            if unit.contaminated:
                self.contaminated += 1
                continue
            # Sessions of about equal length are compared with each other: those that end in the first minutes of a
            # candidate are short ones, and length may go with quality.
            stratum = (1 + (unit.end - unit.start) // bucket_ns).bit_length(), unit.stratum
            side = candidates if unit.arm == self.candidate else incumbents
            for rubric, (evaluator, mean) in unit.means.items():
                side.setdefault(rubric, []).append((evaluator, stratum, mean))
            if unit.means:
                counts[unit.arm == self.incumbent] += 1
        for gate in self.rubrics:
            gate.take(end, candidates.get(gate.rubric, []), incumbents.get(gate.rubric, []), settings)
        if self.ratio is not None and any(counts):
            self.ratio.update(*counts)

    def findings(
        self,
        now: int,
        horizon: int,
        seen: tuple[LastSeen, LastSeen],
        settings: RolloutSettings,
        offset: int,
    ) -> list[Finding]:
        """Judge every rubric at ``now`` and remember its state.

        Parameters
        ----------
        now
            Event time, Unix nanoseconds.
        horizon
            Event time up to which units have been closed.
        seen
            Last scores of the candidate and of the incumbent.
        """
        out: list[Finding] = []
        for gate in self.rubrics:
            windows = gate.present.windows(horizon)
            evidence = self._evidence(gate, windows, settings, offset)
            state, reason, quiet = self._judge(gate, windows, evidence, now, seen, settings)
            previous, gate.state = gate.state, state
            rollback = state == "regressed" and previous != "regressed" and not self.acted
            self.acted = self.acted or rollback
            promote = not self.promoted and all(one.state == "non_inferior" for one in self.rubrics)
            self.promoted = self.promoted or promote
            out.append(
                Finding(
                    rubric=gate.rubric,
                    evaluator=gate.evaluator,
                    state=state,
                    previous=previous,
                    reason=reason,
                    evidence=evidence,
                    quiet=quiet,
                    rollback=rollback,
                    promote=promote,
                )
            )
        return out

    def _bars(self, gate: RubricGate, alpha: float, late_share: float) -> tuple[float, float]:
        """Return what the e-value and the e-SR value of one rubric must reach, given those of the others.

        The mean over R rubrics reaches a bar b exactly when this rubric's value reaches R b minus the others' sum.
        """
        others = [one for one in self.rubrics if one is not gate]
        e_bar = 1.0 / (alpha * (1.0 - late_share))
        sr_bar = gate.detector.horizon / (alpha * late_share)
        count = len(self.rubrics)
        return (
            max(e_bar, count * e_bar - math.fsum(one.process.value for one in others)),
            max(sr_bar, count * sr_bar - math.fsum(one.detector.value for one in others)),
        )

    def _evidence(
        self, gate: RubricGate, windows: list[WindowEvidence], settings: RolloutSettings, offset: int
    ) -> Evidence:
        e_bar, sr_bar = self._bars(gate, settings.alpha, settings.late_share)
        interval = gate.interval()
        return Evidence(
            e_value=gate.process.value,
            e_threshold=e_bar,
            sr_value=gate.detector.value,
            sr_threshold=sr_bar,
            alpha=settings.alpha,
            margin=settings.margin,
            pairs=gate.pairs,
            mean_difference=gate.mean_difference,
            interval_low=interval[0] if interval else None,
            interval_high=interval[1] if interval else None,
            candidate_units=gate.candidate_units,
            incumbent_units=gate.incumbent_units,
            effective_units=gate.effective_units,
            sample_ratio_p=None if self.ratio is None else self.ratio.p,
            contaminated_units=self.contaminated,
            windows=windows,
            worst_trace_ids=[trace for _, _, trace in gate.present.worst],
            first_offset=self.first_offset,
            last_offset=offset,
        )

    def _judge(
        self,
        gate: RubricGate,
        windows: list[WindowEvidence],
        evidence: Evidence,
        now: int,
        seen: tuple[LastSeen, LastSeen],
        settings: RolloutSettings,
    ) -> tuple[VerdictState, str, bool]:
        window = gate.size_window(windows, settings.min_units)
        drop = -window.difference if window.difference is not None else 0.0
        size = _size_text(gate, drop, window, self)
        if gate.state == "regressed":
            return "regressed", f"{size}; it was proven to be worse before.", False
        if missing := self._missing(gate.rubric, now, seen, settings):
            return "no_data", missing[0], missing[1]
        if gate.judge_differs(settings.min_units):
            return (
                "judge_changed",
                f"The evaluator of {gate.rubric} changed or differs between the arms; evidence starts anew with "
                f"{gate.evaluator}.",
                True,
            )
        if self.ratio is not None and self.ratio.p <= settings.srm_alpha:
            return (
                "sample_ratio_mismatch",
                f"{self.candidate} has {self.ratio.candidate} of {self.ratio.candidate + self.ratio.incumbent} units "
                f"where a share of {settings.expected_share} was intended (p = {self.ratio.p:.2g}); the arms are not "
                "comparable.",
                False,
            )
        units = min(gate.candidate_units, gate.incumbent_units)
        if units < settings.min_units:
            counts = (
                f"{gate.rubric}: {gate.candidate_units} candidate and {gate.incumbent_units} incumbent units of the "
                f"{settings.min_units} needed in each arm."
            )
            young = now - self.start < nanos(settings.present_window)
            return ("warming_up" if young else "insufficient_data"), counts, True
        conclusive = evidence.e_value >= evidence.e_threshold or evidence.sr_value >= evidence.sr_threshold
        proof = f"e-value {evidence.e_value:.3g} of {evidence.e_threshold:.3g}, e-SR {evidence.sr_value:.3g} of {evidence.sr_threshold:.3g}"
        if conclusive and drop >= settings.size and window.difference is not None:
            return "regressed", f"{size}; {proof}.", False
        e_bar, sr_bar = self._bars(gate, settings.warn_alpha, settings.late_share)
        suggestive = conclusive or evidence.e_value >= e_bar or evidence.sr_value >= sr_bar
        if suggestive and drop >= settings.warn_size and window.difference is not None:
            return "warn", f"{size}; not yet a proven regression: {proof}.", False
        if evidence.interval_low is not None and evidence.interval_low >= -settings.margin:
            return (
                "non_inferior",
                f"{gate.rubric} of {self.candidate} is not worse than that of {self.incumbent} by more than "
                f"{settings.margin:g}: the average difference is above {evidence.interval_low:+.3f}.",
                True,
            )
        longest = windows[-1]
        if min(longest.candidate_n, longest.incumbent_n) < settings.min_units:
            return (
                "insufficient_data",
                f"{gate.rubric}: {longest.candidate_n} candidate and {longest.incumbent_n} incumbent units in the last "
                f"{longest.seconds} s; {settings.min_units} are needed in each arm.",
                True,
            )
        return "ok", f"{size}; {proof}.", True

    def _missing(
        self, rubric: str, now: int, seen: tuple[LastSeen, LastSeen], settings: RolloutSettings
    ) -> tuple[str, bool] | None:
        limit = nanos(settings.no_data_after)
        silent = [
            arm
            for arm, last in ((self.candidate, seen[0].get(rubric)), (self.incumbent, seen[1].get(rubric)))
            if last is not None and now - last >= limit
        ]
        if not silent:
            return None
        # A candidate that stops while the incumbent goes on is usually a rollout that was ended by hand.
        return (
            f"No score of {rubric} from {' and '.join(silent)} for {settings.no_data_after:g} s of event time.",
            silent == [self.candidate],
        )


def _size_text(gate: RubricGate, drop: float, window: WindowEvidence, owner: Gate) -> str:
    if window.difference is None:
        return f"{gate.rubric}: no units of both arms in the last {window.seconds} s"
    word = "below" if drop >= 0 else "above"
    return (
        f"{gate.rubric} of {owner.candidate} is {abs(drop):.3f} {word} that of {owner.incumbent} over the last "
        f"{window.seconds} s ({window.candidate_n} and {window.incumbent_n} units)"
    )
