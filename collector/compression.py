"""Undo gzip and zstd up to a limit, in steps, so that a bomb is noticed before it has gone off."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from stream.errors import Permanent

ENCODINGS = ("identity", "gzip", "zstd")
_STEP = 1 << 20
_MAX_WINDOW = 32 << 20


def decompress(body: bytes, encoding: str, limit: int, reserve: Callable[[int], None]) -> bytes:
    """Return the decompressed body.

    Parameters
    ----------
    encoding
        ``identity``, ``gzip`` or ``zstd``.
    limit
        Largest result in bytes.
    reserve
        Called with the size of each step before it is kept; may raise.

    Raises
    ------
    Permanent
        ``too_large``: above ``limit``; ``undecodable``: not such data; ``unsupported_media_type``: another encoding.
    """
    if encoding == "identity":
        return body
    if encoding == "gzip":
        return _gunzip(body, limit, reserve)
    if encoding == "zstd":
        return _unzstd(body, limit, reserve)
    raise Permanent("unsupported_media_type", "Content-Encoding must be gzip, zstd or identity")


def _gunzip(body: bytes, limit: int, reserve: Callable[[int], None]) -> bytes:
    out = bytearray()
    data = body
    try:
        while data:  # a gzip file may have several members
            member = zlib.decompressobj(zlib.MAX_WBITS | 16)
            while not member.eof:
                step = member.decompress(data, _STEP)
                data = member.unconsumed_tail
                _keep(out, step, limit, reserve)
                if not step and not data and not member.eof:
                    raise Permanent("undecodable", "the gzip body is cut off")
            data = member.unused_data
    except zlib.error as error:
        raise Permanent("undecodable", "the body is no valid gzip") from error
    return bytes(out)


def _unzstd(body: bytes, limit: int, reserve: Callable[[int], None]) -> bytes:
    import zstandard

    out = bytearray()
    try:
        reader = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).stream_reader(
            body, read_across_frames=True
        )
        while step := reader.read(_STEP):
            _keep(out, step, limit, reserve)
    except zstandard.ZstdError as error:
        raise Permanent("undecodable", "the body is no valid zstd") from error
    return bytes(out)


def _keep(out: bytearray, step: bytes, limit: int, reserve: Callable[[int], None]) -> None:
    if len(out) + len(step) > limit:
        raise Permanent("too_large", f"the body is larger than {limit} bytes when decompressed")
    reserve(len(step))
    out += step
