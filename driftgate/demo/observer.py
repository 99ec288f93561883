"""Looks at a running process as any user would: its status page and plain SQL on the ClickHouse endpoint."""

from __future__ import annotations

import json
from typing import Any, Protocol
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import msgspec

from stream.errors import Transient

COHORTS = """
SELECT cohort, rubric, mean, standard_error, n FROM cohort_means
WHERE view = 'route,prompt_version' AND window_seconds = 900 ORDER BY rubric, cohort
"""
VERDICTS = """
SELECT rubric, state, e_value, e_threshold, sr_value, pairs, mean_difference, action, reason, verdict_id
FROM verdicts_latest ORDER BY rubric
"""
TRAFFIC = """
SELECT countIf(SpanAttributes['gen_ai.prompt.version'] = '{candidate}'),
       countIf(SpanAttributes['gen_ai.prompt.version'] = '{incumbent}')
FROM otel_traces WHERE Timestamp > now64(9) - INTERVAL 6 SECOND AND Timestamp <= now64(9) - INTERVAL 2 SECOND
"""


class Snapshot(msgspec.Struct):
    """What was seen at one moment; empty where it could not be seen."""

    ledger: dict[str, dict[str, int]] = {}
    stages: list[dict[str, Any]] = []
    incidents: list[dict[str, Any]] = []
    rollbacks: list[dict[str, Any]] = []
    cohorts: list[list[Any]] = []
    verdicts: list[list[Any]] = []
    traffic: tuple[int, int] = (0, 0)

    def counter(self, stage: str, name: str) -> int:
        """Return one durable counter."""
        return self.ledger.get(stage, {}).get(name, 0)

    def counters(self, stage: str, prefix: str) -> dict[str, int]:
        """Return the counters of ``stage`` that start with ``prefix``, without it."""
        return {
            k.removeprefix(prefix): v for k, v in self.ledger.get(stage, {}).items() if k.startswith(prefix)
        }


class Source(Protocol):
    """Where to look. Both methods raise ``URLError``, ``TimeoutError`` or ``ConnectionError`` when nobody answers now."""

    def sql(self, query: str) -> list[list[Any]]:
        """Run a query and return its rows."""

    def status(self) -> dict[str, Any]:
        """Return ``ledger``, ``stages``, ``incidents`` and ``rollbacks`` as ``GET /v1/status`` tells them."""


class QueryPort:
    """The process behind ``endpoints`` (as it wrote them to ``endpoints.json``)."""

    def __init__(self, endpoints: dict[str, str]) -> None:
        self._endpoints = endpoints

    def sql(self, query: str) -> list[list[Any]]:
        """Run a query over HTTP and return its rows."""
        url = self._endpoints["query"] + "/?" + urlencode({"default_format": "JSONCompact"})
        request = Request(url, data=query.encode(), method="POST")  # noqa: S310 - our own http address
        with urlopen(request, timeout=10) as answer:  # noqa: S310
            rows: list[list[Any]] = json.load(answer)["data"]
        return rows

    def status(self) -> dict[str, Any]:
        """Return the status page."""
        with urlopen(self._endpoints["web"] + "/v1/status", timeout=10) as answer:  # noqa: S310
            found: dict[str, Any] = json.load(answer)
        return found


class Observer:
    """Looks at ``source`` again and again."""

    def __init__(self, source: Source, incumbent: str, candidate: str) -> None:
        self._source = source
        self.sql = source.sql
        self._traffic = TRAFFIC.format(candidate=candidate, incumbent=incumbent)

    def look(self, before: Snapshot) -> Snapshot:
        """Return a new snapshot; what cannot be seen now stays as it was before."""
        try:
            status = self._source.status()
            candidate, incumbent = self.sql(self._traffic)[0]
            return Snapshot(
                ledger=status["ledger"],
                stages=status["stages"],
                incidents=status["incidents"],
                rollbacks=status["rollbacks"],
                cohorts=self.sql(COHORTS),
                verdicts=self.sql(VERDICTS),
                traffic=(int(candidate), int(incumbent)),
            )
        except (URLError, TimeoutError, ConnectionError, Transient):
            return before
