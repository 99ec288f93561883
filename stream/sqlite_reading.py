"""Reading a SQLite log: what its own consumers and other processes (the doctor) share. Nothing here writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from stream.errors import StartError
from stream.log import TopicStats
from stream.stage import Headers, Record

decode_headers: Callable[[bytes], Headers] = msgspec.msgpack.Decoder(tuple[tuple[str, bytes], ...]).decode


def connect(path: Path) -> sqlite3.Connection:
    """Open a connection that any thread may use, one at a time."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30.0)
    connection.execute("PRAGMA cache_size = -16384")
    return connection


def read_ledger(reader: sqlite3.Connection) -> dict[str, dict[str, int]]:
    """Return group -> counter -> value."""
    found: dict[str, dict[str, int]] = {}
    for group, name, value in reader.execute("SELECT grp, name, value FROM ledger"):
        found.setdefault(group, {})[name] = value
    return found


def read_offsets(reader: sqlite3.Connection) -> dict[str, dict[tuple[str, int], int]]:
    """Return group -> (topic, partition) -> next offset."""
    found: dict[str, dict[tuple[str, int], int]] = {}
    for group, topic, offset in reader.execute("SELECT grp, topic, next FROM offsets"):
        found.setdefault(group, {})[topic, 0] = offset
    return found


def read_stats(reader: sqlite3.Connection) -> list[TopicStats]:
    """Return offsets and payload sizes of every topic; the cost does not grow with the log."""
    found = []
    for topic_id, name, end, size in reader.execute("SELECT id, name, next, bytes FROM topics").fetchall():
        (first,) = reader.execute(f"SELECT MIN(offset) FROM t_{topic_id}").fetchone()  # noqa: S608 - our own name
        found.append(TopicStats(name, 0, end if first is None else first, end, size))
    return found


def read_topic(reader: sqlite3.Connection, topic: str) -> Iterator[Record]:
    """Yield every record of ``topic`` that is still there."""
    row = reader.execute("SELECT id FROM topics WHERE name = ?", (topic,)).fetchone()
    if row is None:
        return
    for offset, ts, key, value, raw in reader.execute(
        f"SELECT offset, ts, key, value, headers FROM t_{row[0]} ORDER BY offset"  # noqa: S608 - our own name
    ):
        yield Record(topic, 0, offset, value, key, decode_headers(raw) if raw else (), ts)


def read_state(reader: sqlite3.Connection, group: str) -> dict[str, bytes]:
    """Return what ``group`` has saved."""
    return dict(
        reader.execute("SELECT key, value FROM state WHERE grp = ? AND part = 0", (group,)).fetchall()
    )


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the file at ``path`` for reading only."""
    reader = connect(path)
    try:
        reader.execute("PRAGMA query_only = 1")
        yield reader
    finally:
        reader.close()


@contextmanager
def inspect(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the log at ``path`` for reading only, while its owner runs or not.

    Raises
    ------
    StartError
        There is no log, or it is corrupt.
    """
    if not path.is_file():
        raise StartError(
            f"there is no log at {path}; start `driftgate up` first, or name its data folder: `data`, or DRIFTGATE__DATA"
        )
    try:
        with reading(path) as reader:
            reader.execute("SELECT COUNT(*) FROM topics").fetchone()
            yield reader
    except sqlite3.DatabaseError as error:
        raise StartError(f"the log {path} cannot be read: {error}") from error
