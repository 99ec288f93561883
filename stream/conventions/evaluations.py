"""Scores that others put on spans: ``gen_ai.evaluation.result`` events, OpenInference feedback, driftgate's own names.

OpenInference (``spec/annotations.md``): ``annotations.N.annotation.*`` and ``evaluations.N.evaluation.*`` mean the same;
``trace.`` and ``session.`` before them widen the scope; an EVALUATOR span with exactly one link carries the scores of
the span it links to, because an ended span cannot be changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stream.conventions.genai import EVENT_BODY
from stream.conventions.indexed import items
from stream.conventions.values import first, number, text, word
from stream.interaction_record import Evaluation
from stream.spans import SpanView

EVENT = "gen_ai.evaluation.result"
MAX_EVALUATIONS = 256  # of one span

_FORMS = (("annotations", "annotation"), ("evaluations", "evaluation"))
_FEEDBACK_NAMES = ("user_feedback", "user.feedback", "user-feedback", "feedback", "thumbs")
_HUMAN = frozenset(("human", "user", "end_user"))


def read(span: SpanView) -> list[Evaluation]:
    """Return the scores on ``span``, each naming the span it is about. Never raises."""
    trace_id, span_id = _target(span)
    found = (
        _events(span, trace_id, span_id)
        + _annotations(span, trace_id, span_id)
        + _own(span, trace_id, span_id)
    )
    return found[:MAX_EVALUATIONS]


def _target(span: SpanView) -> tuple[str, str]:
    if (
        word(span.attributes.get("openinference.span.kind")).upper() == "EVALUATOR"
        and len(span.span.links) == 1
    ):
        link = span.span.links[0]
        # A zero span id links to the trace as a whole.
        return link.trace_id.hex(), link.span_id.hex() if link.span_id.strip(b"\0") else ""
    return span.trace_id, span.span_id


def _kind(name: str, annotator: str) -> Any:
    human = annotator.lower() in _HUMAN or name.lower().startswith(_FEEDBACK_NAMES)
    return "feedback" if human else "external"


def _events(span: SpanView, trace_id: str, span_id: str) -> list[Evaluation]:
    found: list[Evaluation] = []
    for event in span.events:
        if event.name != EVENT or len(found) >= MAX_EVALUATIONS:
            continue
        body = event.attributes.get(EVENT_BODY)
        given: Mapping[str, Any] = (
            {**body, **event.attributes} if isinstance(body, dict) else event.attributes
        )
        name = word(given.get("gen_ai.evaluation.name"), 128)
        if not name:
            continue
        annotator = word(given.get("gen_ai.evaluation.evaluator.type"))
        evaluator = first(given, ("gen_ai.evaluation.evaluator.id", "aws.bedrock_agentcore.evaluator.arn"))
        found.append(
            Evaluation(
                name=name,
                kind=_kind(name, annotator),
                value=number(given.get("gen_ai.evaluation.score.value")),
                label=word(given.get("gen_ai.evaluation.score.label"), 128),
                explanation=text(given.get("gen_ai.evaluation.explanation"), 4_000),
                evaluator=word(evaluator, 256),
                evaluator_version=word(given.get("gen_ai.evaluation.evaluator.version"), 64),
                error_type=word(given.get("error.type"), 128),
                target_trace_id=trace_id,
                target_span_id=word(given.get("gen_ai.evaluation.target_span_id"), 32) or span_id,
                time_unix_nano=event.time_unix_nano or span.span.end_time_unix_nano,
            )
        )
    return found


def _annotations(span: SpanView, trace_id: str, span_id: str) -> list[Evaluation]:
    attributes = span.attributes
    if not any(key.startswith(_FEEDBACK_PREFIXES) for key in attributes):
        return []
    found: list[Evaluation] = []
    for scope in ("span", "trace", "session"):
        for plural, singular in _FORMS:
            prefix = plural if scope == "span" else f"{scope}.{plural}"
            for item in items(attributes, prefix):
                body = item.get(singular) if isinstance(item, dict) else None
                name = word(body.get("name"), 128) if isinstance(body, dict) else ""
                if not isinstance(body, dict) or not name:
                    continue
                annotator = word(body.get("annotator_kind"), 32)
                found.append(
                    Evaluation(
                        name=name,
                        kind=_kind(name, annotator),
                        scope=scope,
                        value=number(body.get("score")),
                        label=word(body.get("label"), 128),
                        explanation=text(body.get("explanation"), 4_000),
                        evaluator=annotator.lower(),
                        identifier=word(body.get("identifier"), 128),
                        target_trace_id=trace_id,
                        target_span_id=span_id if scope == "span" else "",
                        time_unix_nano=span.span.end_time_unix_nano,
                    )
                )
    return found


_FEEDBACK_PREFIXES = tuple(
    f"{scope}{plural}." for scope in ("", "trace.", "session.") for plural, _ in _FORMS
)


def _own(span: SpanView, trace_id: str, span_id: str) -> list[Evaluation]:
    value = number(span.attributes.get("driftgate.feedback.score"))
    label = word(span.attributes.get("driftgate.feedback.label"), 128)
    if value is None and not label:
        return []
    return [
        Evaluation(
            name=word(span.attributes.get("driftgate.feedback.name"), 128) or "user_feedback",
            kind="feedback",
            scope="trace",
            value=value,
            label=label,
            explanation=text(span.attributes.get("driftgate.feedback.comment"), 4_000),
            target_trace_id=trace_id,
            time_unix_nano=span.span.end_time_unix_nano,
        )
    ]
