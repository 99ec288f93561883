"""Checks that the rules share: Luhn, the neighbours of a match, and the check digits of python-stdnum."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator

from collector.redaction.rule import Check, Span
from stream.errors import ConfigError

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
