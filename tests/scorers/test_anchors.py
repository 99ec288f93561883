"""Anchors: scored again and again by the judges of today, marked, at the rate of the main scores, the same after a crash."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from scorers.settings import ScorersSettings
from scorers.stage import ScorerStage
from scorers.testing import ScriptedJudge
from stream.errors import ConfigError
from stream.interaction import Interaction, Message, Part
from stream.records import TOPIC_SAMPLED, ScoreRecord
from stream.stage import Batch, Record, Result

NOW = 1_700_000_000 * 10**9


def line(number: int, **labels: float) -> str:
    interaction = Interaction(
        input_messages=[Message("user", [Part("text", f"question {number}")])],
        output_messages=[Message("assistant", [Part("text", f"answer {number}")])],
    )
    return json.dumps({"id": f"a{number}", "interaction": msgspec.to_builtins(interaction), "labels": labels})


@pytest.fixture
def anchors(tmp_path: Path) -> Path:
    path = tmp_path / "anchors.jsonl"
    path.write_text("\n".join(line(n, answer_relevance=n / 4) for n in range(5)) + "\n")
    return path


def stage(model: ScriptedJudge, anchors: Path, **more: Any) -> ScorerStage:
    judge = {
        "rubric": "answer_relevance", "model": "openai/scripted", "api_base": model.url, "backoff": 0,
        "budget_usd_per_day": None,
    }  # fmt: skip
    settings = ScorersSettings(
        rubrics=["refusal"], judges=[judge], anchors={"file": anchors.name, **more}
    )  # fmt: skip
    made = ScorerStage(settings, anchors.parent)
    made.assign(0, {})
    return made


def traces(make_span: Any, make_traces: Any, first: int, count: int, lane: str = "uniform") -> list[Record]:
    out = []
    for number in range(first, first + count):
        said = json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": f"hello {number}"}]}])
        asked = json.dumps([{"role": "user", "parts": [{"type": "text", "content": f"hi {number}"}]}])
        span = make_span(
            {
                "gen_ai.operation.name": "chat", "driftgate.route": "support", "gen_ai.input.messages": asked,
                "gen_ai.output.messages": said,
            },
            trace=number.to_bytes(16, "big"),
        )  # fmt: skip
        value = make_traces(span).SerializeToString()
        headers = (("tenant", b"acme"), ("lane", lane.encode()), ("probability", b"1.0"))
        out.append(Record(TOPIC_SAMPLED, 0, number, value, headers=headers, timestamp_ns=NOW))
    return out


def scores(result: Result) -> list[ScoreRecord]:
    return [msgspec.json.decode(output.value, type=ScoreRecord) for output in result.outputs]


def anchored(result: Result) -> list[ScoreRecord]:
    return [score for score in scores(result) if score.anchor]


def test_anchors_follow_the_judges_scores_marked_and_apart(
    anchors: Path, make_span: Callable[..., Any], make_traces: Callable[..., Any]
) -> None:
    with ScriptedJudge(5) as model:
        made = stage(model, anchors)
        result = made.process(Batch(traces(make_span, make_traces, 1, 10), NOW))
        made.close()
    found = anchored(result)
    assert Counter(score.anchor for score in found) == {f"a{n}": 2 for n in range(5)}  # ten, each in turn
    one = next(score for score in found if score.anchor == "a3")
    assert (one.reference, one.value, one.rubric, one.tenant) == (0.75, 1.0, "answer_relevance", "acme")
    assert (one.lane, one.probability, one.cohort, one.trace_id) == ("triage", None, {}, "")
    main = [score for score in scores(result) if not score.anchor and score.rubric == "answer_relevance"]
    assert {score.evaluator for score in main} == {score.evaluator for score in found}
    assert len({score.score_id for score in scores(result)}) == len(scores(result)) == 30
    assert {output.key for output in result.outputs} == {b"acme/support"}
    assert result.counters["anchors_expected"] == result.counters["anchors_scored"] == 10
    assert result.counters["scores_expected"] == 20
    assert (
        len(model.requests) == 20
    )  # never from the cache: a remembered answer tells nothing about the model of today


@pytest.mark.parametrize(("rate", "count"), [(0.5, 5), (0.3, 3), (2.0, 20)])
def test_the_rate_is_kept_over_batches(
    anchors: Path, make_span: Callable[..., Any], make_traces: Callable[..., Any], rate: float, count: int
) -> None:
    with ScriptedJudge(5) as model:
        made = stage(model, anchors, rate=rate)
        results = [made.process(Batch(traces(make_span, make_traces, 1 + i, 1), NOW)) for i in range(10)]
        made.close()
    assert sum(len(anchored(result)) for result in results) == count


def test_the_rate_is_kept_over_restarts(
    anchors: Path, make_span: Callable[..., Any], make_traces: Callable[..., Any]
) -> None:
    """What is owed and not due yet is saved too, or a process that moves often would never score an anchor."""
    found, state = 0, {}
    with ScriptedJudge(5) as model:
        for number in range(9):
            made = stage(model, anchors, rate=0.3)
            made.assign(0, state)
            result = made.process(Batch(traces(make_span, make_traces, 1 + number, 1), NOW))
            state |= {key: value for (_, key), value in result.state.items() if value is not None}
            found += len(anchored(result))
            made.close()
    assert found == 2


def test_triage_and_failures_bring_no_anchors(
    anchors: Path, make_span: Callable[..., Any], make_traces: Callable[..., Any]
) -> None:
    with ScriptedJudge(5) as model:
        made = stage(model, anchors)
        assert anchored(made.process(Batch(traces(make_span, make_traces, 1, 3, lane="triage"), NOW))) == []
        made.close()


def test_after_a_crash_the_same_anchors_come_again(
    anchors: Path, make_span: Callable[..., Any], make_traces: Callable[..., Any]
) -> None:
    first, second = traces(make_span, make_traces, 1, 3), traces(make_span, make_traces, 4, 4)
    with ScriptedJudge(5) as model:
        made = stage(model, anchors)
        begun = made.process(Batch(first, NOW))
        expected = anchored(made.process(Batch(second, NOW)))
        made.close()
        again = stage(model, anchors)
        again.assign(0, {key: value for (_, key), value in begun.state.items() if value is not None})
        assert [(one.score_id, one.anchor) for one in anchored(again.process(Batch(second, NOW)))] == [
            (one.score_id, one.anchor) for one in expected
        ]
        again.close()


def test_every_round_has_another_order_and_every_anchor_once(
    anchors: Path, make_span: Callable[..., Any], make_traces: Callable[..., Any]
) -> None:
    with ScriptedJudge(5) as model:
        made = stage(model, anchors)
        found = [
            one.anchor for one in anchored(made.process(Batch(traces(make_span, make_traces, 1, 40), NOW)))
        ]
        made.close()
    rounds = [tuple(found[i : i + 5]) for i in range(0, 40, 5)]
    assert all(sorted(one) == ["a0", "a1", "a2", "a3", "a4"] for one in rounds)
    assert len(set(rounds)) > 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("", "holds no anchor"),
        ("{", "line 1"),
        (line(1, answer_relevance=2.0), "line 1"),
        (
            line(1, answer_relevance=0.5) + "\n\n" + line(1, answer_relevance=0.5),
            "line 3: the id occurs twice",
        ),
        (line(1, toxicity=0.5), "no label for any judged rubric"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "anchors.jsonl"
    if content is not None:
        path.write_text(content)
    judge = {"rubric": "answer_relevance", "model": "openai/scripted"}
    with pytest.raises(ConfigError, match=message) as caught:
        ScorerStage(ScorersSettings(judges=[judge], anchors={"file": path}), tmp_path)
    assert "question" not in str(caught.value)
