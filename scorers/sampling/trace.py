"""One trace that is being collected: its spans in wire form, the log records joined to them, and what is known of it.

Adding a span looks only at fields that every policy may want for free (status, times, parent, trace state). Attributes
are decoded when a policy asks for them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from scorers.sampling.lanes import Decision
from scorers.sampling.threshold import TraceState
from scorers.sampling.wire import Group, RawLog, RawSpan, events_field
from stream.spans import MAX_ATTRIBUTES, any_value

# What Python keeps around a span besides its bytes: tuple, dict entry, id.
SPAN_OVERHEAD = 256
_STATUS_ERROR = 2


class Trace:
    """A trace in the making, or the late spans of a decided one (``decision`` is set then).

    Times are Unix nanoseconds; ``first_ns`` and ``last_ns`` are the log's timestamps of the first and the newest
    record that added to it.
    """

    __slots__ = (
        "_decoded",
        "_groups",
        "bounds",
        "decision",
        "end_ns",
        "failed",
        "first_ns",
        "known",
        "last_ns",
        "logs",
        "order",
        "policy_version",
        "root",
        "rv",
        "scheduled_ns",
        "size_bytes",
        "spans",
        "start_ns",
        "suspect",
        "tenant",
        "threshold",
        "trace_id",
        "trace_states",
    )

    def __init__(self, trace_id: bytes, tenant: str, policy_version: bytes, order: int, now_ns: int) -> None:
        self.trace_id = trace_id
        self.tenant = tenant
        self.policy_version = policy_version  # of the redaction rules that cleaned its first record
        self.order = order
        self.first_ns = now_ns
        self.last_ns = now_ns
        self.scheduled_ns = 1 << 63
        self.spans: dict[bytes, tuple[bytes, Group, bytes]] = {}  # span id -> wire form, group, trace state
        self.logs: list[RawLog] = []
        self.size_bytes = 0
        self.root = b""  # span id
        self.failed = False
        self.start_ns = 0  # of the earliest span; 0 while no span has plausible times
        self.end_ns = 0
        self.suspect = False  # whether a record that it came in holds the mark of a judge's own call
        self.threshold: int | None = None  # smallest incoming ``ot=th:``
        self.rv: int | None = None
        self.trace_states: dict[bytes, TraceState] = {}
        self.decision: Decision | None = None
        self.known: frozenset[bytes] = frozenset()  # ids of spans that were sent on with the decision
        self.bounds = (0, 0)  # records before these offsets were settled with an earlier decision
        self._groups: set[Group] = set()
        self._decoded: dict[bytes, Span] = {}  # filled when a policy votes, at the end

    def add_span(self, span: RawSpan) -> bool:
        """Add ``span``; False if it is there already. Of two spans with one id the first wins."""
        span_id = span.span_id
        if span_id in self.spans or span_id in self.known:
            return False
        group, state = span.group, span.trace_state
        self.spans[span_id] = (span.raw, group, state)
        self.size_bytes += len(span.raw) + SPAN_OVERHEAD
        if group not in self._groups:
            self._groups.add(group)
            self.size_bytes += len(group.resource) + len(group.scope)
        if not span.parent_span_id and not self.root:
            self.root = span_id
        if span.status == _STATUS_ERROR:
            self.failed = True
        start, end = span.start_ns, span.end_ns
        if 0 < start <= end:
            if start < self.start_ns or not self.start_ns:
                self.start_ns = start
            if end > self.end_ns:
                self.end_ns = end
        if state and state not in self.trace_states:
            self._add_trace_state(state)
        return True

    def _add_trace_state(self, state: bytes) -> None:
        parsed = self.trace_states[state] = TraceState(state.decode("utf-8", "replace"))
        self.size_bytes += 2 * len(state) + SPAN_OVERHEAD
        # A trace is seen if any of its spans is, so the smallest threshold tells its probability.
        if parsed.th is not None and (self.threshold is None or parsed.th < self.threshold):
            self.threshold = parsed.th
        if self.rv is None:
            self.rv = parsed.rv

    def add_log(self, log: RawLog) -> None:
        """Add a log record; it is joined to its span when the trace is sent on."""
        self.logs.append(log)
        self.size_bytes += len(log.event) + SPAN_OVERHEAD

    @property
    def duration_ns(self) -> int:
        """From the earliest start to the latest end, over spans whose times make sense."""
        return self.end_ns - self.start_ns

    def events(self) -> dict[bytes, list[bytes]]:
        """Return the joined log records as span events by span id.

        A record of an unknown span goes to the root span, or the first one while there is no root. Late spans take
        only records of their own: the root was sent on before.
        """
        if not self.logs:
            return {}
        home = self.root or (b"" if self.decision else next(iter(self.spans), b""))
        joined: dict[bytes, list[bytes]] = {}
        for log in self.logs:
            place = log.span_id if log.span_id in self.spans else home
            if place:
                joined.setdefault(place, []).append(log.event)
        return joined

    def wires(self) -> Iterator[tuple[bytes, bytes, Group]]:
        """Yield of every span its id, its wire form with joined events, and its group."""
        joined = self.events()
        for span_id, (raw, group, _) in self.spans.items():
            yield span_id, raw + events_field(joined[span_id]) if span_id in joined else raw, group

    def decoded(self, *needles: bytes) -> Iterator[Span]:
        """Yield, decoded and with joined events, the spans that have one of ``needles`` somewhere in their wire form.

        A name that is not among the bytes of a span is not among its attributes; searching bytes is what makes a
        policy on a rare attribute cost next to nothing. Spans that cannot be decoded are left out.
        """
        joined = self.events()
        for span_id, (raw, _, _) in self.spans.items():
            events = events_field(joined[span_id]) if span_id in joined else b""
            if not any(needle in raw or needle in events for needle in needles):
                continue
            span = self._decoded.get(span_id)
            if span is None:
                try:
                    span = Span.FromString(raw + events)
                except DecodeError:
                    continue
                self._decoded[span_id] = span
            yield span

    def values(self, keys: Collection[str]) -> Iterator[dict[str, Any]]:
        """Yield, for each span that has any of them, the attributes called ``keys``."""
        for span in self.decoded(*(key.encode() for key in keys)):
            if found := _chosen(span.attributes, keys):
                yield found

    def resource_values(self, keys: Collection[str]) -> Iterator[dict[str, Any]]:
        """Yield, for each resource that has any of them, the attributes called ``keys``."""
        needles = [key.encode() for key in keys]
        for group in self._groups:
            if any(needle in group.resource for needle in needles):
                try:
                    resource = Resource.FromString(group.resource)
                except DecodeError:
                    continue
                if found := _chosen(resource.attributes, keys):
                    yield found


def _chosen(pairs: Iterable[KeyValue], keys: Collection[str]) -> dict[str, Any]:
    return {pair.key: any_value(pair.value) for pair in islice(pairs, MAX_ATTRIBUTES) if pair.key in keys}
