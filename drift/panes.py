"""Counts over stretches of event time ("panes") from which rolling windows of any length are put together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from drift.bins import Floats, Ints

W, WX, WW, WWX, WWXX, PASS = range(6)
"""Columns of the sums: sum w, sum wx, sum w^2, sum w^2 x, sum w^2 x^2, sum of w over passes."""
COLUMNS = 6
_BLOCK = 256  # slots, and rows of sums, saved together
_PREFIX = "pane/"
_SMALL = np.iinfo(np.uint16).max


class Pane:
    """One stretch of time: how often each slot was hit, and sums for the streams whose slots are not exact."""

    __slots__ = ("blocks", "counts", "dirty", "sums")

    def __init__(self) -> None:
        self.counts: NDArray[Any] = np.zeros(0, dtype=np.uint32)
        self.sums = np.zeros((0, COLUMNS))
        self.blocks: set[str] = set()
        self.dirty: set[str] = set()

    def count(self, slots: Ints, number: Ints) -> None:
        """Add ``number`` to each of ``slots`` (shape (n,), a slot may occur several times)."""
        self._grow_counts(int(slots.max()) + 1)
        if 8 * len(slots) > len(self.counts):
            # Whole numbers below 2^53 stay whole in double precision.
            more = np.bincount(slots, weights=number, minlength=len(self.counts))
            self.counts += more.astype(np.uint32)
        else:
            np.add.at(self.counts, slots, number.astype(np.uint32))
        self._touch("c", slots)

    def add_sums(self, places: Ints, terms: Floats) -> None:
        """Add ``terms`` (n, COLUMNS), one after the other, to the sums at ``places``."""
        if (missing := int(places.max()) + 1 - len(self.sums)) > 0:
            self.sums = np.concatenate([self.sums, np.zeros((missing, COLUMNS))])
        np.add.at(self.sums, places, terms)
        self._touch("s", places)

    def clear(self, slots: Ints) -> None:
        """Set the counts of ``slots`` to 0."""
        slots = slots[slots < len(self.counts)]
        slots = slots[self.counts[slots] > 0]
        if slots.size:
            self.counts[slots] = 0
            self._touch("c", slots)

    def clear_sums(self, place: int) -> None:
        """Set the sums at ``place`` to 0."""
        if place < len(self.sums) and self.sums[place].any():
            self.sums[place] = 0.0
            self._touch("s", np.array([place]))

    def compact(self) -> None:
        """Take half the space; for a pane that nothing is added to any more."""
        if self.counts.dtype != np.uint16 and self.counts.max(initial=0) <= _SMALL:
            self.counts = self.counts.astype(np.uint16)

    def _grow_counts(self, size: int) -> None:
        missing = max(0, size - len(self.counts))
        if missing or self.counts.dtype != np.uint32:
            more = np.zeros(missing, dtype=np.uint32)
            self.counts = np.concatenate([self.counts.astype(np.uint32), more])

    def _touch(self, kind: str, places: Ints) -> None:
        blocks = (
            np.unique(places // _BLOCK)
            if len(places) < 4 * _BLOCK
            else np.flatnonzero(np.bincount(places // _BLOCK))
        )
        self.dirty.update([f"{kind}{block}" for block in blocks.tolist()])

    def save(self) -> Iterator[tuple[str, bytes]]:
        """Yield block names and values that changed since the last call."""
        for name in self.dirty:
            here = slice(int(name[1:]) * _BLOCK, (int(name[1:]) + 1) * _BLOCK)
            if name[0] == "c":
                counts = self.counts[here]
                used = np.flatnonzero(counts)
                yield (
                    name,
                    msgspec.msgpack.encode(
                        (used.astype(np.uint8).tobytes(), counts[used].astype(np.uint32).tobytes())
                    ),
                )
            else:
                used = np.flatnonzero(self.sums[here].any(axis=1))
                yield (
                    name,
                    msgspec.msgpack.encode(
                        (used.astype(np.uint8).tobytes(), self.sums[here][used].tobytes())
                    ),
                )
        self.blocks |= self.dirty
        self.dirty.clear()

    def restore(self, name: str, raw: bytes) -> None:
        """Take over one saved block."""
        used, values = msgspec.msgpack.decode(raw, type=tuple[bytes, bytes])
        places = np.frombuffer(used, dtype=np.uint8).astype(np.int64) + int(name[1:]) * _BLOCK
        self.blocks.add(name)
        if not places.size:
            return
        if name[0] == "c":
            self._grow_counts(int(places.max()) + 1)
            self.counts[places] = np.frombuffer(values, dtype=np.uint32)
        else:
            if (missing := int(places.max()) + 1 - len(self.sums)) > 0:
                self.sums = np.concatenate([self.sums, np.zeros((missing, COLUMNS))])
            self.sums[places] = np.frombuffer(values).reshape(-1, COLUMNS)


class Tier:
    """Panes of one width, kept for as long as the longest window made of them needs."""

    def __init__(self, number: int, width: int, keep: int) -> None:
        self.width = width
        self._prefix = f"{_PREFIX}{number}/"
        self._keep = keep
        self.panes: dict[int, Pane] = {}
        self._dropped: list[str] = []

    @property
    def nbytes(self) -> int:
        """Bytes of all panes."""
        return sum(pane.counts.nbytes + pane.sums.nbytes for pane in self.panes.values())

    def pane(self, index: int) -> Pane:
        """Return the pane of [index * width, (index + 1) * width)."""
        pane = self.panes.get(index)
        if pane is None:
            pane = self.panes[index] = Pane()
        return pane

    def within(self, start: int, end: int) -> Iterator[Pane]:
        """Yield the panes whose start lies in [start, end), oldest first."""
        for index in sorted(self.panes):
            if start <= index * self.width < end:
                yield self.panes[index]

    def take(self, pane: Pane, start: int) -> None:
        """Add a finished pane of a finer tier that starts at ``start``."""
        mine = self.pane(start // self.width)
        slots = np.flatnonzero(pane.counts)
        if slots.size:
            mine.count(slots, pane.counts[slots].astype(np.int64))
        places = np.flatnonzero(pane.sums.any(axis=1))
        if places.size:
            mine.add_sums(places, pane.sums[places])

    def finish(self, after: int, until: int) -> None:
        """Make the panes small that end in (after, until]: nothing is added to them any more."""
        for index, pane in self.panes.items():
            if after < (index + 1) * self.width <= until:
                pane.compact()

    def forget(self, now: int) -> None:
        """Drop the panes that no window can need any more."""
        for index in [index for index in self.panes if (index + 1) * self.width <= now - self._keep]:
            pane = self.panes.pop(index)
            self._dropped += [f"{self._prefix}{index}/{name}" for name in pane.blocks]

    def save(self) -> dict[str, bytes | None]:
        """Return the state that changed since the last call."""
        out: dict[str, bytes | None] = dict.fromkeys(self._dropped)
        self._dropped.clear()
        for index, pane in self.panes.items():
            for name, value in pane.save():
                out[f"{self._prefix}{index}/{name}"] = value
        return out

    def restore(self, state: Mapping[str, bytes]) -> None:
        """Take over saved state."""
        for key, value in state.items():
            if key.startswith(self._prefix):
                index, name = key[len(self._prefix) :].split("/")
                self.pane(int(index)).restore(name, value)


def merged(panes: Iterator[Pane], slots: Ints, places: Ints) -> tuple[Ints, Floats]:
    """Return counts of ``slots`` and sums at ``places`` over ``panes``; place -1 has none."""
    counts = np.zeros(len(slots), dtype=np.int64)
    sums = np.zeros((len(places), COLUMNS))
    summed = np.flatnonzero(places >= 0)
    for pane in panes:
        if len(pane.counts):
            known = slots < len(pane.counts)
            counts[known] += pane.counts[slots[known]]
        if summed.size and len(pane.sums):
            here = summed[places[summed] < len(pane.sums)]
            sums[here] += pane.sums[places[here]]
    return counts, sums
