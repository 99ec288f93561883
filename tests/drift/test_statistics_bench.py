"""bench/statistics.py: it simulates the gate of the stage, and its reduced tables keep what the full ones claim."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from drift.gate import Gate
from drift.operations import operation_settings
from drift.pairing import UnitMean
from drift.settings import DriftSettings, RolloutSettings
from drift.units import ClosedUnit

BENCH = Path(__file__).resolve().parents[2] / "bench"
MINUTE = 60_000_000_000
START = 1_700_000_040_000_000_000 // MINUTE * MINUTE


@pytest.fixture(scope="module")
def bench() -> Any:
    """The script, under a name that is not the standard library's."""
    before = list(sys.path)
    spec = importlib.util.spec_from_file_location("bench_statistics", BENCH / "statistics.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path[:] = before


def random_minute(vector: ModuleType, rng: np.random.Generator, runs: int, at: int) -> Any:
    """Two strata, uneven counts (sometimes none), uneven weights; another evaluator from minute 40 on."""
    sides = []
    for most in (4, 12, 4, 12):
        values = rng.choice([0.0, 0.25, 0.5, 0.75, 1.0], p=[0.1, 0.1, 0.1, 0.2, 0.5], size=(runs, most))
        if most == 4:
            bad = (np.arange(runs) % 2 == 0)[:, None] & (at >= 20)
            values = values * (rng.random(values.shape) > 0.5 * bad)
        sides.append(
            vector.Side(
                values, rng.integers(0, most + 1, runs), rng.choice([1.0, 1.5, 30.0 if at < 10 else 2.0], p=[0.6, 0.35, 0.05], size=values.shape)
            )
        )  # fmt: skip
    return vector.Minute(
        [(sides[0], sides[1]), (sides[2], sides[3])], evaluator="judge" if at < 40 else "judge 2"
    )


def units_of(minute: Any, run: int, rubric: str, end: int) -> list[ClosedUnit]:
    """The units of one simulated rollout in one minute."""
    units = []
    for stratum, sides in enumerate(minute.strata):
        for arm, side in zip(("v2", "v1"), sides, strict=True):
            for place in range(side.count[run]):
                mean = UnitMean(
                    key=place,
                    value=float(side.value[run, place]),
                    weight=float(side.weight[run, place]),
                    time_ns=end - 1,
                    trace_id="t",
                )
                units.append(
                    ClosedUnit(
                        key=place, scope="s", arm=arm, start=end - 1, end=end - 1, contaminated=False,
                        left_out=0, mixed=0, means={rubric: (minute.evaluator, mean)}, stratum=stratum,
                    )
                )  # fmt: skip
    return units


def test_the_simulated_rollout_gives_the_verdicts_of_the_stages_gates(bench: Any) -> None:
    """Two rubrics that share their part of alpha, and a stream with its own."""
    vector = sys.modules["vector_gate"]
    rng = np.random.default_rng(31)
    runs, minutes = 12, 90
    settings = RolloutSettings(rubrics=["quality", "tone"], margin=0.02, max_units=150, min_units=20)
    (failing,) = operation_settings(DriftSettings(rollouts=[settings])).rollouts
    many = vector.VectorRollout(runs, settings)
    singles = [Gate.opened("v1", "v2", START, 0, settings, MINUTE) for _ in range(runs)]
    streams = [Gate.opened("v1", "v2", START, 0, failing, MINUTE) for _ in range(runs)]
    regressed = np.zeros(3, dtype=int)
    for at in range(minutes):
        rubrics = [random_minute(vector, rng, runs, at) for _ in settings.rubrics]
        failures = random_minute(vector, rng, runs, at)
        found = many.step(rubrics, failures)
        end = START + (at + 1) * MINUTE
        for run, (gate, stream) in enumerate(zip(singles, streams, strict=True)):
            for rubric, minute in zip(settings.rubrics, rubrics, strict=True):
                gate.take(end, units_of(minute, run, rubric, end), MINUTE, settings)
            stream.take(end, units_of(failures, run, "error_rate", end), MINUTE, failing)
            findings = [
                *gate.findings(end, end, ({}, {}), settings, at),
                *stream.findings(end, end, ({}, {}), failing, at),
            ]
            for place, (one, own) in enumerate(
                zip((*many.rubrics, many.operations), (*gate.rubrics, *stream.rubrics), strict=True)
            ):
                assert one.log_e[run] == pytest.approx(own.process.log_value, abs=1e-9)
                assert one.log_sr[run] == pytest.approx(own.detector.log_value, abs=1e-9)
                assert one.pairs[run] == own.pairs
                assert bool(found[place][run]) == (findings[place].state == "regressed"), (place, run, at)
                regressed[place] += findings[place].state == "regressed"
    assert (regressed > 0).all()  # both outcomes occurred
    assert (regressed < runs * minutes).all()


def test_healthy_candidates_of_every_kind_are_left_alone_by_everything_that_gates(bench: Any) -> None:
    """An eighth of the day, few rollouts; docs/statistics.md has the full table."""
    runs, hits = 60, 0
    for place, name in enumerate(bench.HEALTHY):
        alarms = bench.follow_rollouts(
            name, bench.RolloutSettings(margin=0.0), runs, bench.DAY // 8, 500 + place
        )
        ours = int((alarms["all"].minute < bench.NEVER).sum())
        assert ours <= sum(int((alarms[part].minute < bench.NEVER).sum()) for part in ("rubrics", "stream"))
        assert bench.wilson(ours, runs)[0] <= 0.05, name
        hits += ours
    assert bench.wilson(hits, runs * len(bench.HEALTHY))[1] <= 0.05


@pytest.mark.parametrize(
    ("margin", "drop", "limit"), [(0.0, 0.2, 9), (0.0, 0.1, 22), (0.0, 0.05, 55), (0.02, 0.2, 11), (0.02, 0.1, 30)]
)  # fmt: skip
def test_regressions_are_found_no_later_than_by_the_plain_gate(
    bench: Any, margin: float, drop: float, limit: int
) -> None:
    alarm = bench.follow(bench.steady(drop=drop), bench.gate_settings(margin), 200, 8 * limit, 7)
    assert float(np.median(alarm.minute)) <= limit


def test_a_late_regression_is_found_within_the_stated_pairs(bench: Any) -> None:
    for drop, pairs in ((0.2, 80), (0.1, 200)):
        stream = bench.steady(drop=drop, bad_from=720)
        alarm = bench.follow(stream, bench.gate_settings(0.02), 300, 800, 11)
        late = alarm.minute[alarm.minute > 720]
        assert len(late) >= 290
        assert 5 * (float(np.median(late)) - 720) <= pairs


def test_strata_of_a_known_covariate_save_time(bench: Any) -> None:
    """Against the plain reference gate, and against this one without strata."""
    for drop, margin, minutes, reference in ((0.1, 0.0, 60, 22), (0.05, 0.0, 200, 50), (0.1, 0.02, 90, 30)):
        plain, split = bench.paired_within_strata(drop, margin, minutes, 200, 13)
        assert float(np.median(split.minute)) <= 0.85 * reference
        mean = [float(np.minimum(alarm.minute, minutes).mean()) for alarm in (plain, split)]
        assert mean[1] <= 0.9 * mean[0]


def test_rules_that_may_not_be_watched_are_seen_to_fail(bench: Any) -> None:
    alarms = bench.compare(bench.steady(), 60, 60, 17)
    for rule in ("15-min mean more than .05 lower", "15-min z-test, p < .05"):
        assert (alarms[rule].minute <= 60).mean() > 0.2
    for rule in ("asymptotic sequence (GrowthBook)", "never fire", "gate, margin 0"):
        assert (alarms[rule].minute <= 60).mean() <= 0.1
    assert (alarms["always fire"].minute == 1).all()


def test_tables_go_between_the_markers_of_the_page_and_leave_the_others(bench: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "before\n\n<!-- bench/statistics.py -->\n\n<!-- severe -->\n\nold\n\n<!-- digest -->\n\n| kept |\n\n"
        "<!-- /bench/statistics.py -->\nafter\n"
    )
    bench.write({"severe": ["", "| a |", "|---|", ""], "comparison": ["| b |"]}, page)
    assert page.read_text() == (
        "before\n\n<!-- bench/statistics.py -->\n\n<!-- comparison -->\n\n| b |\n\n<!-- severe -->\n\n| a |\n|---|\n\n"
        "<!-- digest -->\n\n| kept |\n\n<!-- /bench/statistics.py -->\nafter\n"
    )
