"""Operational streams: facts of all traces become windows, gates, watches and budgets, on a clock of their own."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drift.direction import lower_is_better
from drift.operations import OperationStreams
from drift.settings import DriftSettings
from stream.records import TOPIC_SCORES, Heartbeat, OperationsRecord, TraceFacts
from stream.stage import Record

calm = settings(deadline=None, max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
SECOND = 10**9


def facts(streams: Any, at: float, number: object, **more: Any) -> TraceFacts:
    return TraceFacts(trace_id=f"t{number}", time_unix_nano=streams.T0 + round(at * SECOND), **more)


def records(items: list[Any], first: int = 0, log_time: int = 0) -> list[Record]:
    return [
        Record(TOPIC_SCORES, 0, offset, msgspec.json.encode(item), timestamp_ns=log_time)
        for offset, item in enumerate(items, first)
    ]


def told(cohort: dict[str, str], *traces: TraceFacts, tenant: str = "default") -> OperationsRecord:
    return OperationsRecord(tenant=tenant, cohort=cohort, traces=list(traces))


def traffic(streams: Any, seconds: int, bad_from: int, *, seed: int = 3, bad: float = 0.4) -> list[Any]:
    """Ten traces a second, two of them the candidate's; its answers fail from a moment on."""
    rng = np.random.default_rng(seed)
    out: list[Any] = []
    for at in range(seconds):
        for arm, count in (("v1", 8), ("v2", 2)):
            share = bad if arm == "v2" and at >= bad_from else 0.01
            out.append(
                told(
                    {"route": "support", "prompt_version": arm},
                    *(
                        facts(
                            streams, at + i / 100, f"{arm}/{at}/{i}", flags=["error"] if rng.random() < share else [],
                            latency_s=float(rng.exponential(2)), cost_usd=0.01, input_tokens=100, output_tokens=20,
                        )
                        for i in range(count)
                    ),
                )
            )  # fmt: skip
    return out


def test_every_stream_has_the_value_its_name_says(streams: Any) -> None:
    known = OperationStreams(
        DriftSettings(operations={"slow": 2, "slow_first_token": 1, "tokens": 1000, "cost": 0.5})
    )

    def values(**more: Any) -> dict[str, float | None]:
        return {name: value for name, value, _, _ in known.values(facts(streams, 0, 1, **more))}

    assert values() == {
        "error_rate": 0, "timeout_rate": 0, "retry_rate": 0, "fallback_rate": 0, "guardrail_rate": 0,
        "negative_feedback_rate": 0, "escalation_rate": 0,
    }  # fmt: skip
    full = values(
        flags=["error", "timeout", "retry", "fallback", "guardrail", "negative_feedback", "escalation"],
        latency_s=2.5, first_token_s=0.5, input_tokens=200, output_tokens=50, cost_usd=2.0, tool_calls=4,
        tool_failures=1, cache_hit=True,
    )  # fmt: skip
    assert {name for name, value in full.items() if value == 1} >= {
        "error_rate", "timeout_rate", "retry_rate", "fallback_rate", "guardrail_rate", "negative_feedback_rate",
        "escalation_rate", "slow_rate", "cost", "cache_hit_rate",
    }  # fmt: skip
    assert (full["slow_first_token_rate"], full["tokens"], full["tool_success_rate"]) == (0, 0.25, 0.75)
    assert values(latency_s=2.0)["slow_rate"] == 0
    assert values(cache_hit=False)["cache_hit_rate"] == 0
    assert {name for name in values(cache_hit=True) if not lower_is_better(name)} == {"cache_hit_rate"}


def test_a_candidate_that_fails_is_rolled_back_after_few_units(streams: Any) -> None:
    feed = streams.Feed(streams.demo_settings())
    feed.feed(records(traffic(streams, 120, 40)))
    verdicts = [v for v in feed.verdicts if v.rubric == "error_rate"]
    bad = next(v for v in verdicts if v.state == "regressed")
    assert (bad.severity, bad.action, bad.attribution, bad.kind) == ("page", "rollback", "system", "canary")
    assert 40 < (bad.time_unix_nano - streams.T0) / SECOND < 70
    evidence = bad.evidence
    assert evidence.lower_is_better
    assert evidence.alpha == 0.01
    assert evidence.e_value >= evidence.e_threshold or evidence.sr_value >= evidence.sr_threshold
    window = evidence.windows[0]
    assert window.candidate_mean is not None
    assert window.incumbent_mean is not None
    assert window.candidate_mean > window.incumbent_mean + 0.05  # an error rate that rose, as people say it
    assert "above that of v1" in bad.reason
    assert evidence.worst_trace_ids
    assert all(trace.startswith("tv2/") for trace in evidence.worst_trace_ids)
    assert evidence.interval_low is not None
    assert evidence.interval_high is not None
    assert evidence.interval_low <= (evidence.mean_difference or 0) <= evidence.interval_high
    assert [v.action for v in verdicts].count("rollback") == 1
    assert not any(v.action == "promote" for v in feed.verdicts)


def test_healthy_candidates_are_left_alone_and_never_promoted_for_that(streams: Any) -> None:
    feed = streams.Feed(streams.demo_settings())
    feed.feed(records(traffic(streams, 400, 10**6)))
    states = {v.state for v in feed.verdicts}
    assert states <= {"warming_up", "insufficient_data", "ok", "non_inferior"}
    assert {v.action for v in feed.verdicts} == {"none"}


def test_windows_hold_all_traffic_in_the_streams_own_direction(streams: Any) -> None:
    feed = streams.Feed(streams.demo_settings())
    items = traffic(streams, 30, 0, bad=1.0)
    feed.feed(
        records([*items, told({"route": "support", "prompt_version": "v1"}, facts(streams, 31, "last"))])
    )
    shown = {
        (w.rubric, w.cohort): w
        for w in feed.windows
        if w.window_seconds == 60
        and w.view == "route,prompt_version"
        and w.end_unix_nano == streams.T0 + 30 * SECOND
    }
    errors = shown["error_rate", "prompt_version=v2,route=support"]
    assert (errors.n, errors.mean, errors.weight, errors.evaluator) == (60, 1.0, 60.0, "operations/1")
    assert shown["error_rate", "prompt_version=v1,route=support"].n == 240
    cost = shown["cost", "prompt_version=v1,route=support"]
    assert cost.mean == pytest.approx(0.01 / 0.2)
    tokens = shown["tokens", "prompt_version=v1,route=support"]
    assert tokens.mean == pytest.approx(120 / 20_000)


def test_facts_do_not_make_slow_scores_late(streams: Any) -> None:
    """The judge is an hour behind: its scores still count."""
    feed = streams.Feed(streams.demo_settings())
    feed.feed(
        records(
            [
                *(streams.score(float(i), number=i) for i in range(3)),
                told({"route": "support"}, facts(streams, 3600, "ahead")),
                *(streams.score(3.0 + i, number=3 + i) for i in range(3)),
            ]
        )
    )
    assert feed.counters["scores_used"] == 6
    assert feed.counters["operations_used"] == 1


def test_what_cannot_be_used_is_counted_by_reason(streams: Any) -> None:
    feed = streams.Feed(streams.demo_settings())
    good = facts(streams, 100, 1)
    bad = [
        facts(streams, 100, ""),
        msgspec.structs.replace(facts(streams, 100, 2), trace_id=""),
        facts(streams, 100, 3, latency_s=-1.0),
        facts(streams, 100, 4, tool_calls=1, tool_failures=2),
        facts(streams, 100, 5, cost_usd=1e300),
        msgspec.structs.replace(facts(streams, 100, 6), time_unix_nano=0),
        facts(streams, 10_000, 7),
        facts(streams, 1, 8),
        good,
    ]
    feed.feed(records([told({"route": "r"}, good, *bad)], log_time=streams.T0 + 100 * SECOND))
    assert {k: v for k, v in feed.counters.items() if k.startswith("operations")} == {
        "operations_in": 10, "operations_used": 2, "operations_excluded.bad_id": 1, "operations_excluded.bad_value": 3,
        "operations_excluded.bad_time": 1, "operations_excluded.clock_skew": 1, "operations_excluded.late": 1,
        "operations_excluded.duplicate": 1,
    }  # fmt: skip
    assert feed.counters["operation_records"] == 1
    feed.feed(records([told({f"k{i}": "v" for i in range(40)}, good)], 1))
    assert [reject.reason for reject in feed.rejects] == ["too_long"]


def test_one_rollback_per_candidate_whichever_test_was_first(streams: Any) -> None:
    """Scores and error rate both fall; only the first asks for the rollback."""
    rng = np.random.default_rng(4)
    items: list[Any] = []
    for second in traffic(streams, 120, 20):
        items.append(second)
        for one in second.traces:
            arm = second.cohort["prompt_version"]
            at = (one.time_unix_nano - streams.T0) / SECOND
            bad = arm == "v2" and at >= 20 and rng.random() < 0.9
            items.append(streams.score(at, 0.0 if bad else 0.9, arm=arm, number=one.trace_id))
    feed = streams.Feed(streams.demo_settings())
    feed.feed(records(items))
    regressed = {v.rubric for v in feed.verdicts if v.state == "regressed"}
    assert regressed == {"quality", "error_rate"}
    assert [v.action for v in feed.verdicts].count("rollback") == 1


def test_a_candidate_that_was_to_be_rolled_back_is_not_promoted(streams: Any) -> None:
    """It fails from the start; its answers, where there are any, come to be proven as good as the incumbent's."""
    items: list[Any] = []
    for second in traffic(streams, 90, 0, bad=0.6):
        items.append(second)
        for one in second.traces:
            at = (one.time_unix_nano - streams.T0) / SECOND
            items.append(streams.score(at, 0.8, arm=second.cohort["prompt_version"], number=one.trace_id))
    feed = streams.Feed(streams.demo_settings(rollout={"margin": 0.1}))
    feed.feed(records(items))
    assert feed.transitions()[-1] == "non_inferior"
    assert [(v.rubric, v.action) for v in feed.verdicts if v.action != "none"] == [("error_rate", "rollback")]


def watched(streams: Any) -> Any:
    watch = {
        "rubrics": ["quality"], "operations": ["error_rate", "slow_rate"], "learn": 30, "min_units": 60,
        "present_window": 10, "min_present": 10, "false_pages_per_week": 1000, "report_every": 20,
    }  # fmt: skip
    budget = {"name": "spend", "usd": 6.0, "per": ["route"]}
    return streams.demo_settings(watches=[watch], budgets=[budget])


def run(streams: Any, crashes: list[int]) -> Any:
    items = [
        *traffic(streams, 70, 45),
        *(Heartbeat(time_unix_nano=streams.T0 + at * SECOND) for at in (75, 90)),
    ]
    made = records(items)
    feed = streams.Feed(watched(streams))
    for start, end in itertools.pairwise(sorted({0, len(made), *crashes})):
        if start:
            feed.restart()
        feed.feed(made[max(0, start - 2) : end])
    return feed


def test_a_watch_follows_operational_streams_with_pages_in_their_direction(streams: Any) -> None:
    feed = run(streams, [])
    drift = [
        v for v in feed.verdicts if v.kind == "drift" and "v2" in v.candidate and v.rubric == "error_rate"
    ]
    page = next(v for v in drift if v.state == "regressed")
    assert (page.severity, page.action, page.attribution) == ("page", "none", "system")
    assert "above baseline 1" in page.reason
    assert page.evidence.effective_units > 0
    assert not any(
        v.state == "regressed" and "v1" in v.candidate and v.kind == "drift" for v in feed.verdicts
    )


@calm
@given(crashes=st.lists(st.integers(1, 140), max_size=6))
def test_crash_anywhere_gives_the_same_outputs(streams: Any, crashes: list[int]) -> None:
    expected, actual = run(streams, []), run(streams, crashes)
    assert [output.value for output in actual.outputs] == [output.value for output in expected.outputs]
    assert {k: v[8:] for k, v in actual.state.items()} == {k: v[8:] for k, v in expected.state.items()}


def test_a_burst_of_one_arm_after_the_other_is_no_silence(streams: Any) -> None:
    """Four seconds of each arm, one after the other, where three are silence; a real silence is still one."""

    def fed(burst: list[str]) -> list[Any]:
        feed = streams.Feed(
            streams.demo_settings(lateness=6, rollout={"rubrics": [], "incumbent": "v1", "no_data_after": 3})
        )
        steady = records(traffic(streams, 30, 10**6))
        feed.feed(steady)
        later = [item for arm in burst for item in one_arm(streams, arm, 30, 34)]
        later += [
            item
            for at in range(34, 50)
            for arm in sorted(set(burst))
            for item in one_arm(streams, arm, at, at + 1)
        ]
        feed.feed(records(later, first=len(steady)))
        return [v.state for v in feed.verdicts if v.rubric == "error_rate"]

    assert "no_data" not in fed(["v1", "v2"])
    assert fed(["v1"])[-1] == "no_data"


def one_arm(streams: Any, arm: str, start: int, end: int) -> list[OperationsRecord]:
    """Ten healthy traces a second of one arm, a record for each second."""
    return [
        told(
            {"route": "support", "prompt_version": arm},
            *(facts(streams, at + i / 10, f"burst-{arm}-{at}-{i}") for i in range(10)),
        )
        for at in range(start, end)
    ]


def test_the_order_within_the_lateness_does_not_matter(streams: Any) -> None:
    """How facts were put into records, and in which order they came, is the sampler's business."""
    items = traffic(streams, 60, 30)
    feed = streams.Feed(streams.demo_settings(lateness=20))
    feed.feed(records([*items, Heartbeat(time_unix_nano=streams.T0 + 200 * SECOND)]))
    mixed = streams.Feed(streams.demo_settings(lateness=20))
    single = [told(item.cohort, one) for item in items for one in item.traces]
    rng = np.random.default_rng(5)
    order = sorted(range(len(single)), key=lambda i: i // 80 + rng.random())  # within eight seconds
    mixed.feed(records([*(single[i] for i in order), Heartbeat(time_unix_nano=streams.T0 + 200 * SECOND)]))

    def last(one: Any) -> Any:
        found = [v for v in one.verdicts if v.rubric == "error_rate"][-1]
        return found.state, found.evidence.pairs, found.evidence.e_value, found.evidence.mean_difference

    state, pairs, e_value, mean = last(feed)
    other = last(mixed)
    assert (other[0], other[1]) == (state, pairs)
    assert other[2:] == pytest.approx((e_value, mean), rel=1e-9)


def test_metrics_have_windows_in_their_own_units(streams: Any) -> None:
    feed = streams.Feed(DriftSettings(bucket=1, windows=[60], views=[["route"]], rollouts=[]))
    items = traffic(streams, 30, 1000)
    given = [trace for item in items for trace in item.traces]
    feed.feed(records(items[:31]))
    feed.restart()
    feed.feed(records([*items[31:], Heartbeat(time_unix_nano=streams.T0 + 40 * SECOND)], first=31))
    last = {window.rubric: window for window in feed.windows if not window.evaluator}
    assert set(last) == {"latency_s", "tokens_used", "cost_usd"}  # nothing said when the first token came
    latency = np.sort([trace.latency_s for trace in given])
    window = last["latency_s"]
    assert (window.n, window.n_eff, window.pass_rate, window.levels) == (300, 300.0, None, {})
    assert window.mean == pytest.approx(latency.mean())
    for found, place in ((window.p5, 14), (window.p50, 149), (window.p95, 284)):
        assert found == pytest.approx(latency[place], rel=0.0101)
    assert window.worst_decile_mean == pytest.approx(latency[-30:].mean(), rel=0.02)
    assert last["tokens_used"].p50 == pytest.approx(120, rel=0.0101)
    assert last["cost_usd"].mean == pytest.approx(0.01)


def test_metrics_can_be_left_out(streams: Any) -> None:
    settings_ = DriftSettings(bucket=1, windows=[60], views=[["route"]], operations={"metrics": ["cost_usd"]})
    feed = streams.Feed(settings_)
    feed.feed(records([*traffic(streams, 5, 1000), Heartbeat(time_unix_nano=streams.T0 + 20 * SECOND)]))
    assert {window.rubric for window in feed.windows if not window.evaluator} == {"cost_usd"}


def test_windows_of_streams_where_lower_is_better_look_at_the_other_end(streams: Any) -> None:
    """Counted by level (error_rate), and in steps (cost has more than forty values); also over a crash."""
    rng = np.random.default_rng(11)
    cost = rng.random(300) * 0.2
    failed = rng.random(300) < 0.15
    feed = streams.Feed(streams.demo_settings(pass_threshold=0.7))
    items = [
        told(
            {"route": "r"},
            facts(streams, i / 10, i, flags=["error"] if failed[i] else [], cost_usd=float(cost[i]), tool_calls=2, tool_failures=int(failed[i])),
        )
        for i in range(300)
    ]  # fmt: skip
    for start, end in ((0, 90), (90, 200), (200, 300)):
        if start:
            feed.restart()
        feed.feed(records(items[start:end], first=start))
    feed.feed(records([Heartbeat(time_unix_nano=streams.T0 + 40 * SECOND)], first=300))
    shown = {w.rubric: w for w in feed.windows if w.view == "route" and w.window_seconds == 60}
    assert shown["error_rate"].n == 300
    assert shown["error_rate"].pass_rate == pytest.approx(1 - failed.mean())
    assert shown["error_rate"].worst_decile_mean == 1.0
    part = cost / 0.2
    assert shown["cost"].pass_rate == pytest.approx((1 - part >= 0.7).mean())
    assert shown["cost"].worst_decile_mean == pytest.approx(np.sort(part)[-30:].mean(), abs=0.025)
    assert shown["tool_success_rate"].pass_rate == pytest.approx(
        1 - failed.mean()
    )  # half of the calls failed
    assert shown["tool_success_rate"].worst_decile_mean == 0.5
