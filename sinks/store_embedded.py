"""The embedded ClickHouse: one folder, one owner, one engine per process.

What chDB does that callers must not have to know:

- The engine is a singleton: one path per process, any number of handles to it. Handles run in parallel; one handle runs
  one statement at a time.
- Its ``default`` database shows the machine's file system as tables. It is replaced by an empty one.
- Why it could not start is written to stderr, not into the exception; so the owner's lock and the folder are checked
  first.
- clickhouse-connect hands inserts to chDB through a file in the temporary folder, which a killed process leaves behind,
  and chDB's own insert stream hides errors. See :func:`insert_data`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from sinks.store_errors import STORE_ERRORS
from stream.errors import StartError

_LOCK_FILE = "driftgate.lock"


class Embedded:
    """The engine on ``folder``, opened. Raises :class:`stream.errors.StartError` naming cause and fix."""

    def __init__(self, folder: Path, database: str, settings: Mapping[str, Any]) -> None:
        try:
            import chdb
            import clickhouse_connect
            from clickhouse_connect import common
        except ImportError as error:
            raise StartError(
                "the embedded store needs chDB: pip install 'driftgate[embedded]', or set store.url to a ClickHouse server"
            ) from error
        except (RuntimeError, ValueError) as error:
            # ClickHouse reads ./config.xml, whosever it is.
            hint = f"; remove {Path('config.xml').resolve()}" if Path("config.xml").exists() else ""
            raise StartError(f"chDB cannot start: {str(error).splitlines()[0]}{hint}") from error
        self.folder = folder
        self.database = database
        self._closed = False
        self._insert_lock = threading.Lock()
        self._lock_fd = _own(folder)
        self._path = os.path.realpath(folder)
        try:
            # chDB says nothing of its types, or that it has some, depending on how it was packaged.
            self._connect = cast("Callable[[str], Any]", chdb.connect)
            self._inserter = self._connect(self._path)
            self._prepare()
            common.set_setting("autogenerate_session_id", False)
            self.client = clickhouse_connect.get_client(
                interface="chdb", path=self._path, database=database, settings=dict(settings)
            )
        except STORE_ERRORS as error:
            self._release()
            raise StartError(_start_message(folder, error)) from error

    def _prepare(self) -> None:
        # Only the engine's own file-system database is replaced; a real one is left alone.
        engine = self._inserter.query(
            "SELECT engine FROM system.databases WHERE name = 'default'", "TabSeparated"
        ).bytes()
        if engine.strip() == b"Overlay":
            self._inserter.query("DROP DATABASE default")
            self._inserter.query("CREATE DATABASE default ENGINE = Memory")
        self._inserter.query(f"CREATE DATABASE IF NOT EXISTS `{self.database}`")
        self._inserter.query(f"USE `{self.database}`")

    def handle(self) -> Any:
        """Open a further handle to the engine; the caller closes it."""
        return self._connect(self._path)

    def insert(self, target: str, clause: str, blocks: Sequence[bytes], input_format: str = "Native") -> int:
        """Insert data in ``input_format`` into ``target`` (a table and its columns); returns the rows read.

        ``clause`` is a SETTINGS clause or empty. Raises RuntimeError as chDB does.
        """
        with self._insert_lock:
            if self._closed:
                raise RuntimeError("the store is closed")
            return int(insert_data(self._inserter, target, clause, blocks, input_format).rows_read())

    def close(self) -> None:
        """Close every handle and give the folder back; idempotent."""
        if self._closed:
            return
        self._closed = True
        self.client.close()
        with self._insert_lock:
            self._release()

    def _release(self) -> None:
        inserter = getattr(self, "_inserter", None)
        if inserter is not None:
            inserter.close()
        os.close(self._lock_fd)


def insert_data(handle: Any, target: str, clause: str, blocks: Iterable[bytes], input_format: str) -> Any:
    """Run ``INSERT INTO target`` with data on a handle and return chDB's result.

    The data is handed over in an anonymous file in memory, which no crash leaves behind. chDB also has an insert stream
    (``send_insert``), but the end of that stream reports success when the insert has failed, for example on a full disk.
    """
    with contextlib.ExitStack() as stack:
        if sys.platform == "linux":
            descriptor = os.memfd_create("driftgate-insert", os.MFD_CLOEXEC)
            file = stack.enter_context(os.fdopen(descriptor, "wb"))
            path = f"/proc/self/fd/{descriptor}"
        else:
            file = stack.enter_context(tempfile.NamedTemporaryFile("wb", suffix=".insert"))
            path = file.name
        for block in blocks:
            file.write(block)
        file.flush()
        quoted = path.replace("\\", "\\\\").replace("'", "\\'")
        return handle.query(
            f"INSERT INTO {target} FROM INFILE '{quoted}' {clause} FORMAT {input_format}", "TabSeparated"
        )


def _own(folder: Path) -> int:
    """Take the folder's lock and return its descriptor."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(
            f"cannot use {folder} as the store's folder: {error.strerror}; choose another data folder or fix its permissions"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(descriptor, 32).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise StartError(
            f"the store {folder} is in use by process {owner or 'unknown'}: stop it, or query it over HTTP on its query port"
        ) from error
    os.truncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def _start_message(folder: Path, error: Exception) -> str:
    text = str(error)
    if "already initialized with path" in text:
        return f"this process already has another store open; chDB allows one folder per process (wanted {folder})"
    if _foreign_owner(folder):
        return f"the store {folder} is open in another ClickHouse or chDB process: stop it first"
    cause = text.splitlines()[0][:300] if text else error.__class__.__name__
    return (
        f"cannot open the store {folder}: {cause} The line above from chDB, if any, names the file. If it is damaged, "
        "restore the folder from a backup, or move it away: a new one is filled from what the log still holds"
    )


def _foreign_owner(folder: Path) -> bool:
    """Tell whether the engine's own lock is held by somebody else."""
    try:
        descriptor = os.open(folder / "status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
