"""Observations: scores that are to be counted, in columns, as the parts of the stage take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drift.origins import Origin

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Group(NamedTuple):
    """The rows of one origin."""

    origin: Origin
    rows: list[int]
    first: int  # earliest and latest event time
    last: int


class Observations:
    """n scores in the order of the log. All have a value and a sampling weight, and none was there before.

    Parameters
    ----------
    times
        Unix nanoseconds.
    values
        In [0, 1], the higher the better (in windows: the stream's own direction).
    weights
        1 / inclusion probability, >= 1.
    """

    def __init__(
        self,
        origins: Sequence[Origin],
        times: Sequence[int],
        values: Sequence[float],
        weights: Sequence[float],
        unit_ids: Sequence[str],
        trace_ids: Sequence[str],
    ) -> None:
        self.origins = origins
        self.times = times
        self.values = values
        self.weights = weights
        self.unit_ids = unit_ids
        self.trace_ids = trace_ids
        rows: dict[int, list[int]] = {}
        for row, origin in enumerate(origins):
            number = origin.number
            if number in rows:
                rows[number].append(row)
            else:
                rows[number] = [row]
        self.groups = []
        for here in rows.values():
            when = [times[row] for row in here]
            self.groups.append(Group(origins[here[0]], here, min(when), max(when)))
        """In the order in which the origins first occur."""

    def __len__(self) -> int:
        return len(self.origins)
