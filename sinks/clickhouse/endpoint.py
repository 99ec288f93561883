"""ClickHouse's HTTP protocol in front of the embedded store.

chDB lets one process own a folder, so this process answers for it: Grafana, clickhouse-connect, curl and BI tools query
the store while it runs. Queries run in their own threads on their own engine handles, beside inserts; they are
read-only unless the settings say otherwise, and end after ``max_execution_time``.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import structlog
from aiohttp import web

from sinks.clickhouse import compression, formats
from sinks.clickhouse.client_settings import Limits, allowed
from sinks.clickhouse.exceptions import QueryError
from sinks.clickhouse.gate import Gate
from sinks.clickhouse.handles import Answer, Handles, parse, run, stopping
from sinks.clickhouse.native import with_revision
from sinks.clickhouse.request import Ask, authentic, read, secrets_of
from sinks.clickhouse.writing import is_insert, write
from sinks.store import Store
from sinks.store_settings import QuerySettings
from stream.errors import StartError

_STOP_SECONDS = 5.0
_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class Endpoint:
    """The server. ``port`` is the bound port once it has started.

    Raises
    ------
    StartError
        From :meth:`start`: the port is taken, or the store is a ClickHouse server (query that directly).
    ConfigError
        From :meth:`start`: the token's reference leads nowhere.
    """

    def __init__(self, store: Store, settings: QuerySettings) -> None:
        self._store = store
        self._settings = settings
        self._limits = Limits.of(settings)
        self._gate = Gate(store.database, allowed)
        self._log = structlog.get_logger(__name__)
        self._token = ""
        self._version = ""
        self._handles: Handles | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._runner: web.AppRunner | None = None
        self._slots = asyncio.Semaphore(settings.max_concurrent)
        self.port = settings.port

    async def start(self) -> None:
        """Begin to listen."""
        engine = self._store.embedded
        if engine is None:
            raise StartError("query.enabled is for the embedded store: query the ClickHouse server itself")
        self._token = self._settings.token.reveal() if self._settings.token is not None else ""
        self._handles = Handles(engine, self._limits.defaults, self._settings.read_only)
        self._pool = ThreadPoolExecutor(self._settings.max_concurrent, thread_name_prefix="query")
        self._version = await self._in_thread(_engine_version, self._handles)
        app = web.Application(client_max_size=self._body_limit())
        for path in ("/", "/ping", "/replicas_status"):
            app.router.add_get(path, self._alive if path != "/" else self._handle)
        app.router.add_post("/", self._handle)
        runner = web.AppRunner(app, access_log=None, auto_decompress=False, shutdown_timeout=_STOP_SECONDS)
        await runner.setup()
        self._runner = runner
        site = web.TCPSite(runner, self._settings.host, self._settings.port)
        try:
            await site.start()
        except OSError as error:
            await self.stop()
            raise StartError(
                f"cannot listen on {self._settings.host}:{self._settings.port}: {error.strerror or error}; "
                "set query.port to another port, or query.enabled: false"
            ) from error
        addresses = runner.addresses
        self.port = int(addresses[0][1])

    async def stop(self) -> None:
        """Stop listening and end running queries; idempotent."""
        runner, self._runner = self._runner, None
        handles, self._handles = self._handles, None
        pool, self._pool = self._pool, None
        if runner is not None:
            for site in list(runner.sites):
                await site.stop()
        if handles is not None:
            handles.close()
            await asyncio.to_thread(handles.kill)
        if runner is not None:
            await runner.cleanup()
        if pool is not None:
            await asyncio.to_thread(pool.shutdown, wait=True, cancel_futures=True)

    def _body_limit(self) -> int:
        return self._settings.max_query_bytes if self._settings.read_only else self._settings.max_insert_bytes

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(
            self._pool, functools.partial(function, *arguments)
        )

    async def _alive(self, request: web.Request) -> web.Response:
        return web.Response(text="Ok.\n")

    async def _handle(self, request: web.Request) -> web.Response:
        if request.method in ("GET", "HEAD") and "query" not in request.query:
            return web.Response(text="Ok.\n")
        try:
            self._admit(request)
            body = await self._body(request)
            ask = await asyncio.to_thread(read, request, body, limit=self._body_limit())
            return await self._answer(request, ask)
        except QueryError as error:
            return self._failure(error)

    def _admit(self, request: web.Request) -> None:
        if self._token:
            given = secrets_of(request.headers, request.query)
            if not given:
                raise QueryError(194, "Authentication is required", "REQUIRED_PASSWORD", 401)
            if not authentic(self._token, given):
                raise QueryError(516, "Authentication failed", "AUTHENTICATION_FAILED", 403)
            return
        # Without a token, a web page must not reach us through a name it controls (DNS rebinding).
        host = (
            request.host.rsplit(":", 1)[0].strip("[]")
            if not request.host.endswith("]")
            else request.host.strip("[]")
        )
        if host not in _LOCAL_HOSTS and host != self._settings.host:
            raise QueryError(
                195, "Unknown Host header: use 127.0.0.1, or set query.token", "IP_ADDRESS_NOT_ALLOWED", 403
            )

    async def _body(self, request: web.Request) -> bytes:
        try:
            return await request.read()
        except web.HTTPRequestEntityTooLarge as error:
            raise QueryError(
                307, f"The request is larger than {self._body_limit()} bytes", "TOO_MANY_BYTES", 413
            ) from error

    async def _answer(self, request: web.Request, ask: Ask) -> web.Response:
        try:
            await asyncio.wait_for(self._slots.acquire(), self._settings.max_execution_time)
        except TimeoutError as error:
            raise QueryError(202, "Too many simultaneous queries", "TOO_MANY_SIMULTANEOUS_QUERIES") from error
        try:
            answer, output_format, encoding = await self._in_thread(self._run, ask, request.method == "POST")
        finally:
            self._slots.release()
        headers = self._headers(ask.query_id)
        headers["X-ClickHouse-Format"] = output_format
        headers["X-ClickHouse-Summary"] = _summary(answer)
        headers["Content-Type"] = formats.CONTENT_TYPES[output_format]
        if encoding:
            headers["Content-Encoding"] = encoding
        return web.Response(body=answer.body, headers=headers)

    def _run(self, ask: Ask, writable: bool) -> tuple[Answer, str, str]:
        """Check and run a query; returns the answer, its format and the encoding of its body. Runs in a query thread."""
        handles = self._handles
        if handles is None:
            raise stopping()
        if ask.database not in ("", "default", self._store.database):
            raise QueryError(81, f"Database {ask.database[:64]} does not exist", "UNKNOWN_DATABASE")
        if not self._settings.read_only:
            answer, output_format = self._run_any(ask, writable, handles)
        else:
            if is_insert(ask.text):
                raise QueryError(164, "The query endpoint does not allow INSERT statements", "READONLY")
            answer, output_format = self._run_checked(ask, handles)
        if output_format == "Native" and ask.protocol_version:
            answer = msgspec.structs.replace(answer, body=with_revision(answer.body, ask.protocol_version))
        body, encoding = compression.compress(answer.body, compression.choose(ask.accept_encoding))
        return msgspec.structs.replace(answer, body=body), output_format, encoding

    def _run_checked(self, ask: Ask, handles: Handles) -> tuple[Answer, str]:
        sql = self._sql(ask)
        with handles.handle({}) as handle:
            approved = self._gate.check(sql, ask.parameters, functools.partial(parse, handle))
        output_format = formats.known(approved.format) if approved.format else ask.default_format
        settings = self._limits.merge(ask.settings, approved.settings)
        # With readonly=1 system.settings would say that no setting can be changed, and clients would believe it.
        with handles.handle(settings, readonly="2" if approved.lists_settings else "1") as handle:
            answer = run(handle, approved.sql, output_format, ask.parameters)
        if len(answer.body) > self._settings.max_result_bytes:
            raise QueryError(
                396, "The result is larger than query.max_result_bytes", "TOO_MANY_ROWS_OR_BYTES"
            )
        return answer, output_format

    def _run_any(self, ask: Ask, writable: bool, handles: Handles) -> tuple[Answer, str]:
        """Run a statement of any kind for a client that may write; GET never writes, as in ClickHouse."""
        settings: Mapping[str, str] = {
            name: value
            for name, value in ask.settings.items()
            if allowed(name)
            or name.startswith(("insert_", "async_insert", "deduplicate_", "materialize_ttl", "max_"))
        }
        if not writable:
            settings = {**settings, "readonly": "1"}
        with handles.handle(settings) as handle:
            if is_insert(ask.text):
                return write(handle, ask.text, ask.parameters), ask.default_format
            canonical = parse(handle, "formatQuerySingleLine", self._sql(ask))
            head, _, name = canonical.rpartition(" FORMAT ")
            output_format = ask.default_format
            if head and name.isalnum():
                canonical, output_format = head, formats.known(name)
            return run(handle, canonical, output_format, ask.parameters), output_format

    def _sql(self, ask: Ask) -> str:
        if len(ask.text) > self._settings.max_query_bytes:
            raise QueryError(307, "The query is larger than query.max_query_bytes", "TOO_MANY_BYTES", 413)
        try:
            return ask.text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise QueryError(62, "The query is not UTF-8", "SYNTAX_ERROR") from error

    def _headers(self, query_id: str) -> dict[str, str]:
        headers = {
            "X-ClickHouse-Server-Display-Name": "driftgate",
            "X-ClickHouse-Timezone": "UTC",
            "Cache-Control": "no-store",
        }
        if query_id:
            headers["X-ClickHouse-Query-Id"] = query_id
        return headers

    def _failure(self, error: QueryError) -> web.Response:
        headers = self._headers("")
        headers["X-ClickHouse-Exception-Code"] = str(error.code)
        if error.status == 401:
            headers["WWW-Authenticate"] = 'Basic realm="driftgate", charset="UTF-8"'
        if error.status == 503:
            headers["Retry-After"] = "1"
        if error.status >= 500:
            self._log.warning("query failed", code=error.code, name=error.name)
        return web.Response(status=error.status, text=error.text(self._version), headers=headers)


def _engine_version(handles: Handles) -> str:
    with handles.handle({}) as handle:
        return run(handle, "SELECT version()", "TabSeparated").body.decode().strip()


def _summary(answer: Answer) -> str:
    return msgspec.json.encode(
        {
            "read_rows": str(answer.read_rows),
            "read_bytes": str(answer.read_bytes),
            "written_rows": str(answer.written_rows),
            "written_bytes": "0",
            "total_rows_to_read": "0",
            "result_rows": "0",
            "result_bytes": str(len(answer.body)),
            "elapsed_ns": str(answer.elapsed_ns),
        }
    ).decode()
