"""Which cohorts a score belongs to, and the numbered streams (cohort, rubric, evaluator) that are followed."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping

import msgspec

from stream.records import ScoreRecord

OTHER = "(other)"
HOUR = 3600 * 1_000_000_000
MAX_LEVELS = 21
"""Different score values counted one by one per stream; a stream with more is counted in steps of 0.05."""

_BLOCK = 64
_MAX_FOUND = 20_000  # score sources whose rows are remembered
_PREFIX = "stream/"


class Stream(msgspec.Struct):
    """One cohort, rubric and evaluator."""

    tenant: str
    view: str
    values: tuple[str, ...] | None  # of the view's attributes; None for the overflow cohort
    cohort: str
    attributes: dict[str, str]
    rubric: str
    evaluator: str
    levels: list[float] = []
    binned: bool = False
    last: int = 0  # event time of its latest score, rounded up to the next hour

    def level(self, value: float) -> int | None:
        """Return the place of ``value`` among the levels, or None when the stream must be binned first."""
        if self.binned:
            return nearest_bin(value)
        try:
            return self.levels.index(value)
        except ValueError:
            if len(self.levels) >= MAX_LEVELS:
                return None
            self.levels.append(value)
            return len(self.levels) - 1


def nearest_bin(value: float) -> int:
    """Return the index of the step of 0.05 nearest to ``value`` in [0, 1]."""
    return int(value * (MAX_LEVELS - 1) + 0.5)


BINS = [index / (MAX_LEVELS - 1) for index in range(MAX_LEVELS)]

Key = tuple[str, str, tuple[str, ...] | None, str, str]


class Streams:
    """Rows for streams: at most ``max_streams``, with at most ``max_cohorts`` cohorts per tenant and view.

    A row is used again after its stream has been silent for longer than every window.
    """

    def __init__(self, views: list[list[str]], max_cohorts: int, max_streams: int) -> None:
        self._views = [(",".join(view), tuple(view)) for view in views]
        self._max_cohorts = max_cohorts
        self._max_streams = max_streams
        self.rows: list[Stream | None] = []
        self._free: list[int] = []
        self._row: dict[Key, int] = {}
        self._cohorts: dict[tuple[str, str], dict[tuple[str, ...], int]] = {}  # streams per live cohort
        self._changed: dict[int, None] = {}
        self._found: dict[tuple[object, ...], tuple[int | None, ...]] = {}

    def find(self, score: ScoreRecord) -> tuple[int | None, ...]:
        """Return the row of each of the score's cohorts; None where there is no row left."""
        evaluator = score.evaluator.identity
        place = (score.tenant, score.rubric, evaluator, *score.cohort.items())
        rows = self._found.get(place)
        if rows is None:
            rows = tuple(self._find(score, evaluator))
            if None not in rows:
                if len(self._found) >= _MAX_FOUND:
                    self._found.clear()
                self._found[place] = rows
        return rows

    def _find(self, score: ScoreRecord, evaluator: str) -> Iterator[int | None]:
        for view, names in self._views:
            attributes = {}
            for name in names:
                value = score.cohort.get(name)
                # Every score has a route, even if it has no name; without another attribute it is not in the view.
                if value is None and name != "route":
                    break
                attributes[name] = value or ""
            else:
                values: tuple[str, ...] | None = tuple(attributes.values())
                row = self._row.get((score.tenant, view, values, score.rubric, evaluator))
                if row is None:
                    row = self._new(score.tenant, view, attributes, score.rubric, evaluator)
                yield row

    def _new(
        self, tenant: str, view: str, attributes: dict[str, str], rubric: str, evaluator: str
    ) -> int | None:
        values: tuple[str, ...] | None = tuple(attributes.values())
        assert values is not None
        cohorts = self._cohorts.setdefault((tenant, view), {})
        if values not in cohorts and len(cohorts) >= self._max_cohorts:
            values, attributes = None, {}
            if (row := self._row.get((tenant, view, None, rubric, evaluator))) is not None:
                return row
        if not self._free and len(self.rows) >= self._max_streams:
            return None
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
        )
        if self._free:
            row = heapq.heappop(self._free)
            self.rows[row] = stream
        else:
            row = len(self.rows)
            self.rows.append(stream)
        self._enter(row, stream)
        return row

    def _enter(self, row: int, stream: Stream) -> None:
        self._row[(stream.tenant, stream.view, stream.values, stream.rubric, stream.evaluator)] = row
        if stream.values is not None:
            cohorts = self._cohorts.setdefault((stream.tenant, stream.view), {})
            cohorts[stream.values] = cohorts.get(stream.values, 0) + 1
        self._changed[row // _BLOCK] = None

    def touch(self, row: int, time: int) -> Stream:
        """Return the stream of ``row`` and note when it had a score."""
        stream = self.rows[row]
        assert stream is not None
        # Whole hours, so that a batch does not have to save every stream it touches.
        if time > stream.last:
            stream.last = (time // HOUR + 1) * HOUR
            self._changed[row // _BLOCK] = None
        return stream

    def mark(self, row: int) -> None:
        """Say that the stream of ``row`` was changed."""
        self._changed[row // _BLOCK] = None

    def forget_before(self, time: int) -> None:
        """Free the rows of the streams whose last score is older than ``time``."""
        for row, stream in enumerate(self.rows):
            if stream is None or stream.last >= time:
                continue
            self.rows[row] = None
            self._found.clear()  # a place may have become free for a cohort of the overflow
            heapq.heappush(self._free, row)
            del self._row[(stream.tenant, stream.view, stream.values, stream.rubric, stream.evaluator)]
            if stream.values is not None:
                cohorts = self._cohorts[(stream.tenant, stream.view)]
                cohorts[stream.values] -= 1
                if not cohorts[stream.values]:
                    del cohorts[stream.values]
            self._changed[row // _BLOCK] = None

    def save(self) -> dict[str, bytes | None]:
        """Return the state that changed since the last call."""
        out: dict[str, bytes | None] = {
            f"{_PREFIX}{block}": msgspec.msgpack.encode(self.rows[block * _BLOCK : (block + 1) * _BLOCK])
            for block in self._changed
        }
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
        self._changed.clear()
