"""Budgets: warn at 80 %, page at all of it, start anew with the period; sums that no order or crash changes."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drift.budgets import period_of
from drift.settings import BudgetSettings
from stream.records import TOPIC_SCORES, Evaluator, Heartbeat, OperationsRecord, TraceFacts
from stream.stage import Record

calm = settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
SECOND = 10**9
DAY = 86400 * SECOND


def spend(
    day: int, hour: float, usd: float, number: object, route: str = "support", **more: Any
) -> OperationsRecord:
    time = day * DAY + round(hour * 3600 * SECOND)
    one = TraceFacts(trace_id=f"t{number}", time_unix_nano=time, cost_usd=usd, **more)
    return OperationsRecord(cohort={"route": route}, traces=[one])


def records(items: list[Any], first: int = 0) -> list[Record]:
    return [
        Record(TOPIC_SCORES, 0, offset, msgspec.json.encode(item)) for offset, item in enumerate(items, first)
    ]


def feed_of(streams: Any, *budgets: dict[str, Any]) -> Any:
    return streams.Feed(streams.demo_settings(bucket=60, windows=[900], lateness=120, budgets=list(budgets)))


def told(feed: Any) -> list[tuple[str, str, str]]:
    return [
        (v.candidate, v.state, v.severity)
        for v in feed.verdicts
        if v.kind == "budget" and v.state != v.previous_state
    ]


def test_a_budget_warns_pages_and_starts_anew(streams: Any) -> None:
    feed = feed_of(streams, {"name": "spend", "usd": 10.0})
    items = [spend(100, hour, 1.0, hour) for hour in range(1, 13)]
    items.append(Heartbeat(time_unix_nano=101 * DAY + 600 * SECOND))
    items.append(Heartbeat(time_unix_nano=101 * DAY + 700 * SECOND))
    feed.feed(records(items))
    name = "route=support"
    assert told(feed) == [
        (name, "ok", "none"), (name, "warn", "warn"), (name, "over_budget", "page"), (name, "ok", "none"),
    ]  # fmt: skip
    warn = next(v for v in feed.verdicts if v.state == "warn")
    budget = warn.evidence.budget
    assert budget is not None
    assert (budget.used, budget.limit, budget.unit, budget.period) == (8.0, 10.0, "usd", "day")
    assert budget.start_unix_nano == 100 * DAY
    # Eight dollars by nine o'clock are 21.33 by midnight.
    assert budget.projected == pytest.approx(8.0 * 24 / 9, rel=0.01)
    assert warn.reason == "8 of 10 USD (80%) of this day are used; at this rate 213% by its end."
    assert (warn.rollout, warn.route, warn.rubric) == ("spend", "support", "usd")


def test_late_costs_count_for_the_day_they_belong_to(streams: Any) -> None:
    feed = feed_of(streams, {"usd": 10.0})
    feed.feed(
        records(
            [
                spend(100, 23.9, 5.0, 1),
                spend(101, 0.01, 1.0, 2),  # 36 s after midnight
                spend(100, 23.999, 4.0, 3),
                Heartbeat(time_unix_nano=101 * DAY + 90 * SECOND),
            ]
        )
    )
    assert told(feed)[-1][1] == "warn"  # nine dollars of the old day


def test_tenants_routes_and_matches_are_apart_and_tokens_count_too(streams: Any) -> None:
    feed = feed_of(streams, {"name": "tokens", "tokens": 100, "match": {"route": "a"}})
    items: list[Any] = []
    for number, (route, tenant, tokens) in enumerate(
        [("a", "x", 60), ("b", "x", 500), ("a", "y", 60), ("a", "x", 39), ("a", "x", 1)]
    ):
        made = spend(100, 1 + number, 0.0, number, route=route, input_tokens=tokens - 1, output_tokens=1)
        items.append(msgspec.structs.replace(made, tenant=tenant))
    feed.feed(records([*items, Heartbeat(time_unix_nano=100 * DAY + 7 * 3600 * SECOND)]))
    found = [(v.tenant, v.state) for v in feed.verdicts if v.kind == "budget" and v.state != v.previous_state]
    assert found == [("x", "ok"), ("y", "ok"), ("x", "warn"), ("x", "over_budget")]


def test_what_judges_spend_is_a_budget_per_evaluator(streams: Any) -> None:
    feed = streams.Feed(
        streams.demo_settings(budgets=[{"name": "judging", "of": "judges", "per": ["evaluator"], "usd": 1.0}])
    )
    judge = Evaluator(id="toxicity", kind="judge", model="m")
    items: list[Any] = [
        streams.score(1.0 + i, number=i, evaluator=judge, cost_usd=0.2, lane="triage" if i % 2 else "uniform")
        for i in range(3)
    ]
    items += [items[0], items[1]]  # delivered twice
    items += [
        streams.score(4.0 + i, None, number=10 + i, evaluator=judge, cost_usd=0.2, status="failed")
        for i in range(2)
    ]
    items += [items[-1], Heartbeat(time_unix_nano=streams.T0 + 20 * SECOND)]
    feed.feed(streams.to_records(items))
    (last,) = [v for v in feed.verdicts if v.kind == "budget"][-1:]
    assert (last.state, last.candidate) == ("over_budget", "evaluator=toxicity/1/m")
    assert last.evidence.budget is not None
    assert last.evidence.budget.used == pytest.approx(1.0)


def test_tokens_of_a_judgement_that_failed_count_though_no_price_is_known(streams: Any) -> None:
    feed = feed_of(streams, {"name": "judging", "of": "judges", "per": ["evaluator"], "tokens": 1000})
    failed = streams.score(1.0, None, status="failed", input_tokens=800, output_tokens=100)
    feed.feed(streams.to_records([failed, failed, Heartbeat(time_unix_nano=streams.T0 + 600 * SECOND)]))
    assert [(v.state, v.evidence.budget.used) for v in feed.verdicts] == [("warn", 900.0)]  # type: ignore[union-attr]


@calm
@given(order=st.permutations(range(12)), crashes=st.lists(st.integers(1, 12), max_size=4))
def test_no_order_and_no_crash_changes_the_sum(streams: Any, order: list[int], crashes: list[int]) -> None:
    items = [spend(100, 5 + i / 600, 0.5 * (i + 1), i) for i in range(12)]
    made = records([*(items[i] for i in order), Heartbeat(time_unix_nano=100 * DAY + 6 * 3600 * SECOND)])
    feed = feed_of(streams, {"usd": 39.0})
    for start, end in itertools.pairwise(sorted({0, len(made), *crashes})):
        if start:
            feed.restart()
        feed.feed(made[max(0, start - 3) : end])
    (last,) = [v for v in feed.verdicts if v.kind == "budget"][-1:]
    assert last.state == "over_budget"
    assert last.evidence.budget is not None
    assert last.evidence.budget.used == 39.0


def test_partitions_have_budgets_of_their_own_where_the_route_is_not_asked_for(streams: Any) -> None:
    """One that is used up must not be taken for well again because another partition has money left."""
    feed = feed_of(streams, {"name": "all", "usd": 10.0, "per": []}, {"name": "each", "usd": 10.0})
    feed.stage.assign(1, {})
    for partition, usd in enumerate((2.0, 1.0)):
        items: list[Any] = [spend(100, hour, usd, hour, f"r{partition}") for hour in range(1, 8)]
        feed.feed([msgspec.structs.replace(one, partition=partition) for one in records(items)])
    last = {(v.rollout, v.candidate): v.state for v in feed.verdicts}
    assert last == {
        ("all", ""): "over_budget", ("all", "partition=1"): "ok",
        ("each", "route=r0"): "over_budget", ("each", "route=r1"): "ok",
    }  # fmt: skip
    assert len({v.verdict_id for v in feed.verdicts}) == len(feed.verdicts)


def test_combinations_beyond_the_bound_are_counted(streams: Any) -> None:
    feed = feed_of(streams, {"usd": 1.0, "max_entries": 2})
    feed.feed(records([spend(100, 1 + i, 1.0, i, route=f"r{i}") for i in range(5)]))
    assert feed.counters["budget_excluded.too_many_entries"] == 3


@given(st.integers(86_400, 4_000_000_000))
def test_a_month_is_that_of_the_calendar(seconds: int) -> None:
    time = seconds * SECOND
    moment = datetime.fromtimestamp(seconds, tz=UTC)
    start, end = period_of(BudgetSettings(usd=1, period="month"), time)
    assert start <= time < end
    first, last = (datetime.fromtimestamp(at / SECOND, tz=UTC) for at in (start, end - SECOND))
    assert (first.day, first.hour, first.month) == (1, 0, moment.month)
    assert (last.month, last.year) == (moment.month, moment.year)
