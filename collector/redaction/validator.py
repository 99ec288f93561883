"""Checks that the rules share: Luhn, the neighbours of a match, and the check digits of python-stdnum."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Iterator

from collector.redaction.rule import Check, Span
from stream.errors import ConfigError

# Three digits and no fourth: a group of thousands, unless a dot makes it a part of an address.
_THREE = re.compile(rb"[0-9]{3}(?![0-9.])")
_STDNUM = re.compile(r"stdnum(?:\.[a-z][a-z0-9_]*){1,2}")
_WORD = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_DIGITS = frozenset(b"0123456789")


def is_word(text: bytes, index: int) -> bool:
    """Whether there is an ASCII letter or digit at ``index``; not so beyond the ends."""
    return 0 <= index < len(text) and text[index] in _WORD


def is_digit(text: bytes, index: int) -> bool:
    """Whether there is a digit at ``index``; not so beyond the ends."""
    return 0 <= index < len(text) and text[index] in _DIGITS


def standalone(text: bytes, start: int, end: int, hint: str) -> Iterator[Span]:
    """Accept a candidate that no letter or digit touches."""
    if not is_word(text, start - 1) and not is_word(text, end):
        yield start, end


def left_standalone(text: bytes, start: int, end: int, hint: str) -> Iterator[Span]:
    """Accept a candidate that no letter or digit touches from the left; its pattern decides where it ends."""
    if not is_word(text, start - 1):
        yield start, end


def standard_number(module: str) -> Check:
    """Return a check that accepts what stands alone and what ``stdnum.<module>`` calls valid."""
    valid: Callable[[str], bool] | None = None

    def check(text: bytes, start: int, end: int, hint: str) -> Iterator[Span]:
        nonlocal valid
        if is_word(text, start - 1) or is_word(text, end) or continues(text, start, end):
            return
        if valid is None:
            valid = importlib.import_module(f"stdnum.{module}").is_valid
        if valid(text[start:end].decode("utf-8", "replace")):
            yield start, end

    check.__qualname__ = f"standard_number({module})"
    return check


def standalone_if(valid: Callable[[str], bool]) -> Check:
    """Return a check that accepts what stands alone and is ``valid``."""

    def check(text: bytes, start: int, end: int, hint: str) -> Iterator[Span]:
        if is_word(text, start - 1) or is_word(text, end) or continues(text, start, end):
            return
        if valid(text[start:end].decode("utf-8", "replace")):
            yield start, end

    check.__qualname__ = f"standalone_if({valid.__qualname__})"
    return check


def continues(text: bytes, start: int, end: int) -> bool:
    """Whether ``text[start:end]`` is a part of a longer number: decimals, a version, an identifier."""
    return continues_left(text, start) or continues_right(text, end)


def continues_left(text: bytes, start: int) -> bool:
    """Whether what starts at ``start`` is the rest of a longer number.

    A comma between digits separates the fields of a table as often as the parts of a number; it belongs to a number
    before groups of three digits (``1,234,567``) and behind a lone zero (``0,25``).
    """
    separator = text[start - 1 : start]
    if separator == b",":
        lone_zero = text[start - 2 : start - 1] == b"0" and not is_word(text, start - 3)
        return is_digit(text, start - 2) and (lone_zero or _THREE.match(text, start) is not None)
    return separator in (b".", b"-") and is_digit(text, start - 2)


def continues_right(text: bytes, end: int) -> bool:
    """Whether what ends at ``end`` is the beginning of a longer number."""
    separator = text[end : end + 1]
    if separator == b",":
        long = end - 4 >= 0 and all(is_digit(text, index) for index in range(end - 4, end))
        return not long and is_digit(text, end - 1) and _THREE.match(text, end + 1) is not None
    return separator in (b".", b"-") and is_digit(text, end + 1)


def entropy(text: bytes) -> float:
    """Return the Shannon entropy of the bytes of ``text``, in bits per byte."""
    counts = [text.count(byte) for byte in set(text)]
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts)


def luhn(digits: str) -> bool:
    """Whether the check digit is right (ISO/IEC 7812-1, annex B)."""
    from stdnum import luhn as stdnum_luhn

    return bool(stdnum_luhn.is_valid(digits))


def validator(name: str, rule: str) -> Check:
    """Return the check called ``name`` in a user's rule.

    Raises
    ------
    ConfigError
        There is none; the message names ``rule``.
    """
    valid: Callable[[str], bool]
    if name == "luhn":
        valid = luhn
    else:
        if not _STDNUM.fullmatch(name):
            raise ConfigError(
                f"redaction rule {rule}: validator {name!r} is neither 'luhn' nor 'stdnum.<module>' such as "
                "'stdnum.de.idnr'"
            )
        try:
            valid = importlib.import_module(name).is_valid
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"redaction rule {rule}: python-stdnum has no validator {name!r}") from error

    def check(text: bytes, start: int, end: int, hint: str) -> Iterator[Span]:
        digits = text[start:end].decode("utf-8", "replace")
        if valid(digits.replace(" ", "").replace("-", "") if name == "luhn" else digits):
            yield start, end

    return check
