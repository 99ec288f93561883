"""The stage that writes what flows through the log into ClickHouse.

Delivery: rows are inserted before the runtime commits the offsets, so nothing is lost. A batch that is processed again
inserts the same rows, and however it was cut after a crash they collapse in the engine, because each
row's sorting key is a deterministic id. While the store is down the whole batch is tried again (``Unavailable``) and
nothing goes to dead letters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from sinks.store_rows import (
    Row,
    dead_letter_rows,
    log_rows,
    operation_rows,
    sampled_rows,
    score_rows,
    span_rows,
    verdict_rows,
    window_rows,
)
from sinks.store_settings import StoreSettings
from stream.errors import Permanent
from stream.records import (
    OPERATIONS_PREFIX,
    TOPIC_DEAD_LETTERS,
    TOPIC_SAMPLED,
    TOPIC_SCORES,
    TOPIC_SPANS,
    TOPIC_VERDICTS,
    TOPIC_WINDOWS,
)
from stream.stage import Batch, Record, Reject, Result


class Inserter(Protocol):
    """What the stage needs of :class:`sinks.store.Store`."""

    def insert(self, table: str, rows: Mapping[str, Sequence[Any]], token: str) -> int:
        """Insert columns; ``token`` names the insert."""


class _Piece(msgspec.Struct):
    """Consecutive records of one topic partition and the rows each of them holds."""

    table: str
    records: list[Record]
    rows: list[list[Row]]

    @property
    def token(self) -> str:
        """Says in the engine's query log which records these are; nothing is deduplicated by it."""
        first, last = self.records[0], self.records[-1]
        return f"{first.topic}:{first.partition}:{first.offset}-{last.offset}"


_TABLES: dict[str, tuple[str, Callable[[Record], list[Row]]]] = {
    TOPIC_SPANS: ("otel_traces", span_rows),
    TOPIC_SAMPLED: ("sampled_traces", sampled_rows),
    TOPIC_SCORES: ("scores", score_rows),
    TOPIC_WINDOWS: ("cohort_windows", window_rows),
    TOPIC_VERDICTS: ("verdicts", verdict_rows),
    TOPIC_DEAD_LETTERS: ("dead_letters", dead_letter_rows),
}


def _table_of(record: Record) -> tuple[str, Callable[[Record], list[Row]]]:
    if record.topic == TOPIC_SCORES and record.value.startswith(OPERATIONS_PREFIX):
        return "operations", operation_rows
    return _TABLES[record.topic]


class StoreStage:
    """Writes spans, sampling decisions, scores, operational facts, windows, verdicts and dead letters."""

    name = "store"
    topics = (TOPIC_SPANS, TOPIC_SAMPLED, TOPIC_SCORES, TOPIC_WINDOWS, TOPIC_VERDICTS, TOPIC_DEAD_LETTERS)

    def __init__(self, store: Inserter, settings: StoreSettings) -> None:
        self._store = store
        self._settings = settings

    def assign(self, partition: int, state: Mapping[str, bytes]) -> None:
        """Nothing is kept between batches."""

    def revoke(self, partition: int) -> None:
        """Nothing is kept between batches."""

    def process(self, batch: Batch) -> Result:
        """Insert the batch's rows.

        Raises
        ------
        Unavailable
            The store is down; the whole batch must be tried again.
        """
        result = Result()
        for originals in _by_place(batch.records):
            records = [_timed(record, batch.now_ns) for record in originals]
            for piece in self._pieces(records, result):
                self._insert(piece, result)
            if records[0].topic == TOPIC_SCORES:
                timed = [record.timestamp_ns > 0 for record in originals]
                rows = map(log_rows, records, timed)
                for piece in self._cut("score_log", zip(records, rows, strict=True)):
                    self._insert(piece, result)
        return result

    def _pieces(self, records: Sequence[Record], result: Result) -> Iterator[_Piece]:
        """Decode records of one topic partition and cut them by rows and bytes, so that the same records are cut alike."""
        table, convert = _table_of(records[0])
        yield from self._cut(table, ((record, self._decode(record, convert, result)) for record in records))

    def _cut(self, table: str, found: Iterable[tuple[Record, list[Row]]]) -> Iterator[_Piece]:
        piece = _Piece(table, [], [])
        rows = size = 0
        for record, decoded in found:
            if not decoded:
                continue
            piece.records.append(record)
            piece.rows.append(decoded)
            rows += len(decoded)
            size += len(record.value)
            if rows >= self._settings.insert_max_rows or size >= self._settings.insert_max_bytes:
                yield piece
                piece = _Piece(table, [], [])
                rows = size = 0
        if piece.records:
            yield piece

    def _decode(self, record: Record, convert: Callable[[Record], list[Row]], result: Result) -> list[Row]:
        try:
            rows = convert(record)
        except Permanent as error:
            result.rejects.append(Reject(record, error.reason, error.detail))
            result.count(f"rejected.{error.reason}")
            return []
        if record.topic == TOPIC_SPANS:
            result.count("spans_in", len(rows))
            if self._settings.spans == "none":
                result.count("spans_not_stored", len(rows))
                return []
        elif record.topic == TOPIC_SCORES and not rows:
            result.count("heartbeats")
        return rows

    def _insert(self, piece: _Piece, result: Result) -> None:
        try:
            self._send(piece)
        except Permanent as error:
            if (count := len(piece.records)) > 1:
                # Find the record that does not fit; the others must not suffer. By halves: an insert for each of them
                # would make so many parts that the engine takes no more.
                for half in (slice(None, count // 2), slice(count // 2, None)):
                    self._insert(_Piece(piece.table, piece.records[half], piece.rows[half]), result)
                return
            record = piece.records[0]
            result.count(f"rejected.{error.reason}")
            if record.topic == TOPIC_DEAD_LETTERS:
                result.count("dead_letters_lost")  # a dead letter of a dead letter would never end
            else:
                result.rejects.append(Reject(record, error.reason, error.detail))
            if record.topic == TOPIC_SPANS:
                result.count("spans_rejected", len(piece.rows[0]))
            return
        count = sum(len(rows) for rows in piece.rows)
        result.count(f"rows.{piece.table}", count)
        if piece.table == "otel_traces":
            result.count("spans_stored", count)
        elif piece.table == "scores":
            result.count("scores_stored", count)

    def _send(self, piece: _Piece) -> None:
        flat = [row for rows in piece.rows for row in rows]
        self._store.insert(piece.table, {name: [row[name] for row in flat] for name in flat[0]}, piece.token)


def _by_place(records: Iterable[Record]) -> list[list[Record]]:
    """Group records by topic, partition and table, in the order these first occur."""
    groups: dict[tuple[str, int, str], list[Record]] = {}
    for record in records:
        if record.topic in _TABLES:
            groups.setdefault((record.topic, record.partition, _table_of(record)[0]), []).append(record)
    return list(groups.values())


def _timed(record: Record, now_ns: int) -> Record:
    """Retention counts from the log's time; a log that keeps none must not make its rows expire at once."""
    return record if record.timestamp_ns > 0 else msgspec.structs.replace(record, timestamp_ns=now_ns)
