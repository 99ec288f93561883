"""Where the input of the drift stage can be read again: the log, the store, or a file."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol

from driftgate.config import Config
from driftgate.store_access import Pages, StoreReader
from stream.kafka.settings import SCHEME as KAFKA
from stream.records import TOPIC_SCORES
from stream.stage import Record

_PAGE = 20_000  # rows of score_log asked for at once
_SLACK_NS = 3600 * 10**9  # by which the clocks of those who write the log may differ


class ScoreSource(Protocol):
    """Records of the topic ``scores``, in the order of the log."""

    name: str

    def firsts(self) -> dict[int, int]:
        """Return the first offset that is there, per partition that has records."""

    def records(self) -> Iterator[Record]:
        """Yield all records; those of a partition in their order."""


class SqliteScores:
    """The embedded log, whether its process runs or not."""

    name = "log"

    def __init__(self, config: Config) -> None:
        self._path = config.log_path

    def firsts(self) -> dict[int, int]:
        """See :class:`ScoreSource`."""
        from stream.sqlite_reading import inspect, read_stats

        with inspect(self._path) as reader:
            return {
                item.partition: item.first
                for item in read_stats(reader)
                if item.topic == TOPIC_SCORES and item.first < item.end
            }

    def records(self) -> Iterator[Record]:
        """See :class:`ScoreSource`."""
        from stream.sqlite_reading import inspect, read_topic

        with inspect(self._path) as reader:
            yield from read_topic(reader, TOPIC_SCORES)


class KafkaScores:
    """The log on Kafka; no consumer group is joined."""

    name = "log"

    def __init__(self, config: Config) -> None:
        self._settings = config.log.kafka

    def firsts(self) -> dict[int, int]:
        """See :class:`ScoreSource`."""
        from stream.kafka.log import KafkaLog

        log = KafkaLog(self._settings)
        try:
            return {
                item.partition: item.first
                for item in log.stats()
                if item.topic == TOPIC_SCORES and item.first < item.end
            }
        finally:
            log.close()

    def records(self) -> Iterator[Record]:
        """See :class:`ScoreSource`."""
        from stream.kafka.consumer import to_record
        from stream.kafka.scan import scan

        places = [(self._settings.topic(TOPIC_SCORES), number) for number in self.firsts()]
        for message in scan(self._settings, places, settled=False):
            yield to_record(message, TOPIC_SCORES)


class StoredScores:
    """The table ``score_log``.

    ``before`` is when the verdict was written (Unix nanoseconds): a log that was begun anew later does not count.
    """

    name = "store"

    def __init__(self, store: StoreReader, before: int | None = None) -> None:
        self._store = store
        self._where = (
            "1" if before is None else f"log_time <= fromUnixTimestamp64Nano(toInt64({before + _SLACK_NS}))"
        )

    def firsts(self) -> dict[int, int]:
        """See :class:`ScoreSource`."""
        rows = self._store.rows(
            f"SELECT partition, min(offset) AS first FROM score_log WHERE {self._where} GROUP BY partition"  # noqa: S608
        )
        return {int(row["partition"]): int(row["first"]) for row in rows}

    def records(self) -> Iterator[Record]:
        """See :class:`ScoreSource`; of two logs that both had an offset the later one counts."""
        for partition in self.firsts():
            yield from self._of(partition)

    def _of(self, partition: int) -> Iterator[Record]:
        after = -1
        pages = Pages(_PAGE)
        while pages.more:
            asked = (
                "SELECT offset, toUnixTimestamp64Nano(log_time) AS at, timed, base64Encode(value) AS bytes FROM score_log "  # noqa: S608
                f"WHERE partition = {partition} AND offset > toInt64({after}) AND {self._where} "
                "ORDER BY offset, log_time DESC LIMIT 1 BY offset LIMIT "
            )
            rows = pages.next(partial(self._limited, asked))
            for row in rows:
                at = int(row["at"]) if row["timed"] else 0
                value = base64.b64decode(row["bytes"])
                yield Record(TOPIC_SCORES, partition, int(row["offset"]), value, timestamp_ns=at)
            if rows:
                after = int(rows[-1]["offset"])

    def _limited(self, sql: str, rows: int) -> list[dict[str, Any]]:
        return self._store.rows(f"{sql}{rows}")


class FileScores:
    """A JSONL file: an export of ``driftgate replay --export``, or score records alone; standard input is read once.

    ``out_of_order`` counts the records read that stand behind a later one of their partition: a replay passes over them.
    """

    name = "file"

    def __init__(self, open_file: Callable[[], IO[bytes]]) -> None:
        self._open = open_file
        self.out_of_order = 0

    def firsts(self) -> dict[int, int]:
        """Say nothing: a file is taken as it is."""
        return {}

    def records(self) -> Iterator[Record]:
        """See :class:`ScoreSource`."""
        from drift.replay import read_lines

        latest: dict[int, int] = {}
        with self._open() as stream:
            for record in read_lines(stream):
                if record.offset <= latest.get(record.partition, -1):
                    self.out_of_order += 1
                else:
                    latest[record.partition] = record.offset
                yield record


def log_scores(config: Config) -> SqliteScores | KafkaScores:
    """Return the scores of the configured log."""
    return KafkaScores(config) if config.log.url.startswith(KAFKA) else SqliteScores(config)


def file_scores(path: Path, standard_input: IO[bytes]) -> FileScores:
    """Return the scores of the file at ``path``; ``-`` is standard input."""
    return FileScores(lambda: standard_input if str(path) == "-" else path.open("rb"))


def cut_off(firsts: dict[int, int]) -> dict[int, int]:
    """Return the partitions whose beginning is gone, with the first offset that is there."""
    return {partition: first for partition, first in firsts.items() if first > 0}
