"""What else than text needs a closer look on the wire: numbers, maps and arrays, indices into dictionaries, some keys."""

from __future__ import annotations

import re
import struct

from collector.redaction.json_text import number_text
from collector.redaction.pattern import without_anchors

# An AnyValue inside a KeyValue (tag 0x12), an ArrayValue (0x0a) or as a log body (0x2a), with its length and own tag.
_LENGTH = r"[\x80-\xff]{0,4}[\x01-\x7f]"
# int_value of 100,000,000 or more, or negative; double_value likewise.
_INTEGER = r"[\x0a\x12\x2a][\x05-\x0b]\x18[\x80-\xff]{3}[\x2f-\xff]"
_DOUBLE = r"[\x0a\x12\x2a]\x09\x21[\x00-\xff]{6}(?:[\x97-\xff][\x41\xc1]|[\x00-\xff][\x42-\x7f\xc2-\xff])"
# A map, or an array in an array, that is not empty. Arrays in maps are counted with their maps.
_CONTAINER = rf"[\x0a\x2a]{_LENGTH}[\x2a\x32]{_LENGTH}\x0a|\x12{_LENGTH}\x32{_LENGTH}\x0a"
_DICTIONARY_INDEX = r"[\x0a\x12\x2a](?:\x02\x40[\x00-\x7f]|[\x03-\x06\x0b]\x40[\x80-\xff])"
STRUCTURE = (_INTEGER, _DOUBLE, _CONTAINER, _DICTIONARY_INDEX)
_IS_CONTAINER = re.compile(_CONTAINER.encode())
_SMALLEST_NUMBER = 10**8


def is_container(wire: bytes, start: int, end: int) -> bool:
    """Whether ``wire[start:end]`` is the beginning of a map, or of an array in an array."""
    return _IS_CONTAINER.fullmatch(wire, start, end) is not None


def number_at(wire: bytes, start: int, end: int) -> bytes | None:
    """Return the number that the find ``wire[start:end]`` is, as text; small ones as ``b""``; ``None`` if it is none."""
    if end - start == 7 and wire[start + 2] == 0x18 and wire[start] in b"\x0a\x12\x2a":
        value = shift = 0
        for byte in wire[start + 3 : start + 13]:
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if value >= 1 << 63:
            value -= 1 << 64
        return number_text(value) if abs(value) >= _SMALLEST_NUMBER else b""
    if end - start == 11 and wire[start + 1 : start + 3] == b"\x09\x21" and wire[start] in b"\x0a\x12\x2a":
        return number_text(struct.unpack("<d", wire[start + 3 : end])[0])
    return None


def key_gate(keys: str) -> str:
    """Return what a key that matches ``keys`` looks like on the wire: the tag of its value follows.

    An underscore may be where ``camelCase`` is taken apart, so it may be missing here.
    """
    gate = rf"(?i:{re.sub(r'_(?![?])', '_?', without_anchors(keys))})\x12"
    whole = re.fullmatch(r"\^([a-z_]{1,99})\$", keys)
    if whole is None:
        return gate
    # Its length comes before it: without, a key of one letter opens every span that has a key with this letter at its end.
    return rf"[\x{len(whole[1].replace('_', '')):02x}-\x{len(whole[1]):02x}]{gate}"
