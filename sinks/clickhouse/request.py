"""What a client asks for: query text, data, parameters and settings, out of an HTTP request."""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import uuid
from collections.abc import Mapping

import msgspec
from aiohttp import web
from multidict import CIMultiDictProxy

from sinks.clickhouse import compression, formats
from sinks.clickhouse.exceptions import QueryError

_QUERY_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Ask(msgspec.Struct):
    """One request. ``text`` is the query and, for an INSERT, what follows it."""

    text: bytes
    parameters: dict[str, str]  # without the param_ prefix, in ClickHouse's escaped text form
    settings: dict[str, str]  # everything else in the URL
    query_id: str
    database: str
    default_format: str
    accept_encoding: str
    protocol_version: int


def read(request: web.Request, body: bytes, *, limit: int) -> Ask:
    """Take a request apart; ``limit`` is the largest body in clear.

    Raises
    ------
    QueryError
        The body cannot be read, or it asks for a part of the protocol that is not here.
    """
    url: dict[str, str] = dict(request.query)
    if request.content_type.startswith("multipart/"):
        raise QueryError(48, "External data and form-encoded parameters are not supported", "NOT_IMPLEMENTED")
    if url.get("compress", "0") not in ("0", "") or url.get("decompress", "0") not in ("0", ""):
        raise QueryError(
            48,
            "ClickHouse's own compression is not supported over HTTP: use Accept-Encoding with "
            "enable_http_compression=1, and Content-Encoding",
            "NOT_IMPLEMENTED",
        )
    clear = compression.decompress(body, request.headers.get("Content-Encoding", ""), limit)
    text = url.get("query", "").encode("utf-8", "surrogateescape")
    if clear:
        text = text + b"\n" + clear if text else clear
    if not text.strip():
        raise QueryError(62, "Empty query", "SYNTAX_ERROR")
    compressed = url.get("enable_http_compression", "0") == "1"
    return Ask(
        text=text,
        parameters={name[6:]: value for name, value in url.items() if name.startswith("param_")},
        settings={name: value for name, value in url.items() if not name.startswith("param_")},
        query_id=_query_id(url.get("query_id", "") or request.headers.get("X-ClickHouse-Query-Id", "")),
        database=url.get("database", "") or request.headers.get("X-ClickHouse-Database", ""),
        default_format=formats.known(
            url.get("default_format") or request.headers.get("X-ClickHouse-Format") or formats.DEFAULT
        ),
        accept_encoding=request.headers.get("Accept-Encoding", "") if compressed else "",
        protocol_version=_number(url.get("client_protocol_version", "0")),
    )


def _query_id(given: str) -> str:
    return given if _QUERY_ID.fullmatch(given) else str(uuid.uuid4())


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def secrets_of(headers: CIMultiDictProxy[str], url: Mapping[str, str]) -> list[str]:
    """Return every secret the request carries, wherever ClickHouse's clients put it."""
    found = [headers.get("X-ClickHouse-Key", ""), url.get("password", "")]
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        found.append(value.strip())
    elif scheme.lower() == "basic":
        try:
            found.append(base64.b64decode(value, validate=True).decode("utf-8").partition(":")[2])
        except (binascii.Error, UnicodeDecodeError):
            found.append("")
    return [secret for secret in found if secret]


def authentic(token: str, given: list[str]) -> bool:
    """Tell whether one of the given secrets is the token, in a time that does not depend on it."""
    expected = token.encode()
    matches = [hmac.compare_digest(expected, secret.encode("utf-8", "replace")) for secret in given]
    return any(matches)
