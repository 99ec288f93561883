"""Errors in ClickHouse's own form, with the HTTP status its server would give."""

from __future__ import annotations

import re

_FORM = re.compile(r"Code: (\d+)\.\s*(?:DB::Exception: )?(.*)", re.DOTALL)
_NAMED = re.compile(r"\s*\(([A-Z][A-Z0-9_]{2,})\)\s*$")
_VERSION = re.compile(r"\s*\(version [^)]*\)\.?")

_STATUS = {
    60: 404, 81: 404, 46: 404, 47: 404, 50: 404, 115: 404,  # unknown table, database, function, identifier, type, setting
    158: 400, 396: 400,  # too many rows or bytes in the result
    159: 408,  # timeout
    164: 403, 497: 403, 516: 403, 194: 401,  # read-only, access denied, authentication
    202: 503, 241: 503,  # too many queries, memory limit
    48: 501, 344: 501,  # not implemented, not supported
    1000: 500, 1001: 500, 49: 500,
    354: 413, 307: 413, 62: 400,
}  # fmt: skip


class QueryError(Exception):
    """A query that failed: ClickHouse's error code, a sentence, and the code's name."""

    def __init__(self, code: int, message: str, name: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.name = name
        self.status = status or _STATUS.get(code, 400)

    def text(self, version: str) -> str:
        """The body of the answer."""
        named = f" ({self.name})" if self.name else ""
        return f"Code: {self.code}. DB::Exception: {self.message}.{named} (version {version})\n"

    @classmethod
    def from_engine(cls, error: BaseException) -> QueryError:
        """Take apart what chDB says."""
        text = str(error)
        match = _FORM.search(text)
        if match is None:
            return cls(1002, text.strip().rstrip(".") or error.__class__.__name__, "UNKNOWN_EXCEPTION", 500)
        message = match[2]
        while (again := _FORM.match(message)) is not None:  # chDB wraps an exception in an exception
            message = again[2]
        message = _VERSION.sub("", message).strip()
        name = ""
        while (named := _NAMED.search(message)) is not None:
            name = named[1]
            message = message[: named.start()].strip()
        return cls(int(match[1]), message.rstrip("."), name)
