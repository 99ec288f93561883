"""RE2 patterns: how they are compiled, and how a user's pattern becomes a gate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import re2

from stream.errors import ConfigError

# Memory for the automata of one pattern. More keeps the combined gate from being rebuilt on varied text.
_MAX_MEM = 64 << 20
_NAMED = re.compile(r"\(\?P?<(?![=!])\w+>")


def latin1(pattern: bytes) -> Any:
    """Compile ``pattern`` over bytes: one byte is one character."""
    options = _options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.never_capture = True
    return re2.compile(pattern, options)


def searched(patterns: Sequence[str]) -> Any:
    """Return a set of Latin-1 patterns that says which of them are in a text."""
    options = _options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.never_capture = True
    made = re2.Set.SearchSet(options)
    for pattern in patterns:
        made.Add(pattern.encode("latin-1"))
    made.Compile()
    return made


def utf8(pattern: str, name: str, *, captures: bool = False) -> Any:
    """Compile ``pattern`` over UTF-8.

    Raises
    ------
    ConfigError
        RE2 does not accept it; the message names the rule ``name`` and says why.
    """
    options = _options()
    options.never_capture = not captures
    try:
        return re2.compile(pattern.encode(), options)
    except re2.error as error:
        raise ConfigError(
            f"redaction rule {name}: RE2 does not accept the pattern: {error}. Look-around and back-references do not "
            "exist in RE2; use context words or a validator instead"
        ) from error


def _options() -> Any:
    options = re2.Options()
    options.max_mem = _MAX_MEM
    options.log_errors = False
    return options


def without_anchors(pattern: str) -> str:
    """Return ``pattern`` without ``\\b``, ``\\B``, ``^``, ``$``, ``\\A``, ``\\z``: it matches wherever ``pattern`` does, and more.

    Anchors look at the neighbours of a match, and inside JSON those differ: in ``\\nX`` the ``n`` seems to touch the X.
    """
    out: list[str] = []
    position, in_class, quoted = 0, False, False
    while position < len(pattern):
        character = pattern[position]
        pair = pattern[position : position + 2]
        if quoted:
            quoted = pair != r"\E"
            out.append(character if quoted else pair)
            position += 1 if quoted else 2
        elif character == "\\":
            if pair == r"\Q":
                quoted = True
            if in_class or pair not in (r"\b", r"\B", r"\A", r"\z"):
                out.append(pair)
            else:
                out.append("(?:)")
            position += 2
        elif in_class:
            named = re.match(r"\[:\^?[a-z]+:\]", pattern[position:])
            in_class = character != "]"
            out.append(named[0] if named else character)
            position += named.end() if named else 1
        elif character == "[":
            # A ] right after [ or [^ stands for itself.
            head = re.match(r"\[\^?\]?", pattern[position:])
            assert head is not None
            in_class = True
            out.append(head[0])
            position += head.end()
        elif group := _NAMED.match(pattern, position):
            out.append("(?:")
            position = group.end()
        else:
            out.append("(?:)" if character in "^$" else character)
            position += 1
    return "".join(out)
