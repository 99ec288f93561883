"""Read OTLP protobuf from Python: attribute values, attribute lists, and the spans of a ``TracesData``.

Everything is bounded, because the payload was written by somebody else's process: depth, number of items and number of
attributes have limits, and what goes over a limit is left out, never an exception.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, TracesData

MAX_DEPTH = 32
MAX_ITEMS = 100_000  # items of all arrays and maps inside one value
MAX_ATTRIBUTES = 20_000  # attributes of one span, event, scope or resource

STATUS_ERROR = 2


def any_value(value: AnyValue, *, max_depth: int = MAX_DEPTH, max_items: int = MAX_ITEMS) -> Any:
    """Return ``value`` as str, bool, int, float, list, dict or ``None``; bytes become base64 text, as in OTLP/JSON.

    Below ``max_depth`` levels, and after ``max_items`` items, the rest is left out.
    """
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return value.string_value
    if kind in ("array_value", "kvlist_value"):
        return _container(value, max_depth, [max_items])
    return _scalar(value, kind)


def _scalar(value: AnyValue, kind: str | None) -> Any:
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode("ascii")
    return getattr(value, kind) if kind in _SCALARS else None


_SCALARS = frozenset(("string_value", "bool_value", "int_value", "double_value"))


def _container(value: AnyValue, depth: int, budget: list[int]) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        items: list[Any] = []
        for item in value.array_value.values:
            if depth <= 0 or budget[0] <= 0:
                break
            budget[0] -= 1
            items.append(_container(item, depth - 1, budget))
        return items
    if kind == "kvlist_value":
        mapping: dict[str, Any] = {}
        for pair in value.kvlist_value.values:
            if depth <= 0 or budget[0] <= 0:
                break
            budget[0] -= 1
            mapping[pair.key] = _container(pair.value, depth - 1, budget)
        return mapping
    return _scalar(value, kind)


def attributes(pairs: Iterable[KeyValue], *, limit: int = MAX_ATTRIBUTES) -> dict[str, Any]:
    """Return an attribute list as a dict of Python values; of a repeated key the last value wins."""
    found: dict[str, Any] = {}
    for count, pair in enumerate(pairs):
        if count >= limit:
            break
        found[pair.key] = any_value(pair.value)
    return found


class SpanEvent:
    """One event of a span. A GenAI name may stand in the ``event.name`` attribute instead of the name."""

    __slots__ = ("attributes", "name", "time_unix_nano")

    def __init__(self, event: Span.Event) -> None:
        self.attributes = attributes(event.attributes)
        named = self.attributes.get("event.name")
        self.name: str = (
            named if isinstance(named, str) and not event.name.startswith("gen_ai.") else event.name
        )
        self.time_unix_nano: int = event.time_unix_nano


class SpanView:
    """One span with the resource and scope it was sent under. Attributes and events are converted at first use."""

    __slots__ = ("_attributes", "_events", "resource", "scope", "span")

    def __init__(self, span: Span, resource: dict[str, Any], scope: str) -> None:
        self.span = span
        self.resource = resource
        self.scope = scope
        self._attributes: dict[str, Any] | None = None
        self._events: list[SpanEvent] | None = None

    @property
    def attributes(self) -> dict[str, Any]:
        """The span's own attributes."""
        if self._attributes is None:
            self._attributes = attributes(self.span.attributes)
        return self._attributes

    @property
    def events(self) -> list[SpanEvent]:
        """The span's events in order, at most 10,000."""
        if self._events is None:
            self._events = [SpanEvent(event) for event in self.span.events[:10_000]]
        return self._events

    @property
    def trace_id(self) -> str:
        """Lower-case hex."""
        return self.span.trace_id.hex()

    @property
    def span_id(self) -> str:
        """Lower-case hex."""
        return self.span.span_id.hex()

    @property
    def parent_span_id(self) -> str:
        """Lower-case hex; empty for a root span."""
        parent: bytes = self.span.parent_span_id
        return parent.hex() if any(parent) else ""

    @property
    def failed(self) -> bool:
        """True when the status is ERROR or ``error.type`` is set."""
        return self.span.status.code == STATUS_ERROR or bool(self.attributes.get("error.type"))


def spans(traces: TracesData) -> Iterator[SpanView]:
    """Yield every span of ``traces`` with its resource attributes and scope name, in the order they were sent."""
    for group in traces.resource_spans:
        resource = attributes(group.resource.attributes)
        for scoped in group.scope_spans:
            name = scoped.scope.name
            for span in scoped.spans:
                yield SpanView(span, resource, name)
