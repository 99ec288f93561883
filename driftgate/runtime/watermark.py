"""Tells the drift stage on Kafka that time has passed though no score came, so that silence is noticed.

A heartbeat says "no score older than this is still to come". That is known for a moment ``t`` once the sampler has
decided everything that stood in its topics at ``t``, and the scorer has scored everything that stood in its topic then;
both are read from the committed offsets of their groups, which the sampler holds at its oldest undecided trace. While
either is behind, there is no heartbeat.

Every drift worker sends heartbeats to the partitions it owns, and to no others: there is one sender for each partition,
however many workers there are, and when two believe for a moment that they own one, the second heartbeat says what the
first said.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec
import structlog

from driftgate.runtime.background import in_background
from stream.errors import DriftgateError
from stream.kafka.log import KafkaLog
from stream.kafka.topics import GROUP_TOPICS
from stream.records import TOPIC_SCORES, Heartbeat
from stream.stage import Output

_EVERY_S = 5.0
_UPSTREAM = ("sampler", "scorer")

Place = tuple[str, int]


class Offsets(Protocol):
    """Where topics end and groups are; see :class:`stream.kafka.progress.ProgressReader`."""

    def ends(self, topics: Sequence[str]) -> Mapping[Place, int]:
        """Where every partition of ``topics`` ends."""

    def committed(self, group: str) -> Mapping[Place, int]:
        """What ``group`` has committed."""


class Watermark:
    """The latest moment before which everything is scored.

    Parameters
    ----------
    clock
        Returns Unix nanoseconds.
    """

    def __init__(self, offsets: Offsets, clock: Callable[[], int] = time.time_ns) -> None:
        self._offsets = offsets
        self._clock = clock
        self._moment = 0
        self._ends: Mapping[Place, int] = {}
        self._waiting: list[str] = []  # groups that have not handled what stood there at the moment

    def reached(self) -> int | None:
        """Return the next moment (Unix nanoseconds) that is reached, ``None`` while its records are being worked on.

        Raises
        ------
        Unavailable
            The brokers do not answer.
        """
        if not self._waiting:
            moment = self._clock()
            self._ends = self._offsets.ends(GROUP_TOPICS[_UPSTREAM[0]])
            self._moment, self._waiting = moment, list(_UPSTREAM)
        while self._waiting:
            committed = self._offsets.committed(self._waiting[0])
            if any(committed.get(place, 0) < end for place, end in self._ends.items()):
                return None
            if len(self._waiting) > 1:
                # What the first has made of its records stands here by now.
                self._ends = self._offsets.ends(GROUP_TOPICS[self._waiting[1]])
            del self._waiting[0]
        return self._moment


class WatermarkBeats:
    """Appends heartbeats to the partitions of ``scores`` that ``mine`` returns.

    Parameters
    ----------
    hold_back
        Seconds that a heartbeat stays behind the moment: how late a client may send what it saw.
    """

    def __init__(
        self, log: KafkaLog, watermark: Watermark, mine: Callable[[], Sequence[int]], hold_back: float
    ) -> None:
        self._log = log
        self._watermark = watermark
        self._mine = mine
        self._hold_back_ns = int(hold_back * 1e9)

    def running(self) -> AbstractAsyncContextManager[None]:
        """Beat in the background while the context is open."""
        return in_background(self._run())

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                moment = await asyncio.to_thread(self._watermark.reached)
                if moment is not None:
                    await self._beat(moment)
            except DriftgateError as error:
                # Brokers that do not answer show elsewhere; the next beat says the same.
                structlog.get_logger(__name__).info("no_heartbeat", error=str(error))

    async def _beat(self, moment: int) -> None:
        value = msgspec.json.encode(Heartbeat(time_unix_nano=moment - self._hold_back_ns))
        outputs = [Output(TOPIC_SCORES, value, partition=number) for number in self._mine()]
        if outputs:
            await asyncio.wrap_future(
                self._log.append(outputs, group="heartbeat", counters={"beats": len(outputs)})
            )
