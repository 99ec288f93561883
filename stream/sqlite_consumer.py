"""A consumer group's single member on the SQLite log."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from stream.log import Changes, in_time
from stream.sqlite_reading import connect, decode_headers, read_offsets
from stream.stage import Headers, Record, Result
from stream.transaction import Transaction, of_result

_POLL_BYTES = 8 << 20


class Writer(Protocol):
    """What a consumer needs of the log that it reads."""

    @property
    def generation(self) -> int:
        """Grows with every group commit."""

    def wait(self, generation: int, timeout: float) -> int:
        """Wait until something was written after ``generation``."""

    def submit(self, transaction: Transaction) -> None:
        """Make ``transaction`` durable, waiting for it."""


class SqliteConsumer:
    """The single member of a consumer group of a group; used by one thread."""

    def __init__(self, log: Writer, path: Path, group: str, topics: Sequence[str]) -> None:
        self._log = log
        self._group = group
        self._topics = tuple(topics)
        self._reader = connect(path)
        self._reader.execute("PRAGMA query_only = 1")
        committed = read_offsets(self._reader).get(group, {})
        self._position = {topic: committed.get((topic, 0), 0) for topic in topics}
        self._changes = Changes(assigned=(0,))

    def changes(self) -> Changes:
        """See :meth:`stream.log.Consumer.changes`; there is one assignment, at the start."""
        changes, self._changes = self._changes, Changes()
        return changes

    def idle(self, timeout: float) -> None:
        """See :meth:`stream.log.Consumer.idle`."""
        time.sleep(timeout)

    def at_end(self) -> bool:
        """See :meth:`stream.log.Consumer.at_end`."""
        return self.lag() == 0

    def partitions(self) -> Sequence[int]:
        """See :meth:`stream.log.Consumer.partitions`."""
        return (0,)

    def saved_state(self, partition: int) -> Mapping[str, bytes]:
        """See :meth:`stream.log.Consumer.saved_state`."""
        rows = self._reader.execute(
            "SELECT key, value FROM state WHERE grp = ? AND part = ?", (self._group, partition)
        )
        return dict(rows.fetchall())

    def poll(self, max_records: int, timeout: float) -> list[Record]:
        """See :meth:`stream.log.Consumer.poll`; at most about 8 MiB come at once."""
        generation = self._log.generation
        records = self._read(max_records)
        if not records and timeout > 0:
            self._log.wait(generation, timeout)
            records = self._read(max_records)
        return records

    def _read(self, max_records: int) -> list[Record]:
        records: list[Record] = []
        size = 0
        tables = dict(self._reader.execute("SELECT name, id FROM topics").fetchall())
        for topic in self._topics:
            if topic not in tables:
                continue
            cursor = self._reader.execute(
                f"SELECT offset, ts, key, value, headers FROM t_{tables[topic]}"  # noqa: S608 - our own name
                " WHERE offset >= ? ORDER BY offset LIMIT ?",
                (self._position[topic], max_records),
            )
            budget = size + _POLL_BYTES
            for offset, ts, key, value, raw in cursor:
                headers: Headers = decode_headers(raw) if raw else ()
                records.append(Record(topic, 0, offset, value, key, headers, ts))
                self._position[topic] = offset + 1
                size += len(value)
                if size >= budget:
                    break
            cursor.close()
        if len(self._topics) > 1:
            return in_time(records)
        return records

    def rewind(self) -> None:
        """See :meth:`stream.log.Consumer.rewind`."""
        committed = read_offsets(self._reader).get(self._group, {})
        self._position = {topic: committed.get((topic, 0), 0) for topic in self._topics}

    def commit(self, records: Sequence[Record], result: Result) -> None:
        """See :meth:`stream.log.Consumer.commit`; one transaction."""
        self._log.submit(of_result(self._group, records, result))

    @property
    def position(self) -> dict[str, int]:
        """The next offset to be polled, per topic."""
        return dict(self._position)

    def lag(self) -> int:
        """See :meth:`stream.log.Consumer.lag`."""
        ends = dict(self._reader.execute("SELECT name, next FROM topics").fetchall())
        return sum(max(0, int(ends.get(topic, 0)) - at) for topic, at in self._position.items())

    def close(self) -> None:
        """See :meth:`stream.log.Consumer.close`."""
        self._reader.close()
