"""The canary gate: from evidence to a state, a reason and at most one rollback."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from drift.direction import lower_is_better
from drift.present import PresentWindows
from drift.rubric_gate import RubricGate, Scored
from drift.sample_ratio import SampleRatio
from drift.settings import AUTO, RolloutSettings, nanos
from drift.units import ClosedUnit
from stream.records import Evidence, VerdictState, WindowEvidence

_SETTINGS = 8  # changes of the settings that a gate remembers

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

    The first condition alone keeps P(ever regressed | not worse by more than the margin) <= alpha, where this alpha is the
    rollout's without the parts for severe rubrics and for operational streams.

    A *severe* rubric is tested by itself: of R of them each must reach R/severe_alpha_1 (or R N_max/severe_alpha_2) with
    its own values, after a smaller number of units. That adds at most severe_alpha, which the others did without.
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
    settings: list[str] = []  # names of the settings it has had, the present ones last

    def fits(self, settings: RolloutSettings) -> bool:
        """Whether this restored gate still is one that ``settings`` ask for.

        Other arms, other rubrics, or other bets than this version makes, are another test, which starts anew.
        """
        return (
            settings.incumbent in (AUTO, self.incumbent)
            and settings.candidate in (AUTO, self.candidate)
            and [one.rubric for one in self.rubrics] == [*settings.rubrics, *settings.severe]
            and [one.severe for one in self.rubrics].count(True) == len(settings.severe)
            and all(one.process.fits() for one in self.rubrics)
        )

    def under(self, settings_id: str, settings: RolloutSettings, since: int, bucket_ns: int) -> bool:
        """Note the name of the settings in force; return whether they are new to this gate.

        ``since`` is the event time from which on they are.
        """
        if self.settings[-1:] == [settings_id]:
            return False
        self.settings = [*self.settings, settings_id][-_SETTINGS:]
        if settings.expected_share != (None if self.ratio is None else self.ratio.share):
            # Units that were split as was intended then say nothing about the split that is intended now.
            self.ratio = _ratio(settings, since)
        for rubric in self.rubrics:
            rubric.sequence.alpha = rubric.alpha(settings)  # what it has summed up holds for any
            if rubric.present.seconds != settings.present_window:
                rubric.present = PresentWindows.over(settings.present_window, bucket_ns)
        return True

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
            rubrics=[RubricGate.fresh(rubric, settings, bucket_ns) for rubric in settings.rubrics]
            + [RubricGate.fresh(rubric, settings, bucket_ns, severe=True) for rubric in settings.severe],
            ratio=_ratio(settings, 0),
        )

    def take(self, end: int, units: Sequence[ClosedUnit], bucket_ns: int, settings: RolloutSettings) -> None:
        """Take the scope's units of the bucket that ends at ``end``."""
        candidates: dict[str, list[Scored]] = {}
        incumbents: dict[str, list[Scored]] = {}
        counts = [0, 0]
        candidate, incumbent, start = self.candidate, self.incumbent, self.start
        for unit in units:
            arm = unit.arm
            if (arm != candidate and arm != incumbent) or unit.start < start:
                continue
            if unit.contaminated:
                self.contaminated += 1
                continue
            # Sessions of about equal length are compared with each other: those that end in the first minutes of a
            # candidate are short ones, and length may go with quality.
            stratum = (1 + (unit.end - unit.start) // bucket_ns).bit_length(), unit.stratum
            side = candidates if arm == candidate else incumbents
            for rubric, (evaluator, mean) in unit.means.items():
                if rubric in side:
                    side[rubric].append((evaluator, stratum, mean))
                else:
                    side[rubric] = [(evaluator, stratum, mean)]
            if unit.means and self.ratio is not None and unit.start >= self.ratio.since:
                counts[arm == incumbent] += 1
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
            state, reason, quiet = self._judge(gate, windows, evidence, now, horizon, seen, settings)
            previous, gate.state = gate.state, state
            rollback = state == "regressed" and previous != "regressed" and not self.acted
            self.acted = self.acted or rollback
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
                )
            )
        # Only when all are judged: what one rubric was at the last tick is no ground for a promotion at this one.
        changed = [number for number, one in enumerate(out) if one.state != one.previous]
        if changed and self._deserves_promotion():
            self.promoted = True
            out[changed[-1]] = msgspec.structs.replace(out[changed[-1]], promote=True)
        return out

    def _deserves_promotion(self) -> bool:
        # Severe rubrics may stop a promotion, but being harmless is no ground for one. Nor is any rubric's where another test
        # has asked for a rollback.
        return (
            not self.promoted
            and not self.acted
            and any(not one.severe for one in self.rubrics)
            and all(one.state == "non_inferior" for one in self.rubrics)
        )

    def _bars(self, gate: RubricGate, alpha: float, late_share: float) -> tuple[float, float]:
        """Return what the e-value and the e-SR value of one rubric must reach, given those of the others.

        The mean over R rubrics reaches a bar b exactly when this rubric's value reaches R b minus the others' sum. Severe
        rubrics share alpha by Bonferroni: none has to wait for another.
        """
        others = [one for one in self.rubrics if one is not gate and one.severe == gate.severe]
        e_bar = 1.0 / (alpha * (1.0 - late_share))
        sr_bar = gate.detector.horizon / (alpha * late_share)
        count = len(others) + 1
        if gate.severe:
            return count * e_bar, count * sr_bar
        return (
            max(e_bar, count * e_bar - math.fsum(one.process.value for one in others)),
            max(sr_bar, count * sr_bar - math.fsum(one.detector.value for one in others)),
        )

    def _evidence(
        self, gate: RubricGate, windows: list[WindowEvidence], settings: RolloutSettings, offset: int
    ) -> Evidence:
        alpha = gate.alpha(settings)
        e_bar, sr_bar = self._bars(gate, alpha, settings.late_share)
        interval = gate.interval()
        return Evidence(
            e_value=gate.process.value,
            e_threshold=e_bar,
            sr_value=gate.detector.value,
            sr_threshold=sr_bar,
            alpha=alpha,
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
            earlier_settings=self.settings[:-1],
            first_offset=self.first_offset,
            last_offset=offset,
        )

    def _judge(
        self,
        gate: RubricGate,
        windows: list[WindowEvidence],
        evidence: Evidence,
        now: int,
        horizon: int,
        seen: tuple[LastSeen, LastSeen],
        settings: RolloutSettings,
    ) -> tuple[VerdictState, str, bool]:
        min_units = gate.min_units(settings)
        window = gate.size_window(windows, min_units)
        drop = -window.difference if window.difference is not None else 0.0
        size = _size_text(gate, drop, window, self)
        if gate.state == "regressed":
            return "regressed", f"{size}; it was proven to be worse before.", False
        if missing := self._missing(gate.rubric, horizon, seen, settings):
            return "no_data", missing[0], missing[1]
        if gate.judge_differs(min_units):
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
        if units < min_units:
            counts = (
                f"{gate.rubric}: {gate.candidate_units} candidate and {gate.incumbent_units} incumbent units of the "
                f"{min_units} needed in each arm."
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
                f"{settings.margin:g}: the average difference is {_bound(gate.rubric, evidence.interval_low)}.",
                True,
            )
        longest = windows[-1]
        if min(longest.candidate_n, longest.incumbent_n) < min_units:
            return (
                "insufficient_data",
                f"{gate.rubric}: {longest.candidate_n} candidate and {longest.incumbent_n} incumbent units in the last "
                f"{longest.seconds} s; {min_units} are needed in each arm.",
                True,
            )
        return "ok", f"{size}; {proof}.", True

    def _missing(
        self, rubric: str, horizon: int, seen: tuple[LastSeen, LastSeen], settings: RolloutSettings
    ) -> tuple[str, bool] | None:
        # Up to the horizon everything has arrived; of later times one arm's records may have come before the other's.
        limit = nanos(settings.no_data_after)
        silent = [
            arm
            for arm, last in ((self.candidate, seen[0].get(rubric)), (self.incumbent, seen[1].get(rubric)))
            if last is not None and horizon - last >= limit
        ]
        if not silent:
            return None
        # A candidate that stops while the incumbent goes on is usually a rollout that was ended by hand.
        return (
            f"No score of {rubric} from {' and '.join(silent)} for {settings.no_data_after:g} s of event time.",
            silent == [self.candidate],
        )


def _ratio(settings: RolloutSettings, since: int) -> SampleRatio | None:
    share = settings.expected_share
    return None if share is None else SampleRatio(share=share, since=since)


def _bound(rubric: str, low: float) -> str:
    return f"below {-low:+.3f}" if lower_is_better(rubric) else f"above {low:+.3f}"


def _size_text(gate: RubricGate, drop: float, window: WindowEvidence, owner: Gate) -> str:
    if window.difference is None:
        return f"{gate.rubric}: no units of both arms in the last {window.seconds} s"
    word = "below" if (drop >= 0) != lower_is_better(gate.rubric) else "above"
    return (
        f"{gate.rubric} of {owner.candidate} is {abs(drop):.3f} {word} that of {owner.incumbent} over the last "
        f"{window.seconds} s ({window.candidate_n} and {window.incumbent_n} units)"
    )
