"""What belongs to an origin, looked up once instead of for every batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from drift.observations import Group, Observations
from drift.origins import Origin

_MAX_KEPT = 50_000

_Found = TypeVar("_Found")


class ByOrigin(Generic[_Found]):
    """Remembers what ``find`` returned for an origin, given the event time of its first score in a batch.

    How many are remembered is bounded: beyond that all are forgotten and found again, so that nothing may depend on whether
    one was. ``known`` holds them by the number of the origin.
    """

    def __init__(self, find: Callable[[Origin, int], _Found]) -> None:
        self._find = find
        self.known: dict[int, _Found] = {}

    def groups(self, seen: Observations) -> Iterator[tuple[Group, _Found]]:
        """Yield every group with what belongs to its origin; afterwards ``known`` has all of them."""
        if len(self.known) + len(seen.groups) > _MAX_KEPT:
            self.known.clear()
        for group in seen.groups:
            number = group.origin.number
            found = self.known.get(number)
            if found is None:
                found = self.known[number] = self._find(group.origin, seen.times[group.rows[0]])
            yield group, found

    def forget(self) -> None:
        """Find everything anew from now on."""
        self.known.clear()
