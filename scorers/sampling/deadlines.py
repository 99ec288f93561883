"""When each pending trace is due."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from scorers.sampling.settings import CompletionSettings
from scorers.sampling.trace import Trace

_NEVER = 1 << 63


class Deadlines:
    """A queue of traces by deadline, then by the order in which they were opened.

    A trace's deadline moves with every record, mostly later. It is not moved in the queue then: the trace is looked at
    when its earliest entry comes up, and queued again if it is not due.
    """

    def __init__(self, completion: CompletionSettings) -> None:
        self._after_root_ns = int(completion.after_root * 1e9)
        self._idle_ns = int(completion.idle * 1e9)
        self._max_age_ns = int(completion.max_age * 1e9)
        self._logs_wait_ns = int(completion.logs_without_span * 1e9)
        self._heap: list[tuple[int, int, bytes]] = []

    def of(self, trace: Trace) -> int:
        """Return when ``trace`` is due if nothing more comes, in Unix nanoseconds."""
        oldest = trace.first_ns + self._max_age_ns
        if not trace.spans:
            return min(oldest, trace.first_ns + self._logs_wait_ns)
        quiet = self._after_root_ns if trace.root or trace.decision else self._idle_ns
        return min(oldest, trace.last_ns + quiet)

    def update(self, key: bytes, trace: Trace) -> None:
        """Take note that ``trace``, known as ``key``, is new or has changed."""
        deadline = self.of(trace)
        if deadline < trace.scheduled_ns:
            trace.scheduled_ns = deadline
            heapq.heappush(self._heap, (deadline, trace.order, key))

    def due(self, now_ns: int, pending: dict[bytes, Trace]) -> Iterator[tuple[int, bytes, Trace]]:
        """Yield the traces of ``pending`` that are due at ``now_ns``, as (deadline, key, trace), in order."""
        heap = self._heap
        while heap and heap[0][0] <= now_ns:
            at_ns, order, key = heapq.heappop(heap)
            trace = pending.get(key)
            if trace is None or trace.order != order or trace.scheduled_ns != at_ns:
                continue  # decided in the meantime, or queued again for an earlier time
            if self.of(trace) > at_ns:
                trace.scheduled_ns = _NEVER
                self.update(key, trace)
            else:
                yield at_ns, key, trace
