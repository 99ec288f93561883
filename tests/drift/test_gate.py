"""The canary gate: error rate on healthy candidates, speed on bad ones, and every state."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from drift.gate import Finding, Gate
from drift.pairing import UnitMean
from drift.settings import RolloutSettings
from drift.units import ClosedUnit

MINUTE = 60_000_000_000
START = 1_700_000_040_000_000_000 // MINUTE * MINUTE


def wilson_upper(hits: int, runs: int) -> float:
    p, z = hits / runs, 1.96
    return (p + z * z / (2 * runs) + z * math.sqrt(p * (1 - p) / runs + z * z / (4 * runs * runs))) / (
        1 + z * z / runs
    )


class Rollout:
    """A gate fed with closed units, minute by minute."""

    def __init__(self, **settings: Any) -> None:
        self.settings = RolloutSettings(**({"rubrics": ["quality"], "incumbent": "v1"} | settings))
        self.gate = Gate.opened("v1", "v2", START, 0, self.settings, MINUTE)
        self.minute = 0
        self.keys = 0
        self.last = {"v1": {}, "v2": {}}

    def units(
        self, arm: str, values: Any, *, evaluator: str = "judge", rubric: str = "quality", **more: Any
    ) -> list[ClosedUnit]:
        out = []
        time = START + self.minute * MINUTE + MINUTE // 2
        weights = more.pop("weights", None)
        for place, value in enumerate(values):
            self.keys += 1
            mean = UnitMean(
                key=hash((self.keys, 17)) & (2**63 - 1),
                value=float(value),
                weight=1.0 if weights is None else float(weights[place]),
                time_ns=time,
                trace_id=f"{arm}-{self.keys}",
            )
            fields = {
                "key": mean.key, "scope": "s", "arm": arm, "start": time, "end": time, "contaminated": False,
                "left_out": 0, "mixed": 0, "means": {rubric: (evaluator, mean)},
            }  # fmt: skip
            out.append(ClosedUnit(**(fields | more)))
            self.last[arm][rubric] = time
        return out

    def step(self, units: list[ClosedUnit]) -> list[Finding]:
        """One minute with these units."""
        self.minute += 1
        now = START + self.minute * MINUTE
        self.gate.take(now, units, MINUTE, self.settings)
        return self.gate.findings(now, now, (self.last["v2"], self.last["v1"]), self.settings, self.minute)

    def minutes(
        self,
        streams: Any,
        rng: Any,
        count: int,
        *,
        ours: int = 5,
        theirs: int = 45,
        drop: float = 0.0,
        swing: float = 0.0,
        **more: Any,
    ) -> Iterator[Finding]:
        for _ in range(count):
            shift = swing * math.sin(2 * math.pi * self.minute / 1440)
            good = np.clip(streams.draw(rng, theirs) + shift, 0, 1)
            bad = np.clip(streams.draw(rng, ours, drop) + shift, 0, 1)
            yield self.step(self.units("v1", good, **more) + self.units("v2", bad, **more))[0]


def test_healthy_candidates_are_left_alone_though_watched_every_minute(streams: Any) -> None:
    """A/A over an hour, half of the runs with a daily swing, split 5 + 45 per minute."""
    rng = np.random.default_rng(101)
    runs, regressed, warned = 250, 0, 0
    for run in range(runs):
        rollout = Rollout(margin=0.0, max_units=300)
        states = {f.state for f in rollout.minutes(streams, rng, 60, swing=0.15 * (run % 2))}
        regressed += "regressed" in states
        warned += "warn" in states
    assert wilson_upper(regressed, runs) <= 0.05
    assert wilson_upper(warned, runs) <= 0.25


def test_changing_weights_and_tiny_canaries_keep_the_error_rate(streams: Any) -> None:
    rng = np.random.default_rng(102)
    runs, regressed = 80, 0
    for run in range(runs):
        rollout = Rollout(margin=0.0, min_units=10)
        states = set()
        for ours, theirs in ((1, 49), (5, 45), (25, 25), (45, 5)) if run % 2 else ((1, 9),):
            for finding in rollout.minutes(streams, rng, 60, ours=ours, theirs=theirs, swing=0.15):
                states.add(finding.state)
        regressed += "regressed" in states
    assert wilson_upper(regressed, runs) <= 0.05


@pytest.mark.parametrize(
    ("drop", "margin", "low", "high"),
    [(0.2, 0.02, 6, 13), (0.1, 0.02, 15, 40), (0.2, 0.0, 5, 11), (0.1, 0.0, 11, 26)],
)
def test_regressions_are_found_in_minutes(
    streams: Any, drop: float, margin: float, low: int, high: int
) -> None:
    rng = np.random.default_rng(103)
    delays = []
    for _ in range(15):
        rollout = Rollout(margin=margin)
        states = (f.state for f in rollout.minutes(streams, rng, 240, drop=drop))
        delays.append(next((minute for minute, state in enumerate(states, 1) if state == "regressed"), 999))
    assert low <= float(np.median(delays)) <= high


def test_a_late_regression_is_found_by_e_sr(streams: Any) -> None:
    rng = np.random.default_rng(104)
    rollout = Rollout()
    assert {f.state for f in rollout.minutes(streams, rng, 720)} <= {"warming_up", "ok", "non_inferior"}
    after = list(rollout.minutes(streams, rng, 60, drop=0.2))
    found = next(minute for minute, finding in enumerate(after, 1) if finding.state == "regressed")
    assert found <= 30
    at = after[found - 1].evidence
    assert at.sr_value >= at.sr_threshold
    assert at.e_value < at.e_threshold


def test_a_rollback_is_called_once_with_its_evidence(streams: Any) -> None:
    rng = np.random.default_rng(105)
    rollout = Rollout()
    findings = list(rollout.minutes(streams, rng, 40, drop=0.4))
    first = next(f for f in findings if f.state == "regressed")
    assert first.rollback
    assert sum(f.rollback for f in findings) == 1
    assert all(f.state == "regressed" for f in findings[findings.index(first) :])
    evidence = first.evidence
    assert evidence.e_value >= evidence.e_threshold
    assert evidence.candidate_units >= 30
    assert evidence.pairs == evidence.candidate_units
    assert evidence.incumbent_units == 9 * evidence.candidate_units
    assert evidence.effective_units == pytest.approx(evidence.candidate_units)
    assert evidence.interval_high is not None
    assert evidence.interval_high < -0.02
    assert evidence.windows[0].seconds == 900
    assert evidence.windows[0].difference == pytest.approx(evidence.mean_difference, abs=0.05)
    assert all(trace.startswith("v2-") for trace in evidence.worst_trace_ids)
    assert len(evidence.worst_trace_ids) == 5


def test_evidence_without_present_size_does_not_roll_back(streams: Any) -> None:
    """Given a candidate that was bad and has recovered, I expect no rollback for what is over."""
    rng = np.random.default_rng(106)
    rollout = Rollout(min_units=60, present_window=300)
    bad = list(rollout.minutes(streams, rng, 11, drop=0.6))
    assert {f.state for f in bad} == {"warming_up", "insufficient_data"}
    assert bad[-1].evidence.e_value > bad[-1].evidence.e_threshold
    rollout.gate.rubrics[0].present.candidate.clear()
    rollout.gate.rubrics[0].present.incumbent.clear()
    good = list(rollout.minutes(streams, rng, 1, theirs=600, ours=80))
    assert good[0].evidence.e_value > good[0].evidence.e_threshold
    assert good[0].state in ("ok", "warn")


def test_a_proven_drop_below_the_page_size_only_warns(streams: Any) -> None:
    rng = np.random.default_rng(107)
    rollout = Rollout(margin=0.0, page_size=0.3)
    states = [f.state for f in rollout.minutes(streams, rng, 120, ours=20, drop=0.1)]
    assert "regressed" not in states
    assert states[-1] == "warn"


def test_too_few_units_are_never_ok(streams: Any) -> None:
    rng = np.random.default_rng(108)
    rollout = Rollout()
    states = [f.state for f in rollout.minutes(streams, rng, 25, ours=1, theirs=9)]
    assert states[:14] == ["warming_up"] * 14
    assert states[14:] == ["insufficient_data"] * 11


def test_a_candidate_that_has_become_rare_is_insufficient_again(streams: Any) -> None:
    rng = np.random.default_rng(109)
    rollout = Rollout()
    states = [f.state for f in rollout.minutes(streams, rng, 20)]
    assert states[-1] == "ok"
    for minute in range(70):
        ours = rollout.units("v2", streams.draw(rng, 1)) if minute % 3 == 0 else []
        states.append(rollout.step(rollout.units("v1", streams.draw(rng, 45)) + ours)[0].state)
    assert states[-1] == "insufficient_data"


def test_a_clearly_better_candidate_is_promoted_once() -> None:
    rng = np.random.default_rng(110)
    rollout = Rollout()
    findings = []
    for _ in range(60):
        units = rollout.units("v1", rng.uniform(0.5, 0.8, 45)) + rollout.units("v2", rng.uniform(0.7, 1.0, 5))
        findings += rollout.step(units)
    assert findings[-1].state == "non_inferior"
    assert sum(f.promote for f in findings) == 1


def test_a_promotion_rests_on_what_every_rubric_is_now() -> None:
    """One rubric falls in the very minute in which the other one is proven; it is judged later in that minute."""

    def until(bad_from: int) -> list[list[Finding]]:
        rng = np.random.default_rng(115)
        rollout = Rollout(rubrics=["first", "second"])
        minutes: list[list[Finding]] = []
        for minute in range(30):
            units = []
            for rubric, low in (("first", 0.58), ("second", 1.0 if minute < bad_from else 0.0)):
                units += rollout.units("v1", rng.uniform(0.5, 0.8, 45), rubric=rubric)
                units += rollout.units("v2", rng.uniform(low, low + 0.3, 5).clip(0, 1), rubric=rubric)
            minutes.append(rollout.step(units))
        return minutes

    promoted = next(place for place, found in enumerate(until(99)) if any(one.promote for one in found))
    falls = [until(promoted - earlier) for earlier in range(8)]
    (minutes, *_) = [
        minutes
        for minutes in falls
        if minutes[promoted - 1][1].state == "non_inferior" != minutes[promoted][1].state
    ]
    assert minutes[promoted][0].state == "non_inferior"
    assert not any(one.promote for one in minutes[promoted])


def test_a_changed_judge_starts_the_evidence_anew(streams: Any) -> None:
    rng = np.random.default_rng(111)
    rollout = Rollout(min_units=40)
    list(rollout.minutes(streams, rng, 7, drop=0.5))
    changed = list(rollout.minutes(streams, rng, 3, drop=0.5, evaluator="judge 2"))
    assert [f.state for f in changed] == ["judge_changed"] * 3
    assert changed[0].evaluator == "judge 2"
    assert changed[0].evidence.pairs == 5
    again = list(rollout.minutes(streams, rng, 20, drop=0.5, evaluator="judge 2"))
    assert [f.state for f in again][-1] == "regressed"


def test_arms_with_different_judges_are_not_compared(streams: Any) -> None:
    rng = np.random.default_rng(112)
    rollout = Rollout()
    findings = []
    for _ in range(30):
        ours = rollout.units("v2", streams.draw(rng, 5, 0.5), evaluator="judge 2")
        findings += rollout.step(rollout.units("v1", streams.draw(rng, 45)) + ours)
    assert findings[-1].state == "judge_changed"
    assert findings[-1].evidence.pairs == 0


@pytest.mark.parametrize("ours", [5, 45])
def test_it_is_told_that_the_arms_have_different_judges_whichever_has_more_units(ours: int) -> None:
    rollout = Rollout()
    for _ in range(30):
        candidate = rollout.units("v2", [0.8] * ours, evaluator="judge 2")
        (finding,) = rollout.step(rollout.units("v1", [0.8] * (50 - ours)) + candidate)
    assert finding.state == "judge_changed"
    assert finding.evidence.pairs == 0


def test_a_wrong_split_blocks_the_rollback(streams: Any) -> None:
    rng = np.random.default_rng(113)
    rollout = Rollout(expected_share=0.5)
    findings = list(rollout.minutes(streams, rng, 30, drop=0.4))
    assert "regressed" not in {f.state for f in findings}
    assert findings[-1].state == "sample_ratio_mismatch"
    assert findings[-1].evidence.sample_ratio_p is not None
    assert findings[-1].evidence.sample_ratio_p < 0.001
    intended = Rollout(expected_share=0.1)
    assert [f.state for f in intended.minutes(streams, rng, 30, drop=0.4)][-1] == "regressed"


def test_contaminated_units_are_reported_and_left_out(streams: Any) -> None:
    rng = np.random.default_rng(114)
    rollout = Rollout()
    for _ in range(20):
        bad = rollout.units("v2", np.zeros(5), contaminated=True)
        good = rollout.units("v1", streams.draw(rng, 45)) + rollout.units("v2", streams.draw(rng, 5))
        (finding,) = rollout.step(good + bad)
    assert finding.evidence.contaminated_units == 100
    assert finding.evidence.candidate_units == 100
    assert finding.state == "ok"


def test_units_that_began_before_the_gate_do_not_count(streams: Any) -> None:
    rng = np.random.default_rng(115)
    rollout = Rollout()
    (finding,) = rollout.step(rollout.units("v1", streams.draw(rng, 9), start=START - 1))
    assert finding.evidence.incumbent_units == 0


def test_one_rubric_among_several_needs_more_evidence_unless_others_agree(streams: Any) -> None:
    rng = np.random.default_rng(116)
    alone = Rollout(rubrics=["quality", "tone", "style"])
    finding = list(alone.minutes(streams, rng, 8))[-1]
    bar = 1 / (0.04 * 0.45)  # what error_rate leaves of alpha, without the share for late changes
    assert finding.evidence.e_threshold == pytest.approx(
        3 * bar - 2, rel=0.01
    )  # the others have e-value 1: they were never scored
    assert alone.gate.findings(START, START, ({}, {}), alone.settings, 0)[1].state in (
        "warming_up",
        "insufficient_data",
    )


def test_silence_of_an_arm_is_a_state(streams: Any) -> None:
    rng = np.random.default_rng(117)
    rollout = Rollout(no_data_after=300)
    list(rollout.minutes(streams, rng, 20))
    states = []
    for _ in range(7):
        (finding,) = rollout.step(rollout.units("v1", streams.draw(rng, 45)))
        states.append((finding.state, finding.quiet))
    assert states[-1] == ("no_data", True)
    for _ in range(7):
        (finding,) = rollout.step([])
    assert (finding.state, finding.quiet) == ("no_data", False)


def test_a_changed_judge_gives_no_new_chance_of_a_false_alarm(streams: Any) -> None:
    """Capital lost on a healthy candidate stays lost; otherwise every change of judge would spend alpha again."""
    rng = np.random.default_rng(118)
    rollout = Rollout()
    before = list(rollout.minutes(streams, rng, 60))[-1].evidence
    after = next(iter(rollout.minutes(streams, rng, 1, evaluator="judge 2"))).evidence
    assert before.e_value < 0.5
    assert after.e_value < 2 * before.e_value
    assert after.pairs == 5
