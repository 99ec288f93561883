"""The one view of a whole trace."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stream.interaction import (
    Document,
    Interaction,
    ToolCall,
    ToolResult,
    Usage,
    trace_carrier,
    trace_interaction,
)


def chat(text: str = "", **more: Any) -> dict[str, Any]:
    """Attributes of a chat span that answers ``text``."""
    found = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}
    if text:
        found["gen_ai.output.messages"] = json.dumps(
            [{"role": "assistant", "parts": [{"type": "text", "content": text}], "finish_reason": "stop"}]
        )
    return {**found, **{key.replace("__", "."): value for key, value in more.items()}}


def calls(*names: str) -> dict[str, Any]:
    """Attributes of a chat span that asks for tools."""
    parts = [
        {"type": "tool_call", "id": f"id-{name}", "name": name, "arguments": {"q": name}} for name in names
    ]
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "m",
        "gen_ai.output.messages": json.dumps([{"role": "assistant", "parts": parts}]),
    }


@pytest.fixture
def view(make_traces: Any) -> Any:
    def build(*spans: Any, **kwargs: Any) -> Interaction:
        found = trace_interaction(make_traces(*spans, **kwargs), "acme")
        assert found is not None
        return found

    return build


def test_final_answer_with_its_surroundings(make_span: Any, view: Any) -> None:
    """Documents and tools from the trace, cohort from above, latency of the root."""
    found = view(
        make_span({"http.route": "/ask", "gen_ai.conversation.id": "c1"}, id=1, end=9),
        make_span(
            {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "helper", "user.cohort": "free"},
            id=2,
            parent=1,
            end=8,
        ),
        make_span(
            {"openinference.span.kind": "RETRIEVER", "retrieval.documents.0.document.content": "fact"},
            id=3,
            parent=2,
            end=1,
        ),
        make_span(calls("weather"), id=4, parent=2, start=1, end=2),
        make_span(
            {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": "weather",
                "gen_ai.tool.call.id": "id-weather",
                "gen_ai.tool.call.arguments": "{}",
                "gen_ai.tool.call.result": "rain",
            },
            id=5,
            parent=2,
            start=2,
            end=3,
        ),
        make_span(chat("It rains.", gen_ai__prompt__version="v2"), id=6, parent=2, start=3, end=5),
        resource={"service.name": "shop", "deployment.environment.name": "prod"},
    )
    assert found.span_id == "0000000000000006"
    assert found.output_text == "It rains."
    assert found.documents == [Document(content="fact")]
    assert found.tool_calls == [ToolCall("weather", "id-weather", {"q": "weather"})]
    assert found.tool_results == [ToolResult("weather", "id-weather", "rain")]
    assert found.latency_s == 9
    assert found.unit_id == "c1"
    assert found.status == "unset"
    assert found.cohort() == {
        "route": "helper",
        "prompt_version": "v2",
        "model": "m",
        "user_cohort": "free",
        "service": "shop",
        "environment": "prod",
    }


@pytest.mark.parametrize(
    ("own", "above", "route"),
    [
        ({"gen_ai.agent.name": "agent"}, {"driftgate.route": "named"}, "named"),
        ({"gen_ai.agent.name": "agent"}, {"gen_ai.workflow.name": "flow"}, "flow"),
        ({"traceloop.workflow.name": "loop"}, {"gen_ai.agent.name": "agent"}, "loop"),
        ({}, {"http.route": "/ask"}, "/ask"),
        ({}, {}, "shop"),
    ],
)
def test_route_precedence_is_by_name_first(
    make_span: Any, view: Any, own: dict[str, Any], above: dict[str, Any], route: str
) -> None:
    """A better name on an ancestor wins over a lesser name on the span itself."""
    assert view(make_span(above, id=1), make_span({**chat("x"), **own}, id=2, parent=1)).route == route


def test_last_answer_wins_over_later_calls_without_text(make_span: Any, view: Any) -> None:
    """A later call that only asks for tools did not answer."""
    found = view(
        make_span({}, id=1, end=9),
        make_span(chat("first"), id=2, parent=1, end=1),
        make_span(chat("second"), id=3, parent=1, start=2, end=3),
        make_span(calls("log"), id=4, parent=1, start=4, end=5),
    )
    assert found.output_text == "second"


def test_guardrails_and_evaluators_do_not_answer(make_span: Any, view: Any, make_traces: Any) -> None:
    """An LLM call below an evaluator or a guardrail judges, it does not answer."""
    found = view(
        make_span({}, id=1, end=9),
        make_span(chat("the answer"), id=2, parent=1, end=1),
        make_span({"openinference.span.kind": "EVALUATOR"}, id=3, parent=1, start=2, end=4),
        make_span(chat("score 5"), id=4, parent=3, start=2, end=4),
        make_span({"openinference.span.kind": "GUARDRAIL"}, id=5, parent=1, start=5, end=7),
        make_span(chat("safe"), id=6, parent=5, start=5, end=7),
    )
    assert found.output_text == "the answer"
    only_judge = make_traces(
        make_span({"openinference.span.kind": "EVALUATOR"}, id=1), make_span(chat("5"), id=2, parent=1)
    )
    assert trace_interaction(only_judge) is None


def test_usage_and_cost_are_summed_once(make_span: Any, view: Any) -> None:
    """A call instrumented twice (framework and client) counts once, by its outer span."""
    usage = {"gen_ai__usage__input_tokens": 10, "gen_ai__usage__output_tokens": 2, "gen_ai__usage__cost": 0.5}
    found = view(
        make_span({"gen_ai.operation.name": "invoke_agent", "gen_ai.usage.input_tokens": 999}, id=1, end=9),
        make_span(chat("a", **usage), id=2, parent=1, end=1),
        make_span(chat("a", **usage), id=3, parent=2, end=1),
        make_span(chat("b", **usage), id=4, parent=1, start=2, end=3),
    )
    assert found.usage == Usage(20, 4)
    assert found.cost_usd == 1.0
    assert found.span_id == "0000000000000004"


def test_agent_usage_counts_where_no_call_reports_any(make_span: Any, view: Any) -> None:
    """Unknown is not zero."""
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.usage.input_tokens": 7}
    assert view(make_span(agent, id=1), make_span(chat("a"), id=2, parent=1)).usage == Usage(7)
    assert view(make_span(chat("a"))).usage == Usage()
    assert view(make_span(chat("a"))).cost_usd is None


def test_errors(make_span: Any, view: Any) -> None:
    """The trace failed when its root or the answering span failed; a call that was retried is no failure."""
    recovered = view(
        make_span({}, id=1, end=9),
        make_span({**chat(), "error.type": "timeout"}, id=2, parent=1, end=1),
        make_span(chat("ok"), id=3, parent=1, start=2, end=3),
    )
    assert (recovered.status, recovered.error_type) == ("unset", "")
    root = view(make_span({}, id=1, error=True), make_span(chat("ok"), id=2, parent=1))
    assert (root.status, root.error_type) == ("error", "_OTHER")
    call = view(
        make_span({}, id=1, error=True),
        make_span({**chat(), "error.type": "rate_limit"}, id=2, parent=1, error=True),
    )
    assert (call.status, call.error_type) == ("error", "rate_limit")
    recorded = view(
        make_span(chat(), error=True, events=[("exception", {"exception.type": "openai.APIError"})])
    )
    assert recorded.error_type == "openai.APIError"


def test_hidden_content_is_taken_from_around(make_span: Any, view: Any) -> None:
    """Where the LLM span carries no content, the chain around it may."""
    found = view(
        make_span(
            {"openinference.span.kind": "CHAIN", "input.value": "question", "output.value": "answer"}, id=1
        ),
        make_span(chat(), id=2, parent=1),
    )
    assert (found.span_id, found.input_text, found.output_text) == ("0000000000000002", "question", "answer")


def test_agent_answers_where_no_call_was_recorded(make_span: Any, view: Any, make_traces: Any) -> None:
    """The outermost chain or agent with output stands in; a trace without any of them has no view."""
    chain = {"openinference.span.kind": "CHAIN", "input.value": "q", "output.value": "a"}
    assert view(make_span({}, id=1), make_span(chain, id=2, parent=1)).output_text == "a"
    assert trace_interaction(make_traces(make_span({"http.route": "/health"}))) is None
    assert trace_interaction(make_traces()) is None


def test_tool_calls_without_ids_are_not_doubled(make_span: Any, view: Any) -> None:
    """A tool span without a call id belongs to the call of its name; one nobody asked for is listed too."""
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.call.result": "r"}
    found = view(
        make_span({}, id=1, end=9),
        make_span(calls("a"), id=2, parent=1, end=1),
        make_span({**tool, "gen_ai.tool.name": "a"}, id=3, parent=1, start=1, end=2),
        make_span({**tool, "gen_ai.tool.name": "b"}, id=4, parent=1, start=2, end=3),
        make_span(chat("done"), id=5, parent=1, start=3, end=4),
    )
    assert [call.name for call in found.tool_calls] == ["a", "b"]
    assert [result.name for result in found.tool_results] == ["a", "b"]


def test_duplicated_spans_count_once(make_span: Any, view: Any) -> None:
    """At-least-once delivery may repeat spans."""
    answer = make_span(chat("x", gen_ai__usage__input_tokens=5), id=2, parent=1)
    assert view(make_span({}, id=1), answer, answer).usage == Usage(5)


def test_parent_cycles_end(make_span: Any, view: Any) -> None:
    """Two spans that name each other as parent."""
    found = view(make_span({"http.route": "/a"}, id=1, parent=2), make_span(chat("x"), id=2, parent=1))
    assert (found.output_text, found.route) == ("x", "/a")


def test_times_that_run_backwards_give_no_latency(make_span: Any, view: Any) -> None:
    """An unusable clock is unknown latency, not a negative one."""
    assert view(make_span(chat("x"), start=5, end=1)).latency_s is None


def test_evaluations_of_all_forms(make_span: Any, view: Any) -> None:
    """Evaluation events (scores as text too), annotations of every scope, driftgate's own feedback names."""
    found = view(
        make_span({"driftgate.feedback.score": 0, "driftgate.feedback.comment": "wrong"}, id=1),
        make_span(
            {
                **chat("x"),
                "annotations.0.annotation.name": "quality",
                "annotations.0.annotation.score": 0.5,
                "annotations.0.annotation.annotator_kind": "HUMAN",
                "annotations.0.annotation.identifier": "alice",
                "trace.evaluations.0.evaluation.name": "overall",
                "trace.evaluations.0.evaluation.label": "good",
                "trace.evaluations.0.evaluation.annotator_kind": "LLM",
            },
            id=2,
            parent=1,
            events=[
                (
                    "gen_ai.evaluation.result",
                    {
                        "gen_ai.evaluation.name": "Relevance",
                        "gen_ai.evaluation.score.value": "0.8",
                        "gen_ai.evaluation.score.label": "pass",
                        "gen_ai.evaluation.explanation": "fits",
                    },
                ),
                ("gen_ai.evaluation.result", {"gen_ai.evaluation.name": "Broken", "error.type": "timeout"}),
            ],
        ),
    )
    by_name = {one.name: one for one in found.evaluations}
    assert by_name["Relevance"].value == 0.8
    assert by_name["Relevance"].label == "pass"
    assert by_name["Relevance"].explanation == "fits"
    assert by_name["Relevance"].target_span_id == "0000000000000002"
    assert (by_name["Broken"].error_type, by_name["Broken"].value) == ("timeout", None)
    quality = by_name["quality"]
    assert (quality.kind, quality.value, quality.identifier, quality.scope) == (
        "feedback",
        0.5,
        "alice",
        "span",
    )
    overall = by_name["overall"]
    assert (overall.kind, overall.scope, overall.label, overall.target_span_id) == (
        "external",
        "trace",
        "good",
        "",
    )
    own = by_name["user_feedback"]
    assert (own.kind, own.scope, own.value, own.explanation) == ("feedback", "trace", 0.0, "wrong")


def test_carrier_spans_name_their_target(make_span: Any, make_traces: Any) -> None:
    """An EVALUATOR span with one link carries the scores of the span it links to."""
    target = (b"\x09" * 16, b"\x08" * 8)
    carrier = make_traces(
        make_span(
            {
                "openinference.span.kind": "EVALUATOR",
                "annotations.0.annotation.name": "quality",
                "annotations.0.annotation.score": 1,
            },
            link=target,
        )
    )
    assert trace_interaction(carrier) is None
    found = trace_carrier(carrier)
    assert found is not None
    assert [(e.target_trace_id, e.target_span_id) for e in found.evaluations] == [
        (target[0].hex(), target[1].hex())
    ]
