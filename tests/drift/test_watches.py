"""Cohorts against their own past: baseline, false alarms, delays, recovery, and the same after a crash."""

from __future__ import annotations

import doctest
import itertools
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import drift.change_detector
from drift.advisory import Advisory
from drift.baseline import HOURS, Learning, hour_of_week
from drift.change_detector import SHARES, ChangeDetector
from drift.eprocess import GRID
from drift.pairing import UnitMean
from drift.present import PresentWindows
from drift.settings import WatchSettings
from drift.watch import Watch
from stream.records import Evaluator, Heartbeat

HOUR = 3600 * 10**9
MINUTE = 60 * 10**9
START = 168 * HOUR * 2800  # a Thursday, 00:00 UTC
calm = settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])


def unit(time: int, value: float, weight: float = 1.0) -> UnitMean:
    return UnitMean(key=0, value=value, weight=weight, time_ns=time, trace_id=f"t{time}")


class Cohort:
    """A watch fed hour by hour with five-level scores, with a daily swing."""

    def __init__(
        self, streams: Any, seed: int, *, swing: float = 0.0, per_hour: int = 60, **more: Any
    ) -> None:
        self.settings = WatchSettings(**more)
        self.rng = np.random.default_rng(seed)
        self.streams, self.swing, self.per_hour = streams, swing, per_hour
        self.watch = Watch(
            rubric="quality", present=PresentWindows.over(self.settings.present_window, MINUTE)
        )
        self.hour = 0
        self.units = 0
        self.states: list[str] = []

    def hours(
        self, count: int, *, drop: float = 0.0, rise: float = 0.0, evaluator: str = "judge"
    ) -> list[str]:
        out = []
        for _ in range(count):
            start = START + self.hour * HOUR
            shift = self.swing * np.sin(2 * np.pi * (self.hour % 24) / 24) + rise
            values = np.clip(self.streams.draw(self.rng, self.per_hour, drop) + shift, 0, 1)
            self.hour += 1
            for part in range(6):  # six buckets an hour
                end = start + (part + 1) * 10 * MINUTE
                items = [(evaluator, unit(end - 1, float(v))) for v in values[part::6]]
                self.watch.take(end, items, self.settings, self.hour)
                self.units += len(items)
                state, self.reason, self.evidence = self.watch.judge(end, end, 1, self.settings, self.hour)
                self.watch.state = state
                out.append(state)
        self.states += out
        return out


def test_the_example_in_the_docstring_is_true() -> None:
    assert doctest.testmod(drift.change_detector) == (0, 5)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 0.99), st.floats(0.1, 1)), min_size=1, max_size=40)
)
def test_the_detector_is_its_recursion_in_any_cut(items: list[tuple[float, float, float]]) -> None:
    x, m, v = (np.array(column) for column in zip(*items, strict=True))
    detector, cut = ChangeDetector(), len(items) // 2
    detector.update(x[:cut], m[:cut], v[:cut])
    detector.update(x[cut:], m[cut:], v[cut:])
    capitals = [0.0] * len(GRID)
    for one, least, weight in items:
        z = weight * (one - least) / (1 - least)
        capitals = [(1 - c * z) * (value + 1) for c, value in zip(GRID, capitals, strict=True)]
    assert detector.value == pytest.approx(float(np.dot(SHARES, capitals)), rel=1e-9)


def test_the_average_time_to_a_false_alarm_is_at_least_the_threshold() -> None:
    """On the edge of the hypothesis (mean exactly m), A = 300: the average over 400 runs, cut off at 6 A."""
    rng = np.random.default_rng(41)
    threshold, runs, cut = 300.0, 400, 1800
    lengths = np.full(runs, cut)
    for run in range(runs):
        x = (rng.random(cut) < 0.9).astype(float)
        detector = ChangeDetector()
        for t in range(0, cut, 10):
            detector.update(x[t : t + 10], np.full(10, 0.9), np.ones(10))
            if detector.value >= threshold:
                lengths[run] = t + 10
                break
    assert lengths.mean() >= threshold


def test_a_baseline_knows_the_hour_where_it_has_enough_units() -> None:
    learning = Learning()
    for day in range(7):
        for hour in range(24):
            start = START + (24 * day + hour) * HOUR
            value = 0.9 if hour < 12 else 0.5
            learning.add(unit(start + i * MINUTE, min(1.0, value + 0.1 * (i % 2))) for i in range(60))
    noon, night = START + 14 * HOUR, START + 2 * HOUR
    fine = learning.freeze(1, min_units=400, margin=0.02, max_weight_ratio=10)  # 420 per hour of the day
    assert fine.at([night, noon])[0].tolist() == pytest.approx([0.95, 0.55])
    coarse = learning.freeze(1, min_units=10_000, margin=0.02, max_weight_ratio=10)
    assert coarse.at([night, noon])[0].tolist() == pytest.approx([0.75, 0.75])
    assert fine.units == 7 * 24 * 60
    assert fine.units_per_day == pytest.approx(1440, rel=0.01)
    assert len(fine.means) == 4 * HOURS
    assert hour_of_week(START + 168 * HOUR + 5) == 0


def test_few_units_give_a_wide_tolerance_and_many_the_margin() -> None:
    rng = np.random.default_rng(42)
    for count, low, high in ((500, 0.025, 0.035), (50_000, 0.02, 0.02)):
        learning = Learning()
        learning.add(unit(START + i * MINUTE, float(v)) for i, v in enumerate(rng.choice([0.5, 1.0], count)))
        tolerance = learning.freeze(1, min_units=10**6, margin=0.02, max_weight_ratio=10).at([START])[1][0]
        assert low - 1e-6 <= tolerance <= high + 1e-6


def test_unequal_sampling_weights_do_not_bias_the_baseline() -> None:
    learning = Learning()
    learning.add([unit(START, 0.0, 1.0)] * 100 + [unit(START, 1.0, 9.0)] * 100)
    assert learning.freeze(1, min_units=50, margin=0.02, max_weight_ratio=10).at([START])[0][
        0
    ] == pytest.approx(0.9)


def test_healthy_cohorts_with_a_daily_swing_never_page(streams: Any) -> None:
    """A week of learning and two days of watching each; docs/statistics.md has 200 cohorts."""
    for seed in range(12):
        cohort = Cohort(streams, seed, swing=0.1 * (seed % 2))
        assert set(cohort.hours(168)) <= {"warming_up", "insufficient_data", "ok"}
        assert set(cohort.hours(48)) <= {"ok", "insufficient_data"}


@pytest.mark.parametrize(("drop", "limit"), [(0.2, 120), (0.1, 480)])
def test_a_drift_is_found_pages_and_recovers(streams: Any, drop: float, limit: int) -> None:
    cohort = Cohort(streams, 50)
    cohort.hours(170)
    before = cohort.units
    while cohort.watch.state != "regressed":
        cohort.hours(1, drop=drop)
        assert cohort.units - before <= limit
    assert cohort.evidence.sr_value >= cohort.evidence.sr_threshold
    assert cohort.watch.peak >= cohort.evidence.sr_threshold
    assert "advice" not in cohort.reason
    assert cohort.evidence.windows[0].incumbent_mean == pytest.approx(0.7975, abs=0.02)
    assert set(cohort.hours(6, drop=drop)) == {"regressed"}
    after = cohort.hours(48)
    assert after[-1] == "ok"
    assert set(after) == {"regressed", "ok"}
    assert after == sorted(after, reverse=True)  # one way, no flapping


def test_an_alarm_lasts_through_the_night(streams: Any) -> None:
    """Silence is no sign of recovery, and a drop that has become smaller is none either."""
    cohort = Cohort(streams, 50)
    cohort.hours(170)
    cohort.hours(12, drop=0.2)
    assert cohort.watch.state == "regressed"
    cohort.hour += 8
    morning = START + cohort.hour * HOUR
    cohort.watch.state, _, _ = cohort.watch.judge(morning, morning, 1, cohort.settings, 0)
    assert cohort.watch.state == "no_data"
    assert set(cohort.hours(1)) == {"regressed"}  # too early to say
    assert cohort.hours(48)[-1] == "ok"


def test_an_improvement_is_no_longer_told_when_it_is_over(streams: Any) -> None:
    cohort = Cohort(streams, 52)
    cohort.hours(170)
    cohort.hours(200, rise=0.1)
    assert "the improvement is proven" in cohort.reason
    cohort.hours(48)
    assert "the improvement is proven" not in cohort.reason


def test_a_small_proven_drift_warns_and_an_improvement_does_neither(streams: Any) -> None:
    small = Cohort(streams, 51, per_hour=600, page_size=0.3)
    small.hours(170)
    assert small.hours(12, drop=0.1)[-1] == "warn"
    better = Cohort(streams, 52, per_hour=600)
    better.hours(170)
    assert set(better.hours(24, rise=0.15)) == {"ok"}
    assert "the improvement is proven" in better.reason


def test_another_evaluator_learns_a_new_baseline(streams: Any) -> None:
    cohort = Cohort(streams, 53)
    cohort.hours(170)
    assert set(cohort.hours(160, drop=0.3, evaluator="judge 2")[5:]) == {"judge_changed"}
    assert set(cohort.hours(12, drop=0.3, evaluator="judge 2")[-6:]) == {"ok"}
    assert cohort.watch.baseline is not None
    assert cohort.watch.baseline.version == 2


def test_a_second_evaluator_now_and_then_does_not_cost_the_baseline(streams: Any) -> None:
    cohort = Cohort(streams, 58, per_hour=12)  # two units a bucket
    cohort.hours(170)
    units = cohort.watch.units
    for _ in range(30):
        cohort.hours(2, drop=0.7, evaluator="judge 2")  # 24 units in a row: patience is 30
        assert cohort.hours(1)[-1] != "judge_changed"
    assert cohort.watch.version == 1
    assert cohort.watch.units == units + 30 * 12
    assert cohort.evidence.sr_value < cohort.evidence.sr_threshold


def test_the_threshold_keeps_the_budget_over_all_streams(streams: Any) -> None:
    cohort = Cohort(streams, 54)
    cohort.hours(170)
    per_week = 7 * 24 * 60
    assert cohort.watch.threshold(100, WatchSettings()) == pytest.approx(100 * per_week, rel=0.02)
    assert cohort.watch.threshold(100, WatchSettings(false_pages_per_week=10)) == pytest.approx(
        10 * per_week, rel=0.02
    )
    assert cohort.watch.threshold(1, WatchSettings(false_pages_per_week=1000)) == 10_000


def test_a_watch_is_small(streams: Any) -> None:
    cohort = Cohort(streams, 55)
    cohort.hours(170)
    cohort.watch.present = PresentWindows.over(3600, MINUTE)
    assert len(msgspec.msgpack.encode(cohort.watch)) <= 2048


@pytest.mark.parametrize("name", ["adwin", "page_hinkley"])
def test_advice_is_that_of_river_in_any_cut_and_survives_nan(name: Any) -> None:
    from river.drift import ADWIN, PageHinkley

    rng = np.random.default_rng(56)
    values = np.concatenate([rng.normal(0.8, 0.1, 600), rng.normal(0.5, 0.1, 600)]).clip(0, 1).tolist()
    direct: Any = ADWIN() if name == "adwin" else PageHinkley(delta=0.005, threshold=20.0, mode="down")
    found = 0
    for time, value in enumerate(values, 1):
        direct.update(value)
        if direct.drift_detected:
            found = time
    assert 600 < found < 900
    items = [*enumerate(values, 1)]
    items.insert(300, (301, float("nan")))
    advisory = Advisory()
    for start in range(0, len(items), 7):
        advisory = msgspec.msgpack.decode(msgspec.msgpack.encode(advisory), type=Advisory)
        advisory.update([name], items[start : start + 7])
    assert advisory.moved == {name: found}
    assert name in advisory.text(found)
    assert advisory.text(found + 1) == ""


def test_advice_shows_in_the_reason_and_changes_nothing_else(streams: Any) -> None:
    plain, advised = Cohort(streams, 57), Cohort(streams, 57, advisory=["adwin", "page_hinkley"])
    for cohort in (plain, advised):
        cohort.hours(170)
        cohort.hours(6, drop=0.3)
    assert advised.states == plain.states
    assert "advice only" in advised.reason
    assert "advice only" not in plain.reason


def stage_stream(streams: Any) -> list[Any]:
    """Two prompt versions; v1 gets bad after its baseline, then another judge comes, then silence."""
    rng = np.random.default_rng(60)
    items: list[Any] = []
    for i in range(900):
        at = 0.1 * i
        bad = 45 <= at < 70
        judge = Evaluator(id="judge 2" if at >= 80 else "judge")
        value = 0.0 if bad and rng.random() < 0.6 else float(streams.draw(rng, 1)[0])
        items.append(streams.score(at, value, arm="v2" if i % 4 == 0 else "v1", number=i, evaluator=judge))
    return [*items, *(Heartbeat(time_unix_nano=streams.T0 + at * 10**9) for at in range(92, 130, 2))]


def feed_stage(streams: Any, crashes: list[int]) -> Any:
    watch = {
        "rubrics": ["quality"], "learn": 30, "min_units": 60, "present_window": 10, "min_present": 10,
        "false_pages_per_week": 1000, "no_data_after": 20, "report_every": 20, "advisory": ["adwin", "page_hinkley"],
    }  # fmt: skip
    feed = streams.Feed(streams.demo_settings(report_every=20, watches=[watch]))
    records = streams.to_records(stage_stream(streams))
    places = sorted({0, len(records), *crashes})
    for start, end in itertools.pairwise(places):
        if start:
            feed.restart()
        feed.feed(records[max(0, start - 2) : end])
    return feed


def test_the_stage_watches_cohorts_end_to_end(streams: Any) -> None:
    feed = feed_stage(streams, [])
    verdicts = [v for v in feed.verdicts if v.kind == "drift"]
    v1 = [v for v in verdicts if "v1" in v.candidate]
    changes = [v.state for v in v1 if v.state != v.previous_state]
    assert changes[0] == "warming_up"
    assert "regressed" in changes
    assert changes[-2:] == ["judge_changed", "no_data"]
    page = next(v for v in v1 if v.state == "regressed")
    assert (page.severity, page.action, page.rollout, page.route) == ("page", "none", "cohorts", "support")
    assert page.candidate == "prompt_version=v1,route=support"
    assert page.incumbent == "baseline 1"
    assert 45 <= (page.time_unix_nano - streams.T0) / 1e9 <= 70
    assert {v.severity for v in verdicts if v.state == "no_data"} == {"none"}
    assert any(v.state == v.previous_state for v in v1)
    assert len({v.verdict_id for v in feed.verdicts}) == len(feed.verdicts)
    assert feed.counters["watch_units_closed"] == 900


@calm
@given(crashes=st.lists(st.integers(1, 900), max_size=6))
def test_crash_anywhere_gives_the_same_verdicts(streams: Any, crashes: list[int]) -> None:
    expected, actual = feed_stage(streams, []), feed_stage(streams, crashes)
    assert [output.value for output in actual.outputs] == [output.value for output in expected.outputs]
    assert actual.remembered() == expected.remembered()


def test_cohorts_beyond_the_bound_are_counted(streams: Any) -> None:
    watch = {"rubrics": ["quality"], "max_cohorts": 1}
    feed = streams.Feed(streams.demo_settings(watches=[watch]))
    feed.feed(streams.to_records([streams.score(1.0 + i, arm=f"v{i}", number=i) for i in range(5)]))
    assert feed.counters["watch_scores_excluded.too_many_cohorts"] == 4
