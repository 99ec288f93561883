"""Engine handles that can only read, kept ready for the next query.

A handle runs one statement at a time, and once ``readonly=1`` is set nothing on it can be changed again. So handles are
made per set of settings, and idle ones are kept for queries with the same settings.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from sinks.clickhouse.exceptions import QueryError
from sinks.clickhouse.gate import quote
from sinks.store_embedded import Embedded

_MAX_IDLE = 8

Key = tuple[tuple[str, str], ...]


class Answer(msgspec.Struct, frozen=True):
    """What the engine answered."""

    body: bytes
    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    elapsed_ns: int = 0


class Handles:
    """Hands out handles to ``engine`` on which ``defaults`` hold."""

    def __init__(self, engine: Embedded, defaults: Mapping[str, str], read_only: bool) -> None:
        self._engine = engine
        self._mark = f"query-endpoint-{id(self)}"
        self._defaults = {**defaults, "log_comment": self._mark}
        self._read_only = read_only
        self._lock = threading.Lock()
        self._idle: OrderedDict[int, tuple[Key, Any]] = OrderedDict()
        self._closed = False

    @contextlib.contextmanager
    def handle(self, settings: Mapping[str, str], readonly: str = "1") -> Iterator[Any]:
        """Lend a handle on which ``settings`` hold, over the defaults; only one thread may use it.

        Raises
        ------
        QueryError
            The engine does not take one of the settings.
        """
        merged = {**self._defaults, **settings}
        if self._read_only:
            merged["readonly"] = readonly
        key = tuple(merged.items())
        handle = self._take(key) or self._make(merged)
        try:
            yield handle
        finally:
            self._give_back(key, handle)

    def _take(self, key: Key) -> Any:
        with self._lock:
            for number, (held, handle) in reversed(self._idle.items()):
                if held == key:
                    del self._idle[number]
                    return handle
        return None

    def _make(self, settings: Mapping[str, str]) -> Any:
        if self._closed:
            raise stopping()
        handle = self._engine.handle()
        try:
            run(handle, f"USE `{self._engine.database}`", "TabSeparated")
            # readonly comes last: nothing can be set after it.
            for name, value in sorted(settings.items(), key=lambda item: item[0] == "readonly"):
                run(handle, f"SET {name} = {quote(value)}", "TabSeparated")
        except QueryError:
            handle.close()
            raise
        return handle

    def _give_back(self, key: Key, handle: Any) -> None:
        with self._lock:
            if not self._closed:
                self._idle[id(handle)] = (key, handle)
                handle = self._idle.popitem(last=False)[1][1] if len(self._idle) > _MAX_IDLE else None
        if handle is not None:
            handle.close()

    def close(self) -> None:
        """Close idle handles; those in use are closed when they come back."""
        with self._lock:
            self._closed = True
            idle = [handle for _, handle in self._idle.values()]
            self._idle.clear()
        for handle in idle:
            handle.close()

    def kill(self) -> None:
        """End the statements that run on handles of this object."""
        handle = self._engine.handle()
        try:
            run(
                handle,
                f"KILL QUERY WHERE Settings['log_comment'] = {quote(self._mark)} ASYNC",
                "TabSeparated",
            )
        finally:
            handle.close()


def stopping() -> QueryError:
    """Return the answer to a query that comes while the endpoint stops."""
    return QueryError(210, "The query endpoint is stopping", "NETWORK_ERROR", 503)


def run(handle: Any, sql: str, output_format: str, parameters: Mapping[str, str] | None = None) -> Answer:
    """Run one statement; parameter values are in ClickHouse's escaped text form.

    Raises
    ------
    QueryError
        What the engine says.
    """
    try:
        result = handle.query(sql, output_format, params=dict(parameters or {}))
        return Answer(
            result.bytes() or b"",
            read_rows=int(result.rows_read()),
            read_bytes=int(result.bytes_read()),
            elapsed_ns=int(result.elapsed() * 1e9),
        )
    except (RuntimeError, ValueError) as error:
        raise QueryError.from_engine(error) from error


def parse(handle: Any, function: str, text: str) -> str:
    """Run one of the engine's functions on its own syntax: ``formatQuerySingleLine`` and so on."""
    escaped = text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
    answer = run(
        handle, f"SELECT {function}({{text:String}})", "RawBLOB", {"text": escaped.replace("\0", "\\0")}
    )
    return answer.body.decode("utf-8", "replace")
