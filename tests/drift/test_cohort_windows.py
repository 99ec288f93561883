"""Rolling windows: equal to a direct computation, corrected by late scores, bounded in cohorts and streams."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drift.settings import DriftSettings
from stream.records import CohortWindow, Heartbeat

calm = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


def configure(**more: Any) -> DriftSettings:
    fields: dict[str, Any] = {"bucket": 1, "lateness": 5, "windows": [10, 60], "rollouts": []}
    return DriftSettings(**(fields | more))


def beat(streams: Any, at: float) -> Heartbeat:
    return Heartbeat(time_unix_nano=streams.T0 + round(at * 1e9))


def latest(windows: list[CohortWindow]) -> dict[tuple[str, str, int, int], CohortWindow]:
    """What a table shows that keeps the highest version of each window."""
    best: dict[tuple[str, str, int, int], CohortWindow] = {}
    for window in windows:
        key = (window.view, window.cohort, window.window_seconds, window.end_unix_nano)
        if key not in best or window.version >= best[key].version:
            best[key] = window
    return best


scores = st.lists(
    st.tuples(
        st.floats(0.0, 40.0),
        st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
        st.sampled_from([1.0, 0.5, 0.1]),
        st.floats(-3.0, 0.0),
    ),
    min_size=1,
    max_size=40,
)


@calm
@given(scores)
def test_every_window_is_what_a_direct_computation_gives(streams: Any, drawn: list[Any]) -> None:
    """Scores arrive up to 3 s out of order; I expect each published end to be right in the end."""
    arrivals = sorted((at, max(0.0, at + late), value, p) for at, value, p, late in drawn)
    items = [
        streams.score(at, value, number=i, probability=p) for i, (_, at, value, p) in enumerate(arrivals)
    ]
    feed = streams.Feed(configure())
    feed.feed(streams.to_records([*items, beat(streams, 45), beat(streams, 60)]))
    assert "scores_excluded.late" not in feed.counters
    checked = 0
    for window in latest(feed.windows).values():
        if window.view != "route":
            continue
        end = window.end_unix_nano
        inside = [
            (item.value, 1 / item.probability)
            for item in items
            if end - window.window_seconds * 10**9 <= item.time_unix_nano < end
        ]
        x, w = (np.array(column) for column in zip(*inside, strict=True))
        mean = float((w * x).sum() / w.sum())
        assert window.n == len(x)
        assert window.weight == pytest.approx(w.sum())
        assert window.mean == pytest.approx(mean)
        assert window.n_eff == pytest.approx(w.sum() ** 2 / (w * w).sum())
        assert window.pass_rate == pytest.approx(w[x >= 0.5].sum() / w.sum())
        if len(x) > 1:
            error = math.sqrt((w * w * (x - mean) ** 2).sum() * len(x) / (len(x) - 1)) / w.sum()
            assert window.standard_error == pytest.approx(error, abs=1e-6)
        assert window.levels == {f"{level:g}": int((x == level).sum()) for level in sorted(set(x.tolist()))}
        order = np.argsort(x)
        below = np.cumsum(w[order]) - w[order]
        part = np.clip(0.1 * w.sum() - below, 0, w[order])
        assert window.worst_decile_mean == pytest.approx(
            float((part * x[order]).sum() / part.sum()), abs=1e-6
        )
        checked += 1
    assert checked > 0


def test_a_late_score_corrects_the_ends_it_belongs_to(streams: Any) -> None:
    feed = streams.Feed(configure(windows=[10], views=[["route"]]))
    items = [streams.score(at, 1.0) for at in (1.5, 2.5, 3.5)]
    late = streams.score(1.7, 0.0, number="late")
    feed.feed(streams.to_records([*items, late, beat(streams, 10)]))
    ends = {
        (window.end_unix_nano - streams.T0) // 10**9: (window.n, window.mean)
        for window in latest(feed.windows).values()
    }
    assert ends == {2: (2, 0.5), 3: (3, pytest.approx(2 / 3)), 4: (4, 0.75)}
    versions = [w.version for w in feed.windows if w.end_unix_nano == streams.T0 + 2 * 10**9]
    assert versions == [0, 3]


def test_a_long_window_of_coarse_panes_forgets_in_steps(streams: Any) -> None:
    feed = streams.Feed(configure(windows=[240], views=[["route"]]))
    items = [streams.score(float(at), 1.0 if at < 120 else 0.0) for at in range(400)]
    feed.feed(streams.to_records(items))
    for window in feed.windows:
        end = (window.end_unix_nano - streams.T0) / 1e9
        assert min(end, 230) <= window.n <= min(end, 240)
    assert feed.windows[-1].mean == 0.0
    assert len(feed.windows) == 399


def test_cohorts_above_the_limit_share_one_visible_cohort(streams: Any) -> None:
    feed = streams.Feed(configure(max_cohorts=3, views=[["route", "user_cohort"]], windows=[60]))
    items = [
        streams.score(0.01 * i, 0.5, number=i, cohort={"route": "r", "user_cohort": f"u{i % 8}"})
        for i in range(80)
    ]
    feed.feed(streams.to_records([*items, beat(streams, 3)]))
    counts = {window.cohort: window.n for window in feed.windows}
    assert counts == {
        "route=r,user_cohort=u0": 10, "route=r,user_cohort=u1": 10, "route=r,user_cohort=u2": 10, "(other)": 50,
    }  # fmt: skip
    assert {window.cohort: window.attributes for window in feed.windows}["(other)"] == {}


def test_streams_above_the_limit_are_counted_and_rows_are_used_again(streams: Any) -> None:
    feed = streams.Feed(configure(max_streams=10, views=[["route"]], windows=[10]))
    first = [streams.score(1.0, 0.5, number=i, rubric=f"r{i}") for i in range(15)]
    feed.feed(streams.to_records([*first, beat(streams, 5)]))
    assert feed.counters["window_scores_excluded.too_many_streams"] == 5
    feed.restart()
    day = 86_400.0
    second = [streams.score(day, 1.0, number=i, rubric=f"s{i}") for i in range(10)]
    feed.feed(streams.to_records([beat(streams, day), *second, beat(streams, day + 5)], first=16))
    assert feed.counters["window_scores_excluded.too_many_streams"] == 5
    assert {(w.rubric, w.mean, w.n) for w in feed.windows[10:]} == {(f"s{i}", 1.0, 1) for i in range(10)}


def test_scores_without_levels_are_counted_in_steps(streams: Any) -> None:
    feed = streams.Feed(configure(views=[["route"]], windows=[60]))
    values = np.random.default_rng(1).random(400)
    items = [streams.score(0.01 * i, float(x), number=i) for i, x in enumerate(values)]
    feed.feed(streams.to_records(items[:200]))
    feed.restart()
    feed.feed(streams.to_records([*items[200:], beat(streams, 10)], first=200))
    window = feed.windows[-1]
    steps = np.floor(values * 20 + 0.5) / 20
    assert window.levels == {f"{level:g}": int((steps == level).sum()) for level in np.unique(steps).round(2)}
    assert window.mean == pytest.approx(values.mean())
    assert window.worst_decile_mean == pytest.approx(np.sort(values)[:40].mean(), abs=0.025)


def test_attributes_that_are_missing(streams: Any) -> None:
    feed = streams.Feed(configure(windows=[10]))
    feed.feed(streams.to_records([streams.score(1.0, cohort={"model": "m"}), beat(streams, 3)]))
    assert {(window.view, window.cohort) for window in feed.windows} == {
        ("route", "route="),
        ("route,model", "model=m,route="),
    }


def test_a_year_of_silence_costs_nothing(streams: Any) -> None:
    feed = streams.Feed(configure())
    year = 365 * 86_400.0
    feed.feed(streams.to_records([streams.score(1.0), streams.score(year), beat(streams, 2 * year)]))
    assert len(feed.windows) == 8


def test_a_cohort_that_has_gone_makes_room(streams: Any) -> None:
    feed = streams.Feed(configure(max_cohorts=2, views=[["route"]], windows=[10]))
    day = 86_400.0
    old = [streams.score(1.0, cohort={"route": name}, number=name) for name in "ab"]
    new = [streams.score(day, cohort={"route": name}, number=name) for name in "cde"]
    feed.feed(streams.to_records([*old, beat(streams, 5), beat(streams, day - 1)]))
    feed.feed(streams.to_records([*new, beat(streams, day + 5)], first=4))
    assert {window.cohort for window in feed.windows[2:]} == {"route=c", "route=d", "(other)"}
