"""Windows from counts: quantiles as defined, bins within their stated error, and nothing that depends on order or cuts."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drift.bins import LARGEST, RELATIVE_ERROR, SMALLEST, sketch_bin
from drift.settings import DriftSettings
from drift.windows import WindowTable
from stream.records import CohortWindow, Evaluator, Heartbeat

SECOND = 10**9
JUDGE = Evaluator(id="judge")
calm = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def configure(**more: Any) -> DriftSettings:
    fields: dict[str, Any] = {
        "bucket": 1, "lateness": 5, "windows": [10, 60], "rollouts": [], "views": [["route"]],
    }  # fmt: skip
    return DriftSettings(**(fields | more))


def tick_all(table: WindowTable, start: int, end: int) -> list[CohortWindow]:
    out: list[CohortWindow] = []
    for at in range(start, end):
        now = (at + 1) * SECOND
        out += table.tick(at * SECOND, now, now - 6 * SECOND, at)
    return out


def quantile(values: Any, weights: Any, q: float) -> float:
    """The smallest value up to which at least the share q of the weight lies."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, q * reached[-1] * (1 - 1e-12))])


weighted = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.sampled_from([1.0, 0.5, 0.2])),
    min_size=1,
    max_size=60,
)


@calm
@given(weighted)
def test_quantiles_of_a_rubric_are_exact(streams: Any, drawn: list[Any]) -> None:
    feed = streams.Feed(configure(windows=[60]))
    items = [streams.score(0.1 * i, x, number=i, probability=p) for i, (x, p) in enumerate(drawn)]
    feed.feed(streams.to_records([*items, Heartbeat(time_unix_nano=streams.T0 + 20 * SECOND)]))
    window = feed.windows[-1]
    values = np.array([x for x, _ in drawn])
    weights = np.array([1 / p for _, p in drawn])
    assert window.n == len(drawn)
    assert [window.p5, window.p50, window.p95] == [quantile(values, weights, q) for q in (0.05, 0.5, 0.95)]


@calm
@given(st.lists(st.floats(SMALLEST, LARGEST), min_size=1, max_size=200), st.floats(0.5, 3.0))
def test_sketch_bins_keep_their_relative_error(values: list[float], scale: float) -> None:
    x = np.array(values)
    assert np.all(np.abs(sketch_bin(x) - x) <= RELATIVE_ERROR * x * (1 + 1e-9))
    assert sketch_bin(np.array([0.0, SMALLEST / 2])).tolist() == [0.0, 0.0]


def test_quantiles_of_an_unbounded_metric_are_within_one_per_cent(streams: Any) -> None:
    rng = np.random.default_rng(5)
    table = WindowTable(configure(windows=[60]))
    values = np.exp(rng.normal(0.5, 1.5, 4000))
    for i, value in enumerate(values.tolist()):
        table.add_value(
            "default", "latency_s", None, {"route": "r"}, (1000 + i // 100) * SECOND, value, lambda *_: None
        )
    window = tick_all(table, 1039, 1045)[-1]
    ordered = np.sort(values)
    for found, q in ((window.p5, 0.05), (window.p50, 0.5), (window.p95, 0.95)):
        exact = ordered[int(np.ceil(q * len(values))) - 1]
        assert found == pytest.approx(exact, rel=RELATIVE_ERROR * 1.0001)
    assert window.n == 4000
    assert window.mean == pytest.approx(values.mean())  # moments do not go through the bins
    assert window.standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(4000), rel=1e-6)
    assert window.worst_decile_mean == pytest.approx(ordered[-400:].mean(), rel=0.02)
    assert window.pass_rate is None
    assert (window.rubric, window.evaluator, window.levels) == ("latency_s", "", {})


def fill(table: WindowTable, scores: list[tuple[int, float, float]], cuts: list[int] = []) -> None:  # noqa: B006
    """Put (second, value, weight) into the table as columns, cut at ``cuts``."""
    source, _ = table.source("default", "quality", JUDGE, {"route": "r"})
    places = sorted({0, len(scores), *(cut for cut in cuts if cut < len(scores))})
    for start, end in itertools.pairwise(places):
        time, value, weight = (np.array(column) for column in zip(*scores[start:end], strict=True))
        table.add_columns(
            np.full(end - start, source), time * SECOND, value.astype(float), weight.astype(float)
        )


columns = st.lists(
    st.tuples(
        st.integers(100, 104), st.sampled_from([0.0, 0.1, 0.3, 0.7, 1.0]), st.sampled_from([1.0, 3.0, 7.3])
    ),
    min_size=2,
    max_size=50,
)


@calm
@given(columns, st.randoms(use_true_random=False), st.lists(st.integers(1, 50), max_size=5))
def test_any_order_and_any_cuts_give_the_same_bits(drawn: list[Any], random: Any, cuts: list[int]) -> None:
    first, second = WindowTable(configure()), WindowTable(configure())
    fill(first, drawn)
    shuffled = list(drawn)
    random.shuffle(shuffled)
    fill(second, shuffled, cuts)
    assert tick_all(first, 104, 110) == tick_all(second, 104, 110)


def drawn_from(seed: int, size: int) -> list[tuple[int, float, float]]:
    """More different values than are counted one by one."""
    rng = np.random.default_rng(seed)
    columns = rng.integers(100, 105, size), rng.random(size), rng.uniform(1.0, 50.0, size)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@calm
@given(st.integers(0, 2**32), st.lists(st.integers(1, 120), max_size=8), st.integers(0, 120))
def test_batches_and_restarts_change_nothing_where_values_are_many(
    seed: int, cuts: list[int], stop: int
) -> None:
    """More values than are counted one by one, so that the stream changes to steps somewhere."""
    drawn = drawn_from(seed, 120)
    whole, parts = WindowTable(configure()), WindowTable(configure())
    fill(whole, drawn)
    if 0 < stop < len(drawn):
        fill(parts, drawn[:stop], cuts)
        state = {key: value for key, value in parts.save().items() if value is not None}
        parts = WindowTable(configure())
        parts.restore(state)
        fill(parts, drawn[stop:], cuts)
    else:
        fill(parts, drawn, cuts)
    one, other = tick_all(whole, 104, 110), tick_all(parts, 104, 110)
    assert one == other
    x, w = (np.array([item[place] for item in drawn]) for place in (1, 2))
    assert one[-1].mean == pytest.approx((x * w).sum() / w.sum())


@calm
@given(columns, st.lists(st.booleans(), min_size=50, max_size=50))
def test_windows_of_two_partitions_add_up(drawn: list[Any], left: list[bool]) -> None:
    """Counts per level and weight are all there is to a window: those of two parts give the window of the whole."""
    parts = [[s for s, here in zip(drawn, left, strict=False) if here is side] for side in (True, False)]
    windows = []
    for scores in (drawn, *parts):
        table = WindowTable(configure(windows=[60]))
        if scores:
            fill(table, scores)
        windows.append(tick_all(table, 104, 106)[-1:])
    (whole,), *halves = windows
    found = [half[0] for half in halves if half]
    assert whole.n == sum(half.n for half in found)
    assert whole.weight == pytest.approx(sum(half.weight for half in found))
    assert whole.mean == pytest.approx(sum(half.mean * half.weight for half in found) / whole.weight)
    merged: dict[str, int] = {}
    for half in found:
        for level, count in half.levels.items():
            merged[level] = merged.get(level, 0) + count
    assert whole.levels == merged


def test_a_long_window_holds_what_is_final_and_what_is_not(streams: Any) -> None:
    """Minutes go into the panes of long windows when nothing late can come for them; no score counts twice or not at all."""
    feed = streams.Feed(configure(windows=[240], lateness=20))
    items = [streams.score(float(at), 0.5, number=at) for at in range(120)]
    late = [streams.score(at - 15.0, 0.5, number=f"late {at}") for at in range(20, 120, 7)]
    items = sorted(
        [*items, *late],
        key=lambda item: item.time_unix_nano + (15 * SECOND if "late" in item.score_id else 0),
    )
    feed.feed(streams.to_records(items[:60]))
    feed.restart()
    feed.feed(
        streams.to_records([*items[60:], Heartbeat(time_unix_nano=streams.T0 + 130 * SECOND)], first=60)
    )
    for window in feed.windows:
        seen = items[: window.version + 1]
        assert window.n == len(seen)


def test_a_score_as_late_as_is_allowed_corrects_every_end_it_belongs_to(streams: Any) -> None:
    feed = streams.Feed(configure(windows=[10], lateness=8))
    items = [streams.score(at + 0.5, 1.0, number=at) for at in range(12)]
    late = streams.score(4.7, 0.0, number="late")
    feed.feed(streams.to_records([*items, late, Heartbeat(time_unix_nano=streams.T0 + 30 * SECOND)]))
    assert "scores_excluded.late" not in feed.counters
    best: dict[int, CohortWindow] = {}
    for window in feed.windows:
        best[(window.end_unix_nano - streams.T0) // SECOND] = window
    assert {end: (best[end].n, best[end].levels.get("0", 0)) for end in range(4, 13)} == {
        4: (4, 0), 5: (6, 1), 6: (7, 1), 7: (8, 1), 8: (9, 1), 9: (10, 1), 10: (11, 1), 11: (11, 1), 12: (11, 1),
    }  # fmt: skip
