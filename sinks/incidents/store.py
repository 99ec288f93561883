"""The SQLite file that holds incidents, rollbacks and the outbox.

State and outbox change in one transaction, and the same transaction says which verdicts it includes; so a verdict that
the log delivers again changes nothing, and a notification is never forgotten by a crash between the two.

Delivery guarantee: what a committed transaction queued is sent at least once, with the same message id every time.
Several threads and processes may open the file; writers wait for each other.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from sinks.incidents.incident import Condition, Incident, Rollback, public
from sinks.incidents.schema import MIGRATIONS
from stream.errors import Permanent, StartError, Transient

_T = TypeVar("_T")
_BUSY_SECONDS = 10.0
_HISTORY = 200  # entries per incident

# What the store's tables get of a record; text is bounded where it is made.
INCIDENT_COLUMNS = (
    "incident_id", "tenant", "cause", "rollout", "candidate", "state", "severity", "opened_at", "updated_at",
    "resolved_at", "summary", "verdict_id", "version",
)  # fmt: skip
ROLLBACK_COLUMNS = (
    "rollback_id", "incident_id", "tenant", "rollout", "candidate", "target", "mode", "state", "requested_at",
    "called_at", "verified_at", "attempts", "status_code", "previous_state", "detail", "version",
)  # fmt: skip


class Changes(msgspec.Struct, frozen=True):
    """Rows that changed after a version, in order of change. ``version`` is where to go on from."""

    incidents: list[dict[str, Any]]
    rollbacks: list[dict[str, Any]]
    version: int


class IncidentStore:
    """Open (or create) the file at ``path``.

    Raises
    ------
    StartError
        The folder cannot be written, the file is not ours or is damaged, or was written by a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._closed = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise StartError(f"cannot open the incident database {path}: {error}") from error
        self._db.row_factory = sqlite3.Row
        try:
            path.chmod(0o600)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._migrate()
        except (OSError, sqlite3.Error) as error:
            self._db.close()
            raise StartError(
                f"the incident database {path} cannot be used ({error}); "
                "move it away to start with an empty one, or restore it from a backup"
            ) from error

    def _migrate(self) -> None:
        check = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if check != "ok":
            raise sqlite3.DatabaseError(check)
        # Another process may be at the same work; the version is read again under the write lock.
        self._db.execute("BEGIN IMMEDIATE")
        try:
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > len(MIGRATIONS):
                raise sqlite3.DatabaseError(
                    f"it has schema {version}, this driftgate knows {len(MIGRATIONS)}"
                )
            for number, script in enumerate(MIGRATIONS[version:], version + 1):
                for statement in script.split(";"):
                    if statement.strip():
                        self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version={number}")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextmanager
    def transaction(self) -> Iterator[Ledger]:
        """Run a block in one durable transaction; an exception takes all of it back.

        Raises
        ------
        Transient
            The file is locked for long, or the disk is full; nothing was changed.
        """
        with self._lock:
            if self._closed:
                raise Transient("incidents_closed", "the incident database is closed")
            try:
                self._db.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                raise _transient(error) from error
            try:
                yield Ledger(self._db)
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if _of_the_file(error):
                    raise _transient(error) from error
                raise

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Return the rows of a query; raises :class:`stream.errors.Transient` like :meth:`transaction`."""
        with self._lock:
            if self._closed:
                raise Transient("incidents_closed", "the incident database is closed")
            try:
                return self._db.execute(sql, parameters).fetchall()
            except sqlite3.DatabaseError as error:
                if _of_the_file(error):
                    raise _transient(error) from error
                raise

    def read_as(self, kind: type[_T], sql: str, parameters: Sequence[Any] = ()) -> list[_T]:
        """Return the rows of a query as records."""
        return [msgspec.convert(dict(row), kind) for row in self.read(sql, parameters)]

    def incident(self, incident_id: str) -> Incident:
        """Return one incident; raises :class:`stream.errors.Permanent` if there is none by that id."""
        found = self.read_as(Incident, "SELECT * FROM incidents WHERE incident_id = ?", (incident_id,))
        if not found:
            raise Permanent("unknown_incident", f"there is no incident {incident_id[:64]}")
        return found[0]

    def conditions(self, incident_id: str) -> list[Condition]:
        """Return what each rubric says, the worst first."""
        found = self.read_as(
            Condition, "SELECT * FROM conditions WHERE incident_id = ? ORDER BY rubric", (incident_id,)
        )
        order = {"page": 0, "warn": 1, "none": 2}
        return sorted(found, key=lambda condition: order.get(condition.severity, 3))

    def rollbacks(self, incident_id: str) -> list[Rollback]:
        """Return the rollbacks of an incident by target."""
        return self.read_as(
            Rollback, "SELECT * FROM rollbacks WHERE incident_id = ? ORDER BY target", (incident_id,)
        )

    def list_incidents(self, *, state: str = "", tenant: str = "", limit: int = 100) -> list[dict[str, Any]]:
        """Return incidents as plain JSON types, the newest first, each with ``conditions``, ``rollbacks``, ``history``.

        Parameters
        ----------
        state
            ``pending``, ``firing``, ``resolved``, or ``open`` for the first two; all if empty.
        tenant
            Only this tenant's; all if empty.
        limit
            At most so many, 1 to 1,000.
        """
        states = {"open": ("pending", "firing"), "": ("pending", "firing", "resolved")}.get(state, (state,))
        marks = ",".join("?" * len(states))
        found = self.read_as(
            Incident,
            f"SELECT * FROM incidents WHERE state IN ({marks}) AND (? = '' OR tenant = ?) "  # noqa: S608 - marks
            "ORDER BY opened_at DESC, incident_id LIMIT ?",
            (*states, tenant, tenant, max(1, min(limit, 1000))),
        )
        return [self._with_parts(incident) for incident in found]

    def _with_parts(self, incident: Incident) -> dict[str, Any]:
        history = self.read(
            "SELECT at, what, detail, who FROM history WHERE incident_id = ? ORDER BY seq",
            (incident.incident_id,),
        )
        return {
            **public(incident),
            "conditions": [public(condition) for condition in self.conditions(incident.incident_id)],
            "rollbacks": [public(rollback) for rollback in self.rollbacks(incident.incident_id)],
            "history": [dict(row) for row in history],
        }

    def show(self, incident_id: str) -> dict[str, Any]:
        """Return one incident as :meth:`list_incidents` does, with its ``messages`` and how far they got."""
        incident = self.incident(incident_id)
        messages = self.read(
            "SELECT message_id, lane, event, severity, state, created_at, due_at, attempts, error, done_at "
            "FROM outbox WHERE incident_id = ? ORDER BY seq DESC LIMIT 200",
            (incident_id,),
        )
        return {**self._with_parts(incident), "messages": [dict(row) for row in messages]}

    def list_rollbacks(self, *, state: str = "", tenant: str = "", limit: int = 100) -> list[dict[str, Any]]:
        """Return rollbacks as plain JSON types, the newest first; ``state`` and ``tenant`` filter if not empty."""
        found = self.read_as(
            Rollback,
            "SELECT * FROM rollbacks WHERE (? = '' OR state = ?) AND (? = '' OR tenant = ?) "
            "ORDER BY requested_at DESC, rollback_id LIMIT ?",
            (state, state, tenant, tenant, max(1, min(limit, 1000))),
        )
        return [public(rollback) for rollback in found]

    def list_dead(self, limit: int = 100) -> list[dict[str, Any]]:
        """Return messages that were given up, the newest first."""
        rows = self.read(
            "SELECT message_id, lane, incident_id, event, severity, attempts, error, done_at FROM outbox "
            "WHERE state = 'dead' ORDER BY done_at DESC, seq DESC LIMIT ?",
            (max(1, min(limit, 1000)),),
        )
        return [dict(row) for row in rows]

    def backlog(self) -> dict[str, int]:
        """Return how many messages wait, by lane (``notify/<channel>`` or ``rollback/<target>``)."""
        rows = self.read("SELECT lane, count(*) AS n FROM outbox WHERE state = 'queued' GROUP BY lane")
        return {row["lane"]: row["n"] for row in rows}

    def changed_since(self, version: int, limit: int = 1000) -> Changes:
        """Return the rows that changed after ``version``, oldest change first, at most ``limit`` of both kinds together.

        Rows have the columns :data:`INCIDENT_COLUMNS` and :data:`ROLLBACK_COLUMNS`; times are Unix nanoseconds.
        Writing them again is harmless where the table keeps the highest ``version`` per id.
        """
        with self._lock:  # both tables at one moment
            incidents = self.read(
                f"SELECT {', '.join(INCIDENT_COLUMNS)} FROM incidents WHERE version > ? "  # noqa: S608 - constants
                "ORDER BY version LIMIT ?",
                (version, limit),
            )
            rollbacks = self.read(
                f"SELECT {', '.join(ROLLBACK_COLUMNS)} FROM rollbacks WHERE version > ? "  # noqa: S608 - constants
                "ORDER BY version LIMIT ?",
                (version, limit),
            )
        kept = sorted(row["version"] for row in (*incidents, *rollbacks))[:limit]
        last = kept[-1] if kept else version
        return Changes(
            [dict(row) for row in incidents if row["version"] <= last],
            [_text_columns(row) for row in rollbacks if row["version"] <= last],
            last,
        )

    def totals(self, partition: int) -> dict[str, int]:
        """Return the counters of ``partition`` since the file was created."""
        rows = self.read("SELECT name, value FROM totals WHERE partition = ?", (partition,))
        return {row["name"]: row["value"] for row in rows}

    def kill_switch(self) -> str:
        """Return who set the run-time kill switch; empty if it is off."""
        return str(self.read("SELECT value FROM meta WHERE key = 'kill_switch'")[0]["value"])

    def close(self) -> None:
        """Close the file; idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._db.close()


class Ledger:
    """What may be done inside one transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run a statement and return the number of rows it changed."""
        return self.db.execute(sql, parameters).rowcount

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Return the rows of a query."""
        return self.db.execute(sql, parameters).fetchall()

    def one(self, kind: type[_T], sql: str, parameters: Sequence[Any] = ()) -> _T | None:
        """Return the first row of a query as a record."""
        row = self.db.execute(sql, parameters).fetchone()
        return None if row is None else msgspec.convert(dict(row), kind)

    def all(self, kind: type[_T], sql: str, parameters: Sequence[Any] = ()) -> list[_T]:
        """Return all rows of a query as records."""
        return [msgspec.convert(dict(row), kind) for row in self.rows(sql, parameters)]

    def save(self, record: Incident | Condition | Rollback, now_ns: int) -> None:
        """Write a record; incidents and rollbacks get the next version, so that the export sees them."""
        table = {Incident: "incidents", Condition: "conditions", Rollback: "rollbacks"}[type(record)]
        if not isinstance(record, Condition):
            self.execute("UPDATE meta SET value = value + 1 WHERE key = 'change_seq'")
            record.version = self.rows("SELECT value FROM meta WHERE key = 'change_seq'")[0]["value"]
        if not isinstance(record, Rollback):
            record.updated_at = now_ns
        fields = msgspec.structs.asdict(record)
        key = {"incidents": "incident_id", "conditions": "incident_id, rubric", "rollbacks": "rollback_id"}[
            table
        ]
        names = ", ".join(fields)
        marks = ", ".join("?" * len(fields))
        updates = ", ".join(f"{name} = excluded.{name}" for name in fields if name not in key.split(", "))
        self.execute(
            f"INSERT INTO {table} ({names}) VALUES ({marks}) ON CONFLICT ({key}) DO UPDATE SET {updates}",  # noqa: S608
            tuple(fields.values()),
        )

    def count(self, partition: int, name: str, by: int = 1) -> None:
        """Add ``by`` to a durable counter."""
        self.execute(
            "INSERT INTO totals VALUES (?, ?, ?) ON CONFLICT (partition, name) DO UPDATE SET value = value + ?",
            (partition, name, by, by),
        )

    def remember(self, incident: Incident, at: int, what: str, detail: str = "", who: str = "") -> None:
        """Add a line to the incident's history; beyond 200 the oldest but the first ten go."""
        self.execute(
            "INSERT INTO history (incident_id, at, what, detail, who) VALUES (?, ?, ?, ?, ?)",
            (incident.incident_id, at, what, detail[:1000], who[:200]),
        )
        self.execute(
            "DELETE FROM history WHERE seq IN (SELECT seq FROM history WHERE incident_id = ?1 ORDER BY seq "
            "LIMIT 1 OFFSET 10) AND (SELECT count(*) FROM history WHERE incident_id = ?1) > ?2",
            (incident.incident_id, _HISTORY),
        )


def _text_columns(row: sqlite3.Row) -> dict[str, Any]:
    return {key: value.decode() if isinstance(value, bytes) else value for key, value in dict(row).items()}


def _of_the_file(error: BaseException) -> bool:
    """Whether the file is at fault, not what was asked of it: locked, full, or (the class itself) damaged."""
    return isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError


def _transient(error: BaseException) -> Transient:
    return Transient(
        "incidents_unavailable", f"the incident database cannot be written now: {error}", retry_after=1.0
    )
