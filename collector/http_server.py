"""OTLP over HTTP: POST /v1/traces and /v1/logs as protobuf or JSON, plain, gzip, zstd or deflate; /livez and /readyz.

Every answer, errors too, has the content type of the request; errors are a ``google.rpc.Status``.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import ssl
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from google.protobuf import json_format

from collector import otlp_json
from collector.budget import Ticket
from collector.certificate import names_of_peer
from collector.compression import ENCODINGS, decompress
from collector.cors import cross_origin
from collector.grpc_server import response
from collector.intake import Decode, Intake, Signal
from collector.settings import CollectorSettings, TlsSettings
from collector.status import METRICS_MESSAGE, PROFILES_MESSAGE, Answer, answer
from collector.tenants import Tenants
from stream.errors import Permanent, StartError, Transient

_PROTOBUF = "application/x-protobuf"
_JSON = "application/json"
_TENANT = web.RequestKey("tenant", str)
_logger = logging.getLogger(__name__)


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a record of aiohttp is about us: what it tells of requests that are no HTTP quotes them, tokens included."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


_logger.addFilter(_is_ours)


class HttpServer:
    """The HTTP listener."""

    def __init__(
        self,
        settings: CollectorSettings,
        intake: Intake,
        tenants: Tenants,
        ready: Callable[[], bool],
        shared_port: bool = False,
    ) -> None:
        self._settings = settings
        self._shared_port = shared_port
        self._application = otlp_application(settings, intake, tenants, ready)
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen.

        Raises
        ------
        StartError
            The port is taken, or a certificate cannot be read; the message names the setting.
        """
        listen = self._settings.http
        # Bodies are decompressed by us, in a thread and within the budget.
        self._runner = web.AppRunner(
            self._application, access_log=None, auto_decompress=False, logger=_logger
        )
        await self._runner.setup()
        context = _context(listen.tls) if listen.tls else None
        site = web.TCPSite(
            self._runner,
            listen.host,
            listen.port,
            ssl_context=context,
            reuse_port=self._shared_port,
            reuse_address=True,
        )
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            self._runner = None
            cause = (
                "the port is taken by another process" if error.errno == errno.EADDRINUSE else error.strerror
            )
            raise StartError(
                f"cannot listen for OTLP/HTTP on {listen.host}:{listen.port}: {cause}; stop that process or set "
                "collector.http.port (or .host)"
            ) from error
        self.port = self._runner.addresses[0][1]

    async def stop(self, grace: float) -> None:
        """Refuse new connections, wait up to ``grace`` seconds for running requests; idempotent."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            runner._shutdown_timeout = grace
            await runner.cleanup()


def otlp_application(
    settings: CollectorSettings, intake: Intake, tenants: Tenants, ready: Callable[[], bool]
) -> web.Application:
    """Return the routes as an application; serve it with ``auto_decompress=False``."""
    handlers = _Handlers(settings, intake, tenants, ready)
    cors = [cross_origin(settings.http.cors)] if settings.http.cors else []
    application = web.Application(middlewares=[*cors, _errors(intake)])
    application.router.add_post("/v1/traces", handlers.traces)
    application.router.add_post("/v1/logs", handlers.logs)
    application.router.add_post("/v1/metrics", handlers.metrics)
    application.router.add_post("/v1development/profiles", handlers.profiles)
    application.router.add_get("/livez", handlers.livez)
    application.router.add_get("/readyz", handlers.readyz)
    return application


class _Handlers:
    def __init__(
        self, settings: CollectorSettings, intake: Intake, tenants: Tenants, ready: Callable[[], bool]
    ) -> None:
        self._limit = settings.max_request_bytes
        self._read_timeout = settings.read_timeout
        self._intake = intake
        self._tenants = tenants
        self._ready = ready

    async def traces(self, request: web.Request) -> web.StreamResponse:
        return await self._export("traces", request)

    async def logs(self, request: web.Request) -> web.StreamResponse:
        return await self._export("logs", request)

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        raise Permanent("unimplemented", METRICS_MESSAGE)

    async def profiles(self, request: web.Request) -> web.StreamResponse:
        raise Permanent("unimplemented", PROFILES_MESSAGE)

    async def livez(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="ok\n")

    async def readyz(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="ready\n") if self._ready() else web.Response(status=503, text="not ready\n")

    async def _export(self, signal: Signal, request: web.Request) -> web.StreamResponse:
        certificate = request.transport.get_extra_info("peercert") if request.transport else None
        tenant = self._tenants.of(request.headers.get("Authorization"), names_of_peer(certificate))
        request[_TENANT] = tenant
        ticket = self._intake.admit(tenant)
        encoding = request.headers.get("Content-Encoding", "identity").strip().lower() or "identity"
        if request.content_type not in (_PROTOBUF, _JSON):
            raise Permanent("unsupported_media_type", f"Content-Type must be {_PROTOBUF} or {_JSON}")
        if encoding not in ENCODINGS:
            raise Permanent(
                "unsupported_media_type", f"Content-Encoding must be one of {', '.join(ENCODINGS)}"
            )
        try:
            body = await self._read(request, tenant, ticket)
        except BaseException:
            ticket.release()
            raise
        decode = self._decoder(signal, request.content_type, encoding)
        ingested = await self._intake.export(signal, body, tenant, ticket, decode)
        message = response(signal, ingested)
        if request.content_type == _JSON:
            return web.Response(text=json_format.MessageToJson(message, indent=None), content_type=_JSON)
        return web.Response(body=message.SerializeToString(), content_type=_PROTOBUF)

    async def _read(self, request: web.Request, tenant: str, ticket: Ticket) -> bytes:
        length = request.content_length or 0
        if length > self._limit:
            raise Permanent("too_large", f"the body is larger than {self._limit} bytes")
        self._intake.budget.room_for(tenant, length)
        body = bytearray()
        try:
            async with asyncio.timeout(self._read_timeout):
                async for chunk in request.content.iter_any():
                    # What has arrived counts, not what was announced: an idle sender takes nothing from others.
                    ticket.grow(len(chunk))
                    body += chunk
                    if len(body) > self._limit:
                        raise Permanent("too_large", f"the body is larger than {self._limit} bytes")
        except TimeoutError as error:
            raise Transient(
                "too_slow",
                f"the body did not arrive within {self._read_timeout:g} s",
                retry_after=self._intake.budget.delay(),
            ) from error
        except ConnectionError as error:
            raise Permanent("no_message", "the sender has gone") from error
        return bytes(body)

    def _decoder(self, signal: Signal, content_type: str, encoding: str) -> Decode | None:
        if content_type == _PROTOBUF and encoding == "identity":
            return None

        def decode(body: bytes, ticket: Ticket) -> Any:
            plain = decompress(body, encoding, self._limit, ticket.grow)
            if content_type == _PROTOBUF:
                return plain
            return otlp_json.traces(plain) if signal == "traces" else otlp_json.logs(plain)

        return decode


def _errors(intake: Intake) -> Any:
    """Return a middleware that turns errors into a ``google.rpc.Status`` in the request's content type."""

    @web.middleware
    async def middleware(request: web.Request, handler: Any) -> web.StreamResponse:
        headers: dict[str, str] = {}
        error: Permanent | Transient
        try:
            return await handler(request)  # type: ignore[no-any-return]
        except (Permanent, Transient) as raised:
            error = raised
        except web.HTTPNotFound:
            error = Permanent("not_found", "OTLP is served at /v1/traces and /v1/logs")
        except web.HTTPMethodNotAllowed as raised:
            error = Permanent("method_not_allowed", f"{raised.method} is not allowed here")
            headers["Allow"] = ",".join(sorted(raised.allowed_methods))
        intake.refused(error, request.get(_TENANT, ""))
        return _told(request, answer(error), headers)

    return middleware


def _told(request: web.Request, told: Answer, headers: dict[str, str]) -> web.Response:
    if told.retry_after is not None:
        headers["Retry-After"] = told.retry_after_header
    if told.http == 401:
        headers["WWW-Authenticate"] = "Bearer"
    status = told.status()
    if request.content_type == _PROTOBUF:
        body = status.SerializeToString()
        return web.Response(status=told.http, body=body, content_type=_PROTOBUF, headers=headers)
    text = json_format.MessageToJson(status, indent=None)
    return web.Response(status=told.http, text=text, content_type=_JSON, headers=headers)


def _context(tls: TlsSettings) -> ssl.SSLContext:
    try:
        for file in (tls.cert_file, tls.key_file, tls.client_ca_file):
            if file is not None:
                file.open("rb").close()  # ssl does not say which one is missing
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tls.client_ca_file)
        context.load_cert_chain(tls.cert_file, tls.key_file)
    except OSError as error:  # ssl.SSLError is one
        raise StartError(f"cannot read the certificates of collector.http.tls: {error}") from error
    if tls.client_ca_file:
        context.verify_mode = ssl.CERT_REQUIRED
    return context
