"""Feedback that comes when its trace is settled: sampler and scoring stage together, on a log in memory."""

from __future__ import annotations

from typing import Any

import msgspec
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData
from opentelemetry.proto.trace.v1.trace_pb2 import Span, TracesData
from traces import request, trace

from scorers.recent import Recent, RecentTraces
from scorers.sampler import SamplerStage
from scorers.sampling.settings import SamplingSettings
from scorers.settings import ScorersSettings
from scorers.stage import ScorerStage
from stream.interaction import Interaction
from stream.records import (
    OPERATIONS_PREFIX,
    TOPIC_LOGS,
    TOPIC_SAMPLED,
    TOPIC_SCORES,
    TOPIC_SPANS,
    ScoreRecord,
)
from stream.stage import Output, Result
from stream.testing import MemoryLog, drive

HEADERS = (("tenant", b"acme"), ("redaction-policy", b"p1"))


class Pipeline:
    """Sampler and scoring stage; made anew for every step, so that each step starts from saved state."""

    def __init__(self, ratio: float = 1.0) -> None:
        self.log = MemoryLog()
        self._sampling = SamplingSettings.model_validate({"uniform": {"ratio": ratio}, "policies": []})

    def run(self) -> None:
        sampler, scorer = SamplerStage(self._sampling), ScorerStage(ScorersSettings())
        for ticks in (0, 1):
            drive(sampler, self.log, ticks=ticks)
            self.log.clock.advance(700)
        drive(sampler, self.log, ticks=1)
        drive(scorer, self.log)
        scorer.close()
        self.balanced()

    def spans(self, spans: list[Span]) -> None:
        value = TracesData(resource_spans=request(spans).resource_spans).SerializeToString()
        self.log.append([Output(TOPIC_SPANS, value, headers=HEADERS)])

    def feedback(self, trace_id: bytes, span_id: bytes = b"", **attributes: Any) -> None:
        data = LogsData()
        group = data.resource_logs.add()
        group.resource.attributes.add(key="service.name").value.string_value = "feedback-service"
        record = group.scope_logs.add().log_records.add(
            trace_id=trace_id,
            span_id=span_id,
            event_name="gen_ai.evaluation.result",
            time_unix_nano=self.log.clock.now_ns,
        )
        given = {"gen_ai.evaluation.name": "user_feedback", "gen_ai.evaluation.score.value": 0.25} | {
            key.replace("__", "."): value for key, value in attributes.items()
        }
        for key, value in given.items():
            target = record.attributes.add(key=key).value
            if isinstance(value, float):
                target.double_value = value
            else:
                target.string_value = value
        self.log.append([Output(TOPIC_LOGS, data.SerializeToString(), headers=HEADERS)])

    def scores(self, rubric: str = "user_feedback") -> list[ScoreRecord]:
        found = [
            msgspec.json.decode(r.value, type=ScoreRecord)
            for r in self.log.topic(TOPIC_SCORES)
            if not r.value.startswith(OPERATIONS_PREFIX)
        ]
        return [score for score in found if score.rubric == rubric]

    def balanced(self) -> None:
        ledger = self.log.counters()
        sampler = ledger["sampler"]
        for noun, parts in (
            ("spans", ("kept", "dropped", "duplicate", "invalid", "pending", "lost")),
            ("logs", ("joined", "dropped", "pending", "lost")),
        ):
            assert sampler.get(f"{noun}_in", 0) == sum(sampler.get(f"{noun}_{part}", 0) for part in parts)
        scorer = ledger.get("scorer", {})
        parts = (
            "traces_scored",
            "late_traces",
            "traces_without_interaction",
            "traces_own",
            "traces_rejected",
        )
        assert scorer.get("traces_in", 0) == sum(scorer.get(part, 0) for part in parts)


def conversation(number: int, **attributes: str) -> list[Span]:
    return trace(number, version="v7", session__id="s9", **attributes)


def test_feedback_on_a_kept_trace_belongs_to_its_cohort_and_counts_as_it() -> None:
    pipeline = Pipeline()
    spans = conversation(1)
    pipeline.spans(spans)
    pipeline.run()
    assert pipeline.scores() == []
    pipeline.feedback(spans[0].trace_id, spans[2].span_id)
    pipeline.run()
    (score,) = pipeline.scores()
    assert (score.value, score.evaluator.kind, score.tenant) == (0.25, "feedback", "acme")
    assert (score.trace_id, score.span_id) == (spans[0].trace_id.hex(), spans[2].span_id.hex())
    assert score.unit_id == "s9"
    assert (score.lane, score.policy, score.probability) == ("uniform", "uniform", 1.0)
    (rubric,) = (s for s in pipeline.scores("error") or pipeline.scores("length"))
    assert score.cohort == rubric.cohort
    assert (score.cohort["route"], score.cohort["prompt_version"]) == ("support", "v7")
    assert pipeline.log.counters()["sampler"]["logs_late_scores"] == 1
    assert pipeline.log.counters()["scorer"]["scores_feedback.scored"] == 1


def test_the_weight_is_that_of_the_trace() -> None:
    pipeline = Pipeline(0.5)
    made = {number: conversation(number) for number in range(40)}
    for spans in made.values():
        pipeline.spans(spans)
    pipeline.run()
    kept = {
        TracesData.FromString(r.value).resource_spans[0].scope_spans[0].spans[0].trace_id.hex()
        for r in pipeline.log.topic(TOPIC_SAMPLED)
    }
    assert 5 < len(kept) < 35
    for spans in made.values():
        pipeline.feedback(spans[0].trace_id)
    pipeline.run()
    scores = {score.trace_id: score for score in pipeline.scores()}
    assert len(scores) == 40
    for trace_id, score in scores.items():
        if trace_id in kept:
            assert (score.lane, score.probability, score.cohort["route"]) == ("uniform", 0.5, "support")
        else:
            # There for people; the kept ones stand for it in every mean.
            assert (score.lane, score.policy, score.probability) == ("triage", "unsampled", None)
            assert score.cohort == {"service": "feedback-service", "route": "feedback-service"}
        assert score.span_id == ""
        assert score.value == 0.25


def test_feedback_on_a_trace_that_nobody_saw() -> None:
    pipeline = Pipeline()
    pipeline.feedback(b"\7" * 16, b"\7" * 8)
    pipeline.run()
    (score,) = pipeline.scores()
    assert (score.trace_id, score.span_id, score.probability) == ("07" * 16, "07" * 8, None)
    assert score.unit_id == "07" * 16


def test_feedback_that_came_in_time_on_a_dropped_trace_is_not_lost() -> None:
    pipeline = Pipeline(0.0)
    spans = conversation(1)
    pipeline.spans(spans)
    pipeline.feedback(spans[0].trace_id, spans[2].span_id)
    pipeline.run()
    (score,) = pipeline.scores()
    assert (score.span_id, score.probability) == (spans[2].span_id.hex(), None)


def test_in_time_and_late_it_is_the_same_score() -> None:
    pipeline = Pipeline()
    spans = conversation(1)
    pipeline.spans(spans)
    pipeline.feedback(spans[0].trace_id, spans[2].span_id)
    pipeline.run()
    pipeline.feedback(spans[0].trace_id, spans[2].span_id)
    pipeline.run()
    early, late = pipeline.scores()
    assert early.score_id == late.score_id
    assert early.cohort == late.cohort


def test_other_late_log_records_are_dropped_as_before() -> None:
    pipeline = Pipeline()
    spans = conversation(1)
    pipeline.spans(spans)
    pipeline.run()
    data = LogsData()
    data.resource_logs.add().scope_logs.add().log_records.add(
        trace_id=spans[0].trace_id, span_id=spans[2].span_id, event_name="gen_ai.user.message"
    )
    pipeline.log.append([Output(TOPIC_LOGS, data.SerializeToString(), headers=HEADERS)])
    pipeline.run()
    assert pipeline.log.counters()["sampler"]["logs_dropped"] == 1
    assert len(pipeline.log.topic(TOPIC_SAMPLED)) == 1


def test_an_annotation_span_of_a_dropped_trace_gets_through() -> None:
    pipeline = Pipeline(0.0)
    spans = conversation(1)
    pipeline.spans(spans)
    pipeline.run()
    thumbs = Span(
        trace_id=spans[0].trace_id, span_id=b"\5" * 8, parent_span_id=spans[0].span_id, name="thumbs"
    )
    for key, value in (("name", "user_feedback"), ("annotator_kind", "HUMAN"), ("label", "thumbs_down")):
        thumbs.attributes.add(key=f"annotations.0.annotation.{key}").value.string_value = value
    thumbs.attributes.add(key="annotations.0.annotation.score").value.double_value = 0.0
    pipeline.spans([thumbs])
    pipeline.spans([Span(trace_id=spans[0].trace_id, span_id=b"\6" * 8, name="something else")])
    pipeline.run()
    (score,) = pipeline.scores()
    assert (score.value, score.label, score.probability) == (0.0, "thumbs_down", None)
    counters = pipeline.log.counters()["sampler"]
    assert (counters["spans_late_scores"], counters["spans_late_dropped"]) == (1, 1)


def test_what_is_remembered_is_bounded_and_survives() -> None:
    recent = RecentTraces(limit=10)
    recent.assign(0, {})
    state: dict[str, bytes] = {}

    def step(number: int) -> None:
        result = Result()
        for index in range(3):
            recent.note(0, Recent.of(Interaction(trace_id=f"{number}-{index}", service=f"s{number}")))
        recent.save(result)
        for (partition, key), value in result.state.items():
            assert partition == 0
            if value is None:
                del state[key]
            else:
                state[key] = value

    for number in range(20):
        step(number)
    assert len(state) <= 4
    again = RecentTraces(limit=10)
    again.assign(0, state)
    for keeper in (recent, again):
        assert keeper.find(0, "default", "0-0") is None
        found = keeper.find(0, "default", "19-2")
        assert found is not None
        assert found.cohort == {"service": "s19"}
        assert keeper.find(0, "other", "19-2") is None
        assert keeper.find(1, "default", "19-2") is None
    again.revoke(0)
    assert again.find(0, "default", "19-2") is None
