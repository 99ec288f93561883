"""The traces of one partition: collected, decided, sent on, and rebuilt after a crash.

How a crash is survived
-----------------------
The log is the state. A result commits, per topic, the offset of the oldest record that an undecided trace still needs
(*start*), and saves the offset after the last record handled (*done*) together with the decisions made. After a crash
the records from *start* on are read again. Those before *done* were counted then: they only rebuild the traces that
were pending, and those of traces with a decision are passed over. So nothing is sent or counted twice, and nothing is
lost. A decision also says which records it covered (*bounds*), because late spans of a kept trace are pending too.

Decisions fall between records, never inside one, in the order of the traces' deadlines. Deadlines, rate limits and caps
depend on records and their timestamps only, not on how they were cut into batches.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import msgspec

from scorers.sampling.ballot import Bucket
from scorers.sampling.deadlines import Deadlines
from scorers.sampling.lanes import Decision, Lanes
from scorers.sampling.late_scores import UNSAMPLED, carrier, has_score, is_score
from scorers.sampling.memory import MAX_SPAN_IDS, VOID, Memory, Remembered
from scorers.sampling.operations import Operations
from scorers.sampling.outgoing import Outgoing
from scorers.sampling.settings import SamplingSettings
from scorers.sampling.timeline import AHEAD_NS, Position, Timeline
from scorers.sampling.trace import Trace
from scorers.sampling.wire import Piece, RawLog, RawSpan, Wire, traces_data
from stream.errors import Permanent
from stream.records import HEADER_POLICY_VERSION, HEADER_TENANT
from stream.stage import Record, Reject, Result

SPANS, LOGS = 0, 1
_STATE = "offsets"


class _State(msgspec.Struct, array_like=True):
    positions: list[Position | None]
    spans_pending: int = 0
    logs_pending: int = 0
    buckets: dict[str, Bucket] = {}


class Assembly:
    """Collects and decides the traces of one partition.

    Parameters
    ----------
    partition
        Its number.
    topics
        The topic of spans and the topic of logs.
    state
        What was saved for the partition.
    """

    def __init__(
        self,
        partition: int,
        topics: tuple[str, str],
        state: Mapping[str, bytes],
        settings: SamplingSettings,
        lanes: Lanes,
        wire: Wire,
        outgoing: Outgoing,
        operations: Operations,
    ) -> None:
        self._partition = partition
        self._topics = topics
        self._lanes = lanes
        self._wire = wire
        self._outgoing = outgoing
        self._operations = operations
        self._caps = settings.caps
        self._deadlines = Deadlines(settings.completion)
        self._saved_bytes = state.get(_STATE, b"")
        saved = (
            msgspec.msgpack.decode(self._saved_bytes, type=_State)
            if self._saved_bytes
            else _State([None, None])
        )
        self._saved = saved
        self._buckets = saved.buckets
        self._done = [position.done if position else None for position in saved.positions]
        self._at_ns = [position.start_ns if position else 0 for position in saved.positions]
        self._memory = Memory(state, settings.caps.decisions, [done or 0 for done in self._done])
        self._timeline = Timeline(saved.positions, settings.caps.reorder_bytes)
        self._rebuilt = False
        self._stray = False  # whether traces may be pending until a time that a wrong clock told
        self._pending: OrderedDict[bytes, Trace] = OrderedDict()
        # First record of each pending trace per topic, in log order: the first item is what commits wait for.
        self._first: tuple[OrderedDict[bytes, Position], OrderedDict[bytes, Position]] = (
            OrderedDict(),
            OrderedDict(),
        )
        self._order = 0
        self._bytes = 0
        self._spans_pending = 0
        self._logs_pending = 0

    def process(self, records: Sequence[Record], empty: bool, now_ns: int, result: Result) -> None:
        """Handle ``records`` of this partition, possibly none, and add to ``result`` what follows.

        ``empty`` says that the whole batch had no records, of any partition.
        """
        brought: set[int] = set()
        if self._timeline.correct(now_ns):
            self._stray = True
        for record in records:
            topic = self._topics.index(record.topic)
            brought.add(topic)
            if self._done[topic] is None:
                self._done[topic] = record.offset
            self._timeline.add(topic, record, now_ns)
        self._timeline.end_batch(brought, empty, now_ns)
        for at_ns, topic, record, new in self._timeline.ready():
            if new:
                self._reconcile(result)
                self._expire(at_ns, result)
            self._at_ns[topic] = at_ns
            touched = self._take(topic, record, at_ns, new, result)
            self._done[topic] = max(self._done[topic] or 0, record.offset + 1)
            if new:
                self._enforce_caps(touched, at_ns, result)
        if not self._timeline.replaying:
            self._reconcile(result)
            if self._stray:
                self._decide_strays(now_ns, result)
        self._expire(self._timeline.reached(now_ns), result)
        self._save(result)  # which may decide traces too
        self._operations.send(result)

    # Taking in

    def _take(self, topic: int, record: Record, at_ns: int, new: bool, result: Result) -> list[Trace]:
        try:
            if topic == SPANS:
                spans, invalid = self._wire.spans(record.value)
                if new and invalid:
                    result.count("spans_in", len(invalid))
                    result.count("spans_invalid", len(invalid))
                    if not record.header(HEADER_POLICY_VERSION):
                        result.count("spans_foreign", len(invalid))
                    bad = msgspec.structs.replace(record, value=traces_data(invalid))
                    note = (
                        f"{len(invalid)} of {len(invalid) + len(spans)} spans have no valid trace or span id"
                    )
                    result.rejects.append(Reject(bad, "invalid_ids", note))
                return self._take_spans(record, spans, at_ns, new, result)
            logs, others = self._wire.logs(record.value)
            if new and others:
                result.count("logs_in", others)
                result.count("logs_dropped", others)
            return self._take_logs(record, logs, at_ns, new, result)
        except Permanent as error:
            if new:
                result.count("records_undecodable")
                result.rejects.append(Reject(record, error.reason, error.detail))
            return []

    def _take_spans(
        self, record: Record, spans: list[RawSpan], at_ns: int, new: bool, result: Result
    ) -> list[Trace]:
        tenant = record.header(HEADER_TENANT, "default")
        suffix = tenant.encode()
        touched: dict[bytes, Trace] = {}
        scores: dict[bytes, list[Piece]] = {}
        added = duplicate = dropped = 0
        pending, memory, offset = self._pending, self._memory, record.offset
        for span in spans:
            key = span.trace_id + suffix
            trace = pending.get(key)
            if trace is None:
                held = memory.get(key)
                if held is not None:
                    if offset < held.bounds[SPANS]:
                        continue
                    memory.touch(held, SPANS, offset + 1)
                    if held.decision.kept:
                        if held.knows(span.span_id):
                            duplicate += 1
                            continue
                    elif held.decision != VOID:
                        if has_score(span):
                            scores.setdefault(span.trace_id, []).append(Piece(span.group, span.raw))
                        else:
                            dropped += 1
                        continue
                trace = self._open(key, span.trace_id, tenant, record, at_ns, held)
            elif offset < trace.bounds[SPANS]:
                continue
            before = trace.size_bytes
            if trace.add_span(span):
                self._bytes += trace.size_bytes - before
                added += 1
                touched[key] = trace
            else:
                duplicate += 1
        suspect = self._operations.suspects(record.value)
        for key, trace in touched.items():
            trace.suspect |= suspect
            self._advance(key, trace, SPANS, offset, at_ns)
        self._spans_pending += added
        if new:
            carried = self._send_scores(scores, {}, record, tenant, result)
            taken = added + duplicate + dropped + carried
            result.count("spans_in", taken)
            if not record.header(HEADER_POLICY_VERSION):
                result.count("spans_foreign", taken)  # no collector of ours published them
            if carried:
                result.count("spans_kept", carried)
                result.count("spans_late_scores", carried)
            result.count("spans_pending", added)
            if duplicate:
                result.count("spans_duplicate", duplicate)
            if dropped:
                result.count("spans_dropped", dropped)
                result.count("spans_late_dropped", dropped)
        else:
            self._found_again("spans", added, result)
        return list(touched.values())

    def _take_logs(
        self, record: Record, logs: list[RawLog], at_ns: int, new: bool, result: Result
    ) -> list[Trace]:
        tenant = record.header(HEADER_TENANT, "default")
        suffix = tenant.encode()
        touched: dict[bytes, Trace] = {}
        scores: dict[bytes, list[Piece]] = {}
        decisions: dict[bytes, Decision] = {}
        added = dropped = 0
        offset = record.offset
        for log in logs:
            key = log.trace_id + suffix
            trace = self._pending.get(key)
            if trace is None:
                held = self._memory.get(key)
                if held is not None:
                    if offset < held.bounds[LOGS]:
                        continue
                    self._memory.touch(held, LOGS, offset + 1)
                    # Its span was sent on already, or it has none that could still come: nothing to join it to.
                    if held.decision != VOID and (
                        not held.decision.kept or not log.span_id or held.knows(log.span_id)
                    ):
                        if is_score(log):
                            scores.setdefault(log.trace_id, []).append(carrier(log))
                            decisions[log.trace_id] = held.decision
                        else:
                            dropped += 1
                        continue
                trace = self._open(key, log.trace_id, tenant, record, at_ns, held)
            elif offset < trace.bounds[LOGS]:
                continue
            elif trace.decision is not None and (not log.span_id or log.span_id in trace.known):
                if is_score(log):
                    scores.setdefault(log.trace_id, []).append(carrier(log))
                    decisions[log.trace_id] = trace.decision
                else:
                    dropped += 1
                continue
            before = trace.size_bytes
            trace.add_log(log)
            self._bytes += trace.size_bytes - before
            added += 1
            touched[key] = trace
        for key, trace in touched.items():
            self._advance(key, trace, LOGS, offset, at_ns)
        self._logs_pending += added
        if new:
            carried = self._send_scores(scores, decisions, record, tenant, result)
            result.count("logs_in", added + dropped + carried)
            result.count("logs_pending", added)
            if carried:
                result.count("logs_joined", carried)
                result.count("logs_late_scores", carried)
            if dropped:
                result.count("logs_dropped", dropped)
        else:
            self._found_again("logs", added, result)
        return list(touched.values())

    def _send_scores(
        self,
        scores: dict[bytes, list[Piece]],
        decisions: dict[bytes, Decision],
        record: Record,
        tenant: str,
        result: Result,
    ) -> int:
        """Send scores of settled traces on by themselves; return how many."""
        version = record.header(HEADER_POLICY_VERSION).encode()
        for trace_id, pieces in scores.items():
            decision = decisions.get(trace_id, UNSAMPLED)
            self._outgoing.send_scores(
                pieces, trace_id, tenant, version, decision if decision.kept else UNSAMPLED, result
            )
        return sum(map(len, scores.values()))

    def _open(
        self, key: bytes, trace_id: bytes, tenant: str, record: Record, at_ns: int, held: Remembered | None
    ) -> Trace:
        version = record.header(HEADER_POLICY_VERSION).encode()
        self._order += 1
        trace = Trace(trace_id, tenant, version, self._order, at_ns)
        if held is not None:
            trace.bounds = held.bounds
            if held.decision.kept:
                trace.decision = held.decision
                trace.known = held.ids()
        self._pending[key] = trace
        return trace

    def _advance(self, key: bytes, trace: Trace, topic: int, offset: int, at_ns: int) -> None:
        if key not in self._first[topic]:
            self._first[topic][key] = Position(0, offset, at_ns)
        trace.last_ns = max(trace.last_ns, at_ns)
        self._deadlines.update(key, trace)

    # Deciding

    def _expire(self, reached_ns: int, result: Result) -> None:
        for at_ns, key, trace in self._deadlines.due(reached_ns, self._pending):
            self._decide(key, trace, at_ns, result)

    def _decide_strays(self, now_ns: int, result: Result) -> None:
        """Decide what came while the clock was ahead: its deadlines are as far away as the clock was wrong by."""
        self._stray = False
        for key, trace in list(self._pending.items()):
            if trace.last_ns > now_ns + AHEAD_NS:
                self._decide(key, trace, now_ns, result)

    def _enforce_caps(self, touched: list[Trace], at_ns: int, result: Result) -> None:
        caps = self._caps
        for trace in touched:
            if max(len(trace.spans), len(trace.logs)) > caps.max_spans_per_trace:
                self._evict("max_spans_per_trace", trace, at_ns, result)
            elif trace.size_bytes > caps.max_trace_bytes:
                self._evict("max_trace_bytes", trace, at_ns, result)
        while len(self._pending) > caps.max_traces:
            self._evict("max_traces", next(iter(self._pending.values())), at_ns, result)
        while self._bytes > caps.max_bytes and self._pending:
            self._evict("max_bytes", next(iter(self._pending.values())), at_ns, result)

    def _evict(self, cap: str, trace: Trace, at_ns: int, result: Result) -> None:
        result.count(f"evictions.{cap}")
        self._decide(trace.trace_id + trace.tenant.encode(), trace, at_ns, result)

    def _decide(self, key: bytes, trace: Trace, at_ns: int, result: Result) -> None:
        del self._pending[key]
        for first in self._first:
            first.pop(key, None)
        spans, logs = len(trace.spans), len(trace.logs)
        self._bytes -= trace.size_bytes
        self._spans_pending -= spans
        self._logs_pending -= logs
        bounds = (self._done[SPANS] or 0, self._done[LOGS] or 0)
        known = b"".join(trace.known)
        if spans:
            result.count("spans_pending", -spans)
        if logs:
            result.count("logs_pending", -logs)
        if not spans:
            self._drop_logs(trace, trace.decision or UNSAMPLED, result)
            self._memory.put(key, trace.decision or VOID, bounds, known)
            return
        if trace.decision is None:
            self._operations.take(trace, result)
        decision = trace.decision or self._lanes.decide(trace, at_ns, self._buckets)
        if not decision.kept:
            result.count("traces_dropped")
            result.count("spans_dropped", spans)
            self._drop_logs(trace, UNSAMPLED, result)
            self._memory.put(key, decision, bounds)
            return
        joined = self._outgoing.send(trace, decision, result)
        if trace.decision is None:
            result.count("traces_kept")
            result.count(f"traces_kept.{decision.policy}")
        result.count("spans_kept", spans)
        if logs:
            result.count("logs_joined", joined)
            if joined < logs:
                result.count("logs_dropped", logs - joined)
        ids = list(trace.spans)[: max(0, MAX_SPAN_IDS - len(trace.known))]
        self._memory.put(key, decision, bounds, known + b"".join(ids))

    def _drop_logs(self, trace: Trace, decision: Decision, result: Result) -> None:
        """Drop the log records of a trace that is not sent on, but for the scores among them."""
        pieces = [carrier(log) for log in trace.logs if is_score(log)]
        if pieces:
            self._outgoing.send_scores(
                pieces, trace.trace_id, trace.tenant, trace.policy_version, decision, result
            )
            result.count("logs_joined", len(pieces))
            result.count("logs_late_scores", len(pieces))
        if len(pieces) < len(trace.logs):
            result.count("logs_dropped", len(trace.logs) - len(pieces))

    # Surviving

    def _found_again(self, what: str, count: int, result: Result) -> None:
        """Correct the ledger for records that turned up after they had been given up."""
        if self._rebuilt and count:
            result.count(f"{what}_pending", count)
            result.count(f"{what}_lost", -count)

    def _reconcile(self, result: Result) -> None:
        """Once everything old was read again, write off what the log no longer had."""
        if self._rebuilt:
            return
        self._rebuilt = True
        for what, saved, now in (
            ("spans", self._saved.spans_pending, self._spans_pending),
            ("logs", self._saved.logs_pending, self._logs_pending),
        ):
            if now != saved:
                result.count(f"{what}_pending", now - saved)
                result.count(f"{what}_lost", saved - now)

    def _save(self, result: Result) -> None:
        if self._timeline.replaying:
            self._commit(self._saved.positions, result)  # truer than what is rebuilt so far
            return
        changes: dict[str, bytes | None] = {}
        while True:
            done = [at or 0 for at in self._done]
            changes.update(self._memory.save(done))
            positions = self._positions()
            starts = [position.start if position else 0 for position in positions]
            if self._memory.forget(starts) or not self._pending:
                break
            # Decisions pile up behind an old undecided trace: decide it, so that they can be forgotten.
            self._evict("decisions", next(iter(self._pending.values())), max(self._at_ns), result)
        changes.update(self._memory.save(done))
        self._commit(positions, result)
        state = msgspec.msgpack.encode(
            _State(positions, self._spans_pending, self._logs_pending, self._buckets)
        )
        if state != self._saved_bytes:
            changes[_STATE] = self._saved_bytes = state
        for name, value in changes.items():
            result.state[self._partition, name] = value

    def _commit(self, positions: Sequence[Position | None], result: Result) -> None:
        if result.commit is None:
            result.commit = {}
        for topic, position, done in zip(self._topics, positions, self._done, strict=True):
            if position is not None:
                result.commit[topic, self._partition] = position.start
            elif done is not None:
                result.commit[topic, self._partition] = done

    def _positions(self) -> list[Position | None]:
        positions: list[Position | None] = []
        for topic, done in enumerate(self._done):
            if done is None:
                positions.append(None)
                continue
            oldest = next(iter(self._first[topic].values()), None)
            if oldest is None:
                positions.append(Position(done, done, self._at_ns[topic]))
            else:
                positions.append(Position(done, oldest.start, oldest.start_ns))
        return positions
