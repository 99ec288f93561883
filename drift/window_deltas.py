"""What was counted into windows between two ticks, as it is saved until the panes are written as a whole."""

from __future__ import annotations

import msgspec
import numpy as np

from drift.bins import Floats, Ints


class Delta(msgspec.Struct, array_like=True):
    """What one batch added since the panes were last written: columns as bytes."""

    rows: bytes  # whose oldest score since the last tick is an older one now
    oldest: bytes
    hits: list[tuple[int, bytes, bytes, bytes]]  # index of a pane, slots, and places and terms of sums


class Since:
    """What was counted since the panes were last written, and of it what was not saved yet."""

    def __init__(self) -> None:
        self.rows: list[Ints] = []
        self.hits = 0
        self._counted: list[tuple[int, bytes, bytes, bytes]] = []

    def note(self, index: int, slots: Ints, places: Ints, terms: Floats) -> None:
        """Take what was counted in one pane."""
        self.hits += len(slots)
        self._counted.append((index, slots.astype(np.uint32).tobytes(), places.tobytes(), terms.tobytes()))

    def encoded(self, oldest: Ints) -> bytes:
        """Return what was not saved yet."""
        rows = np.unique(np.concatenate(self.rows)) if self.rows else np.zeros(0, dtype=np.int64)
        delta = Delta(rows.astype(np.uint32).tobytes(), oldest[rows].tobytes(), self._counted)
        self.rows, self._counted = [], []
        return msgspec.msgpack.encode(delta)
