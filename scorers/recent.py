"""Recent traces, for what comes later of them; saved with the stage's state.

Of traces that were scored: which cohort and session they belonged to, for scores that come later. Of traces that held
nothing to score: that they did, so that the first late part with an interaction is scored.

The traces of one batch are saved together under one key, so remembering costs bytes and not a write each; the oldest batch is
forgotten as a whole.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import msgspec

from stream.interaction import Interaction
from stream.stage import Result

PREFIX = "recent/"
PREFIX_EMPTY = "empty/"
MAX_TRACES = 20_000  # per partition
MAX_EMPTY = 5_000


class Recent(msgspec.Struct, array_like=True, frozen=True):
    """What a later score of a trace takes over from it."""

    key: str  # tenant and trace id
    session_id: str = ""
    cohort: dict[str, str] = {}
    scored: bool = True

    @classmethod
    def of(cls, seen: Interaction) -> Recent:
        """Return what to remember of a trace that was scored."""
        return cls(key_of(seen.tenant, seen.trace_id), seen.session_id, seen.cohort())


def key_of(tenant: str, trace_id: str) -> str:
    """Return what a trace is remembered by."""
    return f"{tenant}/{trace_id}"


class RecentTraces:
    """Bounded memory, by partition; ``prefix`` begins the keys of its state."""

    def __init__(self, limit: int = MAX_TRACES, prefix: str = PREFIX) -> None:
        self._limit = limit
        self._prefix = prefix
        self._chunks: dict[int, OrderedDict[int, list[Recent]]] = {}
        self._found: dict[int, dict[str, Recent]] = {}
        self._next: dict[int, int] = {}
        self._fresh: dict[int, list[Recent]] = {}  # noted, not saved yet

    def assign(self, partition: int, state: Mapping[str, bytes]) -> None:
        """Take over ``partition`` with what was saved for it."""
        chunks: OrderedDict[int, list[Recent]] = OrderedDict()
        for name in sorted(name for name in state if name.startswith(self._prefix)):
            chunks[int(name.removeprefix(self._prefix), 16)] = msgspec.msgpack.decode(
                state[name], type=list[Recent]
            )
        self._chunks[partition] = chunks
        self._found[partition] = {one.key: one for chunk in chunks.values() for one in chunk}
        self._next[partition] = next(reversed(chunks), 0) + 1

    def revoke(self, partition: int) -> None:
        """Forget ``partition``."""
        for kept in (self._chunks, self._found, self._next, self._fresh):
            kept.pop(partition, None)

    def find(self, partition: int, tenant: str, trace_id: str) -> Recent | None:
        """Return what is known of a trace."""
        return self._found.get(partition, {}).get(key_of(tenant, trace_id))

    def note(self, partition: int, one: Recent) -> None:
        """Remember a trace from now on; :meth:`save` makes it durable with the batch it came in."""
        if partition in self._chunks:
            self._found[partition][one.key] = one
            self._fresh.setdefault(partition, []).append(one)

    def save(self, result: Result) -> None:
        """Add to ``result`` what was noted since the last call, and forget the oldest beyond the limit."""
        fresh, self._fresh = self._fresh, {}
        for partition, chunk in fresh.items():
            if partition not in self._chunks:
                continue
            number = self._next[partition]
            self._next[partition] = number + 1
            chunks, found = self._chunks[partition], self._found[partition]
            chunks[number] = chunk
            result.state[partition, f"{self._prefix}{number:016x}"] = msgspec.msgpack.encode(chunk)
            while len(found) > self._limit and len(chunks) > 1:
                oldest, gone = chunks.popitem(last=False)
                result.state[partition, f"{self._prefix}{oldest:016x}"] = None
                for one in gone:
                    if found.get(one.key) is one:
                        del found[one.key]
