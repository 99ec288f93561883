"""Write a kept trace to ``traces.sampled``."""

from __future__ import annotations

from collections.abc import Iterator

from scorers.sampling.lanes import UNIFORM, Decision
from scorers.sampling.threshold import encode
from scorers.sampling.trace import Trace
from scorers.sampling.wire import Group, Piece, Wire, events_field, trace_state_field, traces_data
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

    def __init__(self, wire: Wire, max_record_bytes: int) -> None:
        self._wire = wire
        self._max_bytes = max_record_bytes

    def send(self, trace: Trace, decision: Decision, result: Result) -> int:
        """Add the records of ``trace`` to ``result`` and return how many log records were joined."""
        joined = trace.events()
        pieces = list(self._pieces(trace, decision, joined))
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
        for part in self._parts(trace, pieces):
            extra = [(HEADER_LATE, b"1")] if late else []
            result.outputs.append(
                Output(TOPIC_SAMPLED, traces_data(part), trace.trace_id, (*headers, *extra))
            )
            if late:
                result.count("spans_late_kept", len(part))
            late = True
        return sum(map(len, joined.values()))

    def send_scores(
        self,
        pieces: list[Piece],
        trace_id: bytes,
        tenant: str,
        policy_version: bytes,
        decision: Decision,
        result: Result,
    ) -> None:
        """Add records of late scores, one span each."""
        known = "" if decision.probability is None else repr(decision.probability)
        headers = [
            (HEADER_TENANT, tenant.encode()),
            (HEADER_LANE, decision.lane.encode()),
            (HEADER_POLICY, decision.policy.encode()),
            (HEADER_PROBABILITY, known.encode()),
            (HEADER_LATE, b"1"),
        ]
        if policy_version:
            headers.append((HEADER_POLICY_VERSION, policy_version))
        for part in self._cut(pieces):
            result.outputs.append(Output(TOPIC_SAMPLED, traces_data(part), trace_id, tuple(headers)))

    def _pieces(self, trace: Trace, decision: Decision, joined: dict[bytes, list[bytes]]) -> Iterator[Piece]:
        uniform = decision.lane == UNIFORM
        threshold = decision.threshold or 0
        fresh = trace_state_field(f"ot=th:{encode(threshold)}".encode()) if uniform else b""
        states: dict[bytes, bytes] = {}
        for text, state in trace.trace_states.items():
            # Erased in the triage lane: with it, who counts by thresholds would count these traces twice.
            own = max(threshold, state.th or 0) if uniform else None
            states[text] = text if own == state.th else state.with_threshold(own).encode()
        for span_id, (raw, group, text) in trace.spans.items():
            extra = fresh
            if text:
                extra = b""
                if states[text] != text:
                    raw = self._wire.with_trace_state(raw, states[text])
            if span_id in joined:
                extra += events_field(joined[span_id])
            yield Piece(group, raw, extra)

    def _parts(self, trace: Trace, pieces: list[Piece]) -> Iterator[list[Piece]]:
        if trace.size_bytes <= self._max_bytes:
            yield pieces
            return
        if trace.root:
            at = list(trace.spans).index(trace.root)
            pieces.insert(0, pieces.pop(at))
        yield from self._cut(pieces)

    def _cut(self, pieces: list[Piece]) -> Iterator[list[Piece]]:
        limit = self._max_bytes
        part: list[Piece] = []
        groups: set[Group] = set()
        size = 0
        for piece in pieces:
            # 32: tags and lengths of the span and the messages around it.
            own = len(piece.raw) + len(piece.extra) + 32
            around = sum(map(len, piece.group)) + 32
            if part and size + own + (0 if piece.group in groups else around) > limit:
                yield part
                part, groups, size = [], set(), 0
            size += own + (0 if piece.group in groups else around)
            part.append(piece)
            groups.add(piece.group)
        yield part
