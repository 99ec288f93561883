"""Sums over stretches of event time ("panes") from which rolling windows of any length are put together."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from drift.cohorts import MAX_LEVELS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

N, W, WX, WW, WWX, WWXX, PASS = range(7)
"""Columns of the sums: count, sum w, sum wx, sum w^2, sum w^2 x, sum w^2 x^2, sum of w over passes."""
_COLUMNS = 7
_BLOCK = 64  # rows saved together
_PREFIX = "pane/"


class Pane:
    """One stretch of time: for each row its sums, and count and weight per level."""

    __slots__ = ("blocks", "dirty", "levels", "sums")

    def __init__(self, rows: int) -> None:
        self.sums = np.zeros((rows, _COLUMNS))
        # Single precision holds counts up to 16 million exactly, and levels take most of the space.
        self.levels = np.zeros((rows, 2 * MAX_LEVELS), dtype=np.float32)
        self.blocks: set[int] = set()
        self.dirty: set[int] = set()

    def grow(self, rows: int) -> None:
        """Make room for ``rows`` rows."""
        if (missing := rows - len(self.sums)) > 0:
            self.sums = np.concatenate([self.sums, np.zeros((missing, _COLUMNS))])
            self.levels = np.concatenate([self.levels, np.zeros((missing, 2 * MAX_LEVELS), dtype=np.float32)])

    def touch(self, rows: Ints) -> None:
        """Note that ``rows`` were changed."""
        self.dirty.update(np.unique(rows // _BLOCK).tolist())


class Tier:
    """Panes of one width, kept for as long as the longest window made of them needs."""

    def __init__(self, number: int, width: int, keep: int) -> None:
        self.width = width
        self._prefix = f"{_PREFIX}{number}/"
        self._keep = keep
        self._panes: dict[int, Pane] = {}
        self._dropped: list[str] = []

    def add(
        self, rows: Ints, times: Ints, values: Floats, weights: Floats, levels: Ints, passes: Floats
    ) -> None:
        """Add scores, arrays of shape (n,), in order.

        Additions are made one after the other (``np.add.at``), so the sums do not depend on how a stream of scores is
        cut into calls.
        """
        indices = times // self.width
        size = int(rows.max()) + 1
        squares = weights * weights
        terms = np.stack(
            [
                np.ones_like(weights), weights, weights * values, squares, squares * values,
                squares * values * values, weights * passes,
            ],
            axis=1,
        )  # fmt: skip
        for index in np.unique(indices).tolist():
            pane = self._panes.get(index)
            if pane is None:
                pane = self._panes[index] = Pane(size)
            pane.grow(size)
            here = indices == index
            chosen = rows[here]
            np.add.at(pane.sums, chosen, terms[here])
            flat = pane.levels.reshape(-1)
            places = chosen * (2 * MAX_LEVELS) + levels[here]
            np.add.at(flat, places, np.float32(1.0))
            np.add.at(flat, places + MAX_LEVELS, weights[here].astype(np.float32))
            pane.touch(chosen)

    def merge(self, rows: Ints, start: int, end: int) -> tuple[Floats, Floats]:
        """Return the sums (n, 7) and levels (n, 2 * MAX_LEVELS) of ``rows`` over the panes within [start, end)."""
        sums = np.zeros((len(rows), _COLUMNS))
        levels = np.zeros((len(rows), 2 * MAX_LEVELS))
        for index in sorted(self._panes):
            if -(-start // self.width) <= index <= (end - 1) // self.width:
                pane = self._panes[index]
                known = rows < len(pane.sums)
                sums[known] += pane.sums[rows[known]]
                levels[known] += pane.levels[rows[known]]
        return sums, levels

    def rebin(self, row: int, places: Ints) -> None:
        """Move the level counts of ``row`` from place i to ``places[i]``."""
        for pane in self._panes.values():
            if row >= len(pane.levels) or not pane.sums[row, N]:
                continue
            old = pane.levels[row].copy()
            pane.levels[row] = 0.0
            for offset in (0, MAX_LEVELS):
                np.add.at(pane.levels[row], places + offset, old[offset : offset + len(places)])
            pane.dirty.add(row // _BLOCK)

    def forget(self, now: int) -> None:
        """Drop the panes that no window can need any more."""
        for index in [index for index in self._panes if (index + 1) * self.width <= now - self._keep]:
            pane = self._panes.pop(index)
            self._dropped += [f"{self._prefix}{index}/{block}" for block in pane.blocks]

    def save(self) -> dict[str, bytes | None]:
        """Return the state that changed since the last call."""
        out: dict[str, bytes | None] = dict.fromkeys(self._dropped)
        self._dropped.clear()
        for index, pane in self._panes.items():
            for block in pane.dirty:
                start = block * _BLOCK
                sums = pane.sums[start : start + _BLOCK]
                used = np.flatnonzero(sums[:, N])
                levels = pane.levels[start : start + _BLOCK][used]
                out[f"{self._prefix}{index}/{block}"] = msgspec.msgpack.encode(
                    (used.tolist(), sums[used].tobytes(), levels.tobytes())
                )
            pane.blocks |= pane.dirty
            pane.dirty.clear()
        return out

    def restore(self, state: Mapping[str, bytes]) -> None:
        """Take over saved state."""
        for key, value in state.items():
            if not key.startswith(self._prefix):
                continue
            index, block = (int(part) for part in key[len(self._prefix) :].split("/"))
            used, sums, levels = msgspec.msgpack.decode(value, type=tuple[list[int], bytes, bytes])
            pane = self._panes.setdefault(index, Pane(0))
            pane.grow((block + 1) * _BLOCK)
            rows = np.asarray(used, dtype=np.int64) + block * _BLOCK
            pane.sums[rows] = np.frombuffer(sums).reshape(-1, _COLUMNS)
            pane.levels[rows] = np.frombuffer(levels, dtype=np.float32).reshape(-1, 2 * MAX_LEVELS)
            pane.blocks.add(block)
