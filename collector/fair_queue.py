"""A queue that serves senders in turn by the work they bring, however much of it any one of them has waiting.

Start-time fair queueing (Goyal, Vin, Cheng 1996): each item is stamped with the virtual time at which it would start if
every waiting sender were served at the same rate, and the smallest stamp is served first. A sender that was idle starts
at the present virtual time, so it neither saves up turns nor waits behind what others have piled up: before its item at
most one item of each other sender is served, plus as much work as its own share.
"""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Items of named senders. Not thread-safe."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, float, str, T]] = []
        self._finish: dict[str, float] = {}
        self._waiting: dict[str, int] = {}
        self._now = 0.0
        self._order = 0

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, sender: str, cost: float, item: T) -> None:
        """Queue ``item``; ``cost`` > 0 is the work it brings, in any unit that is the same for all senders."""
        start = max(self._now, self._finish.get(sender, 0.0))
        finish = start + cost
        self._finish[sender] = finish
        self._waiting[sender] = self._waiting.get(sender, 0) + 1
        self._order += 1
        heapq.heappush(self._heap, (start, self._order, finish, sender, item))

    def charge(self, sender: str, cost: float) -> None:
        """Add ``cost`` >= 0 to what ``sender`` has had; its next items come the later for it."""
        if cost > 0 and self._heap:
            self._finish[sender] = max(self._now, self._finish.get(sender, 0.0)) + cost

    def pop(self) -> T:
        """Return the item whose turn it is.

        Raises
        ------
        IndexError
            The queue is empty.
        """
        start, _, _, sender, item = heapq.heappop(self._heap)
        self._now = max(self._now, start)
        left = self._waiting[sender] - 1
        if left:
            self._waiting[sender] = left
        else:
            del self._waiting[sender]
        if not self._heap:
            # Nobody waits: all start equal again, and the numbers stay small.
            self._now = 0.0
            self._finish.clear()
        elif not left and self._finish[sender] <= self._now:
            del self._finish[sender]
        return item
