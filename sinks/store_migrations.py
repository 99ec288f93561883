"""Bring the store's schema to the version of this code, and its retention to the settings."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Protocol

import msgspec

from sinks.store_errors import STORE_ERRORS, code_of
from sinks.store_settings import StoreRetention
from stream.errors import StartError

_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_CREATED = re.compile(r"CREATE (?P<kind>TABLE|VIEW|MATERIALIZED VIEW) IF NOT EXISTS (?P<name>\w+)")
_TABLE = (
    "CREATE TABLE IF NOT EXISTS schema_migrations (version UInt32, name String, applied_at DateTime DEFAULT now()) "
    "ENGINE = ReplacingMergeTree(applied_at) ORDER BY version"
)

# ClickHouse error codes that the first table meets on a server that is not set up for the store's URL, and what to do.
_LACKING = {
    36: "the default path in Keeper holds {uuid}, which only ON CLUSTER and Replicated databases fill in: set cluster in "
    "store.url, make the database Replicated, or set default_replica_path on the server",
    139: "the macros shard and replica are missing: set them on every server",
    225: "the server knows no Keeper: set zookeeper on every server",
    253: "another server has the same macros shard and replica: give every server a replica of its own",
    701: "there is no such cluster: compare cluster in store.url with system.clusters",
}

_SETTLING_S = 10.0  # for processes that migrate one server at the same time

# Which column the retention of a table counts from: when the log took the row, so that a wrong clock in a span neither
# deletes it at once nor keeps it for ever.
_TTL_COLUMNS = {
    "otel_traces": ("otel_traces", "IngestedAt"),
    "otel_traces_trace_id_ts": ("otel_traces", "IngestedAt"),
    "sampled_traces": ("sampled_traces", "ingested_at"),
    "scores": ("scores", "ingested_at"),
    "score_log": ("scores", "log_time"),
    "operations": ("operations", "ingested_at"),
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


def migrate(client: Client, *, replicated: bool = False, shared: bool = False) -> int:
    """Apply what is missing and return the schema's version.

    What was applied stands in a table of the schema itself, so on a cluster it is recorded once for all replicas;
    ``replicated`` waits until this replica knows what the others do. On a server (``shared``) several processes may
    start at the same time and do the same steps, which lets a view be gone for a moment.

    Raises
    ------
    StartError
        The schema is newer than this code, a table that should exist is gone or cannot be read, or the server lacks what
        the store's URL asks for (a cluster, Keeper, macros).
    """
    steps = migrations()
    # Nothing is made that is there: ON CLUSTER waits for every replica, and a restart must not need one that is down.
    if "schema_migrations" not in _present(client):
        _begin(client)
    if replicated:
        client.command("SYSTEM SYNC REPLICA schema_migrations")
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
    _check_tables(client, steps, _SETTLING_S if shared else 0.0)
    return steps[-1].version


def _begin(client: Client) -> None:
    """Make the first table. What a server lacks for a cluster shows here."""
    try:
        client.command(_TABLE)
    except STORE_ERRORS as error:
        code = code_of(error)
        if code not in _LACKING:
            raise
        raise StartError(f"ClickHouse cannot make the schema (code {code}): {_LACKING[code]}") from error


def _check_tables(client: Client, steps: Sequence[Migration], patience: float) -> None:
    """Touch every table, because the engine loads them lazily and a damaged one would surface only in the night."""
    made = [match for step in steps for statement in step.statements if (match := _CREATED.match(statement))]
    end = time.monotonic() + patience
    while missing := {match["name"] for match in made} - _present(client):
        if time.monotonic() >= end:
            raise StartError(
                f"the store is damaged: table {min(missing)} is gone. Restore the store's folder from a backup, or move "
                "it away: a new one is filled from what the log still holds"
            )
        time.sleep(0.2)
    for match in made:
        if match["kind"] == "TABLE":
            client.query(f"SELECT count() FROM {match['name']}")  # noqa: S608 - a name from our own files


def _present(client: Client) -> set[str]:
    rows = client.query("SELECT name FROM system.tables WHERE database = currentDatabase()").result_rows
    return {str(row[0]) for row in rows}


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
