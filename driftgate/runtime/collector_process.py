"""``driftgate collector``: the receivers on a Kafka log. Stateless; run as many as you need behind a load balancer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from collector.receivers import Receivers
from driftgate.config import Config
from driftgate.running import base_url
from driftgate.runtime.deadline import Deadline
from driftgate.runtime.operations import NoOperations
from driftgate.runtime.status import Status
from driftgate.version import installed_version
from driftgate.web import Web
from stream.kafka.log import KafkaLog
from stream.records import TOPIC_DEAD_LETTERS, TOPIC_LOGS, TOPIC_QUARANTINE, TOPIC_SPANS
from stream.stage import Output

_GROUP = "collector"


class CollectorProcess:
    """Receives, redacts, publishes; answers success once Kafka has the records in enough copies.

    Parameters
    ----------
    instance
        Of a worker among several: its name on Kafka. It shares the ports, and its supervisor has the administration port.
    """

    def __init__(self, config: Config, instance: str = "") -> None:
        self._config = config
        self._kafka = config.log.kafka
        self._worker = bool(instance)
        if instance:
            self._kafka = self._kafka.model_copy(update={"instance": instance})
        self._receivers: Receivers | None = None
        self.deadline = Deadline(config.shutdown_grace)
        self._ready = False
        self._endpoints: dict[str, str] = {}
        self._logger = structlog.get_logger(__name__)

    async def run(self, stop: asyncio.Event, started: Callable[[dict[str, str]], None] | None = None) -> None:
        """Run until ``stop`` is set, then refuse, finish what is in flight, and close.

        Raises
        ------
        StartError, ConfigError
            It could not start: a port, a topic that is missing, brokers that do not answer.
        """
        async with contextlib.AsyncExitStack() as stack:
            log = KafkaLog(self._kafka)
            stack.callback(log.close)
            # A policy that cannot be used is told before the brokers are asked.
            receivers = self._receivers = Receivers(
                self._config.collector,
                _publisher(log),
                lambda: self._ready,
                partitions=self._kafka.partitions,
                shared_ports=self._worker,
            )
            topics = [TOPIC_SPANS, TOPIC_LOGS, TOPIC_DEAD_LETTERS]
            if self._config.collector.quarantine is not None:
                topics.append(TOPIC_QUARANTINE)
            await asyncio.to_thread(log.check, topics, (_GROUP,))
            if self._config.web.enabled and not self._worker:
                web = Web(self._config.web, self._status, NoOperations())
                await web.start()
                stack.push_async_callback(web.stop)
                self._endpoints["web"] = base_url(self._config.web.host, web.port)
            await receivers.start()
            stack.push_async_callback(self._stop, receivers)
            self._endpoints["otlp_grpc"] = base_url(self._config.collector.grpc.host, receivers.grpc_port)
            self._endpoints["otlp_http"] = base_url(self._config.collector.http.host, receivers.http_port)
            self._ready = True
            self._logger.info("ready", **self._endpoints)
            if started:
                started(dict(self._endpoints))
            await stop.wait()
            self._logger.info("stopping", grace_seconds=round(self.deadline.left(), 1))

    async def _stop(self, receivers: Receivers) -> None:
        self.deadline.start()
        self._ready = False
        await receivers.stop(self.deadline.left())

    def metrics(self) -> dict[str, float]:
        """Return what the receivers count; empty before the start."""
        return self._receivers.metrics() if self._receivers else {}

    def _status(self) -> Status:
        return Status(
            version=installed_version(),
            ready=self._ready,
            time_unix_nano=time.time_ns(),
            endpoints=dict(self._endpoints),
            receivers=self.metrics(),
        )


def _publisher(log: KafkaLog) -> Callable[[Sequence[Output], Mapping[str, int]], asyncio.Future[None]]:
    def publish(outputs: Sequence[Output], counters: Mapping[str, int]) -> asyncio.Future[None]:
        return asyncio.wrap_future(log.append(outputs, group=_GROUP, counters=counters))

    return publish
