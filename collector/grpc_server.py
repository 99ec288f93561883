"""OTLP over gRPC: TraceService, LogsService, clear answers for metrics and profiles, health and reflection.

The methods are unary on the wire but served as streams of one message: only so are the sender's token and its limits
looked at before its message is received, and what is refused is not read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
from google.rpc.code_pb2 import Code
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from collector.budget import Ticket
from collector.certificate import names_of_context
from collector.ingest import Ingested
from collector.intake import Intake, Signal
from collector.settings import CollectorSettings, TlsSettings
from collector.status import METRICS_MESSAGE, PROFILES_MESSAGE, Answer, answer
from collector.tenants import Tenants
from stream.errors import Permanent, StartError, Transient

_PACKAGE = "opentelemetry.proto.collector"
_TRACES = f"{_PACKAGE}.trace.v1.TraceService"
_LOGS = f"{_PACKAGE}.logs.v1.LogsService"
_METRICS = f"{_PACKAGE}.metrics.v1.MetricsService"
_PROFILES = f"{_PACKAGE}.profiles.v1development.ProfilesService"
# Calls on a connection that has become too old may end for so long.
_CONNECTION_GRACE_MS = 30_000
# How often those who watch the health are looked after.
_WATCH_S = 0.5
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcServer:
    """The gRPC listener.

    Requests reach the handlers as bytes, so that they are decoded once, after the memory budget has let them in. Bodies
    above the limit are answered RESOURCE_EXHAUSTED by gRPC itself, which may not be retried.
    """

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
        self._intake = intake
        self._tenants = tenants
        self._health = _Health(ready, (_TRACES, _LOGS))
        self._server: Any = None
        self.port = 0

    async def start(self) -> None:
        """Listen.

        Raises
        ------
        StartError
            The port is taken, or a certificate cannot be read; the message names the setting.
        """
        listen = self._settings.grpc
        limit = self._settings.max_request_bytes
        options = [
            ("grpc.max_receive_message_length", limit),
            # Unless it is meant, a second process must not take the same port and half of the spans with it.
            ("grpc.so_reuseport", int(self._shared_port)),
            ("grpc.max_concurrent_streams", 256),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ]
        if listen.max_connection_age is not None:
            options += [
                ("grpc.max_connection_age_ms", int(listen.max_connection_age * 1000)),
                ("grpc.max_connection_age_grace_ms", _CONNECTION_GRACE_MS),
            ]
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers(
            (
                _service(_TRACES, self._traces),
                _service(_LOGS, self._logs),
                _service(_METRICS, _not_served(METRICS_MESSAGE)),
                _service(_PROFILES, _not_served(PROFILES_MESSAGE)),
            )
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if listen.reflection:
            reflection.enable_server_reflection(
                (_TRACES, _LOGS, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
            )
        host = f"[{listen.host}]" if ":" in listen.host else listen.host
        address = f"{host}:{listen.port}"
        try:
            if listen.tls is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, _credentials(listen.tls))
        except RuntimeError as error:
            raise StartError(
                f"cannot listen for OTLP/gRPC on {address}: the port is taken by another process, or the address is "
                "not one of this machine; stop that process or set collector.grpc.port (or .host)"
            ) from error
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Refuse new calls, wait up to ``grace`` seconds for running ones; idempotent."""
        if self._server is not None:
            await self._health.enter_graceful_shutdown()
            await self._server.stop(grace)
            self._server = None

    async def _traces(self, messages: Any, context: Any) -> bytes:
        return await self._export("traces", context)

    async def _logs(self, messages: Any, context: Any) -> bytes:
        return await self._export("logs", context)

    async def _export(self, signal: Signal, context: Any) -> bytes:
        tenant = ""
        try:
            tenant = self._tenants.of(_authorization(context), names_of_context(context.auth_context()))
            ticket = self._intake.admit(tenant)
            try:
                body = await self._receive(context, ticket)
            except BaseException:
                ticket.release()
                raise
            ingested = await self._intake.export(signal, body, tenant, ticket)
        except (Permanent, Transient) as error:
            self._intake.refused(error, tenant)
            return await _abort(context, answer(error))
        return response(signal, ingested).SerializeToString()  # type: ignore[no-any-return]

    async def _receive(self, context: Any, ticket: Ticket) -> bytes:
        self._intake.expect(ticket)
        try:
            async with asyncio.timeout(self._settings.read_timeout):
                body = await context.read()
        except TimeoutError as error:
            raise Transient(
                "too_slow",
                f"the message did not arrive within {self._settings.read_timeout:g} s",
                retry_after=self._intake.budget.delay(),
            ) from error
        if not isinstance(body, bytes):
            # The sender has gone, or gRPC has told it that the message is too large.
            raise Permanent("no_message", "no message was received")
        self._intake.received(ticket, len(body))
        return body


def response(signal: Signal, ingested: Ingested) -> Any:
    """Return the export response; ``partial_success`` is set only if something was refused, as OTLP asks."""
    if signal == "traces":
        traces = ExportTraceServiceResponse()
        if ingested.rejected:
            traces.partial_success.rejected_spans = ingested.rejected
            traces.partial_success.error_message = ingested.message
        return traces
    logs = ExportLogsServiceResponse()
    if ingested.rejected:
        logs.partial_success.rejected_log_records = ingested.rejected
        logs.partial_success.error_message = ingested.message
    return logs


def _service(name: str, export: Any) -> grpc.GenericRpcHandler:
    # No deserializer: the handler gets bytes and answers bytes.
    return grpc.method_handlers_generic_handler(
        name, {"Export": grpc.stream_unary_rpc_method_handler(export)}
    )


def _not_served(message: str) -> Any:
    async def export(messages: Any, context: Any) -> bytes:
        return await _abort(context, answer(Permanent("unimplemented", message)))

    return export


def _authorization(context: Any) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            return value if isinstance(value, str) else None
    return None


async def _abort(context: Any, told: Answer) -> bytes:
    details = told.status().SerializeToString()
    await context.abort(_CODES[told.code], told.message, (("grpc-status-details-bin", details),))
    raise AssertionError(f"abort returned for {Code.Name(told.code)}")  # pragma: no cover


def _credentials(tls: TlsSettings) -> grpc.ServerCredentials:
    try:
        key, chain = tls.key_file.read_bytes(), tls.cert_file.read_bytes()
        authorities = tls.client_ca_file.read_bytes() if tls.client_ca_file else None
    except OSError as error:
        raise StartError(f"cannot read the certificates of collector.grpc.tls: {error}") from error
    return grpc.ssl_server_credentials([(key, chain)], authorities, authorities is not None)


class _Health(health.aio.HealthServicer):  # type: ignore[misc]
    """Asks ``ready`` at each check, so that the answer is never old."""

    def __init__(self, ready: Callable[[], bool], services: tuple[str, ...]) -> None:
        super().__init__()
        self._ready = ready
        self._services = ("", *services)
        self._stopping = asyncio.Event()

    async def enter_graceful_shutdown(self) -> None:
        self._stopping.set()
        await super().enter_graceful_shutdown()

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        if not self._stopping.is_set():
            for service in self._services:
                await self.set(service, self._status())
        return await super().Check(request, context)

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802 - the protocol's name
        """Tell the status and each change of it; end at the stop, which waits for calls that run."""
        unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        told = None
        while True:
            status = self._status() if request.service in self._services else unknown
            if status != told:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                told = status
            if self._stopping.is_set():
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _WATCH_S)

    def _status(self) -> int:
        serving = self._ready() and not self._stopping.is_set()
        states = health_pb2.HealthCheckResponse
        return int(states.SERVING if serving else states.NOT_SERVING)
