"""The spans of a payload by id, so that a span can ask its ancestors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from stream.conventions.values import word
from stream.spans import SpanView

MAX_ANCESTORS = 64


class SpanTree:
    """Parents and roots. A span that was sent twice counts once; cycles and missing parents end a walk."""

    def __init__(self, spans: Iterable[SpanView]) -> None:
        self.spans: list[SpanView] = []
        self._by_id: dict[tuple[bytes, bytes], SpanView] = {}
        for view in spans:
            key = (view.span.trace_id, view.span.span_id)
            if key not in self._by_id:
                self._by_id[key] = view
                self.spans.append(view)
        self._roots: dict[bytes, SpanView] = {}
        for view in self.spans:
            known = self._roots.get(view.span.trace_id)
            if known is None or self._rank(view) < self._rank(known):
                self._roots[view.span.trace_id] = view

    def _rank(self, view: SpanView) -> tuple[int, int, bytes]:
        if not view.parent_span_id:
            place = 0
        else:
            place = 2 if (view.span.trace_id, view.span.parent_span_id) in self._by_id else 1
        return place, view.span.start_time_unix_nano, view.span.span_id

    def parent(self, view: SpanView) -> SpanView | None:
        """The parent, if the payload has it."""
        return self._by_id.get((view.span.trace_id, view.span.parent_span_id))

    def ancestors(self, view: SpanView) -> Iterator[SpanView]:
        """From the parent up to the root."""
        seen = {view.span.span_id}
        above = self.parent(view)
        while above is not None and above.span.span_id not in seen and len(seen) < MAX_ANCESTORS:
            seen.add(above.span.span_id)
            yield above
            above = self.parent(above)

    def root(self, view: SpanView) -> SpanView:
        """The root of the view's trace: no parent, else a parent that is missing; the earliest of them."""
        return self._roots[view.span.trace_id]

    def places(self, view: SpanView) -> list[dict[str, Any]]:
        """Attribute dicts to look a name up in: the span, its ancestors, the root, then their resources."""
        root = self.root(view)
        line = [view, *self.ancestors(view)]
        if all(above is not root for above in line):
            line.append(root)
        return [_own(above) for above in line] + [above.resource for above in line]


def _own(view: SpanView) -> dict[str, Any]:
    # On a client span the route is that of the other side: /v1/messages of the provider.
    if view.span.kind == Span.SPAN_KIND_CLIENT and "http.route" in view.attributes:
        return {key: value for key, value in view.attributes.items() if key != "http.route"}
    return view.attributes


def inherited(places: list[dict[str, Any]], names: tuple[str, ...]) -> str:
    """Return the value of the first of ``names`` that any place has: the name decides before the place."""
    for name in names:
        for place in places:
            if name in place and (value := word(place[name], 256)):
                return value
    return ""
