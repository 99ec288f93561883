"""The store: ClickHouse, embedded or a server, behind one class.

Delivery: an insert is synchronous, and every table is a ReplacingMergeTree over deterministic ids, so rows that are
inserted again collapse. Read tables with ``FINAL`` (:meth:`Store.query` and the query endpoint set ``final=1``) and each
row is there once.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sinks.store_cluster import PlacedClient, Placement
from sinks.store_embedded import Embedded
from sinks.store_errors import STORE_ERRORS, classify, classify_query
from sinks.store_migrations import apply_retention, migrate
from sinks.store_server import Server
from sinks.store_settings import StoreSettings
from stream.errors import Permanent, Unavailable

# DateTime64(9) counts nanoseconds in 64 bits, and ClickHouse's calendar begins in 1900.
MIN_TIME_NS = -2_208_988_800 * 10**9
MAX_TIME_NS = 2**63 - 1

Columns = Mapping[str, Sequence[Any]]


class Store:
    """An open store. Safe to use from several threads: inserts run one after the other, beside queries."""

    def __init__(self, backend: Embedded | Server, settings: StoreSettings) -> None:
        self._backend = backend
        self._settings = settings
        self._lock = threading.Lock()
        self._types: dict[str, dict[str, Any]] = {}
        self._closed = False

    @classmethod
    def open(cls, settings: StoreSettings, folder: Path) -> Store:
        """Open the store that ``settings.url`` names; ``folder`` is where ``chdb:///`` keeps its data.

        Raises
        ------
        StartError
            chDB is not installed, the folder is damaged or in use, or the server cannot be reached.
        """
        engine_settings = {
            "async_insert": 0,
            "max_execution_time": int(settings.query_timeout),
            "max_partitions_per_insert_block": 0,
        }
        target = settings.target
        if target.kind == "chdb":
            path = Path(target.path) if target.path else folder
            return cls(Embedded(path, target.database, engine_settings), settings)
        return cls(Server(settings, engine_settings), settings)

    @property
    def database(self) -> str:
        """The database all tables are in."""
        return self._backend.database

    @property
    def embedded(self) -> Embedded | None:
        """The engine in this process; ``None`` with a server."""
        return self._backend if isinstance(self._backend, Embedded) else None

    def migrate(self) -> int:
        """Bring schema and retention up to date and return the schema's version. Can be run again at any time.

        Raises
        ------
        StartError
            The schema is newer than this code, a table is gone, or the server is not set up for the URL.
        Unavailable
            The store failed.
        """
        try:
            placement = Placement.of(self._settings.target)
            client = PlacedClient(self._backend.client, placement)
            version = migrate(
                client, replicated=placement.replicated, shared=self._settings.target.kind == "clickhouse"
            )
            apply_retention(client, self._settings.retention)
        except STORE_ERRORS as error:
            raise classify_query(error) from error
        self._types.clear()
        return version

    def insert(self, table: str, rows: Columns, token: str) -> int:
        """Insert ``rows`` (column name -> values, all of one length) and return how many were handed over.

        Parameters
        ----------
        table
            Name of a table of the schema.
        rows
            Times are Unix nanoseconds; those outside what DateTime64(9) holds (1900 to 2262) become its nearest end.
        token
            Names this insert in the engine's query log (``log_comment``).

        Raises
        ------
        Permanent
            The rows do not fit the table; none was stored.
        Unavailable
            The store is down, full or closed; whether the rows were stored is unknown, so insert them again.
        """
        if not rows:
            return 0
        names = list(rows)
        count = len(rows[names[0]])
        if not count:
            return 0
        try:
            types = self._column_types(table)
            if unknown := [name for name in names if name not in types]:
                raise Permanent("bad_rows", f"table {table} has no column {unknown[0]!r}")
            data = [_clamped(rows[name], types[name].name) for name in names]
            self._write(table, names, [types[name] for name in names], data, token)
        except (Permanent, Unavailable):
            raise
        except STORE_ERRORS as error:
            raise classify(error) from error
        return count

    def _write(
        self, table: str, names: list[str], types: list[Any], data: list[Sequence[Any]], token: str
    ) -> None:
        client = self._open_client()
        settings: dict[str, object] = {
            "async_insert": 0,
            # The engine notes a token before the part is in place: killed in between, it would take the same insert
            # for done and drop the rows. The sorting keys alone make rows unique.
            "insert_deduplicate": 0,
            "log_comment": token,
            "max_partitions_per_insert_block": 0,
        }
        # ClickHouse 26.2 and later follow this one alone, and do drop repetitions in replicated tables by default.
        if "deduplicate_insert" in client.server_settings:
            settings["deduplicate_insert"] = "disable"
        context = client.create_insert_context(
            table, column_names=names, column_types=types, data=data, column_oriented=True, settings=settings
        )
        if not isinstance(self._backend, Embedded):
            client.insert(context=context)
            return
        from clickhouse_connect.driver.transform import NativeTransform

        # The first block carries the statement in front, as the HTTP body would.
        blocks = list(NativeTransform.build_insert(context))
        if context.insert_exception is not None:
            raise context.insert_exception
        blocks[0] = blocks[0][blocks[0].index(b"\n") + 1 :]
        columns = ", ".join(f"`{name}`" for name in names)
        clause = ", ".join(f"{key} = {_literal(value)}" for key, value in settings.items())
        read = self._backend.insert(f"{table} ({columns})", f"SETTINGS {clause}", blocks)
        if read != len(data[0]):
            raise Unavailable("short_insert", f"the engine read {read} of {len(data[0])} rows")

    def upsert_rows(self, table: str, rows: Iterable[Mapping[str, Any]]) -> int:
        """Write rows as dicts into a table that keeps the highest ``version`` per id (``incidents``, ``rollbacks``).

        Columns are those of ``docs/store.md``; a missing one takes its default. Times are Unix nanoseconds, and 0 in a
        column that may be empty means empty. Raises as :meth:`insert` does.
        """
        given = [dict(row) for row in rows]
        if not given:
            return 0
        try:
            types = self._column_types(table)
        except STORE_ERRORS as error:
            raise classify(error) from error
        names = list(dict.fromkeys(name for row in given for name in row))
        columns: dict[str, list[Any]] = {}
        for name in names:
            kind = types[name].name if name in types else "String"
            columns[name] = [_plain(row.get(name), kind) for row in given]
        token = hashlib.blake2b(msgspec.msgpack.encode(columns), digest_size=16).hexdigest()
        return self.insert(table, columns, token)

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Run one SELECT of driftgate's own and return its rows by column name; duplicates are already collapsed.

        ``parameters`` are bound as ClickHouse does (``{name:Type}`` in the text).

        Raises
        ------
        Permanent
            The query itself is wrong.
        Unavailable
            The store is down or too slow.
        """
        try:
            result = self._open_client().query(
                sql,
                parameters=dict(parameters or {}),
                settings={"final": 1, "max_execution_time": int(self._settings.query_timeout)},
            )
        except Unavailable:
            raise
        except STORE_ERRORS as error:
            raise classify_query(error) from error
        names = list(result.column_names)
        return [dict(zip(names, row, strict=True)) for row in result.result_rows]

    def ask(self, sql: str, form: str) -> bytes:
        """Run one reading statement of a user on a ClickHouse server and return the answer in format ``form``.

        Raises
        ------
        Permanent
            The query is wrong, or writes.
        Unavailable
            The server is down or too slow.
        """
        try:
            answer = self._open_client().raw_query(sql, settings={"final": 1, "readonly": 2}, fmt=form)
        except Unavailable:
            raise
        except STORE_ERRORS as error:
            raise classify_query(error) from error
        return bytes(answer)

    def close(self) -> None:
        """Close the store; idempotent. Later calls raise :class:`stream.errors.Unavailable`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._backend.close()

    def _open_client(self) -> Any:
        if self._closed:
            raise Unavailable("closed", "the store is closed")
        return self._backend.client

    def _column_types(self, table: str) -> dict[str, Any]:
        known = self._types.get(table)
        if known is None:
            from clickhouse_connect.datatypes.registry import get_from_name

            rows = self._open_client().query(
                "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = {t:String}",
                parameters={"t": table},
            )
            known = {str(name): get_from_name(str(kind)) for name, kind in rows.result_rows}
            if not known:
                raise Unavailable("schema", f"table {table} does not exist in the store", retry_after=10.0)
            self._types[table] = known
        return known


def _literal(value: object) -> str:
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def _clamp(value: int) -> int:
    return MIN_TIME_NS if value < MIN_TIME_NS else min(value, MAX_TIME_NS)


def _clamped(values: Sequence[Any], kind: str) -> Sequence[Any]:
    if "DateTime64" not in kind:
        return values
    fix: Callable[[Any], Any] = _clamp
    if kind.startswith("Array("):
        if all(not item or (min(item) >= MIN_TIME_NS and max(item) <= MAX_TIME_NS) for item in values):
            return values
        return [[fix(entry) for entry in item] for item in values]
    return [None if value is None else fix(value) for value in values]


def _plain(value: Any, kind: str) -> Any:
    if value is None:
        return None if kind.startswith("Nullable(") else "" if "String" in kind else 0
    if value == 0 and kind.startswith("Nullable(DateTime64"):
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    return value
