"""A span of whose attributes only those are read that facts are made of.

Making a Python object of an attribute costs more than decoding it, and most of an LLM span are attributes that no fact needs.
So spans are decoded by their own schema with one change: attributes are a map, which is the same on the wire, and in
which a key is found without touching the others. Spans of one instrumentation have the same few sets of keys; what a set
is good for is worked out once (:class:`Shape`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.unknown_fields import UnknownFieldSet
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.resource.v1 import resource_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from scorers.sampling.fact_keys import ERROR, ERROR_TYPE, HTTP_ROUTE, KIND, OPERATION, FactKeys, Shape
from stream.conventions.kinds import kind_of
from stream.interaction_record import Kind
from stream.spans import MAX_ATTRIBUTES, STATUS_ERROR, SpanView, any_value

_MAX_SHAPES = 1_000  # that are remembered; then all are forgotten
_MAX_KEYS = 200  # of a shape that is remembered
_MAX_KINDS = 100  # that are remembered of a shape
_MAX_KIND_TEXT = 200  # characters
_STORED = "fetch_response"
_ATTRIBUTE_TAG = b"\x4a"


class Glance(SpanView):
    """One span with the attributes that matter; those that matter only by being there have the value ``True``."""

    __slots__ = ("bad", "eventful", "id", "kind", "pairs", "parent_id", "shape", "stored")

    def __init__(
        self, span_id: bytes, span: Any, resource: dict[str, Any], shape: Shape, bad: bool, eventful: bool
    ) -> None:
        self.span = span
        self.resource = resource
        self.scope = ""
        self._attributes = None
        self._events = None
        self.id = span_id
        self.shape = shape
        self.pairs: Any = span.attributes
        self.parent_id: bytes = span.parent_span_id
        self.bad = bad
        """As ``failed``, which is asked often."""
        self.eventful = eventful
        self.kind: Kind | None = None
        self.stored = False
        """Whether a stored answer was fetched: its tokens were counted when it was made."""

    @property
    def attributes(self) -> dict[str, Any]:
        """Those that matter, converted when something asks."""
        if self._attributes is None:
            self._attributes = self._values(self.shape.wanted) | self.shape.present
        return self._attributes

    def passed_down(self) -> dict[str, Any]:
        """What the facts of a trace take from a span and the spans above it."""
        found = self._values(self.shape.passed_down)
        # On a client span the route is that of the other side: /v1/messages of the provider.
        if HTTP_ROUTE in found and self.span.kind == trace_pb2.Span.SPAN_KIND_CLIENT:
            del found[HTTP_ROUTE]
        return found

    def _values(self, keys: tuple[str, ...]) -> dict[str, Any]:
        pairs = self.pairs
        found: dict[str, Any] = {}
        for key in keys:
            value = pairs[key]
            # Nearly all are text or numbers other than 0; the general way costs several times as much.
            found[key] = value.string_value or value.int_value or value.double_value or any_value(value)
        return found


class GlanceReader:
    """Reads spans from their wire form. Remembers sets of keys, a bounded number of them."""

    def __init__(self, keys: FactKeys) -> None:
        self._keys = keys
        self._parse = _span_parser()
        self._shapes: dict[tuple[str, ...], Shape] = {}

    def read(self, span_id: bytes, raw: bytes, resource: dict[str, Any], may_fail: bool) -> Glance:
        """Return the view of a span; ``may_fail`` says whether its status may be ERROR.

        Raises
        ------
        DecodeError
            ``raw`` is not a span.
        """
        if len(raw) > 2 * MAX_ATTRIBUTES and raw.count(_ATTRIBUTE_TAG) > MAX_ATTRIBUTES:
            raw = _plain(raw)
        span = self._parse(raw)
        # An attribute with further fields than key and value is there instead of in the map.
        if len(UnknownFieldSet(span)):
            span = self._parse(_plain(raw))
        names = tuple(span.attributes)
        shape = self._shapes.get(names) or self._new_shape(names)
        bad = may_fail and span.status.code == STATUS_ERROR
        view = Glance(span_id, span, resource, shape, bad, bool(span.events))
        uses = shape.uses
        if uses & ERROR and not bad:
            view.bad = bool(any_value(view.pairs[ERROR_TYPE]))
        # What a span is, an attribute or an event says.
        if uses & KIND or view.eventful:
            pairs, keys = view.pairs, shape.kind_keys
            told = (
                pairs[keys[0]].string_value
                if len(keys) == 1
                else tuple([pairs[key].string_value for key in keys])
            )
            known = None if view.eventful else shape.kinds.get(told)
            view.kind, view.stored = known or self._new_kind(view, told)
        return view

    def _new_shape(self, names: tuple[str, ...]) -> Shape:
        shape = self._keys.shape(names)
        if len(names) <= _MAX_KEYS:
            if len(self._shapes) >= _MAX_SHAPES:
                self._shapes.clear()
            self._shapes[names] = shape
        return shape

    def _new_kind(self, view: Glance, told: str | tuple[str, ...]) -> tuple[Kind | None, bool]:
        found = kind_of(view), view.attributes.get(OPERATION) == _STORED
        length = len(told) if isinstance(told, str) else sum(map(len, told))
        # Values of other types than text look empty here, and name no kind either.
        if not view.eventful and length <= _MAX_KIND_TEXT:
            kinds = view.shape.kinds
            if len(kinds) >= _MAX_KINDS:
                kinds.clear()
            kinds[told] = found
        return found


def _plain(raw: bytes) -> bytes:
    """Return the span without the attributes that are too many, and without what is not key and value in the others."""
    span = trace_pb2.Span.FromString(raw)
    del span.attributes[MAX_ATTRIBUTES:]
    span.DiscardUnknownFields()
    pairs = list(span.attributes)
    del span.attributes[:]
    for pair in pairs:
        span.attributes.add(key=pair.key, value=pair.value)
    return span.SerializeToString()


def _span_parser() -> Callable[[bytes], Any]:
    """Return what decodes a span whose attributes are a map."""
    field = descriptor_pb2.FieldDescriptorProto
    pool = descriptor_pool.DescriptorPool()
    for module in (common_pb2, resource_pb2, trace_pb2):
        file = descriptor_pb2.FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
        for message in file.message_type:
            if message.name == "Span":
                (pairs,) = (one for one in message.field if one.name == "attributes")
                pairs.type_name = f".{file.package}.Span.AttributesEntry"
                entry = message.nested_type.add(name="AttributesEntry")
                entry.options.map_entry = True
                optional = field.LABEL_OPTIONAL
                entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=optional)
                entry.field.add(
                    name="value",
                    number=2,
                    type=field.TYPE_MESSAGE,
                    type_name=f".{common_pb2.DESCRIPTOR.package}.AnyValue",
                    label=optional,
                )
        pool.Add(file)
    described = pool.FindMessageTypeByName(trace_pb2.Span.DESCRIPTOR.full_name)
    parser: Callable[[bytes], Any] = message_factory.GetMessageClass(described).FromString
    return parser
