"""INSERT over HTTP, for endpoints whose settings allow writing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sinks.clickhouse.exceptions import QueryError
from sinks.clickhouse.handles import Answer, run
from sinks.store_embedded import insert_data

_SPACE = rb"(?:\s|--[^\n]*\n|/\*.*?\*/)*"
_INSERT = re.compile(_SPACE + rb"INSERT\b", re.IGNORECASE | re.DOTALL)
# A statement with data ends with its FORMAT; the data begins after the next line end (clients add exactly one).
_WITH_DATA = re.compile(
    _SPACE
    + rb"INSERT\s+INTO\s+(?P<head>[^;]*?)\s+FORMAT\s+(?P<format>\w+)(?P<settings>\s+SETTINGS\s[^\n]*)?[ \t]*(?:\r?\n|\Z)",
    re.IGNORECASE | re.DOTALL,
)


def is_insert(text: bytes) -> bool:
    """Tell whether the statement is an INSERT."""
    return _INSERT.match(text) is not None


def write(handle: Any, text: bytes, parameters: Mapping[str, str]) -> Answer:
    """Run an INSERT and what follows it.

    Raises
    ------
    QueryError
        What the engine says.
    """
    match = _WITH_DATA.match(text)
    if match is None or re.search(rb"\b(?:SELECT|VALUES)\b", match["head"], re.IGNORECASE):
        return run(handle, text.decode("utf-8", "replace"), "TabSeparated", parameters)
    target = match["head"].decode("utf-8", "replace")
    clause = (match["settings"] or b"").decode("utf-8", "replace")
    data = text[match.end() :]
    try:
        result = insert_data(handle, target, clause, [data], match["format"].decode())
    except RuntimeError as error:
        raise QueryError.from_engine(error) from error
    return Answer(b"", written_rows=int(result.rows_read()), elapsed_ns=int(result.elapsed() * 1e9))
