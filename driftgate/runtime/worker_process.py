"""``driftgate worker STAGE``: one stage, its worker and an administration port, in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import structlog

from driftgate.config import Config
from driftgate.running import base_url
from driftgate.runtime.alerts import Alerts
from driftgate.runtime.deadline import Deadline
from driftgate.runtime.embedded import prepare_folder
from driftgate.runtime.operations import NoOperations
from driftgate.runtime.stalls import StallWatch
from driftgate.runtime.status import StageStatus, Status
from driftgate.runtime.watermark import Watermark, WatermarkBeats
from driftgate.runtime.worker import Worker
from driftgate.version import installed_version
from driftgate.web import Web
from stream.errors import StartError
from stream.kafka.log import KafkaLog
from stream.kafka.progress import ProgressReader
from stream.kafka.topics import GROUP_TOPICS
from stream.records import (
    TOPIC_DEAD_LETTERS,
    TOPIC_LOGS,
    TOPIC_QUARANTINE,
    TOPIC_SAMPLED,
    TOPIC_SCORES,
    TOPIC_SPANS,
    TOPIC_VERDICTS,
    TOPIC_WINDOWS,
)
from stream.stage import Stage

if TYPE_CHECKING:
    from driftgate.runtime.scorer_worker import ScorerWorker
    from scorers.stage import ScorerStage

Role = Literal["intake", "sampler", "scorer", "drift", "store", "alerter"]

_WRITES: dict[Role, tuple[str, ...]] = {
    "intake": (TOPIC_SPANS, TOPIC_LOGS, TOPIC_DEAD_LETTERS),
    "sampler": (TOPIC_SAMPLED, TOPIC_SCORES, TOPIC_DEAD_LETTERS),
    "scorer": (TOPIC_SCORES, TOPIC_DEAD_LETTERS),
    "drift": (TOPIC_WINDOWS, TOPIC_VERDICTS, TOPIC_DEAD_LETTERS),
    "store": (TOPIC_DEAD_LETTERS,),
    "alerter": (TOPIC_DEAD_LETTERS,),
}
_BATCH: dict[Role, int] = {
    "intake": 50,
    "sampler": 500,
    "scorer": 64,
    "drift": 500,
    "store": 5_000,
    "alerter": 500,
}
_STORE_LINGER_S = 0.5
_WATCH_S = 0.2


class WorkerProcess:
    """One member of the consumer group of ``role``.

    Parameters
    ----------
    base
        Folder that plug-in paths of the configuration start from.
    """

    def __init__(self, config: Config, role: Role, base: Path) -> None:
        self._config = config
        self._base = base
        self._role = role
        self._kafka = config.log.kafka
        self._endpoints: dict[str, str] = {}
        self._alerts: Alerts | None = None
        self._scorer: ScorerStage | None = None
        self._stalls: StallWatch | None = None
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
            groups = (stage.name, "heartbeat") if self._role == "drift" else (stage.name,)
            topics = dict.fromkeys((*stage.topics, *_WRITES[self._role]))
            if self._role == "intake" and self._config.collector.quarantine is not None:
                topics[TOPIC_QUARANTINE] = None
            await asyncio.to_thread(log.check, list(topics), groups)
            worker = self._worker(log, stage)
            await stack.enter_async_context(self._running(worker))
            await self._watch(stack, log, worker)
            if self._alerts is not None:
                await stack.enter_async_context(self._alerts.running())
            if self._config.web.enabled:
                web = Web(self._config.web, lambda: self._status(worker), self._alerts or NoOperations())
                await web.start()
                stack.push_async_callback(web.stop)
                self._endpoints["web"] = base_url(self._config.web.host, web.port)
            self._logger.info("ready", **self._endpoints)
            if started:
                started(dict(self._endpoints))
            while not stop.is_set() and worker.status.state != "stopped":
                if worker.overdue():
                    raise StartError(
                        f"a batch took longer than max_poll_interval ({self._kafka.max_poll_interval:g} s)"
                    )
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _WATCH_S)
            self._logger.info("stopping", grace_seconds=self._config.shutdown_grace)
        if worker.error is not None:
            raise worker.error

    def _worker(self, log: KafkaLog, stage: Stage) -> Worker | ScorerWorker:
        if self._scorer is not None:
            from driftgate.runtime.scorer_worker import ScorerWorker

            return ScorerWorker(self._kafka, self._scorer, max_records=_BATCH[self._role])
        linger = _STORE_LINGER_S if self._role == "store" else 0.0
        return Worker(log, stage, max_records=_BATCH[self._role], linger=linger)

    async def _watch(
        self, stack: contextlib.AsyncExitStack, log: KafkaLog, worker: Worker | ScorerWorker
    ) -> None:
        """Start what looks at the groups from outside: for partitions that stand still, and for silence."""
        groups = tuple(GROUP_TOPICS) if self._role == "alerter" else (self._role,)
        reader = ProgressReader(self._kafka)
        stack.callback(reader.close)
        self._stalls = StallWatch(reader, groups, self._kafka.stalled_after)
        await stack.enter_async_context(self._stalls.running())
        if self._role == "drift":
            hold_back = self._config.sampling.completion.idle
            offsets = ProgressReader(self._kafka)
            stack.callback(offsets.close)
            beats = WatermarkBeats(log, Watermark(offsets), lambda: worker.partitions, hold_back)
            await stack.enter_async_context(beats.running())

    async def _stage(self, stack: contextlib.AsyncExitStack) -> Stage:
        # Each role imports what it runs on and nothing else: a sampler needs neither scipy nor ClickHouse.
        config = self._config
        if self._role == "intake":
            from collector.foreign import ForeignStage

            return await asyncio.to_thread(ForeignStage, config.collector, self._kafka.partitions)
        if self._role == "sampler":
            from driftgate.runtime.screened import sampler_stage

            return await asyncio.to_thread(sampler_stage, config)
        if self._role == "scorer":
            from scorers.stage import ScorerStage

            self._scorer = await asyncio.to_thread(ScorerStage, config.scorers, self._base)
            stack.callback(self._scorer.close)
            return self._scorer
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
        self._alerts = Alerts(config, store, self._kafka.writer("dispatcher"))
        stack.callback(self._alerts.close)
        return self._alerts.stage

    @contextlib.asynccontextmanager
    async def _running(self, worker: Worker | ScorerWorker) -> AsyncIterator[None]:
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

    def _status(self, worker: Worker | ScorerWorker) -> Status:
        status = worker.status
        stalled = self._stalls.stalled if self._stalls is not None else []
        mine = [item for item in stalled if item.stage == self._role and item.partition in worker.partitions]
        return Status(
            version=installed_version(),
            ready=status.state in ("running", "waiting") and not mine,
            stalled=stalled,
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
            scorers=self._scorer.status() if self._scorer else {},
            # Of this process since its start; the books of all processes are in the log (`driftgate doctor`).
            ledger={worker.stage.name: dict(worker.counted)},
            incidents=self._alerts.incidents() if self._alerts else [],
            rollbacks=self._alerts.rollbacks() if self._alerts else [],
        )
