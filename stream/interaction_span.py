"""One interaction per GenAI span."""

from __future__ import annotations

from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from stream import conventions
from stream.conventions import evaluations
from stream.conventions.kinds import kind_of
from stream.conventions.reading import Reading
from stream.conventions.values import word
from stream.interaction_record import (
    ENVIRONMENT_KEYS,
    PROMPT_NAME_KEYS,
    PROMPT_VERSION_KEYS,
    ROUTE_KEYS,
    SERVICE_KEYS,
    SESSION_KEYS,
    USER_COHORT_KEYS,
    USER_KEYS,
    Interaction,
    Kind,
    ToolCall,
    ToolResult,
    Usage,
)
from stream.interaction_tree import SpanTree, inherited
from stream.spans import STATUS_ERROR, SpanView, spans

MAX_INTERACTIONS = 10_000  # of one payload


def interactions(traces: TracesData, tenant: str = "default") -> list[Interaction]:
    """Return one interaction per GenAI span of ``traces``, in the order sent, at most 10,000.

    Cohort attributes are inherited from ancestors, root and resource. Never raises, whatever the payload carries.
    """
    tree = SpanTree(spans(traces))
    found: list[Interaction] = []
    for view in tree.spans:
        kind = kind_of(view)
        if kind is not None:
            found.append(build(view, kind, tree, tenant))
            if len(found) >= MAX_INTERACTIONS:
                break
    return found


def build(view: SpanView, kind: Kind, tree: SpanTree, tenant: str) -> Interaction:
    """Return the interaction of one span."""
    reading = conventions.read(view)
    status = status_of(view)
    return Interaction(
        tenant=tenant,
        trace_id=view.trace_id,
        span_id=view.span_id,
        parent_span_id=view.parent_span_id,
        start_unix_nano=view.span.start_time_unix_nano,
        end_unix_nano=view.span.end_time_unix_nano,
        latency_s=latency(view),
        kind=kind,
        error_type=error_type(view) if status == "error" else "",
        status=status,
        evaluations=evaluations.read(view),
        attributes=view.attributes,
        **content(reading),
        **cohort(tree.places(view)),
    )


def content(reading: Reading) -> dict[str, Any]:
    """Return the fields of an interaction that come from its reading."""
    calls = reading.tool_calls or [
        ToolCall(part.name, part.id, part.arguments)
        for message in reading.output_messages
        for part in message.parts
        if part.type == "tool_call"
    ]
    results = reading.tool_results or [
        ToolResult(part.name, part.id, part.response)
        for message in reading.input_messages
        for part in message.parts
        if part.type == "tool_call_response"
    ]
    finish = reading.finish_reasons or [m.finish_reason for m in reading.output_messages if m.finish_reason]
    return {
        "operation": reading.operation,
        "provider": reading.provider,
        "request_model": reading.request_model,
        "response_model": reading.response_model,
        "output_type": reading.output_type,
        "time_to_first_chunk": reading.time_to_first_chunk,
        "system_instructions": reading.system_instructions,
        "input_messages": reading.input_messages,
        "output_messages": reading.output_messages,
        "documents": reading.documents,
        "tool_definitions": reading.tool_definitions,
        "tool_calls": calls,
        "tool_results": results,
        "finish_reasons": finish,
        "usage": usage(reading),
        "cost_usd": reading.cost_usd,
    }


def usage(reading: Reading) -> Usage:
    """Return the tokens of one span."""
    return Usage(reading.input_tokens, reading.output_tokens, reading.cached_tokens, reading.reasoning_tokens)


def cohort(places: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the cohort fields of an interaction, looked up in ``places``."""
    return {
        "route": inherited(places, ROUTE_KEYS),
        "prompt_name": inherited(places, PROMPT_NAME_KEYS),
        "prompt_version": inherited(places, PROMPT_VERSION_KEYS),
        "user_cohort": inherited(places, USER_COHORT_KEYS),
        "session_id": inherited(places, SESSION_KEYS),
        "user_id": inherited(places, USER_KEYS),
        "service": inherited(places, SERVICE_KEYS),
        "environment": inherited(places, ENVIRONMENT_KEYS),
    }


def status_of(view: SpanView) -> Any:
    """Return ``error``, ``ok`` or ``unset``."""
    if view.failed:
        return "error"
    return "ok" if view.span.status.code not in (0, STATUS_ERROR) else "unset"


def error_type(view: SpanView) -> str:
    """Return ``error.type``, else the type of a recorded exception, else ``_OTHER``."""
    if named := word(view.attributes.get("error.type"), 128):
        return named
    for event in view.events:
        if event.name in ("exception", "gen_ai.client.operation.exception") and (
            named := word(event.attributes.get("exception.type"), 128)
        ):
            return named
    return "_OTHER"


def latency(view: SpanView) -> float | None:
    """Return the duration in seconds; ``None`` when the times are missing or run backwards."""
    start, end = view.span.start_time_unix_nano, view.span.end_time_unix_nano
    return (end - start) / 1e9 if 0 < start <= end else None
