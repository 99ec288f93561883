"""Scores that others gave, as score records: evaluation events, annotations, and users' feedback."""

from __future__ import annotations

import msgspec

from scorers.answers import MAX_LABEL, clean, settled
from scorers.api import PASS_FAIL, Answer, Failed, Score, Skipped
from scorers.panel import Ticket, record
from scorers.settings import ScaleSettings
from stream.interaction import Evaluation, Interaction
from stream.records import Evaluator, ScoreRecord, stable_id


class Intake:
    """Maps other tools' scores to [0, 1] by their configured scale.

    Without a scale a value in [0, 1] is taken as it is, any other fails as ``out_of_range``; a label alone counts when
    it is a usual word for pass or fail, else the score is skipped as ``unmapped_label``.
    """

    def __init__(self, scales: dict[str, ScaleSettings]) -> None:
        self._scales = scales

    def records(self, ticket: Ticket) -> list[ScoreRecord]:
        """Return one record per score found on the trace; the same score told twice has the same id and comes once."""
        found: dict[str, ScoreRecord] = {}
        for evaluation in ticket.interaction.evaluations:
            made = self._record(evaluation, ticket)
            found[made.score_id] = made
        return list(found.values())

    def _record(self, evaluation: Evaluation, ticket: Ticket) -> ScoreRecord:
        seen = ticket.interaction
        elsewhere = bool(evaluation.target_trace_id) and evaluation.target_trace_id != seen.trace_id
        target = Interaction(
            tenant=seen.tenant,
            trace_id=evaluation.target_trace_id or seen.trace_id,
            span_id=evaluation.target_span_id,
            session_id="" if elsewhere else seen.session_id,
            route=seen.route,
            prompt_name=seen.prompt_name,
            prompt_version=seen.prompt_version,
            request_model=seen.model,
            user_cohort=seen.user_cohort,
            service=seen.service,
            environment=seen.environment,
        )
        evaluator = Evaluator(
            id=clean(evaluation.evaluator, 256) or evaluation.kind,
            kind=evaluation.kind,
            version=clean(evaluation.evaluator_version, 64) or "1",
        )
        rubric = clean(evaluation.name, 128)
        made = record(target, ticket, rubric, evaluator, settled(self._answer(evaluation), {}))
        label = made.label or clean(evaluation.label, MAX_LABEL)
        score_id = made.score_id
        if evaluation.identifier or evaluation.scope == "session":
            score_id = stable_id(score_id, evaluation.scope, evaluation.identifier)
        return msgspec.structs.replace(made, score_id=score_id, label=label)

    def _answer(self, evaluation: Evaluation) -> Answer:
        scale = self._scales.get(evaluation.name)
        explanation = evaluation.explanation
        if evaluation.value is not None:
            value = evaluation.value
            if scale is not None:
                value = (value - scale.low) / (scale.high - scale.low)
            return Score(value, evaluation.label, explanation)
        if evaluation.error_type:
            return Failed("evaluator_error", explanation)
        if not evaluation.label:
            return Failed("no_value", explanation)
        labels = {key.lower(): value for key, value in scale.labels.items()} if scale is not None else {}
        label = evaluation.label.strip().lower()
        mapped = labels.get(label, PASS_FAIL.get(label))
        if mapped is None:
            return Skipped("unmapped_label", explanation)
        return Score(mapped, evaluation.label, explanation)
