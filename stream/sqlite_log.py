"""The log of the embedded runtime: one SQLite file in WAL mode.

Delivery: ``append`` is acknowledged after fsync (WAL with ``synchronous=FULL``; many appends share one group commit).
A stage's outputs, state, ledger counters and offsets are one transaction, so between log and log every effect is
exactly once, whenever the process is killed. Every topic has one partition, 0.

Retention removes what is older than ``max_age`` or above ``max_bytes``, but never what a consumer group has not
committed: when the file is full of unconsumed records, new appends are refused with a delay instead.
"""

from __future__ import annotations

import fcntl
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec
import structlog

from stream.errors import DriftgateError, Permanent, StartError, Transient, Unavailable
from stream.log import TopicStats
from stream.sqlite_consumer import SqliteConsumer
from stream.sqlite_reading import connect, read_ledger, read_offsets, read_stats, reading
from stream.stage import Output
from stream.transaction import Transaction

_SCHEMA = """
CREATE TABLE IF NOT EXISTS topics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, next INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS offsets (grp TEXT, topic TEXT, next INTEGER NOT NULL, PRIMARY KEY (grp, topic)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state (grp TEXT, part INTEGER, key TEXT, value BLOB NOT NULL, PRIMARY KEY (grp, part, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ledger (grp TEXT, name TEXT, value INTEGER NOT NULL, PRIMARY KEY (grp, name)) WITHOUT ROWID;
"""
_SCHEMA_VERSION = 1
_GROUP_COMMIT_BYTES = 32 << 20
_GROUP_COMMIT_JOBS = 512
_RETENTION_EVERY_S = 10.0
_RETENTION_CHUNK = 2_000

_headers_encoder = msgspec.msgpack.Encoder()


class _Job(msgspec.Struct):
    transaction: Transaction
    done: Future[None]


class SqliteLog:
    """Durable topics in one file; see the module's docstring for what it guarantees.

    Parameters
    ----------
    path
        The database file; its folder is created. One process owns it (a lock file beside it).
    max_age
        Seconds a record is kept after it was written, once every group has committed it.
    max_bytes
        Size of the file above which consumed records are removed early and, if that frees nothing, appends refused.
    max_queued_bytes
        Bytes of appends that may wait for the disk; more are refused with a delay.

    Raises
    ------
    StartError
        The file is corrupt, of a newer version, or owned by another process.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_age: float = 7 * 86400.0,
        max_bytes: int = 20 << 30,
        max_queued_bytes: int = 256 << 20,
    ) -> None:
        self._path = path
        self._max_age = max_age
        self._max_bytes = max_bytes
        self._max_queued_bytes = max_queued_bytes
        self._lock_file = _own(path)
        try:
            self._writer = _open(path, max_bytes)
            self._topics: dict[str, int] = {}
            self._next: dict[str, int] = {}
            for topic_id, name, end in self._writer.execute("SELECT id, name, next FROM topics"):
                self._topics[name], self._next[name] = topic_id, end
        except sqlite3.DatabaseError as error:
            self._lock_file.close()
            raise StartError(
                f"the log {path} cannot be opened: {error}. Move the file away to start empty, or restore a backup"
            ) from error
        self._jobs: deque[_Job] = deque()
        self._queued_bytes = 0
        self._wake = threading.Condition()
        self._appended = threading.Condition()
        self._generation = 0
        self._closing = False
        self._full = False
        self._next_retention = time.monotonic() + _RETENTION_EVERY_S
        self._thread = threading.Thread(target=self._write_loop, name="driftgate-log", daemon=True)
        self._thread.start()

    # Writing -------------------------------------------------------------------------------------------------------

    def append(self, outputs: Sequence[Output], *, group: str, counters: Mapping[str, int]) -> Future[None]:
        """See :meth:`stream.log.Log.append`."""
        if self._full:
            return _failed(Transient("log_full", "the log's disk space is used up", retry_after=5.0))
        transaction = Transaction(group=group, outputs=list(outputs), counters=counters)
        with self._wake:
            if self._queued_bytes > self._max_queued_bytes:
                return _failed(Transient("log_busy", "too many bytes wait for the disk", retry_after=1.0))
        return self._submit(transaction)

    def _submit(self, transaction: Transaction) -> Future[None]:
        job = _Job(transaction, Future())
        with self._wake:
            if self._closing:
                return _failed(Unavailable("log_closed", "the log is shutting down"))
            self._jobs.append(job)
            self._queued_bytes += transaction.size_bytes
            self._wake.notify()
        return job.done

    def _write_loop(self) -> None:
        while True:
            with self._wake:
                while not self._jobs and not self._closing:
                    self._wake.wait(_RETENTION_EVERY_S)
                    if not self._jobs:
                        break
                jobs: list[_Job] = []
                size = 0
                while self._jobs and len(jobs) < _GROUP_COMMIT_JOBS and size < _GROUP_COMMIT_BYTES:
                    jobs.append(self._jobs.popleft())
                    size += jobs[-1].transaction.size_bytes
                self._queued_bytes -= size
                if self._closing and not jobs:
                    return
            if jobs:
                self._commit_jobs(jobs)
            if time.monotonic() >= self._next_retention:
                self._next_retention = time.monotonic() + _RETENTION_EVERY_S
                self._retain()

    def _commit_jobs(self, jobs: list[_Job]) -> None:
        error = self._try(jobs)
        if error is not None and len(jobs) > 1:
            # One of them may be at fault (too large); the others must not suffer for it.
            for job in jobs:
                self._finish([job], self._try([job]))
            return
        self._finish(jobs, error)

    def _finish(self, jobs: list[_Job], error: DriftgateError | None) -> None:
        if error is None:
            with self._appended:
                self._generation += 1
                self._appended.notify_all()
        for job in jobs:
            if not job.done.set_running_or_notify_cancel():
                continue
            if error is None:
                job.done.set_result(None)
            else:
                job.done.set_exception(error)

    def _try(self, jobs: list[_Job]) -> DriftgateError | None:
        saved = dict(self._next)
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            now = time.time_ns()
            for job in jobs:
                self._apply(job.transaction, now)
            self._writer.execute("COMMIT")
        except (sqlite3.Error, OverflowError) as error:
            self._next = saved
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            # Topics created in the rolled-back transaction do not exist.
            self._topics = dict(self._writer.execute("SELECT name, id FROM topics"))
            return _typed(error)
        return None

    def _apply(self, transaction: Transaction, now: int) -> None:
        rows: dict[str, list[tuple[int, int, bytes, bytes, bytes]]] = {}
        for output in transaction.outputs:
            table = self._table(output.topic)
            offset = self._next[output.topic]
            self._next[output.topic] = offset + 1
            headers = _headers_encoder.encode(output.headers) if output.headers else b""
            rows.setdefault(table, []).append((offset, now, output.key, output.value, headers))
        for table, values in rows.items():
            self._writer.executemany(f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?)", values)  # noqa: S608 - our own name
        sizes: dict[str, int] = {}
        for output in transaction.outputs:
            sizes[output.topic] = sizes.get(output.topic, 0) + len(output.value)
        for topic, size in sizes.items():
            self._writer.execute(
                "UPDATE topics SET next = ?, bytes = bytes + ? WHERE name = ?",
                (self._next[topic], size, topic),
            )
        group = transaction.group
        for (partition, key), value in transaction.state.items():
            if value is None:
                self._writer.execute(
                    "DELETE FROM state WHERE grp = ? AND part = ? AND key = ?", (group, partition, key)
                )
            else:
                self._writer.execute(
                    "INSERT OR REPLACE INTO state VALUES (?, ?, ?, ?)", (group, partition, key, value)
                )
        self._writer.executemany(
            "INSERT INTO ledger VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value",
            [(group, name, by) for name, by in transaction.counters.items() if by],
        )
        for (topic, _), offset in transaction.offsets.items():
            self._writer.execute("INSERT OR REPLACE INTO offsets VALUES (?, ?, ?)", (group, topic, offset))

    def _table(self, topic: str) -> str:
        topic_id = self._topics.get(topic)
        if topic_id is None:
            cursor = self._writer.execute("INSERT INTO topics (name) VALUES (?)", (topic,))
            topic_id = self._topics[topic] = int(cursor.lastrowid or 0)
            self._next.setdefault(topic, 0)
            self._writer.execute(
                f"CREATE TABLE t_{topic_id} (offset INTEGER PRIMARY KEY, ts INTEGER NOT NULL,"
                " key BLOB NOT NULL, value BLOB NOT NULL, headers BLOB NOT NULL)"
            )
        return f"t_{topic_id}"

    # Retention -----------------------------------------------------------------------------------------------------

    def _used_bytes(self) -> int:
        pages, free, size = (
            int(self._writer.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size

    def _retain(self) -> None:
        try:
            oldest = time.time_ns() - int(self._max_age * 1e9)
            for topic in list(self._topics):
                while self._delete(topic, "ts < ?", oldest) == _RETENTION_CHUNK:
                    pass
            used = self._used_bytes()
            while used > self._max_bytes * 0.9:
                if not sum(self._delete(topic, "1 = ?", 1) for topic in list(self._topics)):
                    break
                used = self._used_bytes()
            self._full = used > self._max_bytes
            self._writer.execute("PRAGMA incremental_vacuum(4096)")
        except sqlite3.Error as error:
            structlog.get_logger(__name__).warning("log_retention_failed", error=str(error))

    def _delete(self, topic: str, condition: str, value: int) -> int:
        """Remove up to a chunk of the oldest records that every group has committed and that meet ``condition``."""
        table = f"t_{self._topics[topic]}"
        committed = self._writer.execute(
            "SELECT MIN(next) FROM offsets WHERE topic = ?", (topic,)
        ).fetchone()[0]
        bound = self._next[topic] if committed is None else int(committed)
        with self._write_transaction():
            sizes = self._writer.execute(
                f"DELETE FROM {table} WHERE offset IN"  # noqa: S608 - our own name
                f" (SELECT offset FROM {table} WHERE offset < ? AND {condition} ORDER BY offset LIMIT ?)"
                " RETURNING LENGTH(value)",
                (bound, value, _RETENTION_CHUNK),
            ).fetchall()
            freed = sum(size for (size,) in sizes)
            self._writer.execute("UPDATE topics SET bytes = bytes - ? WHERE name = ?", (freed, topic))
        return len(sizes)

    @contextmanager
    def _write_transaction(self) -> Iterator[None]:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._writer.execute("ROLLBACK")
            raise
        self._writer.execute("COMMIT")

    # Reading -------------------------------------------------------------------------------------------------------

    def consumer(self, group: str, topics: Sequence[str]) -> SqliteConsumer:
        """See :meth:`stream.log.Log.consumer`; a group's position starts at the first record."""
        known = self.committed().get(group, {})
        fresh = {(topic, 0): 0 for topic in topics if (topic, 0) not in known}
        self._submit(Transaction(group=group, outputs=[], offsets=fresh)).result()
        return SqliteConsumer(self, self._path, group, topics)

    def counters(self) -> dict[str, dict[str, int]]:
        """See :meth:`stream.log.Log.counters`."""
        with reading(self._path) as reader:
            return read_ledger(reader)

    def stats(self) -> list[TopicStats]:
        """See :meth:`stream.log.Log.stats`."""
        with reading(self._path) as reader:
            return read_stats(reader)

    def committed(self) -> dict[str, dict[tuple[str, int], int]]:
        """See :meth:`stream.log.Log.committed`."""
        with reading(self._path) as reader:
            return read_offsets(reader)

    def ends(self) -> dict[str, int]:
        """Return the next offset of every topic; cheap, and may be ahead of what is durable by one group commit."""
        return dict(self._next)

    @property
    def generation(self) -> int:
        """Grows with every group commit."""
        return self._generation

    def wait(self, generation: int, timeout: float) -> int:
        """Wait until something was written after ``generation``; return the current generation."""
        with self._appended:
            if self._generation == generation and not self._closing:
                self._appended.wait(timeout)
            return self._generation

    def submit(self, transaction: Transaction) -> None:
        """Make ``transaction`` durable, waiting for it."""
        self._submit(transaction).result()

    def close(self) -> None:
        """Write what is queued, then close; idempotent."""
        with self._wake:
            if self._closing:
                return
            self._closing = True
            self._wake.notify_all()
        with self._appended:
            self._appended.notify_all()
        self._thread.join()
        self._writer.close()
        self._lock_file.close()


def _open(path: Path, max_bytes: int) -> sqlite3.Connection:
    connection = connect(path)
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > _SCHEMA_VERSION:
        raise StartError(
            f"the log {path} was written by a newer driftgate (layout {version}); upgrade driftgate"
        )
    connection.executescript(_SCHEMA)
    # Appends are refused at max_bytes; what the stages still have to write gets half as much again, then it is full.
    page_size = int(connection.execute("PRAGMA page_size").fetchone()[0])
    connection.execute(f"PRAGMA max_page_count = {max(64, int(max_bytes * 1.5) // page_size)}")
    connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
    return connection


def _own(path: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(path.name + ".lock").open("ab")
        # The folder may be an older one that others can enter; SQLite gives its side files the same rights.
        path.touch(mode=0o600)
        path.chmod(0o600)
    except OSError as error:
        raise StartError(f"the data folder {path.parent} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise StartError(
            f"another driftgate process owns the log {path}; stop it, or give this one its own `data` folder"
        ) from error
    return lock


def _typed(error: sqlite3.Error | OverflowError) -> DriftgateError:
    if isinstance(error, (sqlite3.DataError, OverflowError)):
        return Permanent("too_large", "a record is larger than SQLite can hold")
    text = str(error)
    if "full" in text:
        return Transient("disk_full", "the disk that holds the log is full", retry_after=5.0)
    return Unavailable("log_error", text, retry_after=2.0)


def _failed(error: DriftgateError) -> Future[None]:
    future: Future[None] = Future()
    future.set_exception(error)
    return future
