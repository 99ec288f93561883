"""Reads the store for the command line: through the process that owns it if one runs, else by opening it itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from driftgate.config import Config
from driftgate.running import endpoints_of, request
from sinks.clickhouse.endpoint import Endpoint
from sinks.store import Store
from stream.errors import DriftgateError, StartError

_TOO_LARGE = "TOO_MANY_ROWS_OR_BYTES"


class StoreReader(Protocol):
    """A store that answers driftgate's own questions."""

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """Return the rows of one SELECT by column name; 64-bit integers may come as text."""


class _Running:
    """The store of a running process."""

    def __init__(self, base: str, token: str) -> None:
        self._base, self._token = base, token

    def rows(self, sql: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in _ask(self._base, sql, "JSONEachRow", self._token).splitlines()]


class _Opened:
    """A store that this process has opened."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def rows(self, sql: str) -> list[dict[str, Any]]:
        return self._store.query(sql)


T = TypeVar("T")


class Pages:
    """How many rows fit into one answer: as many as asked for, less where the query endpoint's limits are narrow."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self.more = True  # whether the last page was full

    def next(self, ask: Callable[[int], list[T]]) -> list[T]:
        """Return what ``ask`` gives for at most so many rows.

        Raises
        ------
        DriftgateError
            The query is wrong, or not even one row fits.
        """
        while True:
            try:
                found = ask(self._rows)
            except DriftgateError as error:
                if _TOO_LARGE not in str(error) or self._rows == 1:
                    raise
                self._rows = max(1, self._rows // 4)
            else:
                self.more = len(found) == self._rows
                return found


@contextmanager
def store_reader(config: Config) -> Iterator[StoreReader]:
    """Give the store to be read: through the process that owns it if one runs, else opened here.

    Raises
    ------
    StartError
        There is no store, or it belongs to a process without a query endpoint.
    """
    endpoints = endpoints_of(config.data)
    if endpoints and "query" in endpoints:
        yield _Running(endpoints["query"], config.query.token.reveal() if config.query.token else "")
        return
    _must_exist(config)
    store = Store.open(config.store, config.store_folder)
    try:
        yield _Opened(store)
    finally:
        store.close()


def run_query(config: Config, sql: str, form: str) -> bytes:
    """Run ``sql``, read only, and return the answer in ClickHouse format ``form``.

    Raises
    ------
    StartError
        There is no store, or it belongs to a process without a query endpoint.
    DriftgateError
        The query is wrong; the message is ClickHouse's.
    """
    token = config.query.token.reveal() if config.query.token else ""
    endpoints = endpoints_of(config.data)
    if endpoints and "query" in endpoints:
        return _ask(endpoints["query"], sql, form, token)
    _must_exist(config)
    if config.store.target.kind == "clickhouse":
        store = Store.open(config.store, config.store_folder)
        try:
            return store.ask(sql, form)
        finally:
            store.close()
    return asyncio.run(_open_and_ask(config, sql, form, token))


def _must_exist(config: Config) -> None:
    if config.store.target.kind == "chdb" and not config.store_folder.is_dir():
        raise StartError(
            f"there is no store at {config.store_folder}; start `driftgate up` first, or name its data folder: "
            "`data`, or DRIFTGATE__DATA"
        )


async def _open_and_ask(config: Config, sql: str, form: str, token: str) -> bytes:
    """Answer through a short-lived endpoint, so that the same rules hold as for any client."""
    store = Store.open(config.store, config.store_folder)
    try:
        endpoint = Endpoint(store, config.query.model_copy(update={"host": "127.0.0.1", "port": 0}))
        await endpoint.start()
        try:
            return await asyncio.to_thread(_ask, f"http://127.0.0.1:{endpoint.port}", sql, form, token)
        finally:
            await endpoint.stop()
    finally:
        store.close()


def _ask(base: str, sql: str, form: str, token: str) -> bytes:
    return request(
        base,
        "/",
        parameters={"default_format": form},
        body=sql.encode(),
        token=token,
        content_type="text/plain",
    )
