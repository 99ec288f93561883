"""Judge or system: anchors tell, are never mixed into cohorts, and survive a crash."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drift.anchors import JudgeMonitor
from drift.remainder import Remainder
from drift.settings import AnchorSettings
from stream.records import Evaluator, Heartbeat

BENCH = Path(__file__).resolve().parents[2] / "bench"
SECOND = 10**9
JUDGE = Evaluator(id="judge", kind="judge", model="m")
calm = settings(deadline=None, max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def attribution() -> Any:
    """bench/attribution.py, whose folder holds a file with the name of a module of the standard library."""
    before = list(sys.path)
    sys.path.append(str(BENCH))
    import attribution as module

    yield module
    sys.path[:] = before


@pytest.mark.parametrize(
    ("who", "judge", "system"), [("judge", 0.2, 0.0), ("judge", 0.1, 0.0), ("system", 0.0, 0.2), ("system", 0.0, 0.1)]
)  # fmt: skip
def test_what_moved_is_named(attribution: Any, who: str, judge: float, system: float) -> None:
    """docs/statistics.md has 200 simulations of each."""
    found, _, _ = attribution.attributed(judge, system, 20, 70, settle=240)
    assert found[who] >= 19
    assert found["no alarm"] == 0


def test_both_are_named_where_both_moved(attribution: Any) -> None:
    found, _, _ = attribution.attributed(0.1, 0.14, 15, 70)
    assert found["both"] >= 12


def remainders(rng: Any, runs: int, ticks: int, own: float, tolerance: float = 0.02) -> list[Remainder]:
    """Units that are worse by the judge's shift of .1 and by ``own``; uneven numbers of units and anchor scores."""
    out = []
    for _ in range(runs):
        part = Remainder(taken=7)
        count, recent = 7, []
        for _ in range(ticks):
            n = int(rng.integers(0, 9))
            x = (rng.random(n) < 0.7 - own).astype(float)
            part.add_units(x, np.full(n, 0.8), np.full(n, tolerance), rng.choice([0.25, 1.0], n))
            changes = rng.choice([-0.6, 0.4], int(rng.integers(0, 9))).tolist()  # mean -.1
            count += len(changes)
            recent = [*recent, *changes][-300:]
            part.take_anchors(count, recent, tolerance)
        out.append(part)
    return out


def test_a_drop_that_the_judges_shift_explains_is_hardly_ever_called_the_systems_own() -> None:
    rng = np.random.default_rng(75)
    edge = remainders(rng, 300, 80, own=0.04)  # as large as both tolerances together
    assert sum(part.proven for part in edge) <= 7  # 3 are allowed on average
    assert float(np.mean([part.mean for part in edge])) == pytest.approx(-0.04, abs=0.01)
    worse = remainders(rng, 30, 150, own=0.25)
    assert all(part.proven for part in worse)
    assert float(np.mean([part.mean for part in worse])) == pytest.approx(-0.25, abs=0.02)


@settings(deadline=None, max_examples=60)
@given(
    ticks=st.lists(
        st.tuples(
            st.lists(st.tuples(st.floats(0, 1), st.floats(0.05, 0.98), st.floats(0.01, 1)), max_size=5),
            st.lists(st.floats(-1, 1), max_size=5),
        ),
        max_size=12,
    )
)
def test_pairs_are_bounded_and_their_number_depends_on_counts_only(ticks: list[Any]) -> None:
    part, again = Remainder(taken=0), Remainder(taken=0)
    recent: list[float] = []
    for units, changes in ticks:
        recent += changes
        x, mean, weight = (np.array([unit[k] for unit in units]) for k in range(3))
        tolerance = np.full(len(units), 0.02)
        part.add_units(x, mean, tolerance, weight)
        part.take_anchors(len(recent), recent, 0.02)
        again.add_units(1.0 - x, mean, tolerance, weight)
        again.take_anchors(len(recent), [-one for one in recent], 0.02)
        assert all(math.isfinite(one) for one in part.process.log_capital)  # no stake was above the capital
    assert part.pairs == again.pairs
    assert len(part.units) == len(again.units)


def test_a_judge_that_does_not_change_is_hardly_ever_called_changed(attribution: Any) -> None:
    assert attribution.judge_false_alarms(20, 700, 71) == 0


def test_a_changed_judge_is_told_in_either_direction_and_forgiven_when_it_is_itself_again() -> None:
    for shift in (-0.25, 0.25):
        rng = np.random.default_rng(72)
        known, monitor = AnchorSettings(learn=100), JudgeMonitor()
        labels = rng.choice([0.25, 0.5, 0.75], 50)

        turns = itertools.count()

        def score(
            count: int, by: float = 0.0, rng: Any = rng, labels: Any = labels, judge: Any = monitor, turns: Any = turns,
            known: Any = known,
        ) -> int:  # fmt: skip
            turn = 0
            for _ in range(count):
                turn = next(turns)
                label = float(labels[turn % 50])
                value = float(np.clip(label + by * (rng.random() < 0.6) + 0.05 * rng.standard_normal(), 0, 1))
                judge.take(str(turn % 50), turn * 60 * SECOND, value, label, known)
            return turn

        for _ in range(30):
            score(10)
            assert not monitor.changed(known)
        while not monitor.changed(known):
            assert score(1, shift) < 420
        turn = score(60, shift)
        told = monitor.evidence(turn * 60 * SECOND, known)
        assert told.shift == pytest.approx(0.6 * shift, abs=0.06)
        assert told.bias == pytest.approx(0.6 * shift, abs=0.06)
        assert (told.lower_value >= known.threshold) == (shift < 0)
        assert (told.higher_value >= known.threshold) == (shift > 0)
        score(500)
        assert not monitor.changed(known)


def history(
    streams: Any, *, judge_at: int = 10**6, system_at: int = 10**6, anchors: bool = True
) -> list[Any]:
    """Five scores a second and as many anchors; the judge or the system gets worse at a moment."""
    rng = np.random.default_rng(73)
    labels = [float(value) for value in streams.draw(rng, 20)]
    items: list[Any] = []
    for i in range(700):
        at = 0.2 * i
        worse = at >= judge_at
        value = float(streams.draw(rng, 1)[0])
        bad = worse or at >= system_at
        items.append(streams.score(at, value * (rng.random() > 0.5 * bad), number=i, evaluator=JUDGE))
        label = labels[i % 20]
        given_score = label * (rng.random() > 0.5 * worse)
        if anchors:
            items.append(
                streams.score(
                    at, given_score, number=f"a{i}", evaluator=JUDGE, lane="triage", probability=None, cohort={},
                    policy="anchor", anchor=f"a{i % 20}", reference=label, trace_id="", unit_id=f"anchor-{i % 20}",
                )
            )  # fmt: skip
    return [*items, Heartbeat(time_unix_nano=streams.T0 + 150 * SECOND)]


def run(streams: Any, items: list[Any], crashes: tuple[int, ...] | list[int] = ()) -> Any:
    watch = {
        "rubrics": ["quality"], "learn": 30, "min_units": 60, "present_window": 10, "min_present": 10,
        "false_pages_per_week": 1000, "report_every": 20,
    }  # fmt: skip
    feed = streams.Feed(
        streams.demo_settings(watches=[watch], anchors={"learn": 60, "guard": 100, "window": 20})
    )
    made = streams.to_records(items)
    for start, end in itertools.pairwise(sorted({0, len(made), *crashes})):
        if start:
            feed.restart()
        feed.feed(made[max(0, start - 3) : end])
    return feed


def attributions(feed: Any) -> list[str]:
    bad = [
        v
        for v in feed.verdicts
        if v.kind == "drift" and v.state in ("regressed", "warn") and v.rollout != "anchors"
    ]
    assert all(v.attribution for v in bad)
    return [key for key, _ in itertools.groupby(v.attribution for v in bad)]


def test_every_partition_speaks_of_its_own_anchors(streams: Any) -> None:
    feed = streams.Feed(streams.demo_settings(anchors={"learn": 60, "guard": 100, "window": 20}))
    feed.stage.assign(1, {})
    items = streams.to_records(history(streams, judge_at=60))
    feed.feed([msgspec.structs.replace(one, partition=part) for part in (0, 1) for one in items])
    told = [v for v in feed.verdicts if v.rollout == "anchors"]
    name = JUDGE.identity
    assert [v.candidate for v in told] == [name] * (len(told) // 2) + [f"{name},partition=1"] * (
        len(told) // 2
    )
    assert {v.evaluator for v in told} == {name}
    assert len({v.verdict_id for v in told}) == len(told) > 2


def test_a_page_says_that_the_judge_moved(streams: Any) -> None:
    feed = run(streams, history(streams, judge_at=60))
    assert attributions(feed)[-1] == "judge"
    assert "system" not in attributions(feed)
    last = [v for v in feed.verdicts if v.attribution == "judge" and v.rollout == "cohorts"][-1]
    told = last.evidence.judge
    assert told is not None
    assert told.shift is not None
    assert told.shift < -0.2
    assert "the judge moved" in last.reason
    own = [(v.state, v.severity) for v in feed.verdicts if v.rollout == "anchors"]
    assert own == [("ok", "none"), ("judge_changed", "warn")]


def test_a_page_says_that_the_system_moved_once_the_guard_is_over(streams: Any) -> None:
    feed = run(streams, history(streams, system_at=60))
    assert attributions(feed) == ["unknown", "system"]
    waiting = next(v for v in feed.verdicts if v.attribution == "unknown")
    assert "labelled examples" in waiting.reason
    assert waiting.evidence.judge is not None
    assert 0 < waiting.evidence.judge.guard_left <= 100


def test_without_anchors_nobody_knows_and_code_is_always_the_system(streams: Any) -> None:
    feed = run(streams, history(streams, system_at=60, anchors=False))
    assert attributions(feed) == ["unknown"]
    code = [
        msgspec.structs.replace(item, evaluator=Evaluator(id="code")) if hasattr(item, "evaluator") else item
        for item in history(streams, system_at=60, anchors=False)
    ]
    assert attributions(run(streams, code)) == ["system"]
    # What scores elsewhere may be a model as well, and nothing is known of it.
    elsewhere = [
        msgspec.structs.replace(item, evaluator=Evaluator(id="other", kind="external"))
        if hasattr(item, "evaluator")
        else item
        for item in history(streams, system_at=60, anchors=False)
    ]
    assert attributions(run(streams, elsewhere)) == ["unknown"]


def test_anchors_are_in_no_cohort(streams: Any) -> None:
    with_anchors, without = (run(streams, history(streams, anchors=anchors)) for anchors in (True, False))
    ours = [(w.rubric, w.cohort, w.end_unix_nano, w.n, w.mean) for w in with_anchors.windows]
    theirs = [(w.rubric, w.cohort, w.end_unix_nano, w.n, w.mean) for w in without.windows]
    assert ours == theirs
    assert with_anchors.counters["scores_used"] == 1400
    unlabelled = streams.Feed(streams.demo_settings())
    unlabelled.feed(streams.to_records([streams.score(1.0, number=1, anchor="a", evaluator=JUDGE)]))
    assert unlabelled.counters["scores_excluded.anchor_without_label"] == 1


@calm
@given(crashes=st.lists(st.integers(1, 1400), max_size=5))
def test_crash_anywhere_gives_the_same_verdicts(streams: Any, crashes: list[int]) -> None:
    items = history(streams, judge_at=60)
    expected, actual = run(streams, items), run(streams, items, crashes)
    assert [output.value for output in actual.outputs] == [output.value for output in expected.outputs]
    assert actual.remembered() == expected.remembered()


def test_a_canary_is_immune_and_says_so(streams: Any) -> None:
    """Both arms are scored by the same judge: what is worse is the candidate."""
    feed = streams.Feed(streams.demo_settings())
    feed.feed(streams.to_records(streams.canary(74, 60, drop=0.4, evaluator=JUDGE)))
    bad = [v for v in feed.verdicts if v.state in ("warn", "regressed")]
    assert bad
    assert {v.attribution for v in bad} == {"system"}
