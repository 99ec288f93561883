"""Builds OTLP payloads from plain Python values."""

from __future__ import annotations

from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status, TracesData

TRACE = bytes(range(16))
START = 1_760_000_000_000_000_000


def any_value(value: Any) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, str):
        return AnyValue(string_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, bytes):
        return AnyValue(bytes_value=value)
    made = AnyValue()
    if isinstance(value, list):
        made.array_value.values.extend(any_value(item) for item in value)
        made.array_value.SetInParent()
    elif isinstance(value, dict):
        made.kvlist_value.values.extend(pairs(value))
        made.kvlist_value.SetInParent()
    return made


def pairs(attributes: dict[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=key, value=any_value(value)) for key, value in attributes.items()]


def span(
    attributes: dict[str, Any] | None = None,
    *,
    id: int = 1,  # noqa: A002 - the word tests read best
    parent: int = 0,
    name: str = "span",
    start: float = 0.0,
    end: float = 1.0,
    events: list[tuple[str, dict[str, Any]]] | None = None,
    error: bool = False,
    link: tuple[bytes, bytes] | None = None,
    trace: bytes = TRACE,
) -> Span:
    """One span; times are seconds after a fixed start, ids small numbers."""
    made = Span(
        trace_id=trace,
        span_id=id.to_bytes(8, "big"),
        parent_span_id=parent.to_bytes(8, "big") if parent else b"",
        name=name,
        start_time_unix_nano=START + int(start * 1e9),
        end_time_unix_nano=START + int(end * 1e9),
        attributes=pairs(attributes or {}),
        events=[
            Span.Event(name=event, time_unix_nano=START, attributes=pairs(given))
            for event, given in events or []
        ],
        links=[Span.Link(trace_id=link[0], span_id=link[1])] if link else [],
    )
    if error:
        made.status.code = Status.STATUS_CODE_ERROR
    return made


def traces(*spans: Span, resource: dict[str, Any] | None = None) -> TracesData:
    group = ResourceSpans(scope_spans=[ScopeSpans(spans=list(spans))])
    group.resource.attributes.extend(pairs({"service.name": "shop"} if resource is None else resource))
    return TracesData(resource_spans=[group])
