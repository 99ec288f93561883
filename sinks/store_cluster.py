"""The schema's statements for a ClickHouse cluster: ``ON CLUSTER`` and replicated tables.

One shard is meant, of as many replicas as there are: rows are inserted through one connection and replicated from there.
Paths in Keeper are ClickHouse's defaults (``default_replica_path``, made from the table's UUID and the macros ``shard``
and ``replica``).
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from sinks.store_settings import Target

_NAMED = re.compile(
    r"\A(?P<head>CREATE (?:TABLE|VIEW|MATERIALIZED VIEW|DATABASE) IF NOT EXISTS|ALTER TABLE|DROP VIEW IF EXISTS) (?P<name>`?\w+`?)"
)
_ENGINE = re.compile(r"\bENGINE = ReplacingMergeTree\b")


class Placement(msgspec.Struct, frozen=True):
    """Where statements of the schema run. ``cluster`` is empty for one server or a Replicated database."""

    cluster: str = ""
    replicated: bool = False

    @classmethod
    def of(cls, target: Target) -> Placement:
        """Return what the store's URL says."""
        return cls(target.cluster, target.replicated)

    def statement(self, sql: str) -> str:
        """Return ``sql`` as it has to be run: DDL on every replica, tables with a replicated engine."""
        if self.cluster:
            sql = _NAMED.sub(rf"\g<head> \g<name> ON CLUSTER '{self.cluster}'", sql, count=1)
        if self.replicated:
            sql = _ENGINE.sub("ENGINE = ReplicatedReplacingMergeTree", sql)
        return sql


class PlacedClient:
    """A ClickHouse client whose commands are put where the schema belongs; queries go through as they are."""

    def __init__(self, client: Any, placement: Placement) -> None:
        self._client = client
        self._placement = placement

    def command(self, cmd: str, *, parameters: Any = None, settings: Any = None) -> Any:
        """Run one statement."""
        return self._client.command(self._placement.statement(cmd), parameters=parameters, settings=settings)

    def query(self, query: str, *, parameters: Any = None, settings: Any = None) -> Any:
        """Run one query."""
        return self._client.query(query, parameters=parameters, settings=settings)
