"""The fakes that ship in the package, so that users test their own scorers and stages with them.

:class:`MemoryLog` keeps the promises of the real logs within one process; :class:`FakeClock` moves when told;
:func:`drive` runs a stage over a log until it has nothing left, without threads or sleeps.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

from stream.log import Changes, Consumer, TopicStats
from stream.stage import Batch, Output, Record, Result, Stage
from stream.transaction import Transaction, of_result


class FakeClock:
    """A clock in Unix nanoseconds that moves only when told."""

    def __init__(self, now_ns: int = 1_700_000_000_000_000_000) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        return self.now_ns

    def advance(self, seconds: float) -> None:
        """Move forward."""
        self.now_ns += int(seconds * 1e9)


class MemoryLog:
    """Topics in memory. ``partitions`` applies to every topic; records without a partition go by CRC32 of the key."""

    def __init__(self, partitions: int = 1, clock: FakeClock | None = None) -> None:
        self.partition_count = partitions
        self.clock = clock or FakeClock()
        self.records: dict[tuple[str, int], list[Record]] = {}
        self._offsets: dict[str, dict[tuple[str, int], int]] = {}
        self._state: dict[str, dict[tuple[int, str], bytes]] = {}
        self._ledger: dict[str, dict[str, int]] = {}

    def apply(self, transaction: Transaction) -> None:
        """Make ``transaction`` take effect."""
        for output in transaction.outputs:
            partition = output.partition
            if partition is None:
                partition = zlib.crc32(output.key) % self.partition_count
            place = self.records.setdefault((output.topic, partition), [])
            place.append(
                Record(
                    output.topic,
                    partition,
                    len(place),
                    output.value,
                    output.key,
                    output.headers,
                    self.clock.now_ns,
                )
            )
        state = self._state.setdefault(transaction.group, {})
        for key, value in transaction.state.items():
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
        ledger = self._ledger.setdefault(transaction.group, {})
        for name, by in transaction.counters.items():
            ledger[name] = ledger.get(name, 0) + by
        self._offsets.setdefault(transaction.group, {}).update(transaction.offsets)

    def append(
        self, outputs: Sequence[Output], *, group: str = "test", counters: Mapping[str, int] = {}
    ) -> Future[None]:
        """See :meth:`stream.log.Log.append`; done at once."""
        self.apply(Transaction(group=group, outputs=list(outputs), counters=counters))
        future: Future[None] = Future()
        future.set_result(None)
        return future

    def consumer(self, group: str, topics: Sequence[str]) -> MemoryConsumer:
        """See :meth:`stream.log.Log.consumer`."""
        return MemoryConsumer(self, group, topics)

    def topic(self, name: str) -> list[Record]:
        """Return all records of a topic, partition by partition."""
        return [
            record
            for (topic, _), records in sorted(self.records.items())
            if topic == name
            for record in records
        ]

    def state(self, group: str, partition: int) -> dict[str, bytes]:
        """Return the saved state of ``group`` for ``partition``."""
        return {key: value for (part, key), value in self._state.get(group, {}).items() if part == partition}

    def counters(self) -> dict[str, dict[str, int]]:
        """See :meth:`stream.log.Log.counters`."""
        return {group: dict(names) for group, names in self._ledger.items()}

    def stats(self) -> list[TopicStats]:
        """See :meth:`stream.log.Log.stats`."""
        return [
            TopicStats(topic, part, 0, len(records), sum(len(record.value) for record in records))
            for (topic, part), records in sorted(self.records.items())
        ]

    def committed(self) -> dict[str, dict[tuple[str, int], int]]:
        """See :meth:`stream.log.Log.committed`."""
        return {group: dict(places) for group, places in self._offsets.items()}

    def close(self) -> None:
        """Nothing to close."""


class MemoryConsumer:
    """The single member of a group on a :class:`MemoryLog`."""

    def __init__(self, log: MemoryLog, group: str, topics: Sequence[str]) -> None:
        self._log = log
        self._group = group
        self._topics = tuple(topics)
        self._position = dict(log.committed().get(group, {}))
        self._changes = Changes(assigned=tuple(range(log.partition_count)))

    def changes(self) -> Changes:
        """See :meth:`stream.log.Consumer.changes`; there is one assignment, at the start."""
        changes, self._changes = self._changes, Changes()
        return changes

    def rewind(self) -> None:
        """See :meth:`stream.log.Consumer.rewind`."""
        self._position = dict(self._log.committed().get(self._group, {}))

    def idle(self, timeout: float) -> None:
        """See :meth:`stream.log.Consumer.idle`; never waits."""
        del timeout

    def at_end(self) -> bool:
        """See :meth:`stream.log.Consumer.at_end`."""
        return self.lag() == 0

    def partitions(self) -> Sequence[int]:
        """See :meth:`stream.log.Consumer.partitions`."""
        return range(self._log.partition_count)

    def saved_state(self, partition: int) -> Mapping[str, bytes]:
        """See :meth:`stream.log.Consumer.saved_state`."""
        return self._log.state(self._group, partition)

    def poll(self, max_records: int, timeout: float) -> list[Record]:
        """See :meth:`stream.log.Consumer.poll`; never waits."""
        del timeout
        found: list[Record] = []
        for (topic, partition), records in sorted(self._log.records.items()):
            if topic in self._topics:
                at = self._position.get((topic, partition), 0)
                taken = records[at : at + max_records]
                self._position[topic, partition] = at + len(taken)
                found.extend(taken)
        return found

    def commit(self, records: Sequence[Record], result: Result) -> None:
        """See :meth:`stream.log.Consumer.commit`."""
        self._log.apply(of_result(self._group, records, result))

    def lag(self) -> int:
        """See :meth:`stream.log.Consumer.lag`."""
        return sum(
            len(records) - self._position.get(place, 0)
            for place, records in self._log.records.items()
            if place[0] in self._topics
        )

    def close(self) -> None:
        """Nothing to close."""


def drive(stage: Stage, log: MemoryLog, *, max_records: int = 500, ticks: int = 0) -> Consumer:
    """Run ``stage`` over ``log`` until nothing is left, then hand it ``ticks`` empty batches at the log's clock."""
    consumer = log.consumer(stage.name, stage.topics)
    for partition in consumer.partitions():
        stage.assign(partition, consumer.saved_state(partition))
    while records := consumer.poll(max_records, 0.0):
        consumer.commit(records, stage.process(Batch(records, log.clock.now_ns)))
    for _ in range(ticks):
        consumer.commit([], stage.process(Batch([], log.clock.now_ns)))
    return consumer
