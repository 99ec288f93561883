"""Rolling windows per cohort and rubric: how bad it is now, put together from the states of single minutes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import msgspec
import numpy as np

from drift.bins import Floats, Ints, Slots
from drift.cohorts import HOUR, Streams
from drift.observations import Observations
from drift.panes import COLUMNS
from drift.settings import DriftSettings
from drift.window_deltas import Delta, Since
from drift.window_plan import Window, WindowPlan
from drift.window_records import WindowRecords
from drift.window_rows import WindowRows
from stream.records import CohortWindow, Evaluator

_STATE = "windows"
_MAX_ROWS = 10_000  # observations taken at once
_NEVER = np.iinfo(np.int64).max
_LEAST_HITS = 20_000  # counted before panes are written between two ticks


class _Progress(msgspec.Struct):
    """Where the table stands."""

    rolled: int  # buckets that end at or before it are in the coarse tiers
    rows: list[int]
    oldest: bytes


class WindowTable:
    """Rolling windows of one partition.

    Scores are counted in the pane of their bucket. When the lateness has passed, a bucket is final and is added to the panes of
    longer windows. A window is published at every refresh for the streams that have new scores in it, as of the event
    time reached; a late score corrects the ends it belongs to (windows of up to 64 buckets), or shows at the next end
    (longer ones).
    """

    def __init__(self, settings: DriftSettings) -> None:
        self._plan = WindowPlan(settings)
        self._tiers = self._plan.tiers
        self._streams = Streams(settings.views, settings.max_cohorts, settings.max_streams)
        self._slots = Slots()
        self._rows = WindowRows(self._streams, self._slots, self._tiers, settings.pass_threshold)
        self._records = WindowRecords(self._streams, self._slots, self._rows, settings.pass_threshold)
        # Per window and row: the oldest score since the window was last published; and since the last tick.
        self._oldest = np.full((len(self._plan.windows), 0), _NEVER, dtype=np.int64)
        self._newest_oldest = np.full(0, _NEVER, dtype=np.int64)
        self._rolled = 0
        self._moved = False
        self._whole = True  # the panes are to be written
        self._deltas = 0  # saved since they were
        self._since = Since()
        self._columns: list[tuple[Ints, Ints, Floats, Floats]] = []  # added since the last flush
        self._pending: list[tuple[int, int, float, float]] = []  # added after these
        self._source: dict[int, int] = {}  # by number of the origin, in the present generation of sources
        self._partial: dict[int, int] = {}  # the same: cohorts for which there is no room
        self._known_in = 0

    def add(self, seen: Observations, count: Callable[..., None]) -> None:
        """Add usable scores to their cohorts."""
        if len(seen) > _MAX_ROWS:
            raise ValueError(f"at most {_MAX_ROWS} observations at once")
        self._make_room(len(seen.groups))
        known = self._source
        for group in seen.groups:
            origin = group.origin
            if origin.number in known:
                continue
            source, missing = self._streams.source(
                origin.tenant, origin.rubric, origin.evaluator, origin.cohort, False
            )
            known[origin.number] = source
            if missing:
                self._partial[origin.number] = missing
        if self._partial:
            for group in seen.groups:
                if missing := self._partial.get(group.origin.number, 0):
                    count("window_scores_excluded.too_many_streams", missing * len(group.rows))
        self._settle()
        self._columns.append(
            (
                np.array([known[origin.number] for origin in seen.origins]),
                np.array(seen.times),
                np.array(seen.values, dtype=np.float64),
                np.array(seen.weights, dtype=np.float64),
            )
        )

    def _make_room(self, sources: int) -> None:
        """Start numbering sources anew where there is no room for so many more."""
        if self._streams.room < sources:
            self.flush()
            self._streams.forget_sources()
        if self._known_in != self._streams.generation:
            self._known_in = self._streams.generation
            self._source.clear()
            self._partial.clear()

    def add_value(
        self,
        tenant: str,
        rubric: str,
        evaluator: Evaluator | None,
        cohort: Mapping[str, str],
        time: int,
        value: float,
        count: Callable[..., None],
    ) -> None:
        """Add one value that was taken before sampling.

        Without an evaluator it is >= 0 and of a metric without an upper limit (seconds, tokens, dollars).
        """
        source, missing = self.source(tenant, rubric, evaluator, cohort)
        if missing:
            count("window_scores_excluded.too_many_streams", missing)
        self._pending.append((source, time, value, 1.0))

    def source(
        self, tenant: str, rubric: str, evaluator: Evaluator | None, cohort: Mapping[str, str]
    ) -> tuple[int, int]:
        """See :meth:`Streams.source`; without an evaluator it is that of an unbounded metric. Good until the next tick."""
        self._make_room(1)
        return self._streams.source(tenant, rubric, evaluator, cohort, evaluator is None)

    def flush(self) -> None:
        """Apply the scores added since the last call."""
        self._settle()
        if not self._columns:
            return
        columns = [np.concatenate(column) for column in zip(*self._columns, strict=True)]
        self._columns.clear()
        self.add_columns(*columns)

    def _settle(self) -> None:
        """Make columns of single values."""
        if self._pending:
            source, time, value, weight = zip(*self._pending, strict=True)
            self._pending.clear()
            self._columns.append(
                (np.array(source), np.array(time), np.array(value, dtype=np.float64), np.array(weight))
            )

    def add_columns(self, sources: Ints, times: Ints, values: Floats, weights: Floats) -> None:
        """Add scores as columns of shape (n,): :meth:`Streams.source` numbers, Unix nanoseconds, values and weights."""
        rows = self._streams.rows_of(sources)
        views = rows.shape[1]
        rows = rows.reshape(-1)
        self._grow()
        times = np.repeat(times, views)
        values, weights = np.repeat(values, views), np.repeat(weights, views)
        if (rows < 0).any():
            used = rows >= 0
            rows, times, values, weights = rows[used], times[used], values[used], weights[used]
        if not rows.size:
            return
        self._streams.touch(rows, times)
        earlier = times < self._newest_oldest[rows]
        if earlier.any():
            np.minimum.at(self._newest_oldest, rows[earlier], times[earlier])
            self._since.rows.append(rows[earlier])
        self._moved = True
        if self._rows.count(rows, times, values, weights, self._since):
            self._whole = True

    def _grow(self) -> None:
        self._rows.grow()
        more = len(self._rows) - self._oldest.shape[1]
        if more > 0:
            never = np.full((len(self._plan.windows) + 1, more), _NEVER, dtype=np.int64)
            self._oldest = np.concatenate([self._oldest, never[1:]], axis=1)
            self._newest_oldest = np.concatenate([self._newest_oldest, never[0]])

    def tick(self, before: int, now: int, horizon: int, offset: int) -> Iterator[CohortWindow]:
        """Yield the windows to publish when event time moves on from ``before`` to ``now``.

        Nothing older than ``horizon`` will come any more; ``offset`` is included.
        """
        self.flush()
        self._grow()
        np.minimum(self._oldest, self._newest_oldest, out=self._oldest)
        self._newest_oldest.fill(_NEVER)
        for number, window in enumerate(self._plan.windows):
            if now // window.refresh > before // window.refresh:
                yield from self._publish(number, window, before, offset)
        self._roll(horizon)
        for tier in self._tiers:
            tier.forget(now)
        if now // HOUR > before // HOUR:
            self._forget(now - self._plan.keep)
        self._moved = self._whole = True

    def _roll(self, horizon: int) -> None:
        fine = self._tiers[0]
        for index in sorted(fine.panes):
            start = index * fine.width
            if self._rolled < start + fine.width <= horizon:
                for tier in self._tiers[1:]:
                    tier.take(fine.panes[index], start)
        for tier in self._tiers:
            tier.finish(self._rolled, horizon)
        self._rolled = max(self._rolled, horizon)

    def _forget(self, time: int) -> None:
        if freed := self._streams.forget_before(time):
            self._rows.free(freed)

    def _publish(self, number: int, window: Window, before: int, offset: int) -> Iterator[CohortWindow]:
        oldest = self._oldest[number]
        rows = np.flatnonzero(oldest != _NEVER)
        if not rows.size:
            return
        ends, first = self._plan.ends(window, before, oldest[rows])
        oldest[rows] = _NEVER
        for end in ends:
            panes = list(self._plan.panes(window, end, self._rolled))
            yield from self._records.at(window, end, rows[first <= end], panes, offset)

    @property
    def nbytes(self) -> int:
        """Bytes of all columns: panes, slots and what is kept per row (not the names of cohorts)."""
        rows = self._oldest.nbytes + self._newest_oldest.nbytes + self._streams.last.nbytes
        return sum(tier.nbytes for tier in self._tiers) + self._slots.nbytes + self._rows.nbytes + rows

    def save(self) -> dict[str, bytes | None]:
        """Return the state that changed since the last call; between two ticks that is what was counted since."""
        self.flush()
        out = self._streams.save()
        out.update(self._slots.save())
        # A batch hits slots all over a pane, so blocks would be written whole for a few scores each.
        if not (self._whole or self._since.hits > max(_LEAST_HITS, 8 * self._slots.count)):
            if self._moved:
                out[f"{_STATE}/{self._deltas}"] = self._since.encoded(self._newest_oldest)
                self._deltas += 1
                self._moved = False
            return out
        for tier in self._tiers:
            out.update(tier.save())
        oldest = np.minimum(self._oldest, self._newest_oldest)
        rows = np.flatnonzero((oldest != _NEVER).any(axis=0))
        progress = _Progress(self._rolled, rows.tolist(), oldest[:, rows].tobytes())
        out[_STATE] = msgspec.msgpack.encode(progress)
        out.update((f"{_STATE}/{number}", None) for number in range(self._deltas))
        self._deltas = 0
        self._since = Since()
        self._moved = self._whole = False
        return out

    def restore(self, state: Mapping[str, bytes]) -> None:
        """Take over saved state."""
        self._streams.restore(state)
        self._slots.restore(state)
        for tier in self._tiers:
            tier.restore(state)
        self._rows.restore()
        self._grow()
        if _STATE in state:
            progress = msgspec.msgpack.decode(state[_STATE], type=_Progress)
            self._rolled = progress.rolled
            raw = np.frombuffer(progress.oldest, dtype=np.int64)
            self._oldest[:, progress.rows] = raw.reshape(len(self._plan.windows), -1)
        while (saved := state.get(f"{_STATE}/{self._deltas}")) is not None:
            self._deltas += 1
            delta = msgspec.msgpack.decode(saved, type=Delta)
            older = np.frombuffer(delta.rows, dtype=np.uint32).astype(np.int64)
            np.minimum.at(self._newest_oldest, older, np.frombuffer(delta.oldest, dtype=np.int64))
            for index, slots, places, terms in delta.hits:
                hit = np.frombuffer(slots, dtype=np.uint32).astype(np.int64)
                pane = self._tiers[0].pane(index)
                pane.count(hit, np.ones(len(hit), dtype=np.int64))
                self._since.hits += len(hit)
                if places:
                    pane.add_sums(
                        np.frombuffer(places, dtype=np.int64), np.frombuffer(terms).reshape(-1, COLUMNS)
                    )
        for tier in self._tiers:
            tier.finish(0, self._rolled)
