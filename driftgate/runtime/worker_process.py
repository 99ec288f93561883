"""``driftgate worker STAGE``: one stage, its worker and an administration port, in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Literal

import structlog

from driftgate.config import Config
from driftgate.runtime.alerts import Alerts
from driftgate.runtime.deadline import Deadline
from driftgate.runtime.embedded import prepare_folder
from driftgate.runtime.operations import NoOperations
from driftgate.runtime.status import StageStatus, Status
from driftgate.runtime.worker import Worker
from driftgate.version import installed_version
from driftgate.web import Web
from stream.errors import StartError
from stream.kafka.log import KafkaLog
from stream.records import (
    TOPIC_DEAD_LETTERS,
    TOPIC_SAMPLED,
    TOPIC_VERDICTS,
    TOPIC_WINDOWS,
)
from stream.stage import Stage

Role = Literal["sampler", "drift", "store", "alerter"]
ROLES: tuple[Role, ...] = ("sampler", "drift", "store", "alerter")

_WRITES: dict[Role, tuple[str, ...]] = {
    "sampler": (TOPIC_SAMPLED, TOPIC_DEAD_LETTERS),
    "drift": (TOPIC_WINDOWS, TOPIC_VERDICTS, TOPIC_DEAD_LETTERS),
    "store": (TOPIC_DEAD_LETTERS,),
    "alerter": (TOPIC_DEAD_LETTERS,),
}
_BATCH: dict[Role, int] = {"sampler": 500, "drift": 500, "store": 5_000, "alerter": 500}
_STORE_LINGER_S = 0.5
_WATCH_S = 0.2


class WorkerProcess:
    """One member of the consumer group of ``role``."""

    def __init__(self, config: Config, role: Role) -> None:
        self._config = config
        self._role = role
        self._kafka = config.log.kafka
        self._endpoints: dict[str, str] = {}
        self._alerts: Alerts | None = None
        self._logger = structlog.get_logger(__name__).bind(stage=role)

    async def run(self, stop: asyncio.Event, started: Callable[[dict[str, str]], None] | None = None) -> None:
        """Run until ``stop`` is set or the worker fails, then finish the batch in hand and leave the group.

        Raises
        ------
        StartError, ConfigError
            It could not start.
        DriftgateError
            What ended the worker.
        """
        async with contextlib.AsyncExitStack() as stack:
            log = KafkaLog(self._kafka)
            stack.callback(log.close)
            stage = await self._stage(stack)
            await asyncio.to_thread(
                log.check, list(dict.fromkeys((*stage.topics, *_WRITES[self._role]))), (stage.name,)
            )
            worker = Worker(
                log,
                stage,
                max_records=_BATCH[self._role],
                linger=_STORE_LINGER_S if self._role == "store" else 0.0,
            )
            await stack.enter_async_context(self._running(worker))
            if self._alerts is not None:
                await stack.enter_async_context(self._alerts.running())
            if self._config.web.enabled:
                web = Web(self._config.web, lambda: self._status(worker), self._alerts or NoOperations())
                await web.start()
                stack.push_async_callback(web.stop)
                self._endpoints["web"] = f"http://{self._config.web.host}:{web.port}"
            self._logger.info("ready", **self._endpoints)
            if started:
                started(dict(self._endpoints))
            while not stop.is_set() and worker.status.state != "stopped":
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _WATCH_S)
            self._logger.info("stopping", grace_seconds=self._config.shutdown_grace)
        if worker.error is not None:
            raise worker.error

    async def _stage(self, stack: contextlib.AsyncExitStack) -> Stage:
        # Each role imports what it runs on and nothing else: a sampler needs neither scipy nor ClickHouse.
        config = self._config
        if self._role == "sampler":
            from scorers.sampler import SamplerStage

            return SamplerStage(config.sampling)
        if self._role == "drift":
            from drift.stage import DriftStage

            return DriftStage(config.drift)
        from sinks.store import Store
        from sinks.store_stage import StoreStage

        prepare_folder(config.data)
        store = await asyncio.to_thread(Store.open, config.store, config.store_folder)
        stack.callback(store.close)
        await asyncio.to_thread(store.migrate)
        if self._role == "store":
            return StoreStage(store, config.store)
        self._alerts = Alerts(config, store)
        stack.callback(self._alerts.close)
        return self._alerts.stage

    @contextlib.asynccontextmanager
    async def _running(self, worker: Worker) -> AsyncIterator[None]:
        worker.start()
        try:
            yield
        finally:
            deadline = Deadline(self._config.shutdown_grace)
            deadline.start()
            worker.stop()
            if not await asyncio.to_thread(worker.join, deadline.left()):
                # What it had in hand is not committed; another member takes it over.
                raise StartError(f"the worker did not stop within {self._config.shutdown_grace:g} s")

    def _status(self, worker: Worker) -> Status:
        status = worker.status
        return Status(
            version=installed_version(),
            ready=status.state in ("running", "waiting"),
            time_unix_nano=time.time_ns(),
            endpoints=dict(self._endpoints),
            stages=[
                StageStatus(
                    worker.stage.name,
                    status.state,
                    status.reason,
                    worker.lag(),
                    status.records,
                    status.last_progress_ns,
                )
            ],
            incidents=self._alerts.incidents() if self._alerts else [],
            rollbacks=self._alerts.rollbacks() if self._alerts else [],
        )
