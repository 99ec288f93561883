"""The SQL in docs/store.md and in the Grafana dashboard runs, as it stands, through the query endpoint."""

from __future__ import annotations

import json
import re
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sinks.clickhouse.endpoint import Endpoint
from sinks.store import Store
from sinks.store_settings import QuerySettings

ROOT = Path(__file__).parents[2]
VARIABLES = {"$rubric": "groundedness", "$view": "route", "$window": "900"}


def statements_of(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, child in value.items():
            if key in ("rawSql", "query", "definition") and isinstance(child, str):
                yield child
            else:
                yield from statements_of(child)
    elif isinstance(value, list):
        for child in value:
            yield from statements_of(child)


@pytest.fixture
def run(store: Store, serve: Callable[[Store, QuerySettings], Endpoint]) -> Callable[[str], str]:
    endpoint = serve(store, QuerySettings(port=0))

    def ask(sql: str) -> str:
        request = urllib.request.Request(f"http://127.0.0.1:{endpoint.port}/", data=sql.encode())
        with urllib.request.urlopen(request, timeout=30) as reply:
            return str(reply.read().decode())

    return ask


def test_examples_in_the_documentation_run(run: Callable[[str], str]) -> None:
    text = (ROOT / "docs" / "store.md").read_text(encoding="utf-8")
    examples = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    assert len(examples) >= 8
    for sql in examples:
        run(sql)


def test_every_table_and_view_is_documented_with_its_columns(store: Store) -> None:
    text = (ROOT / "docs" / "store.md").read_text(encoding="utf-8")
    described = dict(re.findall(r"^\| `(\w+)` \|(.*)$", text, re.MULTILINE))
    tables = store.query(
        "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine != 'MaterializedView'"
    )
    assert set(described) == {row["name"] for row in tables} - {"schema_migrations"}
    for table in ("incidents", "rollbacks"):  # rows of these are made by others, from this page
        columns = store.query(
            "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = {t:String}",
            {"t": table},
        )
        assert {row["name"] for row in columns} == set(re.findall(r"`(\w+)`", described[table]))


def test_the_dashboard_runs(run: Callable[[str], str]) -> None:
    dashboard = json.loads(
        (ROOT / "deploy" / "grafana" / "dashboards" / "driftgate-quality.json").read_text("utf-8")
    )
    statements = list(statements_of(dashboard))
    assert len(statements) >= 15
    for sql in statements:
        sql = re.sub(r"\$__timeFilter\(([\w.]+)\)", r"(\1 >= toDateTime(0) AND \1 <= now())", sql)
        for name, value in VARIABLES.items():
            sql = sql.replace(name, value)
        assert "$" not in sql, sql
        run(sql)
    titles = [panel["title"] for panel in dashboard["panels"]]
    assert len(set(titles)) == len(titles)
    assert urllib.parse.quote(dashboard["uid"]) == dashboard["uid"]
