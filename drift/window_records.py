"""From counts in panes to the records of windows that are published."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np

from drift.bins import Ints, Slots
from drift.cohorts import Streams
from drift.panes import Pane, merged
from drift.summary import Summary, summarize
from drift.window_plan import Window
from drift.window_rows import LEVELS, SKETCH, WindowRows
from stream.records import CohortWindow


class WindowRecords:
    """Makes the records of one partition; keeps nothing."""

    def __init__(self, streams: Streams, slots: Slots, rows: WindowRows, threshold: float) -> None:
        self._streams, self._slots, self._rows, self._threshold = streams, slots, rows, threshold

    def at(
        self, window: Window, end: int, rows: Ints, panes: list[Pane], offset: int
    ) -> Iterator[CohortWindow]:
        """Yield what ``window`` over ``panes``, which ends at ``end``, says of each of ``rows`` (ascending)."""
        shapes = self._rows.shape[rows]
        for shape in np.unique(shapes).tolist():
            chosen = rows[shapes == shape]
            slots = self._slots.of(chosen)
            place = np.where(shape == LEVELS, -1, self._rows.place[chosen])
            counts, sums = merged(iter(panes), slots, place)
            hit = counts > 0
            slots, counts = slots[hit], counts[hit]
            segment = np.searchsorted(chosen, self._slots.row[slots])
            lower = self._rows.lower[chosen]
            summary = summarize(
                segment,
                counts,
                self._slots.value[slots],
                self._slots.weight[slots],
                len(chosen),
                threshold=self._threshold,
                sums=None if shape == LEVELS else sums,
                lower=lower,
                highest_is_worst=lower | (shape == SKETCH),
            )
            levels: list[dict[str, int]] = [{} for _ in range(len(chosen))]
            if shape != SKETCH:
                for one, value, number in zip(
                    segment.tolist(), self._slots.value[slots].tolist(), counts.tolist(), strict=True
                ):
                    name = f"{value:.6g}"
                    levels[one][name] = levels[one].get(name, 0) + number
            yield from self._records(window, end, chosen, summary, levels, shape == SKETCH, offset)

    def _records(
        self,
        window: Window,
        end: int,
        rows: Ints,
        summary: Summary,
        levels: list[dict[str, int]],
        unbounded: bool,
        offset: int,
    ) -> Iterator[CohortWindow]:
        columns = (column.tolist() for column in (rows, *summary))
        for levels_of, (row, n, weight, n_eff, mean, error, passing, worst, quantiles) in zip(
            levels, zip(*columns, strict=True), strict=True
        ):
            stream = self._streams.rows[row]
            if stream is None or not n:
                continue
            yield CohortWindow(
                tenant=sys.intern(stream.tenant),  # see rollouts._verdict
                view=stream.view,
                cohort=stream.cohort,
                attributes=stream.attributes,
                rubric=stream.rubric,
                evaluator=stream.evaluator,
                window_seconds=max(1, round(window.length / 1e9)),
                end_unix_nano=end,
                n=n,
                n_eff=n_eff,
                mean=mean,
                standard_error=error if n > 1 else None,
                pass_rate=None if unbounded else passing,
                worst_decile_mean=worst,
                p5=quantiles[0],
                p50=quantiles[1],
                p95=quantiles[2],
                weight=weight,
                levels=levels_of,
                version=offset,
            )
