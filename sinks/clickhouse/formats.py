"""Output formats a client may ask for, and their content types."""

from __future__ import annotations

from sinks.clickhouse.exceptions import QueryError

DEFAULT = "TabSeparated"

_TSV = "text/tab-separated-values; charset=UTF-8"
_CSV = "text/csv; charset=UTF-8; header=absent"
_CSV_NAMES = "text/csv; charset=UTF-8; header=present"
_JSON = "application/json; charset=UTF-8"
_LINES = "application/x-ndjson; charset=UTF-8"
_TEXT = "text/plain; charset=UTF-8"
_BYTES = "application/octet-stream"

CONTENT_TYPES = {
    "TabSeparated": _TSV, "TSV": _TSV, "TabSeparatedRaw": _TSV, "TSVRaw": _TSV, "TabSeparatedWithNames": _TSV,
    "TSVWithNames": _TSV, "TabSeparatedWithNamesAndTypes": _TSV, "TSVWithNamesAndTypes": _TSV,
    "CSV": _CSV, "CSVWithNames": _CSV_NAMES, "CSVWithNamesAndTypes": _CSV_NAMES,
    "JSON": _JSON, "JSONStrings": _JSON, "JSONCompact": _JSON, "JSONCompactStrings": _JSON, "JSONColumns": _JSON,
    "JSONColumnsWithMetadata": _JSON, "JSONCompactColumns": _JSON, "JSONObjectEachRow": _JSON,
    "JSONEachRow": _LINES, "JSONLines": _LINES, "NDJSON": _LINES, "JSONStringsEachRow": _LINES,
    "JSONCompactEachRow": _LINES, "JSONCompactStringsEachRow": _LINES, "JSONCompactEachRowWithNames": _LINES,
    "JSONCompactEachRowWithNamesAndTypes": _LINES, "JSONCompactStringsEachRowWithNamesAndTypes": _LINES,
    "Pretty": _TEXT, "PrettyCompact": _TEXT, "PrettySpace": _TEXT, "PrettyNoEscapes": _TEXT,
    "PrettyCompactNoEscapes": _TEXT, "PrettyMonoBlock": _TEXT, "PrettyCompactMonoBlock": _TEXT, "Vertical": _TEXT,
    "Values": _TEXT, "Markdown": _TEXT, "TSKV": _TEXT, "SQLInsert": _TEXT, "XML": "application/xml; charset=UTF-8",
    "Native": _BYTES, "RowBinary": _BYTES, "RowBinaryWithNames": _BYTES, "RowBinaryWithNamesAndTypes": _BYTES,
    "Arrow": _BYTES, "ArrowStream": _BYTES, "Parquet": _BYTES, "MsgPack": _BYTES, "RawBLOB": _BYTES, "Null": _TEXT,
}  # fmt: skip
_BY_LOWER = {name.lower(): name for name in CONTENT_TYPES}


def known(name: str) -> str:
    """Return a format's name as ClickHouse spells it.

    Raises
    ------
    QueryError
        There is no such format here (code 73, UNKNOWN_FORMAT).
    """
    found = _BY_LOWER.get(name.lower())
    if found is None:
        raise QueryError(73, f"Unknown format {name[:64]}", "UNKNOWN_FORMAT")
    return found
