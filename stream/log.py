"""The log between the stages: what the runtimes ask of it, whoever keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

import msgspec

from stream.errors import Transient
from stream.stage import Output, Record, Result


def in_time(records: Sequence[Record]) -> list[Record]:
    """Return ``records``, each topic partition's in the order of its offsets, merged by the log's timestamps.

    A timestamp that goes back counts as its predecessor's. Clocks step back, and who reads by offset takes a record that
    comes after a later one of its partition for one that was there before.
    """
    latest: dict[tuple[str, int], int] = {}
    times: list[int] = []
    for record in records:
        place = (record.topic, record.partition)
        latest[place] = max(latest.get(place, 0), record.timestamp_ns)
        times.append(latest[place])
    return [records[index] for index in sorted(range(len(records)), key=times.__getitem__)]


class TopicStats(msgspec.Struct, frozen=True):
    """Offsets of one topic partition: records first..end-1 exist; ``end`` is the next offset to be written."""

    topic: str
    partition: int
    first: int
    end: int
    size_bytes: int


class Changes(msgspec.Struct, frozen=True):
    """Partitions that a member lost and got. What it had polled of the lost and not committed is no longer its own."""

    revoked: tuple[int, ...] = ()
    assigned: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.revoked or self.assigned)


class OutOfStep(Transient):
    """A member no longer holds what it commits, or cannot know whether a commit took effect.

    It must forget what it has in hand, restore its stage from :meth:`Consumer.saved_state` and go on after
    :meth:`Consumer.rewind`.
    """


class Consumer(Protocol):
    """One member of a consumer group."""

    def changes(self) -> Changes:
        """Return what was lost and got since the last call; the first call returns the first assignment.

        ``poll`` may return nothing until changes were taken.
        """

    def rewind(self) -> None:
        """Go back to the committed offsets."""

    def idle(self, timeout: float) -> None:
        """Stay a member for ``timeout`` seconds without taking records; what is due to arrive waits."""

    def at_end(self) -> bool:
        """Whether everything that was written to the assigned partitions has been polled, as far as is known."""

    def partitions(self) -> Sequence[int]:
        """Partitions assigned to this member."""

    def saved_state(self, partition: int) -> Mapping[str, bytes]:
        """State saved by the group for ``partition``."""

    def poll(self, max_records: int, timeout: float) -> list[Record]:
        """Return up to ``max_records`` records after the last polled, waiting up to ``timeout`` seconds for the first."""

    def commit(self, records: Sequence[Record], result: Result) -> None:
        """Make ``result`` durable: outputs and dead letters, state, counters, then offsets; atomic where possible.

        Raises :class:`stream.errors.Transient` when the log cannot take it now; nothing was committed then.
        """

    def lag(self) -> int:
        """Records written but not yet polled by this group."""

    def close(self) -> None:
        """Leave the group; idempotent."""


class Log(Protocol):
    """Append-only topics with consumer groups."""

    def append(self, outputs: Sequence[Output], *, group: str, counters: Mapping[str, int]) -> Future[None]:
        """Write all ``outputs`` or none, and add ``counters`` to the ledger of ``group``.

        The future resolves once the records are durable; it fails with :class:`stream.errors.Transient` when the log
        cannot take them now and :class:`stream.errors.Permanent` when it never will.
        """

    def consumer(self, group: str, topics: Sequence[str]) -> Consumer:
        """Join ``group`` on ``topics``."""

    def counters(self) -> dict[str, dict[str, int]]:
        """The durable ledger: group -> counter -> value."""

    def stats(self) -> list[TopicStats]:
        """Offsets and sizes of every topic partition."""

    def committed(self) -> dict[str, dict[tuple[str, int], int]]:
        """Committed offsets: group -> (topic, partition) -> next offset."""

    def close(self) -> None:
        """Flush and close; idempotent."""
