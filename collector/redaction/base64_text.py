"""Base64 inside a text: find the runs that hold text, decode them, and encode them again."""

from __future__ import annotations

import base64
import binascii
import itertools
import re
import string
from collections.abc import Callable, Iterable, Iterator

from collector.redaction.edge import edge
from collector.redaction.pattern import latin1

# 24 characters are 18 bytes: shorter runs hold few entities, and very many words are as long. With the "-" and "_" of
# URL-safe base64 it must be 40, so that UUIDs and most names do not count.
_OPEN = latin1(b"[A-Za-z0-9+/]{24}|[A-Za-z0-9_-]{40}")
_RUN = re.compile(rb"[A-Za-z0-9+/_-]{24,}={0,2}")
# A slash belongs to base64, and parts the segments of a path too. Longer runs are files, of which no part is changed.
_SEGMENT = re.compile(rb"[A-Za-z0-9+_-]{24,}={0,2}")
_LONGEST_PATH = 4096
_HEX = re.compile(rb"[0-9a-fA-F]+")
# What text does not hold. Random bytes hold one of them, or are no UTF-8, before long.
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_PROBE = 64  # characters decoded to tell text from images and ids
_ESCAPE_LETTERS = b"bfnrt"


def runs(text: bytes, limit: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield start, end and decoded bytes of the runs of base64 in ``text`` that hold UTF-8 text.

    Runs of more than ``limit`` bytes are passed over, and so is what is no text: images, keys, ids, hashes.
    """
    if _TEXT.search(text) is None or _OPEN.search(text) is None:
        return
    for match in _RUN.finditer(text):
        start, end = match.span()
        if start > 0 and text[start - 1] == 0x5C and text[start] in _ESCAPE_LETTERS:
            start += 1  # the letter belongs to the escape
        run = text[start:end]
        if len(run) > limit:
            continue
        if (decoded := _decoded(run)) is not None:
            yield start, end, decoded
        elif b"/" in run and len(run) <= _LONGEST_PATH:
            for segment in _SEGMENT.finditer(run):
                if (decoded := _decoded(segment[0])) is not None:
                    yield start + segment.start(), start + segment.end(), decoded


def end_of_run(text: bytes, start: int) -> int:
    """Return where the run that :data:`GATE` found at ``start`` ends: it begins there, or one or two bytes later."""
    run = _RUN.search(text, start)
    return len(text) if run is None else run.end()


def encoded(decoded: bytes, like: bytes) -> bytes:
    """Return ``decoded`` in base64, in the alphabet and with the padding of ``like``."""
    made = base64.b64encode(decoded)
    if b"-" in like or b"_" in like:
        made = made.translate(_URL_SAFE)
    return made if len(like) % 4 == 0 else made.rstrip(b"=")


_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_STANDARD = bytes.maketrans(b"-_", b"+/")


def _decoded(run: bytes) -> bytes | None:
    """Return the text that ``run`` holds; the beginning of what holds none tells soon."""
    if _HEX.fullmatch(run) or _text(run[:_PROBE], cut=len(run) > _PROBE) is None:
        return None
    return _text(run)


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


def _alphabet(holds: Callable[[int], bool]) -> str:
    """Return the fragment for the characters whose six bits ``holds`` accepts; JSON writers may escape the slash."""
    characters = string.ascii_uppercase + string.ascii_lowercase + string.digits
    found = "".join(character for bits, character in enumerate(characters) if holds(bits))
    found += "_" * holds(63) + "+-" * holds(62)
    return rf"(?:[{found}]|\\*/)" if holds(63) else f"[{found}]"


def _gate() -> str:
    """Return the fragment that every run begins with that :func:`runs` yields: 24 characters that encode UTF-8 text.

    Each four characters are three bytes, and the first bits of a byte say what it may follow: text, a continuation (C), or
    the lead of two, three or four bytes. Ids, hashes and images break this within a few characters.
    """
    # What six, four or two leading bits of a byte make of it; control characters are no text.
    kinds: dict[str, tuple[Callable[[int], bool], Callable[[int], bool], Callable[[int], bool]]] = {
        "text": (
            lambda bits: bits < 32 and bits not in (0, 1, 4, 5, 6, 7),
            lambda bits: bits & 15 < 8 and bits & 15 != 1,
            lambda bits: bits & 3 < 2,
        ),
        "C": (lambda bits: bits >> 4 == 2, lambda bits: bits >> 2 & 3 == 2, lambda bits: bits & 3 == 2),
        "2": (lambda bits: bits >> 3 == 6, lambda bits: bits >> 1 & 7 == 6, lambda bits: bits & 3 == 3),
        "3": (lambda bits: bits >> 2 == 14, lambda bits: bits & 15 == 14, lambda bits: bits & 3 == 3),
        "4": (lambda bits: bits >> 1 == 30, lambda bits: bits & 15 == 15, lambda bits: bits & 3 == 3),
    }
    # The six bits that remain of the third byte.
    rest: dict[str, Callable[[int], bool]] = {
        "text": lambda bits: True,
        "C": lambda bits: True,
        "2": lambda bits: bits < 32,
        "3": lambda bits: bits >> 4 == 2,
        "4": lambda bits: bits >> 3 == 6,
    }
    first: list[str] = []
    later: list[str] = []
    for triple in itertools.product(kinds, repeat=3):
        one, two, three = triple
        quad = "".join(
            map(_alphabet, (kinds[one][0], kinds[two][1], kinds[three][2], rest[three])),
        )
        if _follows(0, triple):
            first.append(quad)
        if any(_follows(needed, triple) for needed in range(4)):
            later.append(quad)
    return rf"{edge('A-Za-z0-9+_-')}(?:{'|'.join(first)})(?:{'|'.join(later)}){{5}}"


def _follows(needed: int, kinds: Iterable[str]) -> bool:
    """Whether bytes of these kinds may follow where ``needed`` continuations are still to come."""
    for kind in kinds:
        if (kind == "C") != (needed > 0):
            return False
        needed = needed - 1 if kind == "C" else 0 if kind == "text" else int(kind) - 1
    return True


# Every text with such a run has it, also inside JSON and on the wire.
GATE = _gate()
_TEXT = latin1(GATE.encode("latin-1"))
