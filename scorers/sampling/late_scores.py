"""Scores by people and other tools that come when their trace is settled: a way around the decision.

Feedback comes minutes after the answer it is about, when its trace was sent on, dropped, or forgotten. Such a score is sent
on by itself, as an EVALUATOR span with one link to what was judged (OpenInference ``spec/annotations.md``), marked late,
which the scoring stage turns into score records.

How it counts follows the trace. Of a kept trace it has the trace's lane, policy and probability: it is in the sample
exactly when the trace is. Of a dropped or unknown trace it has no probability, so it never enters a mean or a test and is
there for people: the kept traces stand for the dropped ones already, and their feedback with them.
"""

from __future__ import annotations

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from scorers.sampling.lanes import TRIAGE, Decision
from scorers.sampling.wire import Piece, RawLog, RawSpan
from stream.conventions.evaluations import EVENT
from stream.records import stable_id

# What is credited with a score whose trace was not kept.
UNSAMPLED = Decision(lane=TRIAGE, policy="unsampled", probability=None)

_NO_SPAN = bytes(8)
_MARKS = (b"annotations.", b"evaluations.", b"driftgate.feedback.", EVENT.encode())


def is_score(log: RawLog) -> bool:
    """Whether a log event is an evaluation result."""
    return log.name == EVENT


def has_score(span: RawSpan) -> bool:
    """Whether a span may carry scores of others; a name that is not among its bytes is not among its attributes."""
    return any(mark in span.raw for mark in _MARKS)


def carrier(log: RawLog) -> Piece:
    """Return ``log`` as a span of its trace; its id is the same whenever it is made."""
    event = Span.Event.FromString(log.event)
    span = Span(
        trace_id=log.trace_id,
        span_id=bytes.fromhex(stable_id("late score", log.event.hex(), log.span_id.hex())[:16]),
        name=EVENT,
        start_time_unix_nano=event.time_unix_nano,
        end_time_unix_nano=event.time_unix_nano,
        events=[event],
        # Without a span of its own it is about the whole trace.
        links=[Span.Link(trace_id=log.trace_id, span_id=log.span_id or _NO_SPAN)],
    )
    span.attributes.add(key="openinference.span.kind").value.string_value = "EVALUATOR"
    return Piece(log.group, span.SerializeToString())
