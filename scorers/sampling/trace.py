"""One trace that is being collected: its spans in wire form, the log records joined to them, and what is known of it.

Adding a span looks only at fields that every policy may want for free (status, times, parent, trace state). Attributes
are decoded when a policy asks for them, once.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from scorers.sampling.lanes import Decision
from scorers.sampling.threshold import TraceState
from scorers.sampling.wire import Group, RawLog, RawSpan, with_events
from stream.spans import SpanView, attributes

# What Python keeps around a span besides its bytes: tuple, dict entry, id.
SPAN_OVERHEAD = 256
_STATUS_ERROR = 2


class Trace:
    """A trace in the making, or the late spans of a decided one (``decision`` is set then).

    Times are Unix nanoseconds; ``first_ns`` and ``last_ns`` are the log's timestamps of the first and the newest
    record that added to it.
    """

    __slots__ = (
        "_groups",
        "_views",
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
        self.threshold: int | None = None  # smallest incoming ``ot=th:``
        self.rv: int | None = None
        self.trace_states: dict[bytes, TraceState] = {}
        self.decision: Decision | None = None
        self.known: frozenset[bytes] = frozenset()  # ids of spans that were sent on with the decision
        self.bounds = (0, 0)  # records before these offsets were settled with an earlier decision
        self._groups: set[Group] = set()
        self._views: list[SpanView] | None = None

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
        self._views = None
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
        self._views = None

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

    def views(self) -> list[SpanView]:
        """Return the spans decoded, with joined events; those that cannot be decoded are left out. Cached."""
        if self._views is None:
            joined = self.events()
            resources: dict[Group, tuple[dict[str, object], str]] = {}
            views: list[SpanView] = []
            for span_id, (raw, group, _) in self.spans.items():
                try:
                    if group not in resources:
                        resource = attributes(Resource.FromString(group.resource).attributes)
                        resources[group] = (resource, InstrumentationScope.FromString(group.scope).name)
                    span = Span.FromString(with_events(raw, joined.get(span_id, ())))
                except DecodeError:
                    continue
                views.append(SpanView(span, *resources[group]))
            self._views = views
        return self._views
