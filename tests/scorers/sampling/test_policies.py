"""Every kind of condition, on telemetry as instrumentations write it, and what the settings refuse."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from scorers.sampling.ballot import Ballot
from scorers.sampling.settings import AnyPolicy, SamplingSettings
from scorers.sampling.trace import Trace
from scorers.sampling.wire import RawLog, Wire

_WIRE = Wire()


def _matches(policy: dict, trace: Trace) -> bool:
    parsed = TypeAdapter(AnyPolicy).validate_python(policy)
    vote = parsed.vote(trace, Ballot("p", {}, 0, True))
    assert vote.probability == (1.0 if vote.keep else 0.0)
    return vote.keep


def _trace(rig, *spans, logs=()) -> Trace:
    trace = Trace(rig.trace_id(1), "t", b"", 1, rig.START)
    for span in _WIRE.spans(rig.spans_payload(spans))[0]:
        trace.add_span(span)
    for log in _WIRE.logs(rig.logs_payload(logs))[0]:
        assert isinstance(log, RawLog)
        trace.add_log(log)
    return trace


@pytest.mark.parametrize(
    ("policy", "attributes", "expected"),
    [
        ({"values": ["gold"]}, {"tier": "gold"}, True),
        ({"values": ["gold"]}, {"tier": "silver"}, False),
        ({"values": ["gold"]}, {"other": "gold"}, False),
        ({"values": ["gold"]}, {"tier": ["silver", "gold"]}, True),
        ({"values": [1]}, {"tier": 1}, True),
        ({"values": [1]}, {"tier": True}, False),
        ({"values": [True]}, {"tier": True}, True),
        ({"values": [0]}, {"tier": 0}, True),
        ({}, {"tier": 0}, True),
        ({}, {}, False),
        ({"pattern": "^go"}, {"tier": "gold"}, True),
        ({"pattern": "^go$"}, {"tier": "gold"}, False),
        ({"pattern": "1"}, {"tier": 1}, False),
        ({"at_least": 0}, {"tier": 0}, True),
        ({"at_least": 0}, {"tier": -1}, False),
        ({"at_least": 0, "at_most": 2}, {"tier": 2.5}, False),
        ({"at_most": 0}, {"tier": False}, False),
        ({"at_least": 0}, {"tier": "5"}, False),
        ({"at_least": 0}, {"tier": float("nan")}, False),
    ],
)
def test_attribute(rig, policy, attributes, expected):
    trace = _trace(rig, rig.span(1, 0), rig.span(1, 1, 0, attributes=attributes))
    assert _matches({"type": "attribute", "key": "tier", **policy}, trace) is expected


def test_attribute_of_the_resource(rig):
    assert _matches(
        {"type": "attribute", "key": "service.name", "values": ["shop"]}, _trace(rig, rig.span(1, 0))
    )


@pytest.mark.parametrize(("seconds", "expected"), [(3, True), (3.001, False), (1, True)])
def test_latency_is_from_the_first_start_to_the_last_end(rig, seconds, expected):
    later = {
        "start_time_unix_nano": rig.START + 2 * rig.SECOND,
        "end_time_unix_nano": rig.START + 3 * rig.SECOND,
    }
    trace = _trace(rig, rig.span(1, 1, 0, **later), rig.span(1, 0))
    assert _matches({"type": "latency", "at_least": seconds}, trace) is expected


def test_cost_is_summed_over_spans_and_counts_once_per_span(rig):
    trace = _trace(
        rig,
        rig.span(1, 0, attributes={"llm.cost.total": 0.3, "gen_ai.usage.cost": 0.3}),
        rig.span(1, 1, 0, attributes={"gen_ai.usage.cost": 0.25}),
        rig.span(1, 2, 0, attributes={"llm.cost.total": float("inf")}),
        rig.span(1, 3, 0, attributes={"llm.cost.total": "1e9"}),
    )
    assert _matches({"type": "cost", "at_least": 0.55}, trace)
    assert not _matches({"type": "cost", "at_least": 0.56}, trace)
    assert _matches({"type": "cost", "at_least": 0.25, "attributes": ["gen_ai.usage.cost"]}, trace)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"guardrail.triggered": True}, True),
        ({"guardrail.triggered": False}, False),
        ({"gen_ai.response.finish_reasons": ["stop", "content_filter"]}, True),
        ({"gen_ai.response.finish_reasons": ["stop"]}, False),
        ({"llm.finish_reason": "SAFETY"}, True),
        ({}, False),
    ],
)
def test_guardrail(rig, attributes, expected):
    assert _matches({"type": "guardrail"}, _trace(rig, rig.span(1, 0, attributes=attributes))) is expected


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ({"name": "user_feedback", "score.value": 0.0}, True),
        ({"name": "User_Feedback", "score.value": "0"}, True),
        ({"name": "user_feedback", "score.value": 1}, False),
        ({"name": "user_feedback", "score.label": "Thumbs_Down"}, True),
        ({"name": "groundedness", "score.value": 0.0}, False),
        ({"name": "user_feedback", "score.value": "bad luck"}, False),
        ({"name": "user_feedback", "score.value": float("nan")}, False),
    ],
)
def test_feedback_in_a_joined_evaluation_event(rig, held, expected):
    attributes = {f"gen_ai.evaluation.{key}": value for key, value in held.items()}
    log = {"trace": 1, "span": 0, "name": "gen_ai.evaluation.result", "attributes": attributes}
    assert _matches({"type": "feedback"}, _trace(rig, rig.span(1, 0), logs=[log])) is expected


@pytest.mark.parametrize(
    ("kind", "score", "expected"), [("HUMAN", -1, True), ("HUMAN", 1, False), ("LLM", -1, False)]
)
@pytest.mark.parametrize("prefix", ["annotations.0.annotation", "trace.evaluations.12.evaluation"])
def test_feedback_in_an_annotation(rig, kind, score, expected, prefix):
    attributes = {f"{prefix}.annotator_kind": kind, f"{prefix}.score": score, f"{prefix}.name": "x"}
    assert _matches({"type": "feedback"}, _trace(rig, rig.span(1, 0, attributes=attributes))) is expected


def test_corrupt_attributes_match_nothing_and_raise_nothing(rig):
    """The envelope is fine, an attribute is not: the trace is decided all the same."""
    from scorers.sampling.wire import Group, Piece, traces_data

    span = rig.span(1, 0, status=2).SerializeToString() + b"\x4a\x02\xff\xff"  # field 9
    trace = Trace(rig.trace_id(1), "t", b"", 1, rig.START)
    for raw in _WIRE.spans(traces_data([Piece(Group(b"\xff", b"", b"", b""), span)]))[0]:
        trace.add_span(raw)
    assert not _matches({"type": "attribute", "key": "k"}, trace)
    assert _matches({"type": "error"}, trace)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"policies": [{"type": "latensy"}]}, "latency"),
        ({"policies": [{"type": "latency", "at_least": -1}]}, "greater than 0"),
        ({"policies": [{"type": "error"}, {"type": "error"}]}, "give each a name"),
        ({"policies": [{"type": "error", "name": "uniform"}]}, "name of the lane"),
        ({"policies": [{"type": "error", "name": "Bad name"}]}, "pattern"),
        ({"policies": [{"type": "error", "unknown": 1}]}, "Extra inputs"),
        ({"policies": [{"type": "attribute", "key": "a", "pattern": "("}]}, "regular expression"),
        ({"policies": [{"type": "drop", "policies": [{"type": "probabilistic", "ratio": 0.5}]}]}, "uniform.ratio"),
        ({"policies": [{"type": "drop", "policies": [{"type": "rate_limit", "traces_per_second": 1}]}]}, "conditions"),
        ({"policies": [{"type": "or", "policies": [{"type": "drop", "policies": [{"type": "error"}]}]}]}, "top"),
        ({"policies": [{"type": "not", "policy": {"type": "rate_limit", "traces_per_second": 1}}]}, "inside not"),
        ({"policies": [{"type": "and", "policies": []}]}, "at least 1"),
        ({"uniform": {"ratio": 1.5}}, "less than or equal to 1"),
        ({"completion": {"max_age": "10s"}}, "max_age"),
        ({"caps": {"max_traces": 0}}, "greater than or equal to 1"),
    ],
)  # fmt: skip
def test_settings_refuse_with_a_reason(section, says):
    with pytest.raises(ValidationError, match=says):
        SamplingSettings.model_validate(section)


def test_defaults_keep_everything_and_point_at_errors():
    settings = SamplingSettings()
    assert settings.uniform.ratio == 1.0
    assert [policy.title for policy in settings.policies] == ["errors"]
    assert (settings.completion.after_root, settings.completion.idle, settings.completion.max_age) == (
        5,
        30,
        600,
    )


def test_every_kind_is_in_the_schema_for_editors():
    schema = SamplingSettings.model_json_schema()
    kinds = schema["properties"]["policies"]["items"]["discriminator"]["mapping"]
    assert sorted(kinds) == [
        "and", "attribute", "cost", "drop", "error", "feedback", "guardrail", "latency", "not", "or",
        "probabilistic", "rate_limit",
    ]  # fmt: skip
