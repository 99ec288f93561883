"""Fairness is counted in work and order, never in time."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.fair_queue import FairQueue


def drain(queue: FairQueue[Any]) -> list[Any]:
    return [queue.pop() for _ in range(len(queue))]


def test_one_sender_is_served_in_order() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(5):
        queue.put("a", 1, number)
    assert drain(queue) == [0, 1, 2, 3, 4]
    with pytest.raises(IndexError):
        queue.pop()


def test_who_comes_late_waits_for_one_item_of_the_other() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(100):
        queue.put("greedy", 10, f"g{number}")
    assert [queue.pop() for _ in range(3)] == ["g0", "g1", "g2"]
    for number in range(3):
        queue.put("modest", 10, f"m{number}")
    order = drain(queue)
    assert order[:6] == ["m0", "g3", "m1", "g4", "m2", "g5"]


def test_work_counts_and_not_items() -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(10):
        queue.put("large", 100, "l")
        for _ in range(10):
            queue.put("small", 10, "s")
    order = drain(queue)
    for end in range(0, 110, 11):
        assert order[:end].count("l") == pytest.approx(end / 11, abs=1)


def test_what_came_out_larger_than_it_looked_is_charged() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(3):
        queue.put("bomb", 1, f"b{number}")
    assert queue.pop() == "b0"
    queue.charge("bomb", 1000)
    queue.put("bomb", 1, "late")
    for number in range(3):
        queue.put("other", 100, f"o{number}")
    order = drain(queue)
    assert order.index("late") > order.index("o2")


senders = st.sampled_from(["a", "b", "c"])
arrivals = st.lists(st.tuples(senders, st.integers(1, 50)), min_size=1, max_size=120)


@given(arrivals)
def test_senders_that_wait_are_served_alike(items: list[tuple[str, int]]) -> None:
    """While two senders both wait, the work served for them differs by less than two of the largest items."""
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for sender, cost in items:
        queue.put(sender, cost, (sender, cost))
    left = {sender: sum(1 for s, _ in items if s == sender) for sender in "abc"}
    served = dict.fromkeys("abc", 0)
    waiting = {sender for sender in "abc" if left[sender]}
    largest = max(cost for _, cost in items)
    for sender, cost in drain(queue):
        served[sender] += cost
        left[sender] -= 1
        both = [served[s] for s in waiting if left[s]]
        if both:
            assert max(both) - min(both) <= 2 * largest


@given(st.lists(st.one_of(st.tuples(senders, st.integers(1, 50)), st.none()), max_size=200))
def test_nothing_is_lost_and_each_sender_keeps_its_order(steps: list[tuple[str, int] | None]) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    put: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    got: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    for number, step in enumerate(steps):
        if step is not None:
            queue.put(step[0], step[1], (step[0], number))
            put[step[0]].append(number)
        elif len(queue):
            sender, item = queue.pop()
            got[sender].append(item)
    for sender, item in drain(queue):
        got[sender].append(item)
    assert got == put
