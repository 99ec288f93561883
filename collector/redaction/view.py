"""Other readings of a text: escapes undone, so that they cannot hide a value or glue to one.

``\\n4111...`` is a backslash, an ``n`` and a card number; to a pattern the ``n`` is a letter that touches the number. A
view is the text as a JSON, URL or text reader would see it, with the way back to the bytes it came from.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator

from collector.redaction.pattern import finder, latin1

# JSON and C escapes; percent-encoding; full-width forms (U+FF01-FF5E); zero-width characters and soft hyphens; the spaces
# and dashes of Unicode, which people and models put between groups of digits.
_PATTERN = (
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}|\\[\"'\\/bfnrt]"
    rb"|%[0-9a-fA-F]{2}"
    rb"|\xef\xbc[\x81-\xbf]|\xef\xbd[\x80-\x9e]|\xe3\x80\x80"
    rb"|\xe2\x80[\x80-\x95\xaf]|\xe2\x81\xa0|\xe2\x88\x92|\xef\xbb\xbf|\xc2[\xa0\xad]"
)
_LETTERS = {
    b'"': b'"', b"'": b"'", b"\\": b"\\", b"/": b"/",
    b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t",
}  # fmt: skip
_ESCAPE = re.compile(_PATTERN)
_ANY = latin1(_PATTERN)  # the same, and much faster where there is nothing to find
_ANY_WITHIN = finder(_PATTERN.decode("latin-1"))
# Escapes of escapes: JSON in JSON in JSON. Each round undoes one level; deeper nesting is not known in practice.
_MAX_ROUNDS = 8

# What may be encoded away from the gates' eyes: printable ASCII and the spaces and dashes inside numbers, as \uXXXX, \xXX
# or %XX; full-width digits, letters, dot, at sign, and plus before digits; zero-width characters; a slash between digits, which some JSON
# writers escape. Latin-1, as gates are.
GATE = (
    r"\\u(?:00[2-7aA]|00[aA][dD]|20[0-6]|3000|[fF][eEfF])|\\x[2-7aA]|%(?:2[0bBdDeEfF]|3[0-9aAdD]|25|40|4[0-9a-fA-F]|5|6|7)"
    r"|\xef\xbc[\x8e\x90-\x99\xa0-\xba]|\xef\xbd[\x81-\x9a]|\xe2\x80[\x8b-\x8f]|\xe2\x81\xa0|\xef\xbb\xbf|\xc2\xad"
    r"|[0-9]\\+/[0-9(]|\xef\xbc\x8b[0-9(]"
)
# The spaces and dashes of Unicode, and full-width ones, count only between digits, of which there are nine or more: ``10\u201320`` is frequent.
GATE_PAIR = (
    r"[0-9][ ()./-]{0,2}(?:\xc2\xa0|\xe2\x80[\x80-\x95\xaf]|\xe2\x88\x92|\xe3\x80\x80|\xef\xbc\x8d)[ ()./-]{0,2}[0-9(]",
    r"[0-9](?:[ \t()./%\\\x80-\xff-]{0,4}[0-9]){8}",
)


class View:
    """A reading of a text. ``origin`` maps its byte offsets back."""

    __slots__ = ("_at", "_from", "text")

    def __init__(self, text: bytes, at: list[int], origin: list[int]) -> None:
        self.text = text
        # Piece i starts at _at[i] in the view and at _from[i] in the origin. Even pieces are plain and map byte to
        # byte (they may be empty); odd pieces are one escape each.
        self._at = at
        self._from = origin

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """Return the bytes that ``text[start:end]`` came from (``start < end``); an escape is taken whole."""
        first = bisect_right(self._at, start) - 1
        last = bisect_right(self._at, end - 1) - 1
        low = self._from[first] if first % 2 else self._from[first] + start - self._at[first]
        high = self._from[last + 1] if last % 2 else self._from[last] + end - self._at[last]
        return low, high


def views(text: bytes) -> Iterator[View | None]:
    """Yield the readings of ``text``: first itself (as ``None``), then with one level of escapes undone after the other."""
    yield None
    current, previous = text, None
    for _ in range(_MAX_ROUNDS):
        if _ANY.search(current) is None:
            return
        undone = _undo(current)
        view = undone if previous is None else _Chained(undone, previous)
        yield view
        current, previous = undone.text, view


def undone(text: bytes) -> bytes:
    """Return ``text`` with all levels of escapes undone."""
    for _ in range(_MAX_ROUNDS):
        if _ANY.search(text) is None:
            break
        text = _undo(text).text
    return text


def is_plain(text: bytes, start: int, end: int) -> bool:
    """Whether no escape begins in ``text[start:end]``."""
    return _ANY_WITHIN(text, start, end)[0] < 0


def _undo(text: bytes) -> View:
    pieces: list[bytes] = []
    at: list[int] = []
    origin: list[int] = []
    position = length = 0
    for match in _ESCAPE.finditer(text):
        start, end = match.span()
        at += (length, length + start - position)
        origin += (position, start)
        character = _character(match[0])
        pieces += (text[position:start], character)
        length += start - position + len(character)
        position = end
    at.append(length)
    origin.append(position)
    pieces.append(text[position:])
    return View(b"".join(pieces), at, origin)


def _character(escape: bytes) -> bytes:
    kind = escape[:2]
    if kind == b"\\u":
        if len(escape) == 12:
            high, low = int(escape[2:6], 16), int(escape[8:12], 16)
            return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)).encode()
        code = int(escape[2:6], 16)
        return _folded(code) if not 0xD800 <= code < 0xE000 else b"?"
    if kind == b"\\x":
        return _folded(int(escape[2:], 16))
    if kind[:1] == b"\\":
        return _LETTERS[escape[1:]]
    if kind[:1] == b"%":
        return bytes((int(escape[1:], 16),))
    return _folded(ord(escape.decode()))


def _folded(code: int) -> bytes:
    if 0xFF01 <= code <= 0xFF5E:
        return bytes((code - 0xFEE0,))
    if code in (0xA0, 0x202F, 0x3000) or 0x2000 <= code <= 0x200A:
        return b" "
    if 0x2010 <= code <= 0x2015 or code == 0x2212:
        return b"-"
    if code in (0xAD, 0x2060, 0xFEFF) or 0x200B <= code <= 0x200F:
        return b""
    return chr(code).encode()


class _Chained(View):
    """A view of a view."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, outer: View, inner: View) -> None:
        super().__init__(outer.text, [], [])
        self._outer = outer
        self._inner = inner

    def origin(self, start: int, end: int) -> tuple[int, int]:
        return self._inner.origin(*self._outer.origin(start, end))
