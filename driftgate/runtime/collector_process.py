"""``driftgate collector``: the receivers on a Kafka log. Stateless; run as many as you need behind a load balancer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from collector.receivers import Receivers
from driftgate.config import Config
from driftgate.runtime.deadline import Deadline
from driftgate.runtime.operations import NoOperations
from driftgate.runtime.status import Status
from driftgate.version import installed_version
from driftgate.web import Web
from stream.kafka.log import KafkaLog
from stream.records import TOPIC_DEAD_LETTERS, TOPIC_LOGS, TOPIC_SPANS
from stream.stage import Output

_GROUP = "collector"


class CollectorProcess:
    """Receives, redacts, publishes; answers success once Kafka has the records in enough copies."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._kafka = config.log.kafka
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
            deadline = Deadline(self._config.shutdown_grace)
            log = KafkaLog(self._kafka)
            await asyncio.to_thread(log.check, (TOPIC_SPANS, TOPIC_LOGS, TOPIC_DEAD_LETTERS), (_GROUP,))
            stack.callback(log.close)
            receivers = Receivers(
                self._config.collector,
                _publisher(log),
                lambda: self._ready,
                partitions=self._kafka.partitions,
            )
            if self._config.web.enabled:
                web = Web(self._config.web, lambda: self._status(receivers), NoOperations())
                await web.start()
                stack.push_async_callback(web.stop)
                self._endpoints["web"] = f"http://{self._config.web.host}:{web.port}"
            await receivers.start()
            stack.push_async_callback(self._stop, receivers, deadline)
            self._endpoints["otlp_grpc"] = f"http://{self._config.collector.grpc.host}:{receivers.grpc_port}"
            self._endpoints["otlp_http"] = f"http://{self._config.collector.http.host}:{receivers.http_port}"
            self._ready = True
            self._logger.info("ready", **self._endpoints)
            if started:
                started(dict(self._endpoints))
            await stop.wait()
            self._logger.info("stopping", grace_seconds=self._config.shutdown_grace)

    async def _stop(self, receivers: Receivers, deadline: Deadline) -> None:
        deadline.start()
        self._ready = False
        await receivers.stop(deadline.left())

    def _status(self, receivers: Receivers) -> Status:
        return Status(
            version=installed_version(),
            ready=self._ready,
            time_unix_nano=time.time_ns(),
            endpoints=dict(self._endpoints),
            receivers=receivers.metrics(),
        )


def _publisher(log: KafkaLog) -> Callable[[Sequence[Output], Mapping[str, int]], asyncio.Future[None]]:
    def publish(outputs: Sequence[Output], counters: Mapping[str, int]) -> asyncio.Future[None]:
        return asyncio.wrap_future(log.append(outputs, group=_GROUP, counters=counters))

    return publish
