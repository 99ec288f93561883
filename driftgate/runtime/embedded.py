"""``driftgate up``: every stage in one process, with a SQLite log and an embedded ClickHouse.

Start order: log, store, stages, dispatcher, query endpoint, web, and last the receivers; what fails, fails before a
span is accepted. Stop order is the reverse, under one deadline: receivers refuse, stages drain, then all is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import structlog

from collector.receivers import Receivers
from driftgate.config import Config
from driftgate.dead_letters import replay
from driftgate.doubts import doubts
from driftgate.mailboxes import SqliteMailbox
from driftgate.running import base_url, tell_endpoints
from driftgate.runtime.alerts import Alerts
from driftgate.runtime.deadline import Deadline
from driftgate.runtime.heartbeat import Heartbeats
from driftgate.runtime.runner import StageRunner
from driftgate.runtime.stages import Stages, build_stages
from driftgate.runtime.status import StageStatus, Status
from driftgate.version import installed_version
from driftgate.web import Web
from sinks.alerter import AlerterStage
from sinks.clickhouse.endpoint import Endpoint
from sinks.store import Store
from sinks.store_stage import StoreStage
from stream.errors import StartError
from stream.sqlite_log import SqliteLog
from stream.stage import Output

_STORE_LINGER_S = 0.5
_SCORER_BATCH = 64
_DRAINABLE = ("starting", "running")  # one that waits for a dependency, or fails, will not get through


class Embedded:
    """One process with everything in it.

    Parameters
    ----------
    base
        Folder that plug-in paths of the configuration start from.
    """

    def __init__(self, config: Config, base: Path) -> None:
        self._config = config
        self._base = base
        self._logger = structlog.get_logger(__name__)
        self._ready = False
        self._endpoints: dict[str, str] = {}
        self._runners: list[StageRunner] = []

    async def run(self, stop: asyncio.Event, started: Callable[[dict[str, str]], None] | None = None) -> None:
        """Run until ``stop`` is set, then drain and close.

        ``started`` is called with the bound addresses once spans are accepted.

        Raises
        ------
        StartError, ConfigError
            It could not start; what had been started is closed again.
        """
        async with contextlib.AsyncExitStack() as stack:
            await self._start(stack)
            self._ready = True
            self._logger.info("ready", **self._endpoints)
            if started:
                started(dict(self._endpoints))
            await stop.wait()
            self._logger.info("stopping", grace_seconds=self._config.shutdown_grace)

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        config = self._config
        prepare_folder(config.data)
        deadline = Deadline(config.shutdown_grace)
        log = SqliteLog(config.log_path, max_age=config.log.max_age, max_bytes=config.log.max_bytes)
        stack.callback(log.close)
        receivers = Receivers(config.collector, self._publisher(log), lambda: self._ready)
        stages = await asyncio.to_thread(build_stages, config, self._base)
        # In a thread: the scorer's own event loop cannot end while another one runs in the same thread.
        stack.push_async_callback(asyncio.to_thread, stages.scorer.close)
        for text in doubts(config, stages.scorer.rubrics):
            self._logger.warning("configuration", doubt=text)
        store = await asyncio.to_thread(self._open_store)
        stack.callback(store.close)
        alerts = Alerts(config, store)
        stack.callback(alerts.close)
        self._runners = self._make_runners(log, stages, store, alerts.stage)
        await stack.enter_async_context(self._running(deadline))
        await stack.enter_async_context(alerts.running())
        await stack.enter_async_context(
            Heartbeats(log, self._runners, config.sampling.completion.idle).running()
        )
        if config.query.enabled:
            endpoint = Endpoint(store, config.query)
            await endpoint.start()
            stack.push_async_callback(endpoint.stop)
            self._endpoints["query"] = base_url(config.query.host, endpoint.port)
        if config.web.enabled:
            web = Web(
                config.web, lambda: self.status(log, receivers, stages, alerts), alerts, self._replayer(log)
            )
            await web.start()
            stack.push_async_callback(web.stop)
            self._endpoints["web"] = base_url(config.web.host, web.port)
        await receivers.start()
        stack.push_async_callback(self._stop_receivers, receivers, deadline)
        self._endpoints["otlp_grpc"] = base_url(config.collector.grpc.host, receivers.grpc_port)
        self._endpoints["otlp_http"] = base_url(config.collector.http.host, receivers.http_port)
        stack.callback(tell_endpoints(config.data, self._endpoints))

    def _open_store(self) -> Store:
        store = Store.open(self._config.store, self._config.store_folder)
        store.migrate()
        return store

    def _make_runners(
        self, log: SqliteLog, stages: Stages, store: Store, alerter: AlerterStage
    ) -> list[StageRunner]:
        return [
            StageRunner(log, stages.sampler),
            StageRunner(log, stages.scorer, max_records=_SCORER_BATCH),
            StageRunner(log, stages.drift),
            StageRunner(
                log, StoreStage(store, self._config.store), max_records=5_000, linger=_STORE_LINGER_S
            ),
            StageRunner(log, alerter),
        ]

    @contextlib.asynccontextmanager
    async def _running(self, deadline: Deadline) -> AsyncIterator[None]:
        """Run the stages; on the way out let them drain in the order of the flow, within the deadline."""
        for runner in self._runners:
            runner.start()
        try:
            yield
        finally:
            await asyncio.to_thread(self._drain, deadline)

    def _drain(self, deadline: Deadline) -> None:
        for runner in self._runners:
            runner.hurry()
        for runner in self._runners:
            while runner.status.state in _DRAINABLE and runner.lag() and deadline.left() > 1.0:
                time.sleep(0.05)
        for runner in self._runners:
            runner.stop()
        for runner in self._runners:
            if not runner.join(max(1.0, deadline.left())):
                self._logger.warning("stage_did_not_stop", stage=runner.stage.name)

    async def _stop_receivers(self, receivers: Receivers, deadline: Deadline) -> None:
        deadline.start()
        self._ready = False
        await receivers.stop(min(5.0, deadline.left()))

    def _publisher(
        self, log: SqliteLog
    ) -> Callable[[Sequence[Output], Mapping[str, int]], asyncio.Future[None]]:
        def publish(outputs: Sequence[Output], counters: Mapping[str, int]) -> asyncio.Future[None]:
            return asyncio.wrap_future(log.append(outputs, group="collector", counters=counters))

        return publish

    def _replayer(self, log: SqliteLog) -> Callable[[Sequence[str], bool], dict[str, str]]:
        one_at_a_time = threading.Lock()

        def send(ids: Sequence[str], again: bool) -> dict[str, str]:
            with one_at_a_time:
                return replay(SqliteMailbox(self._config, log), ids, again=again)

        return send

    def status(self, log: SqliteLog, receivers: Receivers, stages: Stages, alerts: Alerts) -> Status:
        """Return the state of the whole process; reads the disk, so call it off the event loop."""
        statistics = log.stats()
        return Status(
            version=installed_version(),
            ready=self._ready,
            time_unix_nano=time.time_ns(),
            endpoints=dict(self._endpoints),
            stages=[
                StageStatus(r.stage.name, s.state, s.reason, r.lag(), s.records, s.last_progress_ns)
                for r in self._runners
                for s in (r.status,)
            ],
            ledger=log.counters(),
            log_end={item.topic: item.end for item in statistics},
            log_bytes={item.topic: item.size_bytes for item in statistics},
            receivers=receivers.metrics(),
            scorers=stages.scorer.status(),
            incidents=alerts.incidents(),
            rollbacks=alerts.rollbacks(),
        )


def prepare_folder(folder: Path) -> None:
    """Create the data folder, readable by its owner only.

    Raises
    ------
    StartError
        It cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StartError(
            f"the data folder {folder} cannot be written to: {error.strerror}; set `data`"
        ) from error
