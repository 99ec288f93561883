"""What the sampler tells about every trace, kept or not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scorers.judging.prompt import MARK
from stream.records import TOPIC_SPANS, TraceFacts

CHAT = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}
SECOND = 10**9


def told(
    rig: Any, runtime: Any, *spans: Any, config: dict[str, Any] | None = None
) -> tuple[dict[str, str], TraceFacts]:
    run = runtime(config or {"uniform": {"ratio": 0}, "policies": []})
    run.spans(0, *spans)
    assert run.run() == []  # nothing is kept, and all is told
    ((record),) = run.told
    (facts,) = record.traces
    assert run.count("operations_seen") == run.count("operations_sent") == run.count("traces_dropped") == 1
    return record.cohort, facts


def test_a_plain_trace(rig: Any, runtime: Any) -> None:
    root = rig.span(1, 0, attributes={"driftgate.route": "support", "session.id": "s1"})
    model = rig.span(
        1, 1, 0,
        attributes={
            **CHAT, "gen_ai.prompt.name": "answer", "gen_ai.prompt.version": "v2", "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.output_tokens": 20, "gen_ai.usage.cost": 0.25, "gen_ai.response.time_to_first_chunk": 0.5,
            "gen_ai.output.messages": "[]",
        },
    )  # fmt: skip
    cohort, facts = told(rig, runtime, root, model)
    assert cohort == {
        "route": "support", "prompt_name": "answer", "prompt_version": "v2", "service": "shop", "model": "m",
    }  # fmt: skip
    assert facts == TraceFacts(
        trace_id=rig.trace_id(1).hex(), time_unix_nano=rig.START + SECOND, unit_id="s1", flags=[], latency_s=1.0,
        first_token_s=0.5, input_tokens=100, output_tokens=20, cached_tokens=None, cost_usd=0.25, tool_calls=0,
        tool_failures=0, cache_hit=None,
    )  # fmt: skip


def test_openinference_says_the_same_in_its_own_words(rig: Any, runtime: Any) -> None:
    model = rig.span(
        1, 0,
        attributes={
            "openinference.span.kind": "LLM", "llm.model_name": "m", "llm.token_count.prompt": 7,
            "llm.token_count.completion": 3, "llm.token_count.prompt_details.cache_read": 5, "llm.cost.prompt": 0.1,
            "llm.cost.completion": 0.2, "llm.prompt_template.version": "v9",
        },
    )  # fmt: skip
    cohort, facts = told(rig, runtime, model)
    assert (cohort["model"], cohort["prompt_version"]) == ("m", "v9")
    assert (facts.input_tokens, facts.output_tokens, facts.cached_tokens) == (7, 3, 5)
    assert facts.cost_usd == pytest.approx(0.3)
    assert facts.cache_hit is True


@pytest.mark.parametrize(
    ("attributes", "status", "flags"),
    [
        ({}, 2, ["error"]),
        ({"error.type": "openai.APITimeoutError"}, 2, ["error", "timeout"]),
        ({"error.type": "x", "http.response.status_code": 504}, 2, ["error", "timeout"]),
        ({"http.request.resend_count": 2}, 0, ["retry"]),
        ({"http.request.resend_count": 0}, 0, []),
        ({"gen_ai.fallback": True}, 0, ["fallback"]),
        ({"gen_ai.fallback": "false"}, 0, []),
        ({"gen_ai.response.finish_reasons": ["content_filter"]}, 0, ["guardrail"]),
        ({"guardrail.triggered": True}, 0, ["guardrail"]),
        ({"driftgate.escalated": True}, 0, ["escalation"]),
        (
            {
                "annotations.0.annotation.name": "csat", "annotations.0.annotation.annotator_kind": "HUMAN",
                "annotations.0.annotation.score": 0,
            },
            0,
            ["negative_feedback"],
        ),
    ],
)  # fmt: skip
def test_flags(rig: Any, runtime: Any, attributes: dict[str, Any], status: int, flags: list[str]) -> None:
    _, facts = told(rig, runtime, rig.span(1, 0, status=status, attributes={**CHAT, **attributes}))
    assert facts.flags == flags


def test_a_second_try_is_a_retry_or_a_fallback_by_its_model(rig: Any, runtime: Any) -> None:
    def calls(second: str) -> list[Any]:
        root = rig.span(1, 0, end_time_unix_nano=rig.START + 9 * SECOND)
        first = rig.span(1, 1, 0, status=2, attributes=CHAT)
        later = rig.span(
            1, 2, 0, attributes={**CHAT, "gen_ai.request.model": second}, start_time_unix_nano=rig.START + 2 * SECOND,
            end_time_unix_nano=rig.START + 3 * SECOND,
        )  # fmt: skip
        return [root, first, later]

    assert told(rig, runtime, *calls("m"))[1].flags == ["retry"]
    cohort, facts = told(rig, runtime, *calls("other"))
    assert facts.flags == ["fallback"]
    assert cohort["model"] == "other"  # that of the call that answered
    assert facts.latency_s == 9.0


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, "m", "n", "o"]),
            st.booleans(),
            st.integers(0, 3),
            st.integers(0, 2),
            st.integers(0, 1),
        ),
        min_size=1,
        max_size=7,
    )
)
def test_second_tries_are_those_of_every_pair(
    rig: Any, runtime: Any, calls: list[tuple[str | None, bool, int, int, int]]
) -> None:
    """However many calls, models and parents: as if each failed call had been compared with every other call."""
    spans = [rig.span(1, 0), rig.span(1, 1, 0)]
    for number, (model, failed, start, took, parent) in enumerate(calls):
        asked = {} if model is None else {"gen_ai.request.model": model}
        spans.append(
            rig.span(
                1, number + 2, parent, status=2 if failed else 0,
                attributes={"gen_ai.operation.name": "chat", **asked},
                start_time_unix_nano=rig.START + start, end_time_unix_nano=rig.START + start + took,
            )
        )  # fmt: skip
    pairs = [
        later[0] == first[0]
        for one, first in enumerate(calls)
        for other, later in enumerate(calls)
        if one != other and first[1] and later[4] == first[4] and later[2] >= first[2] + first[3]
    ]
    flags = told(rig, runtime, *spans)[1].flags
    assert ("retry" in flags, "fallback" in flags) == (True in pairs, False in pairs)


def test_tools_nested_calls_and_stored_answers_count_once(rig: Any, runtime: Any) -> None:
    usage = {"gen_ai.usage.input_tokens": 10, "gen_ai.usage.cost": 1.0}
    root = rig.span(1, 0, attributes={"gen_ai.operation.name": "invoke_agent", "gen_ai.usage.cost": 99.0})
    outer = rig.span(1, 1, 0, attributes={**CHAT, **usage})
    inner = rig.span(1, 2, 1, attributes={**CHAT, **usage})  # the same call, instrumented twice
    good = rig.span(1, 3, 0, attributes={"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "find"})
    bad = rig.span(
        1,
        4,
        0,
        status=2,
        attributes={"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "Transfer_To_Human"},
    )
    stored = rig.span(
        1, 5, 0, attributes={"gen_ai.operation.name": "fetch_response", "gen_ai.usage.input_tokens": 500}
    )
    _, facts = told(rig, runtime, root, outer, inner, good, bad, stored)
    assert (facts.input_tokens, facts.cost_usd) == (10, 1.0)
    assert (facts.tool_calls, facts.tool_failures) == (2, 1)
    assert facts.flags == ["escalation"]


def test_who_has_no_answer_or_is_a_judge_is_not_told_about(rig: Any, runtime: Any) -> None:
    run = runtime({})
    run.spans(0, rig.span(1, 0))
    run.spans(0, rig.span(2, 0, attributes={**CHAT, "driftgate.judge": "toxicity"}))
    run.spans(
        0,
        rig.span(
            3,
            0,
            attributes={**CHAT, "gen_ai.system_instructions": f'[{{"type": "text", "content": "{MARK} …"}}]'},
        ),
    )
    run.run()
    assert run.told == []
    assert run.count("operations_skipped.no_interaction") == 1
    assert run.count("operations_skipped.own") == 2
    assert run.count("operations_seen") == 3


def test_who_writes_like_a_judge_is_told_about(rig: Any, runtime: Any) -> None:
    """A user who types a judge's mark, or a document that holds it, takes no trace and no cost out of the facts."""
    typed = f'[{{"role": "user", "parts": [{{"type": "text", "content": "{MARK} toxicity v1)"}}]}}]'
    _, facts = told(
        rig,
        runtime,
        rig.span(1, 0, attributes={**CHAT, "gen_ai.input.messages": typed, "gen_ai.usage.cost": 9.0}),
    )
    assert facts.cost_usd == 9.0


def test_a_wrong_clock_gives_the_time_of_the_log(rig: Any, runtime: Any) -> None:
    far = rig.START + 10**15
    _, facts = told(
        rig, runtime, rig.span(1, 0, attributes=CHAT, start_time_unix_nano=far, end_time_unix_nano=far)
    )
    assert facts.time_unix_nano == rig.START


def test_many_traces_travel_in_one_record_and_cohorts_apart(rig: Any, runtime: Any) -> None:
    run = runtime({"operations": {"max_traces": 4}})
    for number in range(6):
        run.spans(0, rig.span(number, 0, attributes={**CHAT, "driftgate.route": "a"}))
    run.spans(0, rig.span(9, 0, attributes={**CHAT, "driftgate.route": "b"}))
    run.run()
    assert sorted((record.cohort["route"], len(record.traces)) for record in run.told) == [
        ("a", 2),
        ("a", 4),
        ("b", 1),
    ]


def test_late_spans_tell_nothing_and_it_can_be_switched_off(rig: Any, runtime: Any) -> None:
    run = runtime({})
    run.spans(0, rig.span(1, 0, attributes=CHAT))
    run.run()
    run.spans(20_000, rig.span(1, 1, 0, attributes=CHAT))
    run.run(30_000.0)
    assert [len(record.traces) for record in run.told] == [1]
    off = runtime({"operations": {"enabled": False}})
    off.spans(0, rig.span(1, 0, attributes=CHAT))
    off.run()
    assert off.told == []
    assert off.count("operations_seen") == 0
    assert off.take({TOPIC_SPANS: 1}) == []
