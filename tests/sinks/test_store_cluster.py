"""The schema for a cluster, read by ClickHouse's own parser: what ``ON CLUSTER`` would do, which chDB cannot run.

Replicated tables are run, in ``test_store_replicated.py``.
"""

from __future__ import annotations

import json
import re

import pytest

from sinks.store import Store
from sinks.store_cluster import Placement
from sinks.store_migrations import migrations
from sinks.store_settings import StoreSettings

STATEMENTS = [statement for step in migrations() for statement in step.statements]


def formatted(store: Store, sql: str) -> str:
    """Return ``sql`` as the engine understands it."""
    return str(store.query("SELECT formatQuerySingleLine({sql:String}) AS sql", {"sql": sql})[0]["sql"])


@pytest.mark.parametrize(
    ("url", "cluster", "engine"),
    [
        ("clickhouse://db", "", "ReplacingMergeTree"),
        ("clickhouse://db/q?replicated=true", "", "ReplicatedReplacingMergeTree"),
        ("clickhouse://db/q?cluster=main", "main", "ReplacingMergeTree"),
        (
            "clickhouse://db/q?cluster={cluster}&replicated=true",
            "{cluster}",
            "ReplicatedReplacingMergeTree",
        ),
    ],
)
def test_every_statement_of_the_schema_goes_where_the_url_says(
    store: Store, url: str, cluster: str, engine: str
) -> None:
    placement = Placement.of(StoreSettings(url=url).target)
    for statement in STATEMENTS:
        plain, placed = formatted(store, statement), formatted(store, placement.statement(statement))
        clause = f" ON CLUSTER `{cluster}`" if "{" in cluster else f" ON CLUSTER {cluster}" if cluster else ""
        name = re.match(
            r"(?:CREATE (?:TABLE|VIEW|MATERIALIZED VIEW) IF NOT EXISTS|ALTER TABLE|DROP VIEW IF EXISTS) (\w+)",
            plain,
        )
        assert name is not None, plain
        expected = plain.replace(name[0], name[0] + clause, 1).replace(
            "ENGINE = ReplacingMergeTree", f"ENGINE = {engine}"
        )
        assert placed == expected
    assert sum("ENGINE = " in statement for statement in STATEMENTS) >= 9


def test_other_statements_of_the_schema_too(store: Store) -> None:
    placement = Placement("main", replicated=True)
    for sql, wanted in [
        ("CREATE DATABASE IF NOT EXISTS `q`", "CREATE DATABASE IF NOT EXISTS q ON CLUSTER main"),
        ("ALTER TABLE scores REMOVE TTL", "ALTER TABLE scores ON CLUSTER main (REMOVE TTL)"),
        ("SYSTEM SYNC REPLICA schema_migrations", "SYSTEM SYNC REPLICA schema_migrations"),
        (
            "INSERT INTO schema_migrations (version) SELECT 1",
            "INSERT INTO schema_migrations (version) SELECT 1",
        ),
    ]:
        assert formatted(store, placement.statement(sql)) == wanted


def test_on_one_server_nothing_changes() -> None:
    assert [Placement().statement(statement) for statement in STATEMENTS] == STATEMENTS
    assert json.dumps(STATEMENTS).count("CLUSTER") == 0
