"""One worker of ``driftgate collector --workers N``: what its supervisor starts, asks and stops.

It speaks lines of JSON: ``{"ready": …}`` and ``{"receivers": …}`` to the supervisor on standard output, ``{"stop": seconds}``
from it on standard input. When the supervisor is gone, standard input ends, and the worker stops.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Any

from driftgate.config import Config
from driftgate.runtime.collector_process import CollectorProcess
from driftgate.runtime.deadline import Deadline

_REPORT_S = 1.0


async def run_worker(config: Config, instance: str) -> None:
    """Run until the supervisor says stop or is gone.

    Raises
    ------
    StartError, ConfigError
        As :meth:`CollectorProcess.run`.
    """
    process = CollectorProcess(config, instance)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)

    async def listen() -> None:
        line = await lines.readline()
        if line:
            process.deadline = Deadline(float(json.loads(line)["stop"]))
        stop.set()

    async def report() -> None:
        while True:
            await asyncio.sleep(_REPORT_S)
            _tell({"receivers": process.metrics()})

    listening, reporting = asyncio.create_task(listen()), asyncio.create_task(report())
    try:
        await process.run(stop, lambda endpoints: _tell({"ready": endpoints}))
        _tell({"receivers": process.metrics()})
    finally:
        listening.cancel()
        reporting.cancel()


def _tell(message: dict[str, Any]) -> None:
    try:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        pass  # the supervisor is gone; standard input says so too
