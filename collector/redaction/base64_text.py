"""Base64 inside a text: find the runs that hold text, decode them, and encode them again."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator

from collector.redaction.pattern import latin1

# 24 characters are 18 bytes: shorter runs hold few entities, and very many words are as long. With the "-" and "_" of
# URL-safe base64 it must be 40, so that UUIDs and most names do not open the gate.
GATE = "[A-Za-z0-9+/]{24}|[A-Za-z0-9_-]{40}"
_OPEN = latin1(GATE.encode())
_RUN = re.compile(rb"[A-Za-z0-9+/_-]{24,}={0,2}")
_HEX = re.compile(rb"[0-9a-fA-F]+")
# What text does not hold. Random bytes hold one of them, or are no UTF-8, before long.
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_PROBE = 64  # characters decoded to tell text from images and ids
_ESCAPE_LETTERS = b"bfnrt"


def runs(text: bytes, limit: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield start, end and decoded bytes of the runs of base64 in ``text`` that hold UTF-8 text.

    Runs of more than ``limit`` bytes are passed over, and so is what is no text: images, keys, ids, hashes.
    """
    if _OPEN.search(text) is None:
        return
    for match in _RUN.finditer(text):
        start, end = match.span()
        if start > 0 and text[start - 1] == 0x5C and text[start] in _ESCAPE_LETTERS:
            start += 1  # the letter belongs to the escape
        run = text[start:end]
        if end - start > limit or _HEX.fullmatch(run):
            continue
        if _text(run[:_PROBE], cut=len(run) > _PROBE) is not None and (decoded := _text(run)) is not None:
            yield start, end, decoded


def encoded(decoded: bytes, like: bytes) -> bytes:
    """Return ``decoded`` in base64, in the alphabet and with the padding of ``like``."""
    made = base64.b64encode(decoded)
    if b"-" in like or b"_" in like:
        made = made.translate(_URL_SAFE)
    return made if len(like) % 4 == 0 else made.rstrip(b"=")


_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_STANDARD = bytes.maketrans(b"-_", b"+/")


def _text(run: bytes, *, cut: bool = False) -> bytes | None:
    run = run.rstrip(b"=").translate(_STANDARD)
    try:
        decoded = base64.b64decode(run + b"=" * (-len(run) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    if _CONTROL.search(decoded):
        return None
    try:
        decoded.decode()
    except UnicodeDecodeError as error:
        # A probe may end in the middle of a character.
        if not cut or error.start < len(decoded) - 3:
            return None
    return decoded
