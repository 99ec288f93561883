"""OTLP over gRPC: TraceService, LogsService, a clear answer for MetricsService, and the gRPC health protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
from google.rpc.code_pb2 import Code
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from collector.ingest import Ingested
from collector.intake import Intake, Signal
from collector.settings import CollectorSettings, TlsSettings
from collector.status import METRICS_MESSAGE, Answer, answer
from collector.tenants import Tenants
from stream.errors import Permanent, StartError, Transient

_PACKAGE = "opentelemetry.proto.collector"
_TRACES = f"{_PACKAGE}.trace.v1.TraceService"
_LOGS = f"{_PACKAGE}.logs.v1.LogsService"
_METRICS = f"{_PACKAGE}.metrics.v1.MetricsService"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcServer:
    """The gRPC listener.

    Requests reach the handlers as bytes, so that they are decoded once, after the memory budget has let them in. Bodies
    above the limit are answered RESOURCE_EXHAUSTED by gRPC itself, which may not be retried.
    """

    def __init__(
        self, settings: CollectorSettings, intake: Intake, tenants: Tenants, ready: Callable[[], bool]
    ) -> None:
        self._settings = settings
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
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limit),
                # Without this a second process could take the same port and half of the spans with it.
                ("grpc.so_reuseport", 0),
                ("grpc.max_concurrent_streams", 256),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ]
        )
        self._server.add_generic_rpc_handlers(
            (
                _service(_TRACES, self._traces),
                _service(_LOGS, self._logs),
                _service(_METRICS, self._metrics),
            )
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
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

    async def _traces(self, body: bytes, context: Any) -> bytes:
        return await self._export("traces", body, context)

    async def _logs(self, body: bytes, context: Any) -> bytes:
        return await self._export("logs", body, context)

    async def _metrics(self, body: bytes, context: Any) -> bytes:
        return await _abort(context, answer(Permanent("unimplemented", METRICS_MESSAGE)))

    async def _export(self, signal: Signal, body: bytes, context: Any) -> bytes:
        ticket = self._intake.ticket()
        try:
            tenant = self._tenants.of(_authorization(context))
            ticket.grow(len(body))
            ingested = await self._intake.export(signal, body, tenant, ticket)
        except (Permanent, Transient) as error:
            self._intake.refused(error)
            return await _abort(context, answer(error))
        return response(signal, ingested).SerializeToString()  # type: ignore[no-any-return]


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
    return grpc.method_handlers_generic_handler(name, {"Export": grpc.unary_unary_rpc_method_handler(export)})


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
        self._stopping = False

    async def enter_graceful_shutdown(self) -> None:
        self._stopping = True
        await super().enter_graceful_shutdown()

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        if not self._stopping:
            serving = health_pb2.HealthCheckResponse.SERVING
            status = serving if self._ready() else health_pb2.HealthCheckResponse.NOT_SERVING
            for service in self._services:
                await self.set(service, status)
        return await super().Check(request, context)
