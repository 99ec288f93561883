"""Take OTLP payloads apart into spans, and put spans together again, without decoding what sampling does not need.

Protobuf keeps what a schema does not name, so a schema that calls resources, scopes and spans ``bytes`` hands them out
as they are on the wire. A span is then read by a second schema of seven fields. Attributes, by far the most of an LLM
span, are copied but never decoded here; what was not understood is passed on unchanged. The price: a payload whose
attributes are corrupt is not noticed here but by the next stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from stream.conventions.evaluations import EVENT
from stream.errors import Permanent

_NO_ID = (b"\0" * 16, b"\0" * 8)


class Group(NamedTuple):
    """What a span was sent under, in wire form: resource, its schema URL, scope, its schema URL."""

    resource: bytes
    resource_schema: bytes
    scope: bytes
    scope_schema: bytes


class RawSpan(NamedTuple):
    """One span: its wire form and the few fields that assembly needs."""

    raw: bytes
    group: Group
    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes  # empty for a root span
    trace_state: bytes
    start_ns: int
    end_ns: int
    status: int  # 0 unset, 1 ok, 2 error


class RawLog(NamedTuple):
    """One log record that belongs to a trace, already in the form of a span event."""

    trace_id: bytes
    span_id: bytes
    name: str
    event: bytes  # wire form of Span.Event
    group: Group = Group(b"", b"", b"", b"")


class Wire:
    """Reads and writes OTLP payloads; builds its schemas once."""

    def __init__(self) -> None:
        field = descriptor_pb2.FieldDescriptorProto
        raw, number = field.TYPE_BYTES, field.TYPE_FIXED64
        file = descriptor_pb2.FileDescriptorProto(
            name="driftgate/skeleton.proto", package="driftgate.skeleton", syntax="proto3"
        )

        def message(name: str, **fields: tuple[int, int | str, bool]) -> None:
            described = file.message_type.add(name=name)
            for label, (tag, kind, repeated) in fields.items():
                described.field.add(
                    name=label,
                    number=tag,
                    type=field.TYPE_MESSAGE if isinstance(kind, str) else field.Type.ValueType(kind),
                    type_name=f".driftgate.skeleton.{kind}" if isinstance(kind, str) else None,
                    label=field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL,
                )

        # TracesData and LogsData have the same envelope, down to the field numbers.
        message("Payload", groups=(1, "ResourceGroup", True))
        message(
            "ResourceGroup", resource=(1, raw, False), scopes=(2, "ScopeGroup", True), schema=(3, raw, False)
        )
        message("ScopeGroup", scope=(1, raw, False), items=(2, raw, True), schema=(3, raw, False))
        message("Status", code=(3, field.TYPE_INT32, False))
        message(
            "Span",
            trace_id=(1, raw, False),
            span_id=(2, raw, False),
            trace_state=(3, raw, False),
            parent_span_id=(4, raw, False),
            start=(7, number, False),
            end=(8, number, False),
            status=(15, "Status", False),
        )
        message(
            "Log",
            time=(1, number, False),
            observed=(11, number, False),
            body=(5, raw, False),
            attributes=(6, raw, True),
            dropped=(7, field.TYPE_UINT32, False),
            trace_id=(9, raw, False),
            span_id=(10, raw, False),
            event_name=(12, raw, False),
        )
        message("Attribute", key=(1, raw, False), value=(2, "Value", False))
        message("Value", text=(1, raw, False))
        pool = descriptor_pool.DescriptorPool()
        pool.Add(file)

        def built(name: str) -> Any:
            described = pool.FindMessageTypeByName(f"driftgate.skeleton.{name}")
            return message_factory.GetMessageClass(described)

        self._payload = built("Payload")
        self._span = built("Span")
        self._log = built("Log")
        self._attribute = built("Attribute")

    def _groups(self, value: bytes) -> Iterator[tuple[Group, Iterable[bytes]]]:
        try:
            payload = self._payload.FromString(value)
        except DecodeError as error:
            raise Permanent("undecodable", "the payload is not OTLP protobuf") from error
        for resource in payload.groups:
            for scope in resource.scopes:
                yield (
                    Group(resource.resource, resource.schema, scope.scope, scope.schema),
                    scope.items,
                )

    def spans(self, value: bytes) -> tuple[list[RawSpan], list[Piece]]:
        """Return the spans of a ``TracesData``, and apart from them those whose ids are not valid.

        Raises
        ------
        Permanent
            ``undecodable``: it is no ``TracesData``, or one of its spans is no ``Span``.
        """
        spans: list[RawSpan] = []
        invalid: list[Piece] = []
        parse = self._span.FromString
        no_trace, no_span = _NO_ID
        try:
            for group, items in self._groups(value):
                for raw in items:
                    span = parse(raw)
                    trace_id, span_id, parent = span.trace_id, span.span_id, span.parent_span_id
                    if len(trace_id) != 16 or len(span_id) != 8 or trace_id == no_trace or span_id == no_span:
                        invalid.append(Piece(group, raw))
                        continue
                    if parent == no_span:
                        parent = b""
                    spans.append(
                        RawSpan(
                            raw,
                            group,
                            trace_id,
                            span_id,
                            parent,
                            span.trace_state,
                            span.start,
                            span.end,
                            span.status.code,
                        )
                    )
        except DecodeError as error:
            raise Permanent("undecodable", "a span is not OTLP protobuf") from error
        return spans, invalid

    def logs(self, value: bytes) -> tuple[list[RawLog], int]:
        """Return the GenAI log records of a ``LogsData`` that name a trace, as span events, and the number of the others.

        Raises
        ------
        Permanent
            ``undecodable``: it is no ``LogsData``, or one of its records is no ``LogRecord``.
        """
        found: list[RawLog] = []
        others = 0
        no_trace, no_span = _NO_ID
        try:
            for group, items in self._groups(value):
                for raw in items:
                    log = self._log.FromString(raw)
                    trace_id, span_id = log.trace_id, log.span_id
                    name = self._event_name(log)
                    if not name.startswith(b"gen_ai.") or len(trace_id) != 16 or trace_id == no_trace:
                        others += 1
                        continue
                    if len(span_id) != 8 or span_id == no_span:
                        span_id = b""
                    text = name.decode("utf-8", "replace")
                    event = _event(log, text.encode())
                    if text == EVENT:
                        Span.Event.FromString(event)  # a score may be sent on by itself, and is decoded then
                    found.append(RawLog(trace_id, span_id, text, event, group))
        except DecodeError as error:
            raise Permanent("undecodable", "a log record is not OTLP protobuf") from error
        return found, others

    def _event_name(self, log: Any) -> bytes:
        name: bytes = log.event_name
        if name:
            return name
        # SDKs older than the event_name field, and some newer ones, send it as an attribute.
        for raw in log.attributes:
            if b"event.name" in raw:
                attribute = self._attribute.FromString(raw)
                if attribute.key == b"event.name":
                    text: bytes = attribute.value.text
                    return text
        return b""

    def with_trace_state(self, span: bytes, trace_state: bytes) -> bytes:
        """Return the span ``span`` with another trace state."""
        message: Message = self._span.FromString(span)
        if trace_state:
            message.trace_state = trace_state  # type: ignore[attr-defined]
        else:
            message.ClearField("trace_state")
        return message.SerializeToString()


def _event(log: Any, name: bytes) -> bytes:
    parts = [
        b"\x09" + (log.time or log.observed).to_bytes(8, "little"),
        _field(2, name),
        *(_field(3, raw) for raw in log.attributes),
    ]
    if log.body:
        parts.append(_field(3, _field(1, b"event.body") + _field(2, log.body)))
    if log.dropped:
        parts.append(b"\x20" + _varint(log.dropped))
    return b"".join(parts)


class Piece(NamedTuple):
    """One span to write: its wire form and further fields, which may follow anywhere in a protobuf message."""

    group: Group
    raw: bytes
    extra: bytes = b""


def events_field(events: Iterable[bytes]) -> bytes:
    """Return ``events`` as fields of a span."""
    return b"".join(_field(11, event) for event in events)


def trace_state_field(trace_state: bytes) -> bytes:
    """Return a trace state as a field of a span that has none yet."""
    return _field(3, trace_state)


def traces_data(pieces: Iterable[Piece]) -> bytes:
    """Return a ``TracesData`` of the given spans, grouped by resource and scope in order of first appearance."""
    resources: dict[tuple[bytes, bytes], dict[tuple[bytes, bytes], list[Piece]]] = {}
    for piece in pieces:
        group = piece.group
        scopes = resources.setdefault((group.resource, group.resource_schema), {})
        scopes.setdefault((group.scope, group.scope_schema), []).append(piece)
    # Written from the end, because a message's length comes before it; joined once, because spans are large.
    parts: list[bytes] = []
    for (resource, resource_schema), scopes in reversed(resources.items()):
        size = _prepend(parts, _field(3, resource_schema)) if resource_schema else 0
        for (scope, scope_schema), members in reversed(scopes.items()):
            inner = _prepend(parts, _field(3, scope_schema)) if scope_schema else 0
            for _, raw, extra in reversed(members):
                length = len(raw) + len(extra)
                if extra:
                    parts.append(extra)
                head = b"\x12" + _varint(length)
                parts.append(raw)
                parts.append(head)
                inner += length + len(head)
            inner += _prepend(parts, _field(1, scope)) if scope else 0
            size += inner + _prepend(parts, b"\x12" + _varint(inner))
        size += _prepend(parts, _field(1, resource)) if resource else 0
        parts.append(b"\x0a" + _varint(size))
    parts.reverse()
    return b"".join(parts)


def _prepend(parts: list[bytes], content: bytes) -> int:
    parts.append(content)
    return len(content)


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field; numbers up to 15 only, whose tag is one byte."""
    return b"".join((bytes((number << 3 | 2,)), _varint(len(content)), content))


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
