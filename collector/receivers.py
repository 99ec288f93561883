"""Both OTLP listeners behind one start and one stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from collector.grpc_server import GrpcServer
from collector.http_server import HttpServer
from collector.ingest import Ingest
from collector.intake import Intake, Publish
from collector.settings import CollectorSettings
from collector.tenants import Tenants


class Receivers:
    """Receives OTLP, redacts it, and hands it to ``publish``; answers success only after ``publish`` has returned.

    Parameters
    ----------
    settings
        Addresses, limits, tenants, redaction.
    publish
        Makes records and ledger counters durable together. Raises :class:`stream.errors.Transient` (the sender is told
        to come back) or :class:`stream.errors.Permanent` (the sender is told not to), nothing else.
    ready
        Whether the process can take data; what ``/readyz`` and the gRPC health protocol say.
    partitions
        Partition count of the topics ``otlp_spans`` and ``otlp_logs``.
    clock
        Seconds that only ever grow, for the limits of tenants.
    shared_ports
        Whether other processes listen on the same ports (``SO_REUSEPORT``); the kernel deals connections out to them.

    Raises
    ------
    ConfigError
        The redaction policy or a token cannot be used.
    """

    def __init__(
        self,
        settings: CollectorSettings,
        publish: Publish,
        ready: Callable[[], bool],
        *,
        partitions: int = 1,
        clock: Callable[[], float] = time.monotonic,
        shared_ports: bool = False,
    ) -> None:
        self._settings = settings
        self._stopping = False
        self.ingest = Ingest(settings, partitions=partitions, clock=clock)
        self._intake = Intake(settings, self.ingest, publish, clock)
        tenants = Tenants(settings.tenants)

        def is_ready() -> bool:
            return not self._stopping and ready()

        parts = (settings, self._intake, tenants, is_ready, shared_ports)
        self._grpc = GrpcServer(*parts) if settings.grpc.enabled else None
        self._http = HttpServer(*parts) if settings.http.enabled else None

    @property
    def grpc_port(self) -> int:
        """The bound gRPC port; 0 if not listening."""
        return self._grpc.port if self._grpc else 0

    @property
    def http_port(self) -> int:
        """The bound HTTP port; 0 if not listening."""
        return self._http.port if self._http else 0

    async def start(self) -> None:
        """Listen on both ports, or on none.

        Raises
        ------
        StartError
            A port is taken or a certificate cannot be read; the message names the setting to change.
        """
        servers = [server for server in (self._grpc, self._http) if server is not None]
        for index, server in enumerate(servers):
            try:
                await server.start()
            except BaseException:
                for started in servers[:index]:
                    await started.stop(0)
                raise

    async def stop(self, grace: float | None = None) -> None:
        """Take no more requests, wait for those in flight up to ``grace`` seconds in all; idempotent."""
        deadline = time.monotonic() + (self._settings.stop_grace if grace is None else grace)
        self._stopping = True
        # Together: none takes requests while another waits for its own.
        left = max(0.0, deadline - time.monotonic())
        await asyncio.gather(
            *(server.stop(left) for server in (self._grpc, self._http) if server is not None)
        )
        await self._intake.drain(max(0.0, deadline - time.monotonic()))

    def metrics(self) -> dict[str, float]:
        """Return counters since the start, and the bytes and requests in flight."""
        return self._intake.metrics()
