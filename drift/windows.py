"""Rolling windows per cohort and rubric: how bad it is now, with nothing but weighted sums."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import msgspec
import numpy as np

from drift.cohorts import BINS, HOUR, MAX_LEVELS, Stream, Streams, nearest_bin
from drift.panes import PASS, WW, WWX, WWXX, WX, Floats, Ints, N, Tier, W
from drift.settings import DriftSettings, nanos
from stream.records import CohortWindow, ScoreRecord

_FINE = 64  # a window of at most so many buckets is made of buckets
_COARSE = 24  # a longer one of so many panes: its start moves in steps of 1/24 of its length
_STEADY = 1000  # a window is refreshed when it has moved by 1/1000 of its length (never below a bucket)
_MAX_CORRECTIONS = 16  # earlier ends of a window that late data may correct
_PENDING = "pending"
_NEVER = np.iinfo(np.int64).max


class _Window(NamedTuple):
    length: int
    refresh: int
    tier: int
    corrected: bool  # whether late data corrects ends already published


class WindowTable:
    """Rolling windows of one partition.

    A window is published at every refresh for the streams that have new scores in it, as of the event time reached; a
    late score corrects the ends it belongs to (windows of up to 64 buckets), or shows at the next end (longer ones).
    """

    def __init__(self, settings: DriftSettings) -> None:
        bucket = nanos(settings.bucket)
        lateness = nanos(settings.lateness)
        self._threshold = settings.pass_threshold
        lengths = [nanos(window) for window in settings.windows]
        widths = [
            bucket if length <= _FINE * bucket else _up(length // _COARSE, bucket) for length in lengths
        ]
        tiers = sorted(set(widths))
        self._windows = [
            _Window(length, max(bucket, _up(length // _STEADY, bucket)), tiers.index(width), width == bucket)
            for length, width in zip(lengths, widths, strict=True)
        ]
        slack = lateness + _MAX_CORRECTIONS * bucket
        self._tiers = [
            Tier(
                number,
                width,
                slack + max(one for one, of in zip(lengths, widths, strict=True) if of == width),
            )
            for number, width in enumerate(tiers)
        ]
        self._keep_streams = max(lengths) + max(widths) + slack
        self._streams = Streams(settings.views, settings.max_cohorts, settings.max_streams)
        # Per window and row: the oldest score since the window was last published.
        self._oldest = np.full((len(lengths), 0), _NEVER, dtype=np.int64)
        self._pending_changed = False
        self._rows: list[int] = []
        self._times: list[int] = []
        self._values: list[float] = []
        self._weights: list[float] = []
        self._levels: list[int] = []

    def add(self, score: ScoreRecord, weight: float, count: Callable[[str], None]) -> None:
        """Add one usable score to its cohorts."""
        value = score.value or 0.0
        time = score.time_unix_nano
        for row in self._streams.find(score):
            if row is None:
                count("window_scores_excluded.too_many_streams")
                continue
            stream = self._streams.touch(row, time)
            known = len(stream.levels)
            level = stream.level(value)
            if level is None:
                level = self._rebin(row, stream, value)
            elif len(stream.levels) != known:
                self._streams.mark(row)
            self._rows.append(row)
            self._times.append(time)
            self._values.append(value)
            self._weights.append(weight)
            self._levels.append(level)

    def _rebin(self, row: int, stream: Stream, value: float) -> int:
        self.flush()
        places = np.array([nearest_bin(level) for level in stream.levels], dtype=np.int64)
        for tier in self._tiers:
            tier.rebin(row, places)
        stream.levels = []
        stream.binned = True
        self._streams.mark(row)
        return nearest_bin(value)

    def flush(self) -> None:
        """Apply the scores added since the last call."""
        if not self._rows:
            return
        rows = np.array(self._rows, dtype=np.int64)
        times = np.array(self._times, dtype=np.int64)
        values = np.array(self._values)
        weights = np.array(self._weights)
        levels = np.array(self._levels, dtype=np.int64)
        passes = (values >= self._threshold).astype(np.float64)
        for tier in self._tiers:
            tier.add(rows, times, values, weights, levels, passes)
        if (missing := len(self._streams.rows) - self._oldest.shape[1]) > 0:
            more = np.full((len(self._windows), missing), _NEVER, dtype=np.int64)
            self._oldest = np.concatenate([self._oldest, more], axis=1)
        for oldest in self._oldest:
            np.minimum.at(oldest, rows, times)
        self._pending_changed = True
        for pending in (self._rows, self._times, self._values, self._weights, self._levels):
            pending.clear()

    def tick(self, before: int, now: int, offset: int) -> Iterator[CohortWindow]:
        """Yield the windows to publish when event time moves on from ``before`` to ``now``; ``offset`` is included."""
        self.flush()
        for place, window in enumerate(self._windows):
            if now // window.refresh > before // window.refresh:
                yield from self._publish(place, window, before, offset)
        for tier in self._tiers:
            tier.forget(now)
        if now // HOUR > before // HOUR:
            self._streams.forget_before(now - self._keep_streams)

    def _publish(self, place: int, window: _Window, before: int, offset: int) -> Iterator[CohortWindow]:
        rows = np.flatnonzero(self._oldest[place] != _NEVER)
        if not rows.size:
            return
        last = (before // window.refresh + 1) * window.refresh
        first = np.full(len(rows), last)
        if window.corrected:
            first = (self._oldest[place, rows] // window.refresh + 1) * window.refresh
            first = np.maximum(first, last - (_MAX_CORRECTIONS - 1) * window.refresh)
        self._oldest[place, rows] = _NEVER
        self._pending_changed = True
        for end in range(int(first.min()), last + 1, window.refresh):
            yield from self._at(window, end, rows[first <= end], offset)

    def _at(self, window: _Window, end: int, rows: Ints, offset: int) -> Iterator[CohortWindow]:
        sums, levels = self._tiers[window.tier].merge(rows, end - window.length, end)
        n, w, ww = sums[:, N], sums[:, W], sums[:, WW]
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = sums[:, WX] / w
            spread = np.maximum(0.0, sums[:, WWXX] - 2.0 * mean * sums[:, WWX] + mean * mean * ww)
            # Linearised variance of the Hájek mean, with the small-sample factor n / (n - 1).
            error = np.sqrt(spread / (w * w) * n / (n - 1.0))
            effective = w * w / ww
            passing = sums[:, PASS] / w
        for i, row in enumerate(rows.tolist()):
            stream = self._streams.rows[row]
            if stream is None or not n[i]:
                continue
            names = BINS if stream.binned else stream.levels
            yield CohortWindow(
                tenant=sys.intern(stream.tenant),  # see rollouts._verdict
                view=stream.view,
                cohort=stream.cohort,
                attributes=stream.attributes,
                rubric=stream.rubric,
                evaluator=stream.evaluator,
                window_seconds=max(1, round(window.length / 1e9)),
                end_unix_nano=end,
                n=int(n[i]),
                n_eff=float(effective[i]),
                mean=float(mean[i]),
                standard_error=float(error[i]) if n[i] > 1 else None,
                pass_rate=float(passing[i]),
                worst_decile_mean=_worst_decile(names, levels[i, MAX_LEVELS:]),
                weight=float(w[i]),
                levels={
                    f"{name:.6g}": int(count)
                    for name, count in sorted(zip(names, levels[i, :MAX_LEVELS].tolist(), strict=False))
                    if count
                },
                version=offset,
            )

    def save(self) -> dict[str, bytes | None]:
        """Return the state that changed since the last call."""
        self.flush()
        out = self._streams.save()
        for tier in self._tiers:
            out.update(tier.save())
        if self._pending_changed:
            rows = np.flatnonzero((self._oldest != _NEVER).any(axis=0))
            out[_PENDING] = msgspec.msgpack.encode((rows.tolist(), self._oldest[:, rows].tobytes()))
            self._pending_changed = False
        return out

    def restore(self, state: Mapping[str, bytes]) -> None:
        """Take over saved state."""
        self._streams.restore(state)
        for tier in self._tiers:
            tier.restore(state)
        self._oldest = np.full((len(self._windows), len(self._streams.rows)), _NEVER, dtype=np.int64)
        if _PENDING in state:
            rows, raw = msgspec.msgpack.decode(state[_PENDING], type=tuple[list[int], bytes])
            self._oldest[:, rows] = np.frombuffer(raw, dtype=np.int64).reshape(len(self._windows), -1)


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def _worst_decile(levels: list[float], weights: Floats) -> float | None:
    """Return the mean of the lowest tenth of the weight."""
    target = 0.1 * float(weights.sum())
    if target <= 0.0:
        return None
    left, total = target, 0.0
    for level, weight in sorted(zip(levels, weights.tolist(), strict=False)):
        part = min(left, weight)
        total += part * level
        left -= part
        if left <= 0.0:
            break
    return total / (target - max(0.0, left))
