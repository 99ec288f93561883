"""Attributes that the policy removes whole, whatever stands in them: ``redaction.paths[].remove``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from collector.redaction.operator import path_pattern
from collector.redaction.report import RedactionReport
from collector.settings import PathSettings

# What a removed attribute is called in the counters.
REMOVED = "REMOVED_ATTRIBUTE"
_MOST_KNOWN_PATHS = 4096
_LONGEST_KNOWN_PATH = 256


class Removal:
    """Removes attributes, also those inside maps, by their paths.

    Parameters
    ----------
    paths
        Those of the policy; what they say besides ``remove`` is not looked at.
    """

    def __init__(self, paths: Sequence[PathSettings]) -> None:
        self._patterns: list[re.Pattern[str]] = [path_pattern(item.path) for item in paths if item.remove]
        self._known: dict[str, bool] = {}

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def resource(self, group: Any, report: RedactionReport) -> None:
        """Remove from the resource of a ResourceSpans or ResourceLogs; ``report`` counts what went."""
        self._prune(group.resource.attributes, "resource.attribute", "resource.attributes.", report)

    def scope(self, group: Any, report: RedactionReport) -> None:
        """Remove from the scope of a ScopeSpans or ScopeLogs."""
        if group.HasField("scope"):
            self._prune(group.scope.attributes, "scope.attribute", "scope.attributes.", report)

    def item(self, message: Any, report: RedactionReport) -> None:
        """Remove from a span, its events and links, or from a log record."""
        if "body" in message.DESCRIPTOR.fields_by_name:
            self._prune(message.attributes, "log.attribute", "log.attributes.", report)
            return
        self._prune(message.attributes, "span.attribute", "span.attributes.", report)
        for event in message.events:
            self._prune(event.attributes, "event.attribute", "event.attributes.", report)
        for link in message.links:
            self._prune(link.attributes, "link.attribute", "link.attributes.", report)

    def _prune(self, attributes: Any, place: str, prefix: str, report: RedactionReport) -> None:
        for index in range(len(attributes) - 1, -1, -1):
            path = prefix + attributes[index].key
            if self._matches(path):
                del attributes[index]
                report.add(place, (REMOVED,))
            else:
                self._inside(attributes[index].value, place, path, report)

    def _inside(self, value: Any, place: str, path: str, report: RedactionReport) -> None:
        kind = value.WhichOneof("value")
        if kind == "kvlist_value":
            self._prune(value.kvlist_value.values, place, path + ".", report)
        elif kind == "array_value":
            for item in value.array_value.values:
                self._inside(item, place, path, report)

    def _matches(self, path: str) -> bool:
        if (known := self._known.get(path)) is None:
            known = any(pattern.fullmatch(path) for pattern in self._patterns)
            if len(path) <= _LONGEST_KNOWN_PATH:
                if len(self._known) >= _MOST_KNOWN_PATHS:
                    self._known = {}
                self._known[path] = known
        return known
