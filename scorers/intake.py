"""Scores that others gave, as score records: evaluation events, annotations, and users' feedback."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from scorers.answers import MAX_LABEL, clean, settled
from scorers.api import PASS_FAIL, Answer, Failed, Score, Skipped
from scorers.panel import Ticket, record
from scorers.recent import Recent
from scorers.settings import ScaleSettings
from stream.interaction import Evaluation, Interaction
from stream.records import Evaluator, ScoreRecord, stable_id

# Fields of an interaction by the names that cohorts give them.
_FIELDS = {
    "route": "route",
    "prompt_name": "prompt_name",
    "prompt_version": "prompt_version",
    "model": "request_model",
    "user_cohort": "user_cohort",
    "service": "service",
    "environment": "environment",
}


class Intake:
    """Maps other tools' scores to [0, 1] by their configured scale.

    Without a scale a value in [0, 1] is taken as it is, any other fails as ``out_of_range``; a label alone counts when
    it is a usual word for pass or fail, else the score is skipped as ``unmapped_label``.

    ``own`` names our evaluators by rubric: who calls itself as they are called gets the kind of the score before its
    name, because equal ids and identities would put its scores in the place of ours, or into their baselines.
    """

    def __init__(self, scales: dict[str, ScaleSettings], own: Mapping[str, str] = {}) -> None:
        self._scales = scales
        self._own = own

    def records(
        self, ticket: Ticket, recall: Callable[[str], Recent | None] = lambda trace_id: None
    ) -> list[ScoreRecord]:
        """Return one record per score found on the trace; the same score told twice has the same id and comes once.

        ``recall`` returns what is known of an earlier trace by its id: a score that comes later belongs to its cohort.
        """
        found: dict[str, ScoreRecord] = {}
        for evaluation in ticket.interaction.evaluations:
            made = self._record(evaluation, ticket, recall)
            found[made.score_id] = made
        return list(found.values())

    def _record(
        self, evaluation: Evaluation, ticket: Ticket, recall: Callable[[str], Recent | None]
    ) -> ScoreRecord:
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
        if (earlier := recall(target.trace_id)) is not None:
            # Of itself a later score says little more than which service it came from.
            target = msgspec.structs.replace(
                target,
                session_id=target.session_id or earlier.session_id,
                **{_FIELDS[name]: value for name, value in earlier.cohort.items() if name in _FIELDS},
            )
        evaluator = Evaluator(
            id=clean(evaluation.evaluator, 256) or evaluation.kind,
            kind=evaluation.kind,
            version=clean(evaluation.evaluator_version, 64) or "1",
        )
        rubric = clean(evaluation.name, 128)
        own = self._own.get(rubric)
        if own is not None and f"{evaluator.id}/".startswith(f"{own}/"):
            evaluator = msgspec.structs.replace(evaluator, id=f"{evaluation.kind}:{evaluator.id}")
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
