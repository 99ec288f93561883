"""Notices partitions that stand still: records are there to take, and the committed offset does not move.

A stage can look healthy while one of its partitions is stuck: no worker owns it, its owner hangs, or a transaction that
nobody ends hides its records. So the brokers are asked, not the workers. Every worker watches the group it is in and is
not ready while a partition of its own stands still; the alerter's watches all groups, so that a stage without any
worker is named, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import msgspec
import structlog

from driftgate.runtime.background import in_background
from stream.errors import DriftgateError
from stream.kafka.progress import Progress, ProgressReader

Place = tuple[str, str, int]


class Stall(msgspec.Struct, frozen=True):
    """One partition that stands still: who should take it, how much waits, and for how many seconds nothing moved."""

    stage: str
    topic: str
    partition: int
    lag: int
    seconds: float


class Stalls:
    """Tells from one look to the next what stands still.

    Parameters
    ----------
    after
        Seconds without progress that are still normal.
    """

    def __init__(self, after: float) -> None:
        self._after = after
        self._since: dict[Place, tuple[int, float]] = {}  # committed, and when it was first seen so

    def update(self, progress: Sequence[Progress], now: float) -> list[Stall]:
        """Return what stands still at ``now`` (seconds of any clock that does not jump)."""
        since: dict[Place, tuple[int, float]] = {}
        found = []
        for item in progress:
            if not item.lag:
                continue
            place = (item.group, item.topic, item.partition)
            committed, begun = self._since.get(place, (-1, now))
            if committed != item.committed:
                begun = now
            since[place] = (item.committed, begun)
            if now - begun >= self._after:
                found.append(Stall(item.group, item.topic, item.partition, item.lag, now - begun))
        self._since = since
        return found


class StallWatch:
    """Looks regularly at ``groups`` and says what it sees."""

    def __init__(self, reader: ProgressReader, groups: Sequence[str], after: float) -> None:
        self.stalled: list[Stall] = []
        self._reader = reader
        self._groups = groups
        self._every = min(15.0, after / 4)
        self._stalls = Stalls(after)
        self._logger = structlog.get_logger(__name__)

    def running(self) -> AbstractAsyncContextManager[None]:
        """Watch in the background while the context is open."""
        return in_background(self._run())

    async def _run(self) -> None:
        while True:
            # Brokers that do not answer show elsewhere; what was last seen stays.
            with contextlib.suppress(DriftgateError):
                self._say(await asyncio.to_thread(self._reader.progress, self._groups))
            await asyncio.sleep(self._every)

    def _say(self, progress: Sequence[Progress]) -> None:
        before = {(item.stage, item.topic, item.partition) for item in self.stalled}
        self.stalled = self._stalls.update(progress, time.monotonic())
        for item in self.stalled:
            place = (item.stage, item.topic, item.partition)
            if place not in before:
                self._logger.error(
                    "partition_stalled",
                    stage=item.stage,
                    topic=item.topic,
                    partition=item.partition,
                    lag=item.lag,
                )
            before.discard(place)
        for stage, topic, partition in before:
            self._logger.info("partition_moves_again", stage=stage, topic=topic, partition=partition)
