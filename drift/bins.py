"""Slots: the places of a pane in which scores are counted, found by arithmetic on whole columns.

A slot is (stream, value, weight). A rubric of a few levels has one slot per level and sampling weight, so everything a
window says about it follows from whole numbers, and is the same in whatever order the scores came. A stream of many
values is counted in steps, an unbounded metric in the logarithmic bins of a DDSketch.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_ATOMS = 40
"""Different (value, weight) of a rubric that are counted one by one; a stream with more is counted in steps of 0.05."""

STEPS = 20
RELATIVE_ERROR = 0.01
"""Of the quantiles of unbounded metrics between SMALLEST and LARGEST (Masson, Rim and Lee, DDSketch, VLDB 2019)."""
SMALLEST, LARGEST = (
    1e-6,
    1e7,
)  # seconds, dollars and tokens; what is smaller counts as 0, what is larger as the largest

_GAMMA = (1.0 + RELATIVE_ERROR) / (1.0 - RELATIVE_ERROR)
_LOG_GAMMA = float(np.log(_GAMMA))
_BLOCK = 256
_PREFIX = "slot/"
_FREE = -1


def step_of(values: Floats) -> Floats:
    """Return the multiples of 0.05 nearest to ``values`` in [0, 1]."""
    steps: Floats = np.floor(values * STEPS + 0.5) / STEPS
    return steps


def coarse_weight(weights: Floats) -> Floats:
    """Return ``weights`` >= 1 rounded to powers of 2^(1/4), at most 2^20: steps do not need more."""
    rounded: Floats = np.exp2(np.round(np.clip(np.log2(weights), 0.0, 20.0) * 4.0) / 4.0)
    return rounded


def sketch_bin(values: Floats) -> Floats:
    """Return the representatives of the DDSketch bins of ``values`` >= 0: off by at most RELATIVE_ERROR of the value."""
    inside = np.clip(values, SMALLEST, LARGEST)
    index = np.ceil(np.log(inside) / _LOG_GAMMA)
    bins: Floats = np.where(values < SMALLEST, 0.0, 2.0 * np.exp(index * _LOG_GAMMA) / (_GAMMA + 1.0))
    return bins


class Slots:
    """All slots of a partition, in columns, with a hash table over (row, value, weight)."""

    def __init__(self) -> None:
        self.count = 0  # slots in use or free; the columns may be longer
        self.row = np.full(_BLOCK, _FREE, dtype=np.int64)
        self.value = np.zeros(_BLOCK)
        self.weight = np.zeros(_BLOCK)
        self._free: list[int] = []
        self._table = np.full(4 * _BLOCK, _FREE, dtype=np.int32)
        self._changed: set[int] = set()
        self._unsettled: list[int] = []
        self.version = 0  # grows whenever a slot is added or freed

    @property
    def nbytes(self) -> int:
        """Bytes of the columns and the table."""
        return self.row.nbytes + self.value.nbytes + self.weight.nbytes + self._table.nbytes

    def find(self, rows: Ints, values: Floats, weights: Floats) -> Ints:
        """Return the slot of each (row, value, weight), arrays of shape (n,); -1 where there is none."""
        mask = len(self._table) - 1
        place = _mixed(rows, values, weights) & mask
        found = np.full(len(rows), _FREE, dtype=np.int64)
        left = np.arange(len(rows))
        while left.size:
            slot = self._table[place]
            known = slot != _FREE
            same = (
                known
                & (self.row[slot] == rows)
                & (self.value[slot] == values)
                & (self.weight[slot] == weights)
            )
            found[left[same]] = slot[same]
            on = known & ~same
            left = left[on]
            place = (place[on] + 1) & mask
            rows, values, weights = rows[on], values[on], weights[on]
        return found

    def add(self, row: int, value: float, weight: float) -> int:
        """Return a new slot; it is found after :meth:`settle`."""
        if self._free:
            slot = heapq.heappop(self._free)
        else:
            slot = self.count
            self.count += 1
            if slot >= len(self.row):
                self._grow(2 * len(self.row))
        self.row[slot], self.value[slot], self.weight[slot] = row, value, weight
        self._changed.add(slot // _BLOCK)
        self._unsettled.append(slot)
        return slot

    def settle(self) -> None:
        """Let new slots be found."""
        if not self._unsettled:
            return
        self.version += 1
        if 2 * self.count > len(self._table):
            self._rebuild()
        else:
            self._enter(np.array(self._unsettled))
        self._unsettled.clear()

    def of(self, rows: Ints) -> Ints:
        """Return the slots of ``rows``, ordered by row, value and weight."""
        wanted = np.zeros(int(max(rows.max(), self.row.max())) + 2, dtype=bool)
        wanted[rows] = True
        slots = np.flatnonzero(wanted[self.row[: self.count]])
        order = np.lexsort((self.weight[slots], self.value[slots], self.row[slots]))
        return slots[order]

    def free(self, rows: Ints) -> Ints:
        """Give up the slots of ``rows`` and return them."""
        slots = self.of(rows)
        self.row[slots] = _FREE
        self.value[slots] = self.weight[slots] = 0.0
        for slot in slots.tolist():
            heapq.heappush(self._free, slot)
        self._changed.update(np.unique(slots // _BLOCK).tolist())
        self.version += 1
        self._rebuild()
        return slots

    def _grow(self, size: int) -> None:
        more = size - len(self.row)
        self.row = np.concatenate([self.row, np.full(more, _FREE, dtype=np.int64)])
        self.value = np.concatenate([self.value, np.zeros(more)])
        self.weight = np.concatenate([self.weight, np.zeros(more)])

    def _rebuild(self) -> None:
        size = 4 * _BLOCK
        while size < 4 * self.count:
            size *= 2
        self._table = np.full(size, _FREE, dtype=np.int32)
        self._enter(np.flatnonzero(self.row[: self.count] != _FREE))

    def _enter(self, slots: Ints) -> None:
        mask = len(self._table) - 1
        places = _mixed(self.row[slots], self.value[slots], self.weight[slots]) & mask
        for slot, place in zip(slots.tolist(), places.tolist(), strict=True):
            while self._table[place] != _FREE:
                place = (place + 1) & mask
            self._table[place] = slot

    def save(self) -> dict[str, bytes | None]:
        """Return the state that changed since the last call."""
        out: dict[str, bytes | None] = {}
        for block in self._changed:
            here = slice(block * _BLOCK, min(self.count, (block + 1) * _BLOCK))
            columns = self.row[here], self.value[here], self.weight[here]
            out[f"{_PREFIX}{block}"] = msgspec.msgpack.encode([column.tobytes() for column in columns])
        self._changed.clear()
        return out

    def restore(self, state: Mapping[str, bytes]) -> None:
        """Take over saved state."""
        for key, raw in state.items():
            if not key.startswith(_PREFIX):
                continue
            start = int(key[len(_PREFIX) :]) * _BLOCK
            row, value, weight = msgspec.msgpack.decode(raw, type=tuple[bytes, bytes, bytes])
            end = start + len(row) // 8
            if end > len(self.row):
                self._grow(max(end, 2 * len(self.row)))
            self.row[start:end] = np.frombuffer(row, dtype=np.int64)
            self.value[start:end] = np.frombuffer(value)
            self.weight[start:end] = np.frombuffer(weight)
            self.count = max(self.count, end)
        self._free = np.flatnonzero(self.row[: self.count] == _FREE).tolist()
        self.version += 1
        self._rebuild()


def _mixed(rows: Ints, values: Floats, weights: Floats) -> Ints:
    """Return a hash of 62 bits of (row, value, weight): multiplications and shifts modulo 2^64."""
    # -0.0 equals 0.0 but has other bits.
    mixed = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for column, factor in ((values, 0xC2B2AE3D27D4EB4F), (weights, 0x165667B19E3779F9)):
        mixed ^= (column + 0.0).view(np.uint64)
        mixed *= np.uint64(factor)
        mixed ^= mixed >> np.uint64(29)
    return (mixed >> np.uint64(2)).astype(np.int64)
