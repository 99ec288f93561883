"""Write a kept trace to ``traces.sampled``."""

from __future__ import annotations

from collections.abc import Iterator

from scorers.sampling.lanes import UNIFORM, Decision
from scorers.sampling.threshold import encode
from scorers.sampling.trace import Trace
from scorers.sampling.wire import Group, Wire, traces_data, with_events, with_first_trace_state
from stream.records import (
    HEADER_LANE,
    HEADER_LATE,
    HEADER_POLICY,
    HEADER_POLICY_VERSION,
    HEADER_PROBABILITY,
    HEADER_TENANT,
    TOPIC_SAMPLED,
)
from stream.stage import Output, Result


class Outgoing:
    """Turns decided traces into output records.

    Parameters
    ----------
    max_record_bytes
        A larger trace is cut: the first record has the root span and is the trace, the others are marked late.
    """

    def __init__(self, wire: Wire, max_record_bytes: int, topic: str = TOPIC_SAMPLED) -> None:
        self._wire = wire
        self._max_bytes = max_record_bytes
        self._topic = topic

    def send(self, trace: Trace, decision: Decision, result: Result) -> int:
        """Add the records of ``trace`` to ``result`` and return how many log records were joined."""
        joined = trace.events()
        spans = list(self._spans(trace, decision, joined))
        late = trace.decision is not None
        known = "" if decision.probability is None else repr(decision.probability)
        headers = [
            (HEADER_TENANT, trace.tenant.encode()),
            (HEADER_LANE, decision.lane.encode()),
            (HEADER_POLICY, decision.policy.encode()),
            (HEADER_PROBABILITY, known.encode()),
        ]
        if trace.policy_version:
            headers.append((HEADER_POLICY_VERSION, trace.policy_version))
        for part in self._parts(trace, spans):
            extra = [(HEADER_LATE, b"1")] if late else []
            result.outputs.append(Output(self._topic, traces_data(part), trace.trace_id, (*headers, *extra)))
            if late:
                result.count("spans_late_kept", len(part))
            late = True
        return sum(map(len, joined.values()))

    def _spans(
        self, trace: Trace, decision: Decision, joined: dict[bytes, list[bytes]]
    ) -> Iterator[tuple[Group, bytes]]:
        uniform = decision.lane == UNIFORM
        threshold = decision.threshold or 0
        fresh = f"ot=th:{encode(threshold)}".encode()
        states: dict[bytes, bytes] = {}
        for text, state in trace.trace_states.items():
            # Erased in the triage lane: with it, who counts by thresholds would count these traces twice.
            own = max(threshold, state.th or 0) if uniform else None
            states[text] = text if own == state.th else state.with_threshold(own).encode()
        for span_id, (raw, group, text) in trace.spans.items():
            if text:
                if states[text] != text:
                    raw = self._wire.with_trace_state(raw, states[text])
            elif uniform:
                raw = with_first_trace_state(raw, fresh)
            events = joined.get(span_id)
            yield group, with_events(raw, events) if events else raw

    def _parts(self, trace: Trace, spans: list[tuple[Group, bytes]]) -> Iterator[list[tuple[Group, bytes]]]:
        limit = self._max_bytes
        if trace.size_bytes <= limit:
            yield spans
            return
        if trace.root:
            at = list(trace.spans).index(trace.root)
            spans.insert(0, spans.pop(at))
        part: list[tuple[Group, bytes]] = []
        groups: set[Group] = set()
        size = 0
        for group, raw in spans:
            # 32: tags and lengths of the span and the messages around it.
            more = len(raw) + 32 + (0 if group in groups else sum(map(len, group)) + 32)
            if part and size + more > limit:
                yield part
                part, groups, size = [], set(), 0
                more = len(raw) + 64 + sum(map(len, group))
            part.append((group, raw))
            groups.add(group)
            size += more
        yield part
