"""One order of time out of the records of two topics.

What a trace looks like when it is decided must not depend on how the two topics happen to be polled, or the same input
would give different decisions. So records are handed on by the log's timestamp over both topics; within a topic the
log's order stands, and a timestamp that goes back counts as its predecessor's. A topic that has nothing to read must
not stop the other: it counts as read up to now when a whole batch was empty, or when it has brought nothing in at least
three batches and two seconds. Whatever waits is bounded in bytes.

Records below the offset that the saved state includes are handed on first: they only rebuild what was pending.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import msgspec

from stream.stage import Record

_QUIET_BATCHES = 3
_QUIET_NS = 2_000_000_000
# A record that was there before a restart and is not delivered for so long is gone (retention).
_MISSING_NS = 30_000_000_000
# A timestamp further ahead of the runtime's clock comes from a broken clock and moves nothing.
AHEAD_NS = 3_600_000_000_000


class Position(msgspec.Struct, array_like=True, frozen=True):
    """Where a stage is in one topic partition.

    ``done`` is the offset after the last record it has settled or holds, ``start`` the oldest it still needs, and
    ``start_ns`` the time of the latter.
    """

    done: int
    start: int
    start_ns: int


class _Queue:
    __slots__ = (
        "last_ns",
        "next",
        "quiet",
        "records",
        "replay_end",
        "settled_end",
        "silent_batches",
        "silent_since",
    )

    def __init__(self, position: Position | None) -> None:
        self.records: deque[tuple[int, Record]] = deque()
        self.next = position.start if position else 0
        self.settled_end = self.replay_end = position.done if position else 0
        self.last_ns = position.start_ns if position else 0
        self.silent_batches = 0
        self.silent_since: int | None = None
        self.quiet = False

    @property
    def replaying(self) -> bool:
        return self.next < self.replay_end or bool(
            self.records and self.records[0][1].offset < self.replay_end
        )


class Timeline:
    """Merges the topics of one partition.

    Parameters
    ----------
    positions
        Saved position per topic, ``None`` where there is none.
    max_bytes
        Limit of what waits; over it, records are handed on though a topic has not answered.
    """

    def __init__(self, positions: Sequence[Position | None], max_bytes: int) -> None:
        self._queues = [_Queue(position) for position in positions]
        self._max_bytes = max_bytes
        self._held_bytes = 0

    @property
    def replaying(self) -> bool:
        """True until everything that the saved state includes has been seen again."""
        return any(queue.replaying for queue in self._queues)

    def add(self, topic: int, record: Record, now_ns: int) -> None:
        """Take in the next record of ``topic``; one that was seen before is left out."""
        queue = self._queues[topic]
        if record.offset < queue.next:
            return
        queue.next = record.offset + 1
        at = record.timestamp_ns
        if 0 < at <= now_ns + AHEAD_NS and at > queue.last_ns:
            queue.last_ns = at
        elif not queue.last_ns:
            queue.last_ns = now_ns
        queue.records.append((queue.last_ns, record))
        self._held_bytes += len(record.value)

    def correct(self, now_ns: int) -> bool:
        """Take back times that a clock told which was wrong with ours and is right again; True if there were any.

        Time would stand still until they have come.
        """
        limit = now_ns + AHEAD_NS
        wrong = [queue for queue in self._queues if queue.last_ns > limit]
        for queue in wrong:
            queue.records = deque((min(at, now_ns), record) for at, record in queue.records)
            queue.last_ns = queue.records[-1][0] if queue.records else 0
        return bool(wrong)

    def end_batch(self, brought: set[int], empty: bool, now_ns: int) -> None:
        """Say which topics the batch had records of, and whether it had none at all of any partition."""
        for topic, queue in enumerate(self._queues):
            if topic in brought or queue.silent_since is None:
                queue.silent_batches, queue.silent_since = 0, now_ns
            if topic not in brought:
                queue.silent_batches += 1
            silent_ns = now_ns - queue.silent_since if queue.silent_batches >= _QUIET_BATCHES else 0
            if silent_ns >= _MISSING_NS and queue.next < queue.replay_end:
                queue.replay_end = queue.next
            queue.quiet = topic not in brought and (empty or silent_ns >= _QUIET_NS)

    def ready(self) -> Iterator[tuple[int, int, Record, bool]]:
        """Yield what can be handed on, as (time, topic, record, whether it is new)."""
        while True:
            replaying = self.replaying
            best = -1
            blocked = False
            for topic, queue in enumerate(self._queues):
                if replaying:
                    # New records wait until the old ones of both topics are there.
                    if not queue.replaying:
                        continue
                    blocked = blocked or not queue.records
                elif not queue.records:
                    blocked = blocked or not (queue.quiet or self._held_bytes > self._max_bytes)
                if queue.records and (best < 0 or queue.records[0][0] < self._queues[best].records[0][0]):
                    best = topic
            if best < 0 or blocked:
                return
            queue = self._queues[best]
            at, record = queue.records.popleft()
            self._held_bytes -= len(record.value)
            yield at, best, record, record.offset >= queue.settled_end

    def reached(self, now_ns: int) -> int:
        """Return the time that all topics have reached; 0 while that cannot be said."""
        if self.replaying:
            return 0
        times = []
        for queue in self._queues:
            if queue.records:
                times.append(queue.records[0][0])
            else:
                times.append(max(now_ns, queue.last_ns) if queue.quiet else queue.last_ns)
        return min(times)
