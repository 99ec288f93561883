"""``driftgate collector --workers N``: processes that share the ports, and who looks after them.

The supervisor reserves the ports (``SO_REUSEPORT``), starts the workers, starts anew what ended by itself, adds up what they
count, and stops all of them under one deadline. It takes no spans itself, so it has nothing to lose: when it is killed, its
workers finish what they have and stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from driftgate.config import Config
from driftgate.running import base_url
from driftgate.runtime.deadline import Deadline
from driftgate.runtime.operations import NoOperations
from driftgate.runtime.status import Status, WorkerStatus
from driftgate.version import installed_version
from driftgate.web import Web
from stream.errors import StartError

# The wait before a worker that ended is started again: doubled each time, and short again after a good while.
_BACKOFF_S = (0.5, 30.0)
_GOOD_WHILE_S = 60.0
# What the workers must leave of the time to stop, for the supervisor to end those that hang.
_RESERVE_S = 0.5
_GAUGES = ("in_flight_bytes", "in_flight_requests", "waiting_requests")


class _Worker:
    def __init__(self, number: int) -> None:
        self.number = number
        self.process: asyncio.subprocess.Process | None = None
        self.ready = asyncio.Event()
        self.endpoints: dict[str, str] = {}
        self.receivers: dict[str, float] = {}
        self.restarts = 0


class CollectorWorkers:
    """Several :class:`~driftgate.runtime.collector_process.CollectorProcess` on the same ports.

    Parameters
    ----------
    path
        The configuration file, which the workers read too.
    """

    def __init__(self, config: Config, path: Path | None, count: int) -> None:
        self._config = config
        self._path = path
        self._instance = config.log.kafka.instance or f"{socket.gethostname()}-{os.getpid()}"
        self._workers = [_Worker(number) for number in range(count)]
        self._environment = dict(os.environ)
        self._stopping = False
        self._ready = False
        self._gone: Counter[str] = Counter()  # counts of workers that have ended
        self._endpoints: dict[str, str] = {}
        self._logger = structlog.get_logger(__name__)

    async def run(self, stop: asyncio.Event, started: Callable[[dict[str, str]], None] | None = None) -> None:
        """Run until ``stop`` is set, then stop all workers.

        Raises
        ------
        StartError
            A port is taken, or a worker did not start.
        """
        deadline = Deadline(self._config.shutdown_grace)
        async with contextlib.AsyncExitStack() as stack:
            self._reserve(stack)
            watchers = [asyncio.create_task(self._watch(worker)) for worker in self._workers]
            stack.push_async_callback(self._stop, watchers, deadline)
            stopped = asyncio.create_task(stop.wait())
            stack.callback(stopped.cancel)
            await self._first(
                asyncio.gather(*(worker.ready.wait() for worker in self._workers)), stopped, watchers
            )
            if self._config.web.enabled and not stop.is_set():
                web = Web(self._config.web, self._status, NoOperations())
                await web.start()
                stack.push_async_callback(web.stop)
                self._endpoints["web"] = base_url(self._config.web.host, web.port)
            self._endpoints |= self._workers[0].endpoints
            self._ready = True
            self._logger.info("ready", workers=len(self._workers), **self._endpoints)
            if started:
                started(dict(self._endpoints))
            await self._first(stopped, stopped, watchers)
            self._logger.info("stopping", grace_seconds=self._config.shutdown_grace)

    def _reserve(self, stack: contextlib.ExitStack | contextlib.AsyncExitStack) -> None:
        """Bind the ports without listening: so they are ours, and every worker gets the same."""
        collector = self._config.collector
        for name, listen in (("grpc", collector.grpc), ("http", collector.http)):
            if listen.enabled:
                port = _reserved(name, listen.host, listen.port, stack)
                self._environment[f"DRIFTGATE__COLLECTOR__{name.upper()}__PORT"] = str(port)

    async def _first(
        self, wanted: asyncio.Future[Any], stopped: asyncio.Future[Any], watchers: list[asyncio.Task[None]]
    ) -> None:
        """Wait for ``wanted`` or for the stop; raise what a watcher raised."""
        waits: set[asyncio.Future[Any]] = {wanted, stopped, *watchers}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for watcher in watchers:
            if watcher.done():
                watcher.result()

    async def _watch(self, worker: _Worker) -> None:
        """Start the worker, and again whenever it ends by itself; the first start must succeed."""
        pause = _BACKOFF_S[0]
        while not self._stopping:
            began = time.monotonic()
            code = await self._live(worker)
            if self._stops():
                return
            if not worker.restarts and not worker.endpoints:
                raise StartError(
                    f"worker {worker.number} did not start (exit code {code}); see its message above"
                )
            if time.monotonic() - began > _GOOD_WHILE_S:
                pause = _BACKOFF_S[0]
            worker.restarts += 1
            self._logger.error("worker_ended", worker=worker.number, exit_code=code, again_in_seconds=pause)
            await asyncio.sleep(pause)
            pause = min(_BACKOFF_S[1], 2 * pause)

    def _stops(self) -> bool:
        return self._stopping

    async def _live(self, worker: _Worker) -> int:
        """Run the worker once; return its exit code."""
        arguments = [
            sys.executable,
            "-m",
            "driftgate",
            "collector",
            "--worker",
            f"{self._instance}-{worker.number}",
        ]
        if self._path is not None:
            arguments += ["-c", str(self._path)]
        process = worker.process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=self._environment,
            start_new_session=True,  # Ctrl-C is for the supervisor, which tells the workers
            limit=1 << 20,
        )
        assert process.stdout is not None
        async for line in process.stdout:
            try:
                told: dict[str, Any] = json.loads(line)
            except ValueError:
                continue  # something that a library printed
            if "ready" in told:
                worker.endpoints = told["ready"]
                worker.ready.set()
            worker.receivers = told.get("receivers", worker.receivers)
        code = await process.wait()
        worker.ready.clear()
        worker.process = None
        self._gone.update({name: by for name, by in worker.receivers.items() if name not in _GAUGES})
        worker.receivers = {}
        return code

    async def _stop(self, watchers: list[asyncio.Task[None]], deadline: Deadline) -> None:
        deadline.start()
        self._stopping = True
        self._ready = False
        for worker in self._workers:
            if worker.process is not None and worker.process.stdin is not None:
                message = json.dumps({"stop": max(0.0, deadline.left() - _RESERVE_S)}) + "\n"
                with contextlib.suppress(ConnectionError):
                    worker.process.stdin.write(message.encode())
        await asyncio.wait(
            [asyncio.create_task(self._ended(worker)) for worker in self._workers], timeout=deadline.left()
        )
        for worker in self._workers:
            if worker.process is not None and worker.process.returncode is None:
                self._logger.warning("worker_did_not_stop", worker=worker.number)
                worker.process.kill()
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)

    async def _ended(self, worker: _Worker) -> None:
        if worker.process is not None:
            await worker.process.wait()

    def _status(self) -> Status:
        receivers: Counter[str] = Counter(self._gone)
        for worker in self._workers:
            receivers.update(worker.receivers)
        return Status(
            version=installed_version(),
            ready=self._ready and any(worker.ready.is_set() for worker in self._workers),
            time_unix_nano=time.time_ns(),
            endpoints=dict(self._endpoints),
            receivers=dict(receivers),
            workers=[
                WorkerStatus(
                    worker.number,
                    worker.process.pid if worker.process else 0,
                    worker.ready.is_set(),
                    worker.restarts,
                    dict(worker.receivers),
                )
                for worker in self._workers
            ],
        )


def _reserved(
    name: str, host: str, port: int, stack: contextlib.ExitStack | contextlib.AsyncExitStack
) -> int:
    """Bind ``host:port`` for sharing until ``stack`` is closed; return the port.

    Raises
    ------
    StartError
        Somebody has it, or the address is not of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # Alone first: another collector that shares its ports would let us in.
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
            number: int = probe.getsockname()[1]
        held = stack.enter_context(socket.socket(family, kind, protocol))
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((address[0], number, *address[2:]))
    except OSError as error:
        raise StartError(
            f"cannot listen for OTLP/{name} on {host}:{port}: {error.strerror}; stop the process that has the port or "
            f"set collector.{name}.port (or .host)"
        ) from error
    return number
