"""Bring the store's schema to the version of this code, and its retention to the settings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Protocol

import msgspec

from sinks.store_settings import StoreRetention
from stream.errors import StartError

_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_CREATED = re.compile(r"CREATE (?P<kind>TABLE|VIEW|MATERIALIZED VIEW) IF NOT EXISTS (?P<name>\w+)")
_TABLE = (
    "CREATE TABLE IF NOT EXISTS schema_migrations (version UInt32, name String, applied_at DateTime DEFAULT now()) "
    "ENGINE = ReplacingMergeTree(applied_at) ORDER BY version"
)

# Which column the retention of a table counts from: when the log took the row, so that a wrong clock in a span neither
# deletes it at once nor keeps it for ever.
_TTL_COLUMNS = {
    "otel_traces": ("otel_traces", "IngestedAt"),
    "otel_traces_trace_id_ts": ("otel_traces", "IngestedAt"),
    "sampled_traces": ("sampled_traces", "ingested_at"),
    "scores": ("scores", "ingested_at"),
    "cohort_windows": ("cohort_windows", "ingested_at"),
    "verdicts": ("verdicts", "ingested_at"),
    "incidents": ("incidents", "updated_at"),
    "rollbacks": ("rollbacks", "requested_at"),
    "dead_letters": ("dead_letters", "time"),
}


class Client(Protocol):
    """What a migration needs of clickhouse-connect's client."""

    def command(self, cmd: str, *, parameters: Any = None, settings: Any = None) -> Any:
        """Run one statement."""

    def query(self, query: str, *, parameters: Any = None, settings: Any = None) -> Any:
        """Run one query."""


class Migration(msgspec.Struct, frozen=True):
    """One step of the schema."""

    version: int
    name: str
    statements: tuple[str, ...]


def migrations() -> list[Migration]:
    """Return the steps that ship with the package, in order."""
    found = [
        Migration(int(match[1]), match[2], split_statements(entry.read_text(encoding="utf-8")))
        for entry in files("sinks.migrations").iterdir()
        if (match := _NAME.fullmatch(entry.name))
    ]
    found.sort(key=lambda step: step.version)
    if [step.version for step in found] != list(range(1, len(found) + 1)):
        raise StartError("the installed package lacks migration files of the store: install it again")
    return found


def split_statements(text: str) -> tuple[str, ...]:
    """Cut a migration file at every ``;`` that ends a line; lines that begin with ``--`` are comments."""
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--"))
    return tuple(part.strip() for part in re.split(r";[ \t]*(?:\n|\Z)", code) if part.strip())


def migrate(client: Client) -> int:
    """Apply what is missing and return the schema's version.

    Raises
    ------
    StartError
        The schema is newer than this code, or a table that should exist is gone or cannot be read.
    """
    steps = migrations()
    client.command(_TABLE)
    applied = int(client.query("SELECT max(version) FROM schema_migrations").result_rows[0][0])
    if applied > steps[-1].version:
        raise StartError(
            f"the store was written by a newer driftgate (schema {applied}, this one knows {steps[-1].version}): "
            "upgrade driftgate, or use another data folder"
        )
    for step in steps[applied:]:
        for statement in step.statements:
            client.command(statement)
        client.command(f"INSERT INTO schema_migrations (version, name) SELECT {step.version}, '{step.name}'")
    _check_tables(client, steps)
    return steps[-1].version


def _check_tables(client: Client, steps: Sequence[Migration]) -> None:
    """Touch every table, because the engine loads them lazily and a damaged one would surface only in the night."""
    rows = client.query("SELECT name FROM system.tables WHERE database = currentDatabase()").result_rows
    present = {str(row[0]) for row in rows}
    for step in steps:
        for statement in step.statements:
            match = _CREATED.match(statement)
            if match is None:
                continue
            name = match["name"]
            if name not in present:
                raise StartError(
                    f"the store is damaged: table {name} is gone. Restore the store's folder from a backup, or move it "
                    "away: a new one is filled from what the log still holds"
                )
            if match["kind"] == "TABLE":
                client.query(f"SELECT count() FROM {name}")  # noqa: S608 - a name from our own files


def apply_retention(client: Client, retention: StoreRetention) -> None:
    """Set each table's TTL where it differs from the settings. Old rows go at the next merge."""
    rows = client.query(
        "SELECT name, engine_full FROM system.tables WHERE database = currentDatabase()"
    ).result_rows
    engines = {str(name): str(engine) for name, engine in rows}
    for table, (setting, column) in _TTL_COLUMNS.items():
        seconds = int(getattr(retention, setting))
        engine = engines.get(table, "")
        wanted = f"toDateTime({column}) + toIntervalSecond({seconds})"
        if seconds and f"TTL {wanted}" not in engine:
            client.command(
                f"ALTER TABLE {table} MODIFY TTL {wanted}", settings={"materialize_ttl_after_modify": 0}
            )
        elif not seconds and " TTL " in engine:
            client.command(f"ALTER TABLE {table} REMOVE TTL")
