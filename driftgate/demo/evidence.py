"""Looks for personal data where it must not be: in every table, and in every file under the data folder."""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

# What a planted value can look like; every hit is then compared with the values that were really sent.
_CANDIDATE = re.compile(rb"[a-z.]+\.\d+@customers\.example|sk-proj-[0-9A-Za-z]+|\b\d(?:[ -]?\d){15}\b")
_CHUNK_ROWS = 20_000


class Findings(msgspec.Struct):
    """Where personal values were found; empty lists are what everybody wants."""

    values_looked_for: int
    tables: dict[str, int]  # table -> rows searched
    in_tables: list[str]
    files: int
    in_files: list[str]

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.in_tables and not self.in_files


def search(sql: Callable[[str], list[list[Any]]], folder: Path, values: Iterable[str]) -> Findings:
    """Search every row of every table (``sql`` runs a query) and every byte of every file under ``folder``."""
    wanted = {_plain(value.encode()) for value in values}
    tables: dict[str, int] = {}
    found_rows: list[str] = []
    names = sql(
        "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine NOT LIKE '%View'"
    )
    for (table,) in names:
        rows = 0
        while True:
            chunk = sql(f"SELECT toString(tuple(*)) FROM {table} LIMIT {_CHUNK_ROWS} OFFSET {rows}")  # noqa: S608
            rows += len(chunk)
            found_rows += [table for (text,) in chunk if any(_hits(text.encode(), wanted))]
            if len(chunk) < _CHUNK_ROWS:
                break
        tables[table] = rows
    files = [path for path in folder.rglob("*") if path.is_file()]
    found_files = [str(path.relative_to(folder)) for path in files if any(_hits_in_file(path, wanted))]
    return Findings(len(wanted), tables, found_rows, len(files), found_files)


def _plain(value: bytes) -> bytes:
    return value.replace(b" ", b"").replace(b"-", b"") if value[:1].isdigit() else value


def _hits(text: bytes | mmap.mmap, wanted: set[bytes]) -> Iterator[bytes]:
    for match in _CANDIDATE.finditer(text):
        if _plain(match[0]) in wanted:
            yield match[0]


def _hits_in_file(path: Path, wanted: set[bytes]) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                yield from _hits(content, wanted)
    except (FileNotFoundError, ValueError):
        return  # merged away between listing and reading
