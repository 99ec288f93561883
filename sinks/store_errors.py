"""Tell bad rows from a store that is down, and a broken store from one that somebody else uses."""

from __future__ import annotations

import re
import struct

from clickhouse_connect.driver.exceptions import (
    ClickHouseError,
    DataError,
    NotSupportedError,
    ProgrammingError,
)

from stream.errors import Permanent, Transient, Unavailable

# Everything clickhouse-connect, its transports and the embedded engine raise: chDB's own calls raise RuntimeError.
STORE_ERRORS = (ClickHouseError, RuntimeError, OSError, ValueError, TypeError, AttributeError, struct.error)

_CODE = re.compile(r"Code: (\d+)")

# ClickHouse error codes (src/Common/ErrorCodes.cpp) that say "these rows", not "this server".
_BAD_ROWS = frozenset(
    {
        6,  # CANNOT_PARSE_TEXT
        26, 27, 32, 33,  # CANNOT_PARSE_QUOTED_STRING, _INPUT_ASSERTION_FAILED, ATTEMPT_TO_READ_AFTER_EOF, CANNOT_READ_ALL_DATA
        38, 41, 53, 69, 70, 72,  # CANNOT_PARSE_DATE(TIME), TYPE_MISMATCH, ARGUMENT_OUT_OF_BOUND, CANNOT_CONVERT_TYPE, _NUMBER
        117, 130, 131, 190, 349, 407, 469,  # INCORRECT_DATA, array parsing, TOO_LARGE_STRING/SIZES, NULL in not-null, overflow, constraint
    }
)  # fmt: skip

# Codes that name what a person must do; everything else is "the store failed".
_REASONS = {
    74: "disk",
    75: "disk",
    243: "disk_full",
    241: "memory",
    252: "too_many_parts",
    159: "timeout",
    209: "timeout",
    210: "network",
    164: "read_only",
    192: "auth",
    193: "auth",
    194: "auth",
    497: "auth",
    516: "auth",
    225: "keeper",
    242: "keeper",
    285: "keeper",
    319: "keeper",
    999: "keeper",
    60: "schema",
    81: "schema",
    16: "schema",
}


def code_of(error: BaseException) -> int:
    """Return the ClickHouse error code an exception carries, 0 if none."""
    code = getattr(error, "code", None)
    if isinstance(code, int) and code:
        return code
    match = _CODE.search(str(error))
    return int(match[1]) if match else 0


def classify(error: BaseException) -> Permanent | Unavailable:
    """Return what an exception raised by an insert or a query means.

    Unknown errors count as :class:`stream.errors.Unavailable`: nothing is lost by waiting, much by giving up. The text
    names the code and the cause, never the rows.
    """
    if isinstance(error, (Permanent, Unavailable)):
        return error
    code = code_of(error)
    text = str(error)
    if not code and isinstance(
        error, (DataError, UnicodeError, TypeError, AttributeError, ValueError, struct.error)
    ):
        return Permanent("bad_rows", f"the rows do not fit the table ({error.__class__.__name__})")
    if code in _BAD_ROWS:
        return Permanent("bad_rows", f"ClickHouse refuses the rows (code {code})")
    if "No space left on device" in text or code == 243:
        return Unavailable(
            "disk_full", "the store's disk is full: free space or shorten store.retention", retry_after=10.0
        )
    reason = _REASONS.get(code, "store")
    detail = f"ClickHouse code {code}" if code else error.__class__.__name__
    return Unavailable(reason, f"the store failed ({detail})", retry_after=2.0)


def classify_query(error: BaseException) -> Permanent | Transient:
    """Return what an exception raised by a query of driftgate's own means: a wrong query is for ever."""
    code = code_of(error)
    if code in (42, 43, 46, 47, 60, 62, 215, 386) or isinstance(error, (NotSupportedError, ProgrammingError)):
        return Permanent(
            "bad_query", f"ClickHouse refuses the query (code {code}): {_first_line(str(error))}"
        )
    return classify(error)


def _first_line(text: str) -> str:
    return text.splitlines()[0][:300] if text else ""
