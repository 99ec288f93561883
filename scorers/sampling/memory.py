"""What was decided about which trace, for as long as it may matter; saved with the stage's state.

Decisions serve two ends: late spans follow them, and after a crash they tell which of the records that are read again
were settled already. The second is why a decision cannot be forgotten while a record of its trace can still be read
again. Decisions made in one batch are saved together as a chunk under one key, which is what makes a decision cost bytes
and not a write; the oldest chunk is forgotten as a whole.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from scorers.sampling.lanes import Decision

PREFIX = "decisions/"
MAX_SPAN_IDS = 1024  # remembered per trace to recognise duplicates among its late spans

_CHUNK_ENTRIES = 512
_CHUNK_BYTES = 256 << 10  # below any broker's message limit

# The void decision: log records came, a span never did. What comes later starts the trace anew.
VOID = Decision(policy="void")


class Remembered(msgspec.Struct, array_like=True):
    """One decision: what, records of each topic before which offsets it settled, ids of the spans sent on."""

    decision: Decision
    bounds: tuple[int, int]
    span_ids: bytes = b""
    chunk: int = 0

    def knows(self, span_id: bytes) -> bool:
        """Whether that span was sent on."""
        at = self.span_ids.find(span_id)
        while at % 8 and at >= 0:
            at = self.span_ids.find(span_id, at + 1)
        return at >= 0

    def ids(self) -> frozenset[bytes]:
        """Ids of the spans sent on, at most 1024 of them."""
        packed = self.span_ids
        return frozenset(packed[at : at + 8] for at in range(0, len(packed), 8))


class _Saved(msgspec.Struct, array_like=True):
    key: bytes
    decision: Decision
    bounds: tuple[int, int]
    span_ids: bytes


class _Chunk(msgspec.Struct):
    entries: int  # saved
    live: int  # not yet replaced by a newer decision about the same trace
    keys: list[bytes]
    pinned: list[int]  # needed while a record before these offsets can be read again


class Memory:
    """Bounded memory of decisions of one partition.

    Parameters
    ----------
    state
        Saved state; keys other than those under ``decisions/`` are left alone.
    limit
        Number of decisions to keep.
    done
        Offsets after the last record seen, per topic.
    """

    def __init__(self, state: Mapping[str, bytes], limit: int, done: Sequence[int]) -> None:
        self._limit = limit
        self._remembered: dict[bytes, Remembered] = {}
        self._chunks: OrderedDict[int, _Chunk] = OrderedDict()
        self._fresh: dict[bytes, None] = {}
        self._obsolete: list[int] = []
        self._saved = 0
        decode = msgspec.msgpack.Decoder(list[_Saved]).decode
        for name in sorted(name for name in state if name.startswith(PREFIX)):
            number = int(name.removeprefix(PREFIX), 16)
            saved = decode(state[name])
            # Until which offset each was touched is not saved; everything seen so far is on the safe side.
            chunk = _Chunk(len(saved), 0, [item.key for item in saved], list(done))
            self._chunks[number] = chunk
            self._saved += len(saved)
            for item in saved:
                self._release(item.key)
                chunk.live += 1
                self._remembered[item.key] = Remembered(item.decision, item.bounds, item.span_ids, number)
        self._next = next(reversed(self._chunks), 0) + 1

    def __len__(self) -> int:
        return len(self._remembered)

    def get(self, key: bytes) -> Remembered | None:
        """Return what was decided about the trace ``key``."""
        return self._remembered.get(key)

    def put(self, key: bytes, decision: Decision, bounds: tuple[int, int], span_ids: bytes = b"") -> None:
        """Remember a decision, instead of an earlier one about the same trace."""
        if key not in self._fresh:
            self._release(key)
            self._fresh[key] = None
        self._remembered[key] = Remembered(decision, bounds, span_ids[: 8 * MAX_SPAN_IDS])

    def touch(self, remembered: Remembered, topic: int, end: int) -> None:
        """Note that a record before ``end`` was settled by ``remembered``: it stays until that is never read again."""
        chunk = self._chunks.get(remembered.chunk)
        if chunk is not None:
            chunk.pinned[topic] = max(chunk.pinned[topic], end)

    def _release(self, key: bytes) -> None:
        held = self._remembered.get(key)
        if held is None:
            return
        chunk = self._chunks[held.chunk]
        chunk.live -= 1
        if not chunk.live:
            self._drop(held.chunk)

    def _drop(self, number: int) -> None:
        chunk = self._chunks.pop(number)
        self._saved -= chunk.entries
        self._obsolete.append(number)

    def save(self, done: Sequence[int]) -> Iterator[tuple[str, bytes | None]]:
        """Yield what to write for the decisions made since the last call, and the keys to delete as ``None``."""
        fresh, self._fresh = list(self._fresh), {}
        batch: list[_Saved] = []
        size = 0
        for key in fresh:
            held = self._remembered[key]
            batch.append(_Saved(key, held.decision, held.bounds, held.span_ids))
            size += len(key) + len(held.span_ids) + 64
            if len(batch) >= _CHUNK_ENTRIES or size >= _CHUNK_BYTES:
                yield self._add(batch, done)
                batch, size = [], 0
        if batch:
            yield self._add(batch, done)
        for number in self._obsolete:
            yield f"{PREFIX}{number:016x}", None
        self._obsolete.clear()

    def _add(self, batch: list[_Saved], done: Sequence[int]) -> tuple[str, bytes]:
        number, self._next = self._next, self._next + 1
        for item in batch:
            self._remembered[item.key].chunk = number
        self._chunks[number] = _Chunk(len(batch), len(batch), [item.key for item in batch], list(done))
        self._saved += len(batch)
        return f"{PREFIX}{number:016x}", msgspec.msgpack.encode(batch)

    def forget(self, starts: Sequence[int]) -> bool:
        """Forget the oldest decisions over the limit. False if one must stay because of records before its offsets.

        Parameters
        ----------
        starts
            The oldest offset per topic that will be read again after a crash.
        """
        while self._saved > self._limit:
            number, chunk = next(iter(self._chunks.items()))
            if any(start < pin for start, pin in zip(starts, chunk.pinned, strict=True)):
                return False
            for key in chunk.keys:
                held = self._remembered.get(key)
                if held is not None and held.chunk == number and key not in self._fresh:
                    del self._remembered[key]
            self._drop(number)
        return True
