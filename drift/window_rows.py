"""How the scores of each stream are counted: one by one, in steps or in logarithmic bins, and where its sums are."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from drift.bins import MAX_ATOMS, Floats, Ints, Slots, coarse_weight, sketch_bin, step_of
from drift.cohorts import Stream, Streams
from drift.direction import lower_is_better
from drift.panes import COLUMNS, PASS, WW, WWX, WWXX, WX, Tier, W, merged
from drift.summary import Bools, goodness
from drift.window_deltas import Since

LEVELS, STEPS, SKETCH = 0, 1, 2
"""Shapes of a row, see :data:`drift.cohorts.Shape`."""

_SHAPES = {"levels": LEVELS, "steps": STEPS, "sketch": SKETCH}
_NO_PLACES = np.zeros(0, dtype=np.int64)
_NO_TERMS = np.zeros((0, COLUMNS))


class WindowRows:
    """What is kept per row of :class:`drift.cohorts.Streams` to count its scores into panes.

    ``shape``, ``place`` (among the sums of panes, -1: none) and ``lower`` (lower is better) are columns of shape (rows,).
    """

    def __init__(self, streams: Streams, slots: Slots, tiers: Sequence[Tier], threshold: float) -> None:
        self._streams, self._slots, self._tiers, self._threshold = streams, slots, tiers, threshold
        self.shape = np.zeros(0, dtype=np.int8)
        self.place = np.zeros(0, dtype=np.int64)
        self.lower = np.zeros(0, dtype=bool)
        self._atoms = np.zeros(0, dtype=np.int64)  # slots
        self._places = 0
        self._free_places: list[int] = []

    def __len__(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the columns."""
        return self.shape.nbytes + self.place.nbytes + self.lower.nbytes + self._atoms.nbytes

    def grow(self) -> None:
        """Take over the rows that were given out since the last call."""
        more = len(self._streams.rows) - len(self.shape)
        if more > 0:
            self.shape = np.concatenate([self.shape, np.zeros(more, dtype=np.int8)])
            self.place = np.concatenate([self.place, np.full(more, -1, dtype=np.int64)])
            self.lower = np.concatenate([self.lower, np.zeros(more, dtype=bool)])
            self._atoms = np.concatenate([self._atoms, np.zeros(more, dtype=np.int64)])
        for row in self._streams.fresh():
            stream = self._streams.rows[row]
            assert stream is not None
            self.shape[row], self.place[row], self._atoms[row] = _SHAPES[stream.shape], -1, 0
            self.lower[row] = lower_is_better(stream.rubric)
            if stream.shape != "levels":
                self._give_place(row, stream)

    def _give_place(self, row: int, stream: Stream) -> None:
        if self._free_places:
            stream.place = heapq.heappop(self._free_places)
        else:
            stream.place = self._places
            self._places += 1
        self.place[row] = stream.place
        self._streams.mark(row)

    def count(self, rows: Ints, times: Ints, values: Floats, weights: Floats, since: Since) -> bool:
        """Count scores, columns of shape (n,), into the finest panes; return whether a stream is counted in steps from now on."""
        start = 0
        changed = False
        while start < len(rows):
            done, overflow = self._count(rows[start:], times[start:], values[start:], weights[start:], since)
            start += done
            changed = changed or overflow
        return changed

    def _count(
        self, rows: Ints, times: Ints, values: Floats, weights: Floats, since: Since
    ) -> tuple[int, bool]:
        """Count scores up to the first that gives its stream more atoms than are counted singly; return how many."""
        shape = self.shape[rows]
        binned = np.flatnonzero(shape != LEVELS)
        bins, bin_weights = values, weights
        if binned.size:
            bins, bin_weights = values.copy(), weights.copy()
            steps, sketched = binned[shape[binned] == STEPS], binned[shape[binned] == SKETCH]
            bins[steps], bin_weights[steps] = step_of(values[steps]), coarse_weight(weights[steps])
            bins[sketched] = sketch_bin(values[sketched])
        slots = self._slots.find(rows, bins, bin_weights)
        end, overflow = self._new_slots(rows, bins, bin_weights, slots)
        self._add_to_panes(slots[:end], times[:end], binned[binned < end], rows, values, weights, since)
        if overflow >= 0:
            self._use_steps(overflow)
        return end, overflow >= 0

    def _new_slots(self, rows: Ints, bins: Floats, weights: Floats, slots: Ints) -> tuple[int, int]:
        """Give slots to what has none, in order; return where to stop, and the row that is why (-1: none)."""
        fresh: dict[tuple[int, float, float], int] = {}
        overflow = -1
        end = len(rows)
        for i in np.flatnonzero(slots < 0).tolist():
            key = int(rows[i]), float(bins[i]), float(weights[i])
            slot = fresh.get(key)
            if slot is None:
                row = key[0]
                if self.shape[row] == LEVELS and self._atoms[row] >= MAX_ATOMS:
                    end, overflow = i, row
                    break
                slot = fresh[key] = self._slots.add(*key)
                self._atoms[row] += 1
            slots[i] = slot
        self._slots.settle()
        return end, overflow

    def _add_to_panes(
        self,
        slots: Ints,
        times: Ints,
        binned: Ints,
        rows: Ints,
        values: Floats,
        weights: Floats,
        since: Since,
    ) -> None:
        fine = self._tiers[0]
        indices = times // fine.width
        ones = np.ones(len(slots), dtype=np.int64)
        for index in np.unique(indices).tolist():
            here = indices == index
            pane = fine.pane(index)
            pane.count(slots[here], ones[here])
            places, terms = _NO_PLACES, _NO_TERMS
            if binned.size and (chosen := binned[here[binned]]).size:
                places = self.place[rows[chosen]]
                terms = _terms(values[chosen], weights[chosen], self._threshold, self.lower[rows[chosen]])
                pane.add_sums(places, terms)
            since.note(index, slots[here], places, terms)

    def _use_steps(self, row: int) -> None:
        """From now on count the stream of ``row`` in steps."""
        stream = self._streams.rows[row]
        assert stream is not None
        stream.shape = "steps"
        self.shape[row] = STEPS
        self._give_place(row, stream)
        atoms = self._slots.of(np.array([row]))
        values, weights = self._slots.value[atoms], self._slots.weight[atoms]
        terms = _terms(values, weights, self._threshold, self.lower[row])
        self._slots.free(np.array([row]))
        self._atoms[row] = 0
        steps = step_of(values), coarse_weight(weights)
        kept = []
        for tier in self._tiers:
            for pane in tier.panes.values():
                counts, _ = merged(iter([pane]), atoms, np.zeros(0, dtype=np.int64))
                pane.clear(atoms)
                kept.append((pane, counts))
        for pane, counts in kept:
            hit = np.flatnonzero(counts)
            if not hit.size:
                continue
            chosen = np.full(hit.size, row), steps[0][hit], steps[1][hit]
            slots = self._slots.find(*chosen)
            self._new_slots(*chosen, slots)
            pane.count(slots, counts[hit])
            pane.add_sums(np.full(hit.size, stream.place), counts[hit, None] * terms[hit])

    def free(self, freed: Sequence[tuple[int, Stream]]) -> None:
        """Clear what was counted for rows whose streams are gone."""
        rows = np.array([row for row, _ in freed])
        slots = self._slots.free(rows)
        places = [stream.place for _, stream in freed if stream.place >= 0]
        for tier in self._tiers:
            for pane in tier.panes.values():
                pane.clear(slots)
                for place in places:
                    pane.clear_sums(place)
        for place in places:
            heapq.heappush(self._free_places, place)
        self.shape[rows], self.place[rows], self._atoms[rows] = LEVELS, -1, 0

    def restore(self) -> None:
        """Take over what the restored streams and slots say."""
        self.grow()
        used = self._slots.row[self._slots.row >= 0]
        self._atoms = np.bincount(used, minlength=len(self._atoms))
        taken = set()
        for row, stream in enumerate(self._streams.rows):
            if stream is not None:
                self.shape[row], self.place[row] = _SHAPES[stream.shape], stream.place
                self.lower[row] = lower_is_better(stream.rubric)
                taken.add(stream.place)
        self._places = max(taken, default=-1) + 1
        self._free_places = [place for place in range(self._places) if place not in taken]


def _terms(values: Floats, weights: Floats, threshold: float, lower: Bools | np.bool_) -> Floats:
    squares = weights * weights
    terms = np.zeros((len(values), COLUMNS))
    terms[:, W], terms[:, WX] = weights, weights * values
    terms[:, WW], terms[:, WWX], terms[:, WWXX] = squares, squares * values, squares * values * values
    terms[:, PASS] = np.where(goodness(values, lower) >= threshold, weights, 0.0)
    return terms
