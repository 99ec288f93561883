"""What happened to open units since they were last written as a whole: so that a score is saved once, and only it.

A unit that was saved anew with each of its scores would be written as often as it has scores, and a unit of one trace twice:
when it opens, and when it closes and its place must be cleared. A journal takes each score once, in large values. When it has
become several times as long as what is open, or nothing is open, the open units are written as a whole and it begins anew; so the
size of the state, and what a score costs, do not grow with history.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

if TYPE_CHECKING:
    from drift.units import Unit

_LEAST_ROWS = 2048  # below that a journal is short whatever is open
_TIMES = 4  # as long as what is open
_VALUE_ROWS = 4000  # rows per value: about 300 KB, below what a log takes in one record
_SMALL_ROWS = 50  # a value of fewer rows is continued by the next batch, not followed by another

_Item = TypeVar("_Item")


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where scores of one origin belong: what their entries have in common."""

    scope: str
    arm: str
    close_step: int  # nanoseconds
    rubric: str  # as in Entry
    evaluator: str
    stratum: int = 0


class Step(msgspec.Struct, array_like=True):
    """Scores that were taken, in columns, and then the keys of units that closed."""

    places: list[Place]
    place: Sequence[int]  # per score: index in places
    keys: Sequence[int]
    sessions: Sequence[bool]
    times: Sequence[int]
    values: Sequence[float]
    weights: Sequence[float]
    traces: Sequence[str]
    closed: Sequence[int] = ()

    def without(self, numbers: Collection[int]) -> Step:
        """Return the step without the scores of these numbers."""
        kept = [number for number in range(len(self.keys)) if number not in numbers]
        return self._picked(kept)

    def parts(self, rows: int) -> Iterator[Step]:
        """Yield the scores in steps of at most ``rows``."""
        for start in range(0, len(self.keys), rows):
            yield self._picked(range(start, min(start + rows, len(self.keys))))

    def _picked(self, rows: Sequence[int]) -> Step:
        def picked(column: Sequence[_Item]) -> list[_Item]:
            return [column[row] for row in rows]

        return Step(
            self.places,
            picked(self.place),
            picked(self.keys),
            picked(self.sessions),
            picked(self.times),
            picked(self.values),
            picked(self.weights),
            picked(self.traces),
        )

    @property
    def rows(self) -> int:
        """How much there is to write, in scores."""
        return len(self.keys) + len(self.closed) // 8 + 1


class _Value(msgspec.Struct, array_like=True):
    """One value of the saved state: open units as a whole, else steps that came after."""

    units: list[msgspec.Raw]
    steps: list[Step]


class UnitJournal:
    """Writes steps under numbered keys that start with ``prefix``."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._new: list[Step] = []
        self._last: list[Step] = []  # of the last value written
        self._next = 0  # number of the next value
        self._first = 0
        self._rows = 0  # in saved values
        self._outdated: list[str] = []  # keys of units saved one by one, as earlier versions did

    def note(self, step: Step) -> None:
        """Take what happened next."""
        if len(step.keys) <= _VALUE_ROWS:
            self._new.append(step)
            return
        self._new += step.parts(_VALUE_ROWS)

    def save(self, units: Iterable[Unit], entries: int) -> dict[str, bytes | None]:
        """Return the state that changed since the last call; ``units`` are open now and have so many ``entries``."""
        if not self._new and not self._outdated:
            return {}
        new, self._new = self._new, []
        self._rows += sum(step.rows for step in new)
        if self._outdated or not entries or self._rows > max(_LEAST_ROWS, _TIMES * entries):
            return self._anew(units)
        out: dict[str, bytes | None] = {}
        if self._last and sum(step.rows for step in self._last) < _SMALL_ROWS:
            self._next -= 1
            new = self._last + new
        for steps in _parts(new, lambda step: step.rows):
            out[self._key(self._next)] = msgspec.msgpack.encode(_Value([], steps))
            self._next += 1
            self._last = steps
        return out

    def _anew(self, units: Iterable[Unit]) -> dict[str, bytes | None]:
        out: dict[str, bytes | None] = dict.fromkeys(self._outdated)
        out.update((self._key(number), None) for number in range(self._first, self._next))
        self._outdated, self._last, self._rows = [], [], 0
        self._first = self._next
        for some in _parts(units, lambda unit: 1 + len(unit.entries)):
            raws = [msgspec.Raw(msgspec.msgpack.encode(unit)) for unit in some]
            out[self._key(self._next)] = msgspec.msgpack.encode(_Value(raws, []))
            self._next += 1
        return out

    def _key(self, number: int) -> str:
        return f"{self._prefix}{number}"

    def restore(self, state: Mapping[str, bytes], outdated: Sequence[str]) -> Iterator[msgspec.Raw | Step]:
        """Yield units and then steps, in order. ``outdated`` are keys to delete once the units were written by us."""
        self._outdated = list(outdated)
        numbers = sorted(int(key[len(self._prefix) :]) for key in state if key.startswith(self._prefix))
        for number in numbers:
            value = msgspec.msgpack.decode(state[self._key(number)], type=_Value)
            yield from value.units
            yield from value.steps
            self._rows += sum(step.rows for step in value.steps)
            self._last = value.steps if not value.units else []
        if numbers:
            self._first, self._next = numbers[0], numbers[-1] + 1


def _parts(items: Iterable[_Item], size: Callable[[_Item], int]) -> Iterator[list[_Item]]:
    part: list[_Item] = []
    total = 0
    for item in items:
        if part and total + size(item) > _VALUE_ROWS:
            yield part
            part, total = [], 0
        part.append(item)
        total += size(item)
    if part:
        yield part
