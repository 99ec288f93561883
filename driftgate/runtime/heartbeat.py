"""Tells the drift stage through the log that time has passed though no score came, so that silence is noticed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

import msgspec

from driftgate.runtime.background import in_background
from driftgate.runtime.runner import StageRunner
from stream.errors import DriftgateError
from stream.records import TOPIC_SCORES, Heartbeat
from stream.sqlite_log import SqliteLog
from stream.stage import Output

_EVERY_S = 5.0


class Heartbeats:
    """Appends a heartbeat every few seconds while nothing upstream of the drift stage is behind.

    A heartbeat says "no score older than this is still to come", so it lags the clock by the time a trace may still
    be waiting (``hold_back`` seconds), and none is sent while sampler or scorer have records to take.
    """

    def __init__(
        self,
        log: SqliteLog,
        runners: Sequence[StageRunner],
        hold_back: float,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._log = log
        self._upstream = [runner for runner in runners if runner.stage.name in ("sampler", "scorer")]
        self._hold_back_ns = int(hold_back * 1e9)
        self._clock = clock

    def running(self) -> AbstractAsyncContextManager[None]:
        """Beat in the background while the context is open."""
        return in_background(self._run())

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            if all(runner.status.state == "running" and runner.lag() == 0 for runner in self._upstream):
                beat = Heartbeat(time_unix_nano=self._clock() - self._hold_back_ns)
                output = Output(TOPIC_SCORES, msgspec.json.encode(beat))
                # A log that is full or down shows elsewhere; the next beat says the same.
                with contextlib.suppress(DriftgateError):
                    await asyncio.wrap_future(
                        self._log.append([output], group="heartbeat", counters={"beats": 1})
                    )
