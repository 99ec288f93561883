"""Units: all scores of one session (else trace) in one scope become one observation.

Scores of one session are alike; a test that took each for independent evidence would roll back healthy candidates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from drift.pairing import UnitMean
from drift.settings import UnitSettings, nanos

_OPEN = "unit/"
_CLOSED = "closed/"


class Entry(NamedTuple):
    """One score inside a unit."""

    time_ns: int
    rubric: str  # "" for a rubric that is not gated: it keeps the unit open and has no value
    evaluator: str
    value: float
    weight: float
    trace_id: str
    stratum: int = 0  # hash of the covariates within which units are paired


class Unit(msgspec.Struct, array_like=True):
    """A session that is still open.

    ``start`` to ``end`` is the unbroken run of scores from the first one on: no gap longer than the idle time, no score
    later than the maximum length after the first. It is found from event times alone, so it does not depend on the
    order in which the scores arrive.
    """

    key: int
    scope: str
    arm: str
    close_step: int  # units close in buckets of this length (nanoseconds)
    idle: int
    start: int
    end: int
    whole: bool = True  # every entry belongs to the run
    contaminated: bool = False
    entries: list[Entry] = []

    def due(self, longest: int) -> int:
        """When it closes."""
        return min(self.end + self.idle, self.start + longest)

    def add(self, entry: Entry, longest: int) -> None:
        """Take one more score."""
        self.entries.append(entry)
        time = entry.time_ns
        if self.whole and self.start <= time <= self.start + longest and time - self.end <= self.idle:
            self.end = max(self.end, time)
            return
        times = sorted(one.time_ns for one in self.entries)
        self.start = self.end = times[0]
        run = 0
        for moment in times:
            if moment - self.end > self.idle or moment > self.start + longest:
                break
            self.end = moment
            run += 1
        self.whole = run == len(times)


class ClosedUnit(NamedTuple):
    """A unit at its end."""

    key: int
    scope: str
    arm: str
    start: int
    end: int
    contaminated: bool
    left_out: int  # scores that came after the session's end
    mixed: int  # rubrics left out because two evaluators scored the session
    means: dict[str, tuple[str, UnitMean]]  # rubric -> (evaluator identity, mean)
    stratum: int = 0  # that of its first score


class UnitTable:
    """Open units of a partition, and the keys of those that closed a short while ago."""

    def __init__(self, settings: UnitSettings, prefix: str = "") -> None:
        self._open_key, self._closed_key = prefix + _OPEN, prefix + _CLOSED
        self._idle = nanos(settings.idle)
        self._trace_idle = min(self._idle, nanos(settings.trace_idle))
        self._longest = nanos(settings.max)
        self._remember = nanos(settings.remember)
        self._max_open = settings.max_open
        self._max_scores = settings.max_scores
        self._max_remembered = 4 * settings.max_open
        self._open: dict[int, Unit] = {}
        self._due: dict[int, dict[int, None]] = {}  # end of the closing bucket -> keys
        self._closed: dict[int, str] = {}  # key -> arm
        self._closed_by_end: dict[int, list[int]] = {}
        self._changed: dict[int, None] = {}
        self._changed_ends: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(
        self, key: int, scope: str, arm: str, entry: Entry, *, is_session: bool, close_step: int
    ) -> tuple[str, bool]:
        """Put one score into its unit.

        Returns
        -------
        (refusal, contaminated)
            A short word saying why the score was not taken (``unit_closed``, ``other_arm_after_close``, ``unit_full``,
            ``too_many_units``), or "opened" or "" when it was; and whether this score showed an open unit to be in two
            arms.
        """
        unit = self._open.get(key)
        if unit is None:
            if (earlier := self._closed.get(key)) is not None:
                return ("unit_closed" if earlier == arm else "other_arm_after_close"), False
            if len(self._open) >= self._max_open:
                return "too_many_units", False
            unit = Unit(
                key=key,
                scope=scope,
                arm=arm,
                close_step=close_step,
                idle=self._idle if is_session else self._trace_idle,
                start=entry.time_ns,
                end=entry.time_ns,
                entries=[entry],
            )
            self._open[key] = unit
            self._changed[key] = None
            self._schedule(unit)
            return "opened", False
        newly = not unit.contaminated and unit.arm != arm
        if newly:
            unit.contaminated = True
            self._changed[key] = None
        if len(unit.entries) >= self._max_scores:
            return "unit_full", newly
        before = unit.due(self._longest)
        unit.add(entry, self._longest)
        self._changed[key] = None
        # A later end is noticed when the bucket comes up; only an earlier one must be entered now.
        if unit.due(self._longest) < before:
            self._schedule(unit)
        return "", newly

    def _schedule(self, unit: Unit) -> None:
        end = (unit.due(self._longest) // unit.close_step + 1) * unit.close_step
        self._due.setdefault(end, {})[unit.key] = None

    def next_end(self, horizon: int) -> int | None:
        """Return the end of the oldest bucket that can be closed, if there is one."""
        end = min(self._due, default=None)
        return end if end is not None and end <= horizon else None

    def close(self, end: int) -> list[ClosedUnit]:
        """Close the units whose time ends in the bucket that ends at ``end``, in the order of their keys."""
        closed = []
        for key in sorted(self._due.pop(end, {})):
            unit = self._open.get(key)
            if unit is None:
                continue
            if unit.due(self._longest) >= end:
                self._schedule(unit)
                continue
            del self._open[key]
            self._changed[key] = None
            self._closed[key] = unit.arm
            self._closed_by_end.setdefault(end, []).append(key)
            self._changed_ends[end] = None
            closed.append(_close(unit))
        return closed

    def forget(self, now: int) -> None:
        """Drop what is remembered longer than needed, oldest first, and beyond the bound."""
        for end in sorted(self._closed_by_end):
            if end + self._remember > now and len(self._closed) <= self._max_remembered:
                return
            for key in self._closed_by_end.pop(end):
                self._closed.pop(key, None)
            self._changed_ends[end] = None

    def save(self) -> dict[str, bytes | None]:
        """Return the state that changed since the last call."""
        out: dict[str, bytes | None] = {}
        for key in self._changed:
            unit = self._open.get(key)
            out[f"{self._open_key}{key:016x}"] = None if unit is None else msgspec.msgpack.encode(unit)
        for end in self._changed_ends:
            keys = self._closed_by_end.get(end)
            out[f"{self._closed_key}{end}"] = (
                None if keys is None else msgspec.msgpack.encode([(key, self._closed[key]) for key in keys])
            )
        self._changed.clear()
        self._changed_ends.clear()
        return out

    def restore(self, state: Mapping[str, bytes]) -> None:
        """Take over saved state."""
        for key, value in state.items():
            if key.startswith(self._open_key):
                unit = msgspec.msgpack.decode(value, type=Unit)
                self._open[unit.key] = unit
                self._schedule(unit)
            elif key.startswith(self._closed_key):
                pairs = msgspec.msgpack.decode(value, type=list[tuple[int, str]])
                self._closed_by_end[int(key[len(self._closed_key) :])] = [one for one, _ in pairs]
                self._closed.update(pairs)


def _close(unit: Unit) -> ClosedUnit:
    inside = [entry for entry in unit.entries if unit.start <= entry.time_ns <= unit.end]
    by_rubric: dict[str, list[Entry]] = {}
    for entry in inside:
        if entry.rubric:
            by_rubric.setdefault(entry.rubric, []).append(entry)
    means: dict[str, tuple[str, UnitMean]] = {}
    mixed = 0
    for rubric in sorted(by_rubric):
        entries = by_rubric[rubric]
        if len({entry.evaluator for entry in entries}) > 1:
            mixed += 1
            continue
        # fsum rounds once, so the mean does not depend on the order of arrival.
        weight = math.fsum(entry.weight for entry in entries)
        worst = min(entries, key=lambda entry: (entry.value, entry.time_ns, entry.trace_id))
        means[rubric] = (
            entries[0].evaluator,
            UnitMean(
                key=unit.key,
                value=math.fsum(entry.weight * entry.value for entry in entries) / weight,
                weight=weight / len(entries),
                time_ns=unit.end,
                trace_id=worst.trace_id,
            ),
        )
    return ClosedUnit(
        key=unit.key,
        scope=unit.scope,
        arm=unit.arm,
        start=unit.start,
        end=unit.end,
        contaminated=unit.contaminated,
        left_out=len(unit.entries) - len(inside),
        mixed=mixed,
        means=means,
        stratum=min((entry.time_ns, entry.stratum) for entry in inside)[1],
    )
