"""The scoring stage: records out, books that balance, plug-ins that misbehave, scores of other tools."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from scorers.answers import settled
from scorers.api import Failed, Score, Skipped, scorer
from scorers.settings import ScorersSettings
from scorers.stage import ScorerStage
from scorers.testing import ScriptedJudge
from stream.errors import ConfigError
from stream.records import ScoreRecord
from stream.stage import Batch, Record, Result

START = 1_760_000_000_000_000_000
DAY_NS = 86_400 * 10**9
QUESTION = json.dumps([{"role": "user", "parts": [{"type": "text", "content": "How long does it take?"}]}])


def output(text: str) -> str:
    return json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": text}]}])


def chat(text: str = "It takes five working days.") -> dict[str, Any]:
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "m",
        "gen_ai.input.messages": QUESTION,
        "gen_ai.output.messages": output(text),
        "gen_ai.prompt.version": "v1",
    }


def record(traces: Any, offset: int = 0, partition: int = 0, taken: int = 0, **headers: str) -> Record:
    given = {"tenant": "acme", "lane": "uniform", "policy": "base", "probability": "0.25", **headers}
    value = traces if isinstance(traces, bytes) else traces.SerializeToString()
    pairs = tuple((key, text.encode()) for key, text in given.items())
    return Record("traces.sampled", partition, offset, value, headers=pairs, timestamp_ns=taken)


def scores(result: Result) -> list[ScoreRecord]:
    assert all(out.topic == "scores" for out in result.outputs)
    return [msgspec.json.decode(out.value, type=ScoreRecord) for out in result.outputs]


def balanced(result: Result) -> bool:
    """The two equations of the stage's docstring."""
    count = result.counters.get
    ways = ("traces_scored", "late_traces", "traces_without_interaction", "traces_own", "traces_rejected")
    outcomes = ("scores_scored", "scores_skipped", "scores_failed")
    reasons = {
        kind: sum(n for name, n in result.counters.items() if name.startswith(kind + "."))
        for kind in outcomes
    }
    return (
        count("traces_in", 0) == sum(count(way, 0) for way in ways)
        and count("scores_expected", 0) == sum(count(kind, 0) for kind in outcomes)
        and reasons["scores_skipped"] == count("scores_skipped", 0)
        and reasons["scores_failed"] == count("scores_failed", 0)
    )


@pytest.fixture
def stage() -> Iterator[Any]:
    made: list[ScorerStage] = []

    def build(*rubrics: Any, base: Path | None = None, **more: Any) -> ScorerStage:
        given = {"rubrics": list(rubrics), **more} if rubrics or more else {}
        made.append(ScorerStage(ScorersSettings.model_validate(given), base))
        return made[-1]

    yield build
    for one in made:
        one.close()


def test_default_rubrics_on_one_trace(stage: Any, make_span: Any, make_traces: Any) -> None:
    """Without a configuration: six rubrics, each with a record, provenance and cohort on all of them."""
    root = make_span({"http.route": "/ask", "session.id": "s1", "user.cohort": "free"}, id=1, end=3)
    traces = make_traces(root, make_span(chat(), id=2, parent=1))
    result = stage().process(Batch([record(traces)], START))
    found = {one.rubric: one for one in scores(result)}
    assert {name: (one.status, one.value, one.reason) for name, one in found.items()} == {
        "error": ("scored", 1.0, ""),
        "latency": ("scored", 1.0, ""),
        "refusal": ("scored", 1.0, ""),
        "length": ("scored", 1.0, ""),
        "groundedness_lexical": ("skipped", None, "no_documents"),
        "tool_calls": ("skipped", None, "no_tool_calls"),
    }
    one = found["error"]
    assert (one.tenant, one.lane, one.policy, one.probability) == ("acme", "uniform", "base", 0.25)
    assert (one.trace_id, one.span_id, one.unit_id) == (bytes(range(16)).hex(), "0000000000000002", "s1")
    assert one.time_unix_nano == START + 3 * 10**9
    assert one.cohort == {
        "route": "/ask",
        "prompt_version": "v1",
        "model": "m",
        "user_cohort": "free",
        "service": "shop",
    }
    assert {out.key for out in result.outputs} == {b"acme//ask"}
    assert result.counters["scores_expected"] == 6
    assert balanced(result)


def test_the_same_trace_gives_the_same_records(stage: Any, make_span: Any, make_traces: Any) -> None:
    """What is seen again after a crash has the same ids and bytes; another tenant's trace has others."""
    traces = make_traces(make_span(chat()))
    first, second = (stage().process(Batch([record(traces)], START)) for _ in range(2))
    assert first.outputs == second.outputs
    other = stage().process(Batch([record(traces, tenant="other")], START))
    assert not {one.score_id for one in scores(first)} & {one.score_id for one in scores(other)}


@pytest.mark.parametrize("restored", [False, True])
def test_the_first_late_part_that_holds_an_interaction_is_scored_where_nothing_else_was(
    stage: Any, make_span: Any, make_traces: Any, restored: bool
) -> None:
    """An application's other spans may be there long before the answer of the model."""
    state: dict[str, bytes] = {}
    one = stage()
    one.assign(0, state)

    def handle(traces: Any, offset: int, **headers: str) -> Result:
        nonlocal one
        result = one.process(Batch([record(traces, offset, **headers)], START))
        for (_, key), value in result.state.items():
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
        if restored:
            one = stage()
            one.assign(0, state)
        assert balanced(result)
        return result

    empty = handle(make_traces(make_span({"http.route": "/cleanup"})), 0)
    still = handle(make_traces(make_span({"http.route": "/cleanup"})), 1, late="1")
    found = handle(make_traces(make_span(chat())), 2, late="1")
    again = handle(make_traces(make_span(chat("And more."))), 3, late="1")
    assert [len(scores(result)) for result in (empty, still, found, again)] == [0, 0, 6, 0]
    assert {score.probability for score in scores(found)} == {0.25}
    ways = ("traces_without_interaction", "late_traces", "traces_scored", "late_traces")
    results = (empty, still, found, again)
    assert [result.counters.get(way) for result, way in zip(results, ways, strict=True)] == [1] * 4


def test_every_way_a_trace_can_go(stage: Any, make_span: Any, make_traces: Any) -> None:
    """Scored, late, without anything to score, our own, undecodable: each is counted, none is lost."""
    good = make_traces(make_span(chat()))
    own = make_traces(make_span(chat()), resource={"service.name": "driftgate"})
    marked = make_traces(make_span({**chat(), "driftgate.judge": True}))
    records = [
        record(good, 0),
        record(good, 1, late="1"),
        record(make_traces(make_span({"http.route": "/health"})), 2),
        record(own, 3),
        record(marked, 4),
        record(b"\xff\xff\xff", 5),
        record(b"", 6),
        record(own, 7, late="1"),
    ]
    result = stage().process(Batch(records, START))
    assert result.counters["traces_in"] == 8
    assert result.counters["traces_scored"] == 1
    assert result.counters["late_traces"] == 2
    assert result.counters["traces_without_interaction"] == 2
    assert result.counters["traces_own"] == 2
    assert [(reject.record.offset, reject.reason) for reject in result.rejects] == [(5, "undecodable")]
    assert len(result.outputs) == 6
    assert balanced(result)


@pytest.mark.parametrize(
    ("text", "probability"),
    [("0.5", 0.5), ("1", 1.0), ("", None), ("0", None), ("1.5", None), ("nan", None), ("x", None)],
)
def test_unknown_probability_stays_unknown(
    stage: Any, make_span: Any, make_traces: Any, text: str, probability: float | None
) -> None:
    """A score of unknown probability never enters a test; it must not pass for a certain one."""
    batch = Batch([record(make_traces(make_span(chat())), probability=text, lane="triage")], START)
    found = scores(stage("error").process(batch))
    assert (found[0].probability, found[0].lane) == (probability, "triage")


def test_wrong_clocks_do_not_move_event_time(stage: Any, make_span: Any, make_traces: Any) -> None:
    """Times of 1970 and 2262 become the log's; a plausible time stays."""
    for end, expected in ((-1_700_000_000.0, START), (8_000_000_000.0, START), (-60.0, START - 60 * 10**9)):
        traces = make_traces(make_span(chat(), start=end - 1, end=end))
        result = stage("error").process(Batch([record(traces, taken=START)], START))
        assert scores(result)[0].time_unix_nano == expected
        assert result.counters.get("times_corrected", 0) == (expected == START)


PLUGINS = """
import asyncio, sys, threading
from scorers.api import Failed, Score, Scorer, Skipped, scorer

class Words(Scorer):
    name = "words"
    version = "7"
    def score(self, interaction):
        return Score(len(interaction.output_text.split()) / 10, explanation="counted")

class Slow(Scorer):
    name = "slow"
    async def score(self, interaction):
        await asyncio.sleep(0)
        return 0.5

class PerSpan(Scorer):
    name = "per_span"
    target = "span"
    def score(self, interaction):
        return interaction.kind == "llm"

@scorer(name="marked", version="3")
def marked(interaction):
    return "pass"

def plain(interaction): return True
def nothing(interaction): return None
def skips(interaction): return Skipped("not today, thanks!")
def raises(interaction): raise ZeroDivisionError("secret data")
def exits(interaction): sys.exit(3)
async def exits_later(interaction): sys.exit(3)
def nan(interaction): return float("nan")
def above(interaction): return Score(1.01)
def below(interaction): return -0.01
def strange(interaction): return {"score": 1}
def unmapped(interaction): return Score(label="purple")
def surrogate(interaction): return Score(1, "\\ud800", "x" * 10_000)
def endless(interaction): return Score(reason_of := 1.0, cost_usd=float("inf"))
def enormous(interaction): return 10**400
def dear(interaction): return Score(1, cost_usd=10**400, input_tokens=10**400)
def numbered(interaction): return Score(label=5)
def lost(interaction): return Failed("lost", "", float("nan"), 2**70, -5)
async def cancels(interaction): raise asyncio.CancelledError
class Shy(str):
    def strip(self): raise RuntimeError
def shy(interaction): return Score(label=Shy("pass"))
async def forever(interaction): await asyncio.Event().wait()
release = threading.Event()
def hangs(interaction): release.wait()
"""


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(PLUGINS)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "status", "value", "reason"),
    [
        ("Words", "scored", 0.5, ""),
        ("Slow", "scored", 0.5, ""),
        ("PerSpan", "scored", 1.0, ""),
        ("marked", "scored", 1.0, ""),
        ("plain", "scored", 1.0, ""),
        ("nothing", "skipped", None, "not_applicable"),
        ("skips", "skipped", None, "not_today_thanks"),
        ("raises", "failed", None, "ZeroDivisionError"),
        ("exits", "failed", None, "SystemExit"),
        ("exits_later", "failed", None, "SystemExit"),
        ("nan", "failed", None, "out_of_range"),
        ("above", "failed", None, "out_of_range"),
        ("below", "failed", None, "out_of_range"),
        ("strange", "failed", None, "not_a_score"),
        ("unmapped", "failed", None, "unmapped_label"),
        ("surrogate", "scored", 1.0, ""),
        ("endless", "scored", 1.0, ""),
        ("enormous", "failed", None, "out_of_range"),
        ("dear", "scored", 1.0, ""),
        ("numbered", "failed", None, "unmapped_label"),
        ("lost", "failed", None, "lost"),
        ("cancels", "failed", None, "CancelledError"),
        ("shy", "failed", None, "RuntimeError"),
        ("forever", "failed", None, "timeout"),
    ],
)
def test_plugins(
    stage: Any,
    plugins: Path,
    make_span: Any,
    make_traces: Any,
    name: str,
    status: str,
    value: Any,
    reason: str,
) -> None:
    """Whatever a user's scorer does: one record, a reason without data, and the next rubric goes on."""
    made = stage({"use": f"mine.py:{name}", "timeout": "200ms"}, "error", base=plugins)
    result = made.process(Batch([record(make_traces(make_span(chat())))], START))
    mine, error = scores(result)
    assert (mine.status, mine.value, mine.reason) == (status, value, reason)
    assert "secret" not in mine.explanation
    assert error.value == 1.0
    assert balanced(result)


def test_a_plugin_that_hangs_is_shut_out(stage: Any, plugins: Path, make_span: Any, make_traces: Any) -> None:
    """It fails once, is skipped while its call still runs, and comes back afterwards."""
    made = stage({"use": "mine.py:hangs", "timeout": "50ms"}, base=plugins)
    batch = Batch([record(make_traces(make_span(chat())))], START)
    assert scores(made.process(batch))[0].reason == "timeout"
    assert scores(made.process(batch))[0].reason == "scorer_blocked:timeout"
    file = str(plugins / "mine.py")
    module = next(found for found in sys.modules.values() if getattr(found, "__file__", "") == file)
    module.release.set()
    for _ in range(2_000):
        if scores(made.process(batch))[0].reason == "not_applicable":
            break
        threading.Event().wait(0.005)
    assert scores(made.process(batch))[0].reason == "not_applicable"


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_limits_are_numbers(number: float) -> None:
    """An age without end would be found out by the first record."""
    for section in (
        {"max_age": number},
        {"max_clock_skew": number},
        {"external": {"csat": {"low": -number}}},
        {"external": {"csat": {"labels": {"good": number}}}},
        {"judges": [{"rubric": "toxicity", "model": "m", "budget_usd_per_day": number}]},
    ):
        with pytest.raises(ValidationError, match=r"finite|greater"):
            ScorersSettings.model_validate(section)


def test_identity_of_plugins(stage: Any, plugins: Path) -> None:
    """Name and version of the author, another name of the user."""
    made = stage({"use": "mine.py:Words", "name": "wordy"}, "mine.py:marked", base=plugins)
    listed = {one["rubric"]: one for one in made.status()["rubrics"]}
    assert listed["wordy"]["evaluator"] == "words/7"
    assert listed["marked"]["evaluator"] == "marked/3"
    assert listed["wordy"]["plugin"]


@pytest.mark.parametrize(
    ("rubrics", "message"),
    [
        (["no_such"], r"rubrics\[0\].*no_such.*built in are banned_phrases"),
        (["error", "error"], "two scorers write the rubric 'error'"),
        ([{"use": "length", "options": {"max_chars": 0}}], r"rubrics\[0\].*max_chars"),
        ([{"use": "error", "options": {"x": 1}}], "error.*unexpected keyword|takes no options"),
        (["banned_phrases"], "name at least one phrase"),
        (["mine.py:absent"], "has no 'absent'"),
        (["other.py:x"], "does not exist"),
        (["mine.py:PLUGINS"], "PLUGINS"),
    ],
)
def test_what_cannot_be_loaded_is_refused(stage: Any, plugins: Path, rubrics: Any, message: str) -> None:
    """At start, with the place and the fix."""
    with pytest.raises(ConfigError, match=message):
        stage(*rubrics, base=plugins)


def test_span_rubrics(stage: Any, make_span: Any, make_traces: Any) -> None:
    """One record per LLM span, up to the limit; one skip where there is none."""
    made = stage({"use": "refusal", "target": "span"}, max_spans_per_trace=2)
    calls = [make_span(chat(), id=n, parent=1, start=n, end=n + 1) for n in range(2, 6)]
    result = made.process(Batch([record(make_traces(make_span({}, id=1), *calls))], START))
    assert [one.span_id[-1] for one in scores(result)] == ["2", "3"]
    assert result.counters["spans_over_limit"] == 2
    assert balanced(result)
    chain = make_traces(make_span({"openinference.span.kind": "CHAIN", "output.value": "hi"}))
    result = made.process(Batch([record(chain)], START))
    assert [one.reason for one in scores(result)] == ["no_llm_span"]
    assert balanced(result)


def evaluated(make_span: Any, make_traces: Any, *events: dict[str, Any], **attributes: Any) -> Any:
    named = [
        ("gen_ai.evaluation.result", {f"gen_ai.evaluation.{key}": value for key, value in event.items()})
        for event in events
    ]
    return make_traces(make_span({**chat(), "session.id": "s1", **attributes}, events=named))


def test_scores_of_other_tools(stage: Any, make_span: Any, make_traces: Any) -> None:
    """Taken as they are in [0, 1], by their scale otherwise, by label at last; anything else says why not."""
    traces = evaluated(
        make_span,
        make_traces,
        {"name": "relevance", "score.value": "0.8", "score.label": "fine", "explanation": "fits"},
        {"name": "stars", "score.value": 4.0},
        {"name": "harm", "score.value": 2.0},
        {"name": "percent", "score.value": 80},
        {"name": "verdict", "score.label": "Pass"},
        {"name": "grade", "score.label": "B"},
        {"name": "color", "score.label": "purple"},
        {"name": "broken"},
        {"name": "user_feedback", "score.value": 0.0},
    )
    made = stage(
        "error",
        external={
            "stars": {"low": 1, "high": 5},
            "harm": {"low": 10, "high": 0},
            "grade": {"labels": {"a": 1.0, "B": 0.75}},
        },
    )
    result = made.process(Batch([record(traces)], START))
    found = {one.rubric: one for one in scores(result)}
    assert {name: one.value for name, one in found.items() if one.value is not None} == {
        "error": 1.0,
        "relevance": 0.8,
        "stars": 0.75,
        "harm": 0.8,
        "verdict": 1.0,
        "grade": 0.75,
        "user_feedback": 0.0,
    }
    assert {name: (one.status, one.reason) for name, one in found.items() if one.value is None} == {
        "percent": ("failed", "out_of_range"),
        "color": ("skipped", "unmapped_label"),
        "broken": ("failed", "no_value"),
    }
    relevance = found["relevance"]
    assert (relevance.label, relevance.explanation) == ("fine", "fits")
    assert relevance.evaluator.kind == "external"
    assert found["user_feedback"].evaluator.kind == "feedback"
    assert (relevance.unit_id, relevance.probability, relevance.cohort["prompt_version"]) == (
        "s1",
        0.25,
        "v1",
    )
    assert result.counters["scores_external"] == 8
    assert result.counters["scores_feedback"] == 1
    assert result.counters["scores_expected"] == 1
    assert balanced(result)


@pytest.mark.parametrize(
    "claim",
    [
        {"evaluator.id": "error"},
        {"evaluator.id": "error", "evaluator.version": "1"},
        {"evaluator.id": "error/1"},
        {"evaluator.id": "error", "evaluator.version": "1/gpt-4o/abcdef"},
    ],
)
def test_scores_of_others_never_pass_for_our_own(
    stage: Any, make_span: Any, make_traces: Any, claim: dict[str, str]
) -> None:
    """Whoever sends spans can name a rubric and an evaluator as ours: neither the id nor the identity is ours then."""
    told = {"name": "error", "score.value": 1.0, "target_span_id": "0000000000000001", **claim}
    traces = evaluated(make_span, make_traces, told, **{"error.type": "timeout"})
    given, own = scores(stage("error").process(Batch([record(traces)], START)))
    assert (given.evaluator.kind, given.value, own.evaluator.kind, own.value) == (
        "external",
        1.0,
        "code",
        0.0,
    )
    assert (given.trace_id, given.span_id) == (own.trace_id, own.span_id)
    assert given.score_id != own.score_id
    assert not f"{given.evaluator.identity}/".startswith(f"{own.evaluator.id}/")


def test_a_score_told_twice_counts_once(stage: Any, make_span: Any, make_traces: Any) -> None:
    """Some tools emit a span event and a log record; two people's feedback stays two."""
    event = {"name": "relevance", "score.value": 0.5}
    people = {
        f"annotations.{n}.annotation.{key}": value
        for n, who in enumerate(("alice", "bob"))
        for key, value in {
            "name": "thumbs",
            "label": "up",
            "annotator_kind": "HUMAN",
            "identifier": who,
        }.items()
    }
    traces = evaluated(make_span, make_traces, event, event, **people)
    found = scores(stage("error").process(Batch([record(traces)], START)))
    assert [one.rubric for one in found] == ["relevance", "thumbs", "thumbs", "error"]
    assert len({one.score_id for one in found}) == 4


def test_feedback_may_come_late_and_from_elsewhere(stage: Any, make_span: Any, make_traces: Any) -> None:
    """Late spans are not scored again, but their feedback counts; a carrier span scores the span it links to."""
    made = stage("error")
    late = make_traces(make_span({"driftgate.feedback.score": 1.0, "http.route": "/ask"}))
    result = made.process(Batch([record(late, late="1")], START))
    assert [(one.rubric, one.value, one.cohort["route"]) for one in scores(result)] == [
        ("user_feedback", 1.0, "/ask")
    ]
    target = (b"\x09" * 16, b"\x08" * 8)
    carrier = make_traces(
        make_span(
            {
                "openinference.span.kind": "EVALUATOR",
                "annotations.0.annotation.name": "quality",
                "annotations.0.annotation.score": 0.5,
            },
            link=target,
        )
    )
    result = made.process(Batch([record(carrier)], START))
    one = scores(result)[0]
    assert (one.trace_id, one.span_id, one.unit_id) == (target[0].hex(), target[1].hex(), target[0].hex())
    assert result.counters["traces_without_interaction"] == 1
    assert balanced(result)


def judged(model: ScriptedJudge, **more: Any) -> dict[str, Any]:
    judge = {"rubric": "answer_relevance", "model": "openai/scripted", "api_base": model.url, "backoff": 0}
    return {"rubrics": ["error"], "judges": [{**judge, **more}]}


def test_judges_in_the_stage(stage: Any, make_span: Any, make_traces: Any) -> None:
    """Judge scores beside the others; sync and async give the same records."""
    batch = Batch([record(make_traces(make_span(chat(f"answer {n}"))), n) for n in range(4)], START)
    with ScriptedJudge(default=4) as model:
        made = stage(**judged(model))
        result = made.process(batch)
        assert [one.rubric for one in scores(result)] == ["error", "answer_relevance"] * 4
        assert {one.value for one in scores(result) if one.rubric == "answer_relevance"} == {0.75}
        again = made.process(batch)
        assert len(model.requests) == 4
        assert [one.score_id for one in scores(again)] == [one.score_id for one in scores(result)]
        other = stage(**judged(model))
        assert asyncio.run(other.process_async(batch)).outputs == result.outputs
        assert made.status()["judges"][0]["calls"] == 4
    assert balanced(result)


def test_blocked_judges_show(stage: Any, make_span: Any, make_traces: Any) -> None:
    """Skipped with the reason in the record and the ledger, and in the status."""
    with ScriptedJudge() as model:
        made = stage(**judged(model, budget_usd_per_day=0, input_usd_per_million=1, output_usd_per_million=1))
        result = made.process(Batch([record(make_traces(make_span(chat())))], START))
    assert scores(result)[1].reason == "judge_blocked:budget"
    assert result.counters["scores_skipped.judge_blocked:budget"] == 1
    assert made.status()["judges"][0]["blocked"] == "budget"
    assert balanced(result)


def test_spending_survives_a_restart(stage: Any, make_span: Any, make_traces: Any) -> None:
    """What was spent today counts after a crash, moves with its partition, and is forgotten tomorrow."""
    prices = {"input_usd_per_million": 1_000, "output_usd_per_million": 1_000}
    records = [record(make_traces(make_span(chat(f"answer {n}"))), n, partition=n % 2) for n in range(4)]
    with ScriptedJudge(default=4) as model:
        first = stage(**judged(model, **prices))
        result = first.process(Batch(records, START))
        assert set(result.state) == {(0, "judge_spend"), (1, "judge_spend")}
        second = stage(**judged(model, **prices))
        for partition in (0, 1):
            state = result.state[partition, "judge_spend"]
            assert state is not None
            second.assign(partition, {"judge_spend": state})
        judge = second.judges[0]
        assert judge.budget.spent == pytest.approx(0.48)
        second.revoke(1)
        assert judge.budget.spent == pytest.approx(0.24)
        judge.tick(START + DAY_NS)
        assert judge.budget.spent == 0


def test_spending_is_that_of_one_judge_whatever_its_settings(
    stage: Any, make_span: Any, make_traces: Any
) -> None:
    """Two judges of one rubric do not count each other's money, and another prompt does not make the day new."""
    prices = {"input_usd_per_million": 1_000, "output_usd_per_million": 1_000, "backoff": 0}
    records = [record(make_traces(make_span(chat(f"answer {n}"))), n) for n in range(2)]
    with ScriptedJudge(default=4) as model:
        shared = {"rubric": "answer_relevance", "model": "openai/scripted", "api_base": model.url, **prices}
        judges = [{**shared, "name": "a"}, {**shared, "name": "b", "target": "span"}]
        result = stage(rubrics=["error"], judges=judges).process(Batch(records, START))
        later = stage(rubrics=["error"], judges=[{**one, "policy": "Be strict."} for one in judges])
        state = result.state[0, "judge_spend"]
        assert state is not None
        later.assign(0, {"judge_spend": state})
        spent = [judge.budget.spent for judge in later.judges]
        assert sum(spent) == pytest.approx(0.12 * len(model.requests))
        assert spent == pytest.approx([0.24, 0.24])
        later.revoke(0)
        assert [judge.budget.spent for judge in later.judges] == [0, 0]


def test_money_of_a_batch_that_could_not_be_written_stays_spent(
    stage: Any, make_span: Any, make_traces: Any
) -> None:
    """The answers come from the cache when the batch is scored again, and the model was paid for them all the same."""
    prices = {"input_usd_per_million": 1_000, "output_usd_per_million": 1_000}
    with ScriptedJudge(default=4) as model:
        made = stage(**judged(model, **prices))
        made.assign(0, {})
        made.process(Batch([record(make_traces(make_span(chat("first"))), 0)], START))  # the log refuses it
        made.revoke(0)
        assert made.judges[0].budget.spent == 0
        made.assign(0, {})
        result = made.process(
            Batch(
                [record(make_traces(make_span(chat(text))), n) for n, text in enumerate(("first", "second"))],
                START,
            )
        )
        assert len(model.requests) == 2
        assert made.judges[0].budget.spent == pytest.approx(0.24)
        state = result.state[0, "judge_spend"]
        assert state is not None
        # It went to another member, which spent more, and came back: nothing counts twice.
        made.revoke(0)
        made.assign(0, {"judge_spend": state.replace(b"0.24", b"0.34")})
        assert made.judges[0].budget.spent == pytest.approx(0.34)
        made.revoke(0)
        made.assign(0, {"judge_spend": state})
        made.judges[0].tick(START + DAY_NS)
        assert made.judges[0].budget.spent == 0


def test_spending_of_a_day_far_ahead_is_forgotten(stage: Any, make_span: Any, make_traces: Any) -> None:
    """State saved while the clock was wrong does not block a judge until that day."""
    prices = {"input_usd_per_million": 1_000, "output_usd_per_million": 1_000}
    with ScriptedJudge(default=4) as model:
        first = stage(**judged(model, **prices))
        wrong = first.process(Batch([record(make_traces(make_span(chat())))], START + 400 * DAY_NS))
        state = wrong.state[0, "judge_spend"]
        assert state is not None
        second = stage(**judged(model, **prices))
        second.assign(0, {"judge_spend": state})
        right = second.process(Batch([record(make_traces(make_span(chat("other"))), 1)], START))
        assert second.judges[0].budget.spent == pytest.approx(0.12)
        second.assign(1, {"judge_spend": state.replace(b"%d" % (START // DAY_NS + 400), b"19000")})
        assert second.judges[0].budget.spent == pytest.approx(0.12)  # a day long gone moves nothing
        again = right.state[0, "judge_spend"]
        assert again is not None
        third = stage(**judged(model, **prices))
        third.assign(0, {"judge_spend": again})
        third.judges[0].tick(START)
        assert third.judges[0].budget.spent == pytest.approx(0.12)


@hypothesis_settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.builds(
            Score,
            value=st.one_of(st.none(), st.floats(), st.booleans(), st.text(max_size=2)),  # type: ignore[arg-type]
            label=st.text(max_size=5),
            cost_usd=st.floats(),
        ),
        st.builds(Skipped, reason=st.text(max_size=80)),
        st.builds(
            Failed,
            reason=st.text(max_size=80),
            cost_usd=st.floats(),
            input_tokens=st.integers(),
            output_tokens=st.floats(),  # type: ignore[arg-type]
        ),
        st.lists(st.integers(), max_size=2),
    )
)
def test_whatever_a_scorer_returns_is_settled(raw: Any) -> None:
    """A score in [0, 1], or a short reason; always something that can be encoded."""
    answer = settled(raw, {})
    if isinstance(answer, Score):
        assert answer.value is not None
        assert 0 <= answer.value <= 1
        assert 0 <= answer.cost_usd < 2**53
    else:
        assert 0 < len(answer.reason) <= 64
        assert answer.reason.isascii()
    assert msgspec.json.decode(msgspec.json.encode(answer), type=type(answer)) == answer


def test_decorated_functions_keep_working() -> None:
    """The decorator only marks."""

    @scorer(name="x")
    def function(interaction: Any) -> float:
        return 0.5

    assert function(None) == 0.5


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys\nsys.exit(0)\n", "plug-in .* fails on import: SystemExit"),
        (
            "from driftgate import Scorer\nclass Mine(Scorer):\n    name = 'mine'\n"
            "    def __init__(self): {}['key']\n    def score(self, interaction): return 1.0\n",
            "the scorer cannot be made: KeyError",
        ),
    ],
    ids=["ends the interpreter", "raises when it is made"],
)
def test_a_plug_in_that_cannot_be_used_is_named_at_the_start(code: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(ConfigError, match=message):
        ScorerStage(ScorersSettings.model_validate({"rubrics": ["mine.py:Mine"]}), tmp_path)


def test_a_scorer_that_raises_is_told_where_and_never_what(
    stage: Any, tmp_path: Path, make_span: Any, make_traces: Any
) -> None:
    """The place in the code helps its author; the message of an exception may hold the answer it choked on."""
    (tmp_path / "mine.py").write_text(
        "def inner(text):\n    raise ValueError(text)\n\ndef checks(interaction):\n    inner(interaction.output_text)\n"
    )
    made = stage("mine.py:checks", base=tmp_path)
    (one,) = scores(made.process(Batch([record(make_traces(make_span(chat())))], START)))
    assert one.reason == "ValueError"
    assert one.explanation == "raised at mine.py:5 in checks, mine.py:2 in inner"
