"""Undo gzip, zstd and deflate up to a limit, in steps, so that a bomb is noticed before it has gone off."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from stream.errors import Permanent

ENCODINGS = ("identity", "gzip", "zstd", "deflate")
_STEP = 1 << 20
_MAX_WINDOW = 32 << 20
# Four bytes of zstd can stand for 128 KiB, so this much input for 16 MiB.
_ZSTD_INPUT = 512


def decompress(body: bytes, encoding: str, limit: int, reserve: Callable[[int], None]) -> bytes:
    """Return the decompressed body.

    Parameters
    ----------
    encoding
        One of :data:`ENCODINGS`.
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
        return _inflate(body, zlib.MAX_WBITS | 16, limit, reserve)
    if encoding == "deflate":
        return _inflate(body, zlib.MAX_WBITS, limit, reserve)
    if encoding == "zstd":
        return _unzstd(body, limit, reserve)
    raise Permanent("unsupported_media_type", "Content-Encoding must be gzip, zstd, deflate or identity")


def _inflate(body: bytes, window: int, limit: int, reserve: Callable[[int], None]) -> bytes:
    out = bytearray()
    data = body
    try:
        while data:  # a gzip file may have several members
            member = zlib.decompressobj(window)
            while not member.eof:
                step = member.decompress(data, _STEP)
                data = member.unconsumed_tail
                _keep(out, step, limit, reserve)
                if not step and not data and not member.eof:
                    raise Permanent("undecodable", "the compressed body is cut off")
            data = member.unused_data
    except zlib.error as error:
        raise Permanent("undecodable", "the body is not compressed as Content-Encoding says") from error
    return bytes(out)


def _unzstd(body: bytes, limit: int, reserve: Callable[[int], None]) -> bytes:
    import zstandard

    out = bytearray()
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
    position = 0
    try:
        while position < len(body):
            # Not the library's reader: at the end of a body that is cut off it says nothing.
            frame = decompressor.decompressobj()
            while not frame.eof:
                if position >= len(body):
                    raise Permanent("undecodable", "the compressed body is cut off")
                piece = body[position : position + _ZSTD_INPUT]
                position += len(piece)
                _keep(out, frame.decompress(piece), limit, reserve)
            position -= len(frame.unused_data)
    except zstandard.ZstdError as error:
        raise Permanent("undecodable", "the body is not compressed as Content-Encoding says") from error
    return bytes(out)


def _keep(out: bytearray, step: bytes, limit: int, reserve: Callable[[int], None]) -> None:
    if len(out) + len(step) > limit:
        raise Permanent("too_large", f"the body is larger than {limit} bytes when decompressed")
    reserve(len(step))
    out += step
