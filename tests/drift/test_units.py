"""Units: idle and maximum length, contamination, and independence of the order of arrival."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drift.settings import UnitSettings
from drift.units import ClosedUnit, Entry, Unit, UnitTable

S = 1_000_000_000


def entry(at: float, value: float = 0.5, weight: float = 1.0, evaluator: str = "judge") -> Entry:
    return Entry(int(at * S), "quality", evaluator, value, weight, f"t{at}")


def table(**more: Any) -> UnitTable:
    return UnitTable(UnitSettings(**({"idle": 10, "trace_idle": 1, "max": 60, "remember": 100} | more)))


def add(
    units: UnitTable, at: float, value: float = 0.5, *, key: int = 1, arm: str = "v1", **more: Any
) -> str:
    return units.add(key, "scope", arm, entry(at, value, **more), is_session=True, close_step=S)[0]


def close_until(units: UnitTable, at: float) -> list[ClosedUnit]:
    out = []
    while (end := units.next_end(int(at * S))) is not None:
        out += units.close(end)
    return out


def test_a_session_is_the_weighted_mean_of_its_scores_and_closes_after_the_idle_time() -> None:
    units = table()
    add(units, 100, 0.2, weight=1.0)
    add(units, 105, 0.8, weight=3.0)
    assert close_until(units, 115) == []
    (unit,) = close_until(units, 116)
    evaluator, mean = unit.means["quality"]
    assert evaluator == "judge"
    assert mean.value == pytest.approx((0.2 + 3 * 0.8) / 4)
    assert mean.weight == 2.0
    assert mean.trace_id == "t100"


def test_a_long_session_is_cut_at_its_maximum_length() -> None:
    units = table()
    for at in range(100, 200, 5):
        add(units, at, 1.0 if at <= 160 else 0.0)
    (unit,) = close_until(units, 171)
    assert unit.means["quality"][1].value == 1.0
    assert unit.left_out == 7


def test_a_session_that_comes_back_is_not_counted_twice() -> None:
    units = table()
    add(units, 100)
    assert len(close_until(units, 120)) == 1
    assert add(units, 121) == "unit_closed"
    assert add(units, 121, arm="v2") == "other_arm_after_close"
    units.forget(int(300 * S))
    assert add(units, 301) == "opened"


def test_a_session_that_is_taken_for_new_closes_at_its_own_time_as_after_a_restart() -> None:
    """The first score moved its end back, so it was due twice; the later time must not end the session that follows."""
    units = table(remember=10)
    add(units, 200)
    add(units, 50)
    assert [unit.end for unit in close_until(units, 70)] == [50 * S]
    units.forget(80 * S)
    state: dict[str, bytes] = {}
    assert add(units, 205, arm="v2") == "opened"
    apply(state, units.save())
    again = table(remember=10)
    again.restore(state)
    assert close_until(units, 212) == close_until(again, 212) == []
    assert [unit.end for unit in close_until(units, 300)] == [205 * S]


def test_a_session_seen_in_two_arms_is_marked() -> None:
    units = table()
    add(units, 100)
    assert units.add(1, "scope", "v2", entry(101), is_session=True, close_step=S) == ("", True)
    (unit,) = close_until(units, 120)
    assert unit.contaminated


def test_a_session_scored_by_two_evaluators_brings_nothing() -> None:
    units = table()
    add(units, 100)
    add(units, 101, evaluator="another judge")
    (unit,) = close_until(units, 120)
    assert unit.means == {}
    assert unit.mixed == 1


def test_numbers_of_units_and_of_scores_are_bounded() -> None:
    units = table(max_open=100, max_scores=2)
    for key in range(100):
        assert add(units, 100, key=key) == "opened"
    assert add(units, 100, key=100) == "too_many_units"
    assert add(units, 101, key=0) == ""
    assert add(units, 102, key=0) == "unit_full"
    close_until(units, 200)
    for start in range(10):
        for key in range(100):
            add(units, 1000 + 50 * start, key=1000 * start + key)
        close_until(units, 1040 + 50 * start)
    units.forget(int(1041 * S))
    saved = units.save()
    assert sum(1 for key, value in saved.items() if key.startswith("closed/") and value) <= 5


def apply(state: dict[str, bytes], saved: dict[str, bytes | None]) -> int:
    """Save, and return how many bytes were written."""
    for name, raw in saved.items():
        if raw is None:
            state.pop(name, None)
        else:
            state[name] = raw
    return sum(len(raw or b"") for raw in saved.values())


def test_open_units_saved_one_by_one_as_earlier_versions_did_are_taken_over() -> None:
    entries = [entry(100, 0.2), entry(105, 0.8)]
    old = Unit(7, "scope", "v1", S, 10 * S, 100 * S, 105 * S, True, False, entries)
    state = {"unit/0000000000000007": msgspec.msgpack.encode(old)}
    units = table()
    units.restore(state)
    add(units, 106, 0.5, key=8)
    apply(state, units.save())
    assert [key for key in state if key.startswith("unit/")] == []
    again = table()
    again.restore(state)
    closed = close_until(again, 200)
    assert [(unit.key, unit.means["quality"][1].value) for unit in closed] == [(7, 0.5), (8, 0.5)]


def test_a_session_with_many_scores_costs_no_more_per_score_than_one_with_few() -> None:
    units, state, written = table(idle=10_000, max=100_000, max_scores=10_000), {}, []
    for turn in range(200):
        for key in range(50):
            add(units, 100 + turn, key=key)
        written.append(apply(state, units.save()))
    assert sum(written[100:]) <= 1.5 * sum(written[:100])
    assert sum(written) < 300 * 200 * 50
    assert sum(map(len, state.values())) < 600 * 200 * 50
    again = table(idle=10_000, max=100_000, max_scores=10_000)
    again.restore(state)
    assert close_until(again, 200_000) == close_until(units, 200_000)
    again.forget(300_000 * S)
    apply(state, again.save())
    assert state == {}


@given(
    st.lists(st.tuples(st.integers(100, 220), st.integers(1, 4), st.floats(0, 1)), min_size=1, max_size=25),
    st.randoms(use_true_random=False),
)
def test_the_order_of_arrival_does_not_matter(scores: list[tuple[int, int, float]], random: Any) -> None:
    def run(order: list[tuple[int, int, float]]) -> list[ClosedUnit]:
        units = table(remember=10_000)
        for at, key, value in order:
            add(units, at, value, key=key)
        return close_until(units, 10_000)

    shuffled = list(scores)
    random.shuffle(shuffled)
    assert run(shuffled) == run(scores)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 4), st.floats(0, 1)), min_size=1, max_size=40),
    st.integers(0, 40),
)
def test_saved_and_restored_at_any_moment_it_goes_on_the_same(
    scores: list[tuple[int, int, float]], crash: int
) -> None:
    def run(crash_at: int) -> list[ClosedUnit]:
        units, state, out, now = table(idle=5), {}, [], 0
        for number, (step, key, value) in enumerate(scores):
            if number == crash_at:
                units = table(idle=5)
                units.restore(state)
            now += step
            out += close_until(units, now)
            units.forget(now * S)
            add(units, now, value, key=key)
            for name, raw in units.save().items():
                if raw is None:
                    state.pop(name, None)
                else:
                    state[name] = raw
        return out

    assert run(crash) == run(-1)
