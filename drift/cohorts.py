"""Which cohorts a score belongs to, and the numbered streams (cohort, rubric, evaluator) that are followed."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.records import Evaluator

OTHER = "(other)"
HOUR = 3600 * 1_000_000_000

_BLOCK = 64
_MAX_SOURCES = 50_000  # origins of scores whose rows are remembered
_PREFIX = "stream/"

Shape = Literal["levels", "steps", "sketch"]
"""How values are counted: one by one, in steps of 0.05, or in logarithmic bins (a metric without an upper limit)."""


class Stream(msgspec.Struct):
    """One cohort, rubric and evaluator."""

    tenant: str
    view: str
    values: tuple[str, ...] | None  # of the view's attributes; None for the overflow cohort
    cohort: str
    attributes: dict[str, str]
    rubric: str
    evaluator: str
    shape: Shape = "levels"
    place: int = -1  # among the sums of streams whose slots are not exact
    last: int = 0  # event time of its latest score, rounded up to the next hour


Key = tuple[str, str, tuple[str, ...] | None, str, str]


class Streams:
    """Rows for streams: at most ``max_streams``, with at most ``max_cohorts`` cohorts per tenant and view.

    A row is used again after its stream has been silent for longer than every window. A *source* is what scores of one
    tenant, rubric, evaluator and set of attributes have in common: the rows they belong to, one per view.
    """

    def __init__(self, views: list[list[str]], max_cohorts: int, max_streams: int) -> None:
        self._views = [(",".join(view), tuple(view)) for view in views]
        self._max_cohorts = max_cohorts
        self._max_streams = max_streams
        self.rows: list[Stream | None] = []
        self.last = np.zeros(_BLOCK, dtype=np.int64)  # per row, as Stream.last
        self._free: list[int] = []
        self._row: dict[Key, int] = {}
        self._cohorts: dict[tuple[str, str], dict[tuple[str, ...], int]] = {}  # streams per live cohort
        self._changed: dict[int, None] = {}
        self._sources: dict[tuple[str, ...], int] = {}
        self._next_source = 0
        self.generation = 0  # grows whenever sources are numbered anew
        self._fresh: list[int] = []
        self._source_rows = np.full((_BLOCK, len(views)), -1, dtype=np.int64)

    @property
    def room(self) -> int:
        """How many more sources there may be before :meth:`forget_sources` must be called."""
        return _MAX_SOURCES - self._next_source

    def source(
        self,
        tenant: str,
        rubric: str,
        evaluator: Evaluator | None,
        cohort: Mapping[str, str],
        unbounded: bool,
    ) -> tuple[int, int]:
        """Return the number of a source, and of how many cohorts there was no room for.

        It is good until :meth:`forget_sources`.
        """
        if evaluator is None:
            place = (tenant, rubric, *cohort, *cohort.values())
        else:
            place = (
                tenant, rubric, evaluator.id, evaluator.version, evaluator.model, evaluator.prompt_hash,
                *cohort, *cohort.values(),
            )  # fmt: skip
        source = self._sources.get(place)
        if source is not None:
            return source, 0
        identity = "" if evaluator is None else evaluator.identity
        rows, missing = self._find(tenant, rubric, identity, cohort, "sketch" if unbounded else "levels")
        source = self._next_source
        if source >= len(self._source_rows):
            more = np.full((len(self._source_rows), len(self._views)), -1, dtype=np.int64)
            self._source_rows = np.concatenate([self._source_rows, more])
        self._source_rows[source] = rows
        self._next_source += 1
        if not missing:
            self._sources[place] = source
        return source, missing

    def rows_of(self, sources: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows (n, views) of ``sources`` (n,); -1 where a source is not in a view."""
        rows: NDArray[np.int64] = self._source_rows[sources]
        return rows

    def forget_sources(self) -> None:
        """Start numbering sources anew."""
        self._sources.clear()
        self._next_source = 0
        self.generation += 1

    def _find(
        self, tenant: str, rubric: str, evaluator: str, cohort: Mapping[str, str], shape: Shape
    ) -> tuple[list[int], int]:
        rows = [-1] * len(self._views)
        missing = 0
        for number, (view, names) in enumerate(self._views):
            attributes = {}
            for name in names:
                value = cohort.get(name)
                # Every score has a route, even if it has no name; without another attribute it is not in the view.
                if value is None and name != "route":
                    break
                attributes[name] = value or ""
            else:
                row = self._row.get((tenant, view, tuple(attributes.values()), rubric, evaluator))
                if row is None:
                    row = self._new(tenant, view, attributes, rubric, evaluator, shape)
                rows[number] = row
                missing += row < 0
        return rows, missing

    def _new(
        self, tenant: str, view: str, attributes: dict[str, str], rubric: str, evaluator: str, shape: Shape
    ) -> int:
        values: tuple[str, ...] | None = tuple(attributes.values())
        assert values is not None
        cohorts = self._cohorts.setdefault((tenant, view), {})
        if values not in cohorts and len(cohorts) >= self._max_cohorts:
            values, attributes = None, {}
            if (row := self._row.get((tenant, view, None, rubric, evaluator))) is not None:
                return row
        if not self._free and len(self.rows) >= self._max_streams:
            return -1
        stream = Stream(
            tenant=tenant,
            view=view,
            values=values,
            cohort=OTHER
            if values is None
            else ",".join(f"{name}={attributes[name]}" for name in sorted(attributes)),
            attributes=attributes,
            rubric=rubric,
            evaluator=evaluator,
            shape=shape,
        )
        if self._free:
            row = heapq.heappop(self._free)
            self.rows[row] = stream
        else:
            row = len(self.rows)
            self.rows.append(stream)
        self._enter(row, stream)
        self._fresh.append(row)
        self._changed[row // _BLOCK] = None
        return row

    def fresh(self) -> list[int]:
        """Return the rows that were given out since the last call."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def _enter(self, row: int, stream: Stream) -> None:
        self._row[(stream.tenant, stream.view, stream.values, stream.rubric, stream.evaluator)] = row
        if stream.values is not None:
            cohorts = self._cohorts.setdefault((stream.tenant, stream.view), {})
            cohorts[stream.values] = cohorts.get(stream.values, 0) + 1
        if row >= len(self.last):
            self.last = np.concatenate([self.last, np.zeros(max(row + 1, len(self.last)), dtype=np.int64)])
        self.last[row] = stream.last

    def touch(self, rows: NDArray[np.int64], times: NDArray[np.int64]) -> None:
        """Note when the streams of ``rows`` had scores."""
        later = times > self.last[rows]
        if not later.any():
            return
        # Whole hours, so that a batch does not have to save every stream it touches.
        rows, hours = rows[later], (times[later] // HOUR + 1) * HOUR
        np.maximum.at(self.last, rows, hours)
        self._changed.update(dict.fromkeys(np.unique(rows // _BLOCK).tolist()))

    def mark(self, row: int) -> None:
        """Say that the stream of ``row`` was changed."""
        self._changed[row // _BLOCK] = None

    def forget_before(self, time: int) -> list[tuple[int, Stream]]:
        """Free the rows of the streams whose last score is older than ``time``, and return them."""
        freed = []
        for row in np.flatnonzero(self.last[: len(self.rows)] < time).tolist():
            stream = self.rows[row]
            if stream is None:
                continue
            freed.append((row, stream))
            self.rows[row] = None
            heapq.heappush(self._free, row)
            del self._row[(stream.tenant, stream.view, stream.values, stream.rubric, stream.evaluator)]
            if stream.values is not None:
                cohorts = self._cohorts[(stream.tenant, stream.view)]
                cohorts[stream.values] -= 1
                if not cohorts[stream.values]:
                    del cohorts[stream.values]
            self._changed[row // _BLOCK] = None
        if freed:
            self.forget_sources()  # a place may have become free for a cohort of the overflow
        return freed

    def save(self) -> dict[str, bytes | None]:
        """Return the state that changed since the last call."""
        out: dict[str, bytes | None] = {}
        for block in self._changed:
            rows = self.rows[block * _BLOCK : (block + 1) * _BLOCK]
            for row, stream in enumerate(rows, block * _BLOCK):
                if stream is not None:
                    stream.last = int(self.last[row])
            out[f"{_PREFIX}{block}"] = msgspec.msgpack.encode(rows)
        self._changed.clear()
        return out

    def restore(self, state: Mapping[str, bytes]) -> None:
        """Take over saved state."""
        blocks = sorted(int(key[len(_PREFIX) :]) for key in state if key.startswith(_PREFIX))
        for block in blocks:
            self.rows += msgspec.msgpack.decode(state[f"{_PREFIX}{block}"], type=list[Stream | None])
        for row, stream in enumerate(self.rows):
            if stream is None:
                heapq.heappush(self._free, row)
            else:
                self._enter(row, stream)
