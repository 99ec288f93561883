"""HTTP compression of bodies, within bounds: a small body must not become a large one in memory."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Generator, Iterator
from typing import Any

import lz4.frame  # type: ignore[import-untyped]
import zstandard

from sinks.clickhouse.exceptions import QueryError

ENCODINGS = ("lz4", "zstd", "gzip", "deflate")
_CHUNK = 1 << 16
_WORTH_IT = 512


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Return a request's body in clear.

    Raises
    ------
    QueryError
        The encoding is unknown (501), the body damaged (400), or larger than ``limit`` (413).
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ENCODINGS:
        raise QueryError(344, f"Content-Encoding {encoding[:32]!r} is not supported", "SUPPORT_IS_DISABLED")
    out = bytearray()
    try:
        for piece in _pieces(body, encoding):
            out += piece
            if len(out) > limit:
                raise QueryError(307, "The body is too large", "TOO_MANY_BYTES", 413)
    except (zlib.error, zstandard.ZstdError, RuntimeError, EOFError) as error:
        raise QueryError(432, f"The {encoding} body is damaged", "CANNOT_DECOMPRESS", 400) from error
    return bytes(out)


def _pieces(body: bytes, encoding: str) -> Iterator[bytes]:
    if encoding == "zstd":
        reader: Any = zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True)
        while piece := reader.read(_CHUNK):
            yield piece
        return
    # Clients send large bodies as several frames, one after the other.
    data = body
    while data:
        if encoding == "lz4":
            data = yield from _lz4_frame(data)
        else:
            data = yield from _deflated(data, encoding)


def _lz4_frame(data: bytes) -> Generator[bytes, None, bytes]:
    """Yield one frame's content in pieces; return what follows the frame."""
    frame: Any = lz4.frame.LZ4FrameDecompressor()
    while not frame.eof:
        piece = frame.decompress(data, max_length=_CHUNK)
        data = b""
        if not piece and frame.needs_input and not frame.eof:
            raise EOFError("truncated frame")
        yield piece
    return frame.unused_data or b""


def _deflated(data: bytes, encoding: str) -> Generator[bytes, None, bytes]:
    inflater = zlib.decompressobj(wbits=31 if encoding == "gzip" else 15)
    while not inflater.eof:
        piece = inflater.decompress(data, _CHUNK)
        data = inflater.unconsumed_tail
        if not piece and not data and not inflater.eof:
            raise EOFError("truncated stream")
        yield piece
    return inflater.unused_data


def choose(accept: str) -> str:
    """Return the first encoding of ``Accept-Encoding`` that is known, or none."""
    for entry in accept.split(","):
        name, _, weight = entry.strip().lower().partition(";")
        if name in ENCODINGS and weight.replace(" ", "") not in ("q=0", "q=0.0"):
            return name
    return ""


def compress(body: bytes, encoding: str) -> tuple[bytes, str]:
    """Return an answer's body and the encoding it now has; small bodies stay as they are."""
    if not encoding or len(body) < _WORTH_IT:
        return body, ""
    if encoding == "lz4":
        return bytes(lz4.frame.compress(body)), encoding
    if encoding == "zstd":
        return zstandard.ZstdCompressor(level=1).compress(body), encoding
    if encoding == "gzip":
        return gzip.compress(body, compresslevel=1, mtime=0), encoding
    return zlib.compress(body, level=1), encoding
