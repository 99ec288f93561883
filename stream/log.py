"""The log between the stages: what the runtimes ask of it, whoever keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

import msgspec

from stream.stage import Output, Record, Result


class TopicStats(msgspec.Struct, frozen=True):
    """Offsets of one topic partition: records first..end-1 exist; ``end`` is the next offset to be written."""

    topic: str
    partition: int
    first: int
    end: int
    size_bytes: int


class Consumer(Protocol):
    """One member of a consumer group."""

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
