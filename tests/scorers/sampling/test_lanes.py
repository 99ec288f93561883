"""Which lane keeps a trace, with which probability, and that weighted means come out right."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers.sampling.lanes import Lanes
from scorers.sampling.settings import SamplingSettings
from scorers.sampling.threshold import RANGE
from scorers.sampling.trace import Trace
from scorers.sampling.wire import Wire

_WIRE = Wire()


def _trace(rig, number, **fields) -> Trace:
    identity = rig.trace_id(number) if isinstance(number, int) else number
    trace = Trace(identity, "t", b"", 1, rig.START)
    spans, _ = _WIRE.spans(rig.spans_payload([rig.span(identity, 0, **fields)]))
    for span in spans:
        trace.add_span(span)
    return trace


def _lanes(**settings_):
    parsed = SamplingSettings.model_validate(settings_)
    return Lanes(parsed.uniform.ratio, parsed.policies)


def _decide(lanes, trace, now=0, buckets=None):
    return lanes.decide(trace, now, {} if buckets is None else buckets)


@pytest.mark.parametrize(
    ("low", "kept"), [(0xE66600_00000000, True), (0xE665FF_FFFFFFFF, False), (RANGE - 1, True), (0, False)]
)
def test_uniform_lane_keeps_from_the_threshold_on(rig, low, kept):
    identity = b"\xff" * 9 + (low & (RANGE - 1)).to_bytes(7, "big")
    decision = _decide(_lanes(uniform={"ratio": 0.1}, policies=[]), _trace(rig, identity))
    assert decision.kept is kept
    if kept:
        assert (decision.lane, decision.policy) == ("uniform", "uniform")
        assert decision.probability == pytest.approx(0.1, rel=1e-4)
        assert decision.probability == (RANGE - decision.threshold) / RANGE


def test_explicit_randomness_overrules_the_trace_id(rig):
    lanes = _lanes(uniform={"ratio": 0.5}, policies=[])
    assert not _decide(lanes, _trace(rig, b"\xff" * 16, trace_state="ot=rv:00000000000000")).kept
    assert _decide(lanes, _trace(rig, b"\x01" + b"\0" * 15, trace_state="ot=rv:ffffffffffffff")).kept


@pytest.mark.parametrize(
    ("incoming", "ratio", "probability", "state"),
    [
        ("ot=th:8", 1.0, 0.5, "ot=th:8"),  # one in two came in, all of them are kept
        ("ot=th:8", 0.25, 0.25, "ot=th:c"),  # raised
        ("ot=th:c", 0.5, 0.25, "ot=th:c"),  # never lowered
        ("a=b", 0.5, 0.5, "ot=th:8,a=b"),
        ("", 1.0, 1.0, "ot=th:0"),
    ],
)
def test_incoming_threshold_is_only_raised_and_counts(rig, runtime, incoming, ratio, probability, state):
    identity = b"\xff" * 16
    run = runtime({"uniform": {"ratio": ratio}})
    run.spans(0, rig.span(identity, 0, trace_state=incoming), rig.span(identity, 1, 0))
    [kept] = run.run(10)
    assert kept.probability == probability
    assert kept.spans[0].trace_state == state
    run.spans(20, rig.span(identity, 2, 0, trace_state=incoming))
    [late] = run.run()
    assert late.spans[0].trace_state == state, "late spans carry the threshold, too"


def test_probability_with_an_incoming_threshold_is_that_of_seeing_the_trace(rig):
    """Services sampled differently: the trace is seen when the most generous of them kept its spans."""
    trace = _trace(rig, b"\xff" * 16, trace_state="ot=th:c")
    spans, _ = _WIRE.spans(rig.spans_payload([rig.span(b"\xff" * 16, 1, 0, trace_state="ot=th:8")]))
    trace.add_span(spans[0])
    assert _decide(_lanes(), trace).probability == 0.5


def test_no_threshold_of_a_span_is_lowered(rig, runtime):
    run = runtime({"uniform": {"ratio": 0.9}})
    states = ["ot=th:c", "ot=th:8", "ot=th:0"]
    run.spans(
        0, *(rig.span(b"\xff" * 16, number, 0, trace_state=state) for number, state in enumerate(states))
    )
    [kept] = run.run()
    assert [span.trace_state for span in kept.spans] == ["ot=th:c", "ot=th:8", "ot=th:199a"]


def test_triage_lane_erases_the_threshold_but_nothing_else(rig, runtime):
    identity = b"\x01" + b"\0" * 15
    run = runtime({"uniform": {"ratio": 0.5}})
    run.spans(
        0,
        rig.span(identity, 0, status=2, trace_state="a=b,ot=th:0;rv:00000000000001"),
        rig.span(identity, 1, 0, trace_state="ot=th:0"),
        rig.span(identity, 2, 0),
    )
    [kept] = run.run()
    assert (kept.lane, kept.policy, kept.probability) == ("triage", "errors", 1.0)
    assert [span.trace_state for span in kept.spans] == ["ot=rv:00000000000001,a=b", "", ""]


def test_a_trace_that_both_lanes_keep_is_uniform_with_the_uniform_probability(rig):
    decision = _decide(_lanes(uniform={"ratio": 0.25}), _trace(rig, b"\xff" * 16, status=2))
    assert (decision.lane, decision.policy, decision.probability) == ("uniform", "errors", 0.25)


def test_first_listed_policy_is_credited(rig):
    policies = [{"name": "slow", "type": "latency", "at_least": 0.5}, {"name": "errors", "type": "error"}]
    trace = _trace(rig, 1, status=2)
    assert _decide(_lanes(policies=policies), trace).policy == "slow"
    assert _decide(_lanes(policies=policies[::-1]), trace).policy == "errors"


def test_inclusion_probability_is_right_in_frequency(rig):
    """Over many ids, the share that is kept is what every kept one says: 1 - prod(1 - p)."""
    lanes = _lanes(
        uniform={"ratio": 0.1},
        policies=[
            {"name": "a", "type": "probabilistic", "ratio": 0.2},
            {"name": "b", "type": "and", "policies": [{"type": "error"}, {"type": "probabilistic", "ratio": 0.5}]},
            {"name": "c", "type": "not", "policy": {"type": "or", "policies": [
                {"type": "probabilistic", "ratio": 0.9}, {"type": "probabilistic", "ratio": 0.5}]}},
        ],
    )  # fmt: skip
    n = 8_000
    for status, expected in ((2, 1 - 0.9 * 0.8 * 0.5 * 0.95), (0, 1 - 0.9 * 0.8 * 0.95)):
        decisions = [_decide(lanes, _trace(rig, number, status=status)) for number in range(n)]
        kept = [decision for decision in decisions if decision.kept]
        sigma = math.sqrt(expected * (1 - expected) / n)
        assert abs(len(kept) / n - expected) < 4 * sigma
        for decision in kept:
            if decision.lane == "triage":
                assert decision.probability == pytest.approx(expected, rel=1e-4)
            else:
                assert decision.probability == pytest.approx(0.1, rel=1e-4)


def test_weighted_mean_of_the_uniform_lane_is_unbiased_whatever_triage_adds(rig):
    """Outcome-dependent triage: all failures are kept, failures score low. Incoming thresholds differ, too."""
    lanes = _lanes(uniform={"ratio": 0.2}, policies=[{"type": "error"}])
    n = 20_000
    scores, everything, uniform = [], [], []
    for number in range(n):
        failed = number % 5 == 0
        score = 0.1 if failed else 0.6 + 0.4 * ((number * 7919) % 100) / 100
        head = 0xF0 << 48 if failed else 0  # whoever sent failures sampled them at 1/16 already
        if int.from_bytes(rig.trace_id(number)[9:], "big") < head:
            scores.append(score)
            continue
        state = "ot=th:f" if failed else ""
        decision = _decide(lanes, _trace(rig, number, status=2 if failed else 0, trace_state=state))
        scores.append(score)
        if decision.kept:
            everything.append(score)
            if decision.lane == "uniform":
                uniform.append((score, 1 / decision.probability))
    truth = sum(scores) / n
    hajek = sum(score * weight for score, weight in uniform) / sum(weight for _, weight in uniform)
    assert abs(hajek - truth) < 0.02
    assert abs(sum(weight for _, weight in uniform) - n) < 0.1 * n
    biased = sum(everything) / len(everything)
    assert abs(biased - truth) > 0.05, "without lanes and weights the mean would be far off"


def test_rate_limit_keeps_its_rate_and_does_not_claim_a_probability(rig):
    lanes = _lanes(
        uniform={"ratio": 0},
        policies=[{"name": "some", "type": "rate_limit", "traces_per_second": 2, "burst": 3}],
    )
    buckets = {}
    kept = [
        decision
        for number in range(1000)
        if (decision := _decide(lanes, _trace(rig, number), number * 10**8, buckets)).kept
    ]
    assert len(kept) == pytest.approx(200 + 2, abs=1)  # 100 s
    assert {(decision.lane, decision.policy, decision.probability) for decision in kept} == {
        ("triage", "some", None)
    }


def test_rate_limit_spends_nothing_on_what_is_kept_anyway(rig):
    policies = [
        {"type": "error"},
        {"type": "and", "policies": [{"type": "rate_limit", "traces_per_second": 0.001}, {"type": "latency", "at_least": "500ms"}]},
    ]  # fmt: skip
    lanes, buckets = _lanes(uniform={"ratio": 0}, policies=policies), {}
    for number in range(5):
        assert _decide(lanes, _trace(rig, number, status=2), 0, buckets).probability == 1.0
        assert not _decide(lanes, _trace(rig, number, end_time_unix_nano=rig.START + 1), 0, buckets).kept
    assert _decide(lanes, _trace(rig, 9), 0, buckets).policy == "and"
    assert not _decide(lanes, _trace(rig, 10), 0, buckets).kept


def test_rate_limit_spends_nothing_on_the_uniform_lane_or_on_what_chance_left_out(rig):
    low, high = b"\x01" + b"\0" * 15, b"\xff" * 16
    lanes = _lanes(uniform={"ratio": 0.5}, policies=[{"type": "rate_limit", "traces_per_second": 0.001}])
    buckets = {}
    for _ in range(3):
        assert _decide(lanes, _trace(rig, high), 0, buckets).policy == "uniform"
    assert _decide(lanes, _trace(rig, low), 0, buckets).policy == "rate_limit"
    inner = [{"type": "rate_limit", "traces_per_second": 0.001}, {"type": "probabilistic", "ratio": 0.01}]
    lanes = _lanes(uniform={"ratio": 0}, policies=[{"type": "and", "policies": inner}])
    buckets = {}
    kept = [_decide(lanes, _trace(rig, number), 0, buckets).kept for number in range(2000)]
    assert sum(kept) == 1
    assert not any(kept[:5])


def test_a_rate_limit_that_matches_makes_the_probability_unknown_though_another_policy_kept(rig):
    policies = [{"type": "probabilistic", "ratio": 0.999}, {"type": "rate_limit", "traces_per_second": 1}]
    decision = _decide(_lanes(uniform={"ratio": 0}, policies=policies), _trace(rig, 1))
    assert (decision.policy, decision.probability) == ("probabilistic", None)


def test_unknown_probability_is_an_empty_header(rig, runtime):
    run = runtime({"uniform": {"ratio": 0}, "policies": [{"type": "rate_limit", "traces_per_second": 1}]})
    run.spans(0, rig.span(1, 0))
    [kept] = run.run()
    assert kept.probability is None


def test_drop_overrules_both_lanes_when_all_its_conditions_match(rig):
    health = [
        {"type": "attribute", "key": "path", "values": ["/health"]},
        {"type": "latency", "at_least": 0.5},
    ]
    lanes = _lanes(policies=[{"type": "error"}, {"name": "health", "type": "drop", "policies": health}])
    path = {"path": "/health"}
    assert not _decide(lanes, _trace(rig, 1, status=2, attributes=path)).kept
    assert _decide(lanes, _trace(rig, 1, status=2, attributes={"path": "/"})).kept
    assert _decide(lanes, _trace(rig, 1, attributes=path, end_time_unix_nano=rig.START + 1)).kept


@settings(max_examples=50, deadline=None)
@given(order=st.permutations(["a", "b", "c"]), number=st.integers(0, 10_000))
def test_the_order_of_policies_changes_only_who_is_credited(rig, order, number):
    made = {name: {"name": name, "type": "probabilistic", "ratio": 0.3} for name in "abc"}
    lanes = [
        _lanes(uniform={"ratio": 0.1}, policies=[made[name] for name in names]) for names in ("abc", order)
    ]
    first, second = (_decide(item, _trace(rig, number)) for item in lanes)
    assert (first.lane, first.threshold) == (second.lane, second.threshold)
    if first.kept:
        assert first.probability == pytest.approx(second.probability)


def test_conditions_that_need_no_attributes_decode_none(rig, monkeypatch):
    trace = _trace(rig, 1, status=2, attributes={"a": 1})
    monkeypatch.setattr(Trace, "decoded", lambda self, *needles: pytest.fail("attributes were decoded"))
    policies = [
        {"type": "latency", "at_least": 99},
        {"type": "probabilistic", "ratio": 0.5},
        {"type": "error"},
    ]
    assert _decide(_lanes(policies=policies), trace).kept
