"""What was redacted: counts by entity and place, never values."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class RedactionReport(msgspec.Struct):
    """Counts of replacements. ``places`` maps (entity, place) to a count; a place is for example ``span.attribute``."""

    places: dict[tuple[str, str], int] = msgspec.field(default_factory=dict)

    def add(self, place: str, entities: Iterable[str]) -> None:
        """Count ``entities`` found in ``place``."""
        for entity in entities:
            self.places[entity, place] = self.places.get((entity, place), 0) + 1

    def merge(self, other: RedactionReport) -> None:
        """Add the counts of ``other``."""
        for key, count in other.places.items():
            self.places[key] = self.places.get(key, 0) + count

    @property
    def entities(self) -> dict[str, int]:
        """Counts by entity, sorted by name."""
        counts: dict[str, int] = {}
        for (entity, _), count in self.places.items():
            counts[entity] = counts.get(entity, 0) + count
        return dict(sorted(counts.items()))

    @property
    def total(self) -> int:
        """All replacements."""
        return sum(self.places.values())
