"""E-process, e-SR, confidence sequence and sample-ratio check: algebra, exact values and error rates."""

from __future__ import annotations

import doctest
import importlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drift.confidence import ConfidenceSequence
from drift.eprocess import GRID, WEIGHTS, BettingEProcess
from drift.esr import LATE_WEIGHTS, ShiryaevRoberts
from drift.sample_ratio import SampleRatio

observations = st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=40)


def wilson_upper(hits: int, runs: int) -> float:
    p, z = hits / runs, 1.96
    return (p + z * z / (2 * runs) + z * math.sqrt(p * (1 - p) / runs + z * z / (4 * runs * runs))) / (
        1 + z * z / runs
    )


@pytest.mark.parametrize("name", ["eprocess", "esr", "confidence", "sample_ratio"])
def test_the_examples_in_the_docstrings_are_true(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(f"drift.{name}"))
    assert outcome.attempted > 0
    assert outcome.failed == 0


@given(observations, st.randoms())
def test_the_e_process_is_the_mean_capital_in_any_order_and_cut(z: list[float], random: object) -> None:
    shuffled = list(z)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    process = BettingEProcess()
    process.update(np.array(shuffled[: len(z) // 2]))
    process.update(np.array(shuffled[len(z) // 2 :]))
    by_hand = np.dot(WEIGHTS, [math.prod(1 - c * one for one in z) for c in GRID])
    assert process.value == pytest.approx(by_hand, rel=1e-9)


@given(st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=120), st.integers(1, 30))
def test_e_sr_is_its_recursion(z: list[float], horizon: int) -> None:
    detector = ShiryaevRoberts(horizon=horizon)
    cut = len(z) // 3
    detector.update(np.array(z[:cut]))
    detector.update(np.array(z[cut:]))
    capitals = [0.0] * len(GRID)
    for j, one in enumerate(z, 1):
        weight = 0.9 if j <= horizon else 0.1 * horizon**2 / (j * (j + 1))
        capitals = [(1 - c * one) * (m + weight) for c, m in zip(GRID, capitals, strict=True)]
    assert detector.value == pytest.approx(np.dot(LATE_WEIGHTS, capitals), rel=1e-9)


def test_the_weights_of_e_sr_sum_to_no_more_than_the_horizon() -> None:
    detector = ShiryaevRoberts(horizon=50)
    detector.update(np.zeros(200_000))  # z = 0 keeps every capital, so the value is the sum of the weights
    assert 49.8 < detector.value <= 50.0


def test_the_shares_of_the_fractions_are_shares_and_no_bet_can_lose_everything() -> None:
    for weights in (WEIGHTS, LATE_WEIGHTS):
        assert len(weights) == len(GRID)
        assert math.fsum(weights) <= 1.0 + 1e-12
    assert max(GRID) < 1.0


@given(observations, observations)
def test_a_restart_never_adds_evidence(first: list[float], second: list[float]) -> None:
    through, restarted = BettingEProcess(), BettingEProcess()
    for process in (through, restarted):
        process.update(np.array(first))
    restarted.restart()
    assert restarted.value <= 1.0 + 1e-9
    for process in (through, restarted):
        process.update(np.array(second))
    assert restarted.value <= through.value * (1 + 1e-9)


def test_values_stay_finite_when_evidence_is_endless() -> None:
    process, detector = BettingEProcess(), ShiryaevRoberts(horizon=10)
    for _ in range(3):
        process.update(np.full(5000, -1.0))
        detector.update(np.full(5000, -1.0))
    assert math.isfinite(process.value)
    assert math.isfinite(detector.value)


@pytest.mark.parametrize("distribution", ["coin", "rare", "smooth"])
def test_false_alarms_of_both_detectors_are_bounded_under_the_hypothesis(distribution: str) -> None:
    """Watched after every observation, on z with mean exactly 0: the hardest case that is still the hypothesis."""
    rng = np.random.default_rng(20)
    runs, length, alpha, horizon = 10_000, 300, 0.05, 100
    if distribution == "coin":
        z = rng.choice([-1.0, 1.0], size=(runs, length))
    elif distribution == "rare":
        z = np.where(rng.random((runs, length)) < 0.05, -0.95, 0.05)
    else:
        z = rng.uniform(-0.3, 0.3, size=(runs, length))
    capital = np.zeros((runs, len(GRID)))
    shiryaev = np.zeros((runs, len(GRID)))
    e_alarm, sr_alarm = np.zeros(runs, bool), np.zeros(runs, bool)
    for t in range(
        length
    ):  # the same formulas over all runs at once; equality with the classes is tested above
        factors = 1 - np.outer(z[:, t], GRID)
        capital += np.log(factors)
        weight = 0.9 if t < horizon else 0.1 * horizon**2 / ((t + 1) * (t + 2))
        shiryaev = factors * (shiryaev + weight)
        e_alarm |= np.exp(capital) @ np.array(WEIGHTS) >= 1 / alpha
        sr_alarm |= shiryaev @ np.array(LATE_WEIGHTS) >= horizon / alpha
    e_alarms, sr_alarms = int(e_alarm.sum()), int(sr_alarm.sum())
    assert wilson_upper(e_alarms, runs) <= alpha
    assert wilson_upper(sr_alarms, runs) <= alpha


def test_e_sr_finds_a_late_change_long_before_the_e_process() -> None:
    rng = np.random.default_rng(3)
    calm = rng.normal(0.02, 0.25, 3600).clip(-1, 1)
    worse = rng.normal(-0.18, 0.25, 2000).clip(-1, 1)
    process, detector = BettingEProcess(), ShiryaevRoberts(horizon=5000)
    process.update(calm)
    detector.update(calm)
    found: dict[str, int] = {}
    for t in range(0, 2000, 5):
        process.update(worse[t : t + 5])
        detector.update(worse[t : t + 5])
        if detector.value >= 5000 / 0.025:
            found.setdefault("e-SR", t + 5)
        if process.value >= 40:
            found.setdefault("e-process", t + 5)
    assert found["e-SR"] <= 120
    assert found.get("e-process", 10_000) >= 3 * found["e-SR"]


def test_the_confidence_sequence_covers_the_mean_at_all_times_together() -> None:
    """The mean difference swings between +.2 and -.2; I expect the running average inside at every look."""
    rng = np.random.default_rng(5)
    misses, runs, alpha = 0, 250, 0.1
    means = 0.2 * np.sin(np.arange(300) / 40)
    running = np.cumsum(means) / np.arange(1, 301)
    for _ in range(runs):
        sequence = ConfidenceSequence.with_margin(alpha, 0.02)
        d = np.where(rng.random(300) < (means + 1) / 2, 1.0, -1.0)
        missed = False
        for t in range(0, 300, 10):
            sequence.update(d[t : t + 10], np.ones(10))
            low, high = sequence.interval()
            missed = missed or not low <= running[t + 9] <= high
        misses += missed
    assert wilson_upper(misses, runs) <= alpha


def test_the_confidence_sequence_becomes_narrow() -> None:
    rng = np.random.default_rng(6)
    sequence = ConfidenceSequence.with_margin(0.05, 0.02)
    sequence.update(rng.normal(0.0, 0.27, 3000).clip(-1, 1), np.ones(3000))
    low, high = sequence.interval()
    assert low < 0.0 < high
    assert high - low <= 0.06


@given(observations, st.floats(0.0, 0.3))
def test_the_interval_and_the_gate_tell_the_same_story(differences: list[float], margin: float) -> None:
    d = np.array(differences)
    sequence, process = ConfidenceSequence.with_margin(0.05, margin), BettingEProcess()
    sequence.update(d, np.ones(len(d)))
    process.update((d + margin) / (1 + margin))
    if abs(process.value - 40) > 1e-6:
        assert (sequence.interval()[1] <= -margin) == (process.value >= 40)


def test_the_sample_ratio_check_may_be_watched_and_sees_a_wrong_split() -> None:
    rng = np.random.default_rng(7)
    runs, alarms = 400, 0
    for _ in range(runs):
        check = SampleRatio(share=0.2)
        for candidates in rng.binomial(10, 0.2, size=150).tolist():
            check.update(candidates, 10 - candidates)
        alarms += check.p <= 0.05
    assert wilson_upper(alarms, runs) <= 0.05
    wrong = SampleRatio(share=0.2)
    for candidates in rng.binomial(10, 0.3, size=150).tolist():
        wrong.update(candidates, 10 - candidates)
    assert wrong.p < 0.001


def test_exact_values_on_a_seeded_stream() -> None:
    rng = np.random.default_rng(12345)
    z = rng.normal(-0.05, 0.3, 200).clip(-1, 1)
    process, detector = BettingEProcess(), ShiryaevRoberts(horizon=5000)
    process.update(z)
    detector.update(z)
    assert process.value == pytest.approx(10.397849117, rel=1e-9)
    assert detector.value == pytest.approx(893.105716, rel=1e-9)
