"""RE2 patterns: how they are compiled, and how a user's pattern becomes a gate."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import re2

from stream.errors import ConfigError

# Finds something in text[start:end]: where it is, or (-1, -1).
Find = Callable[[bytes, int, int], tuple[int, int]]

# A fragment (Latin-1) that is nowhere.
NOTHING = r"[^\x00-\xff]"

# Memory for the automata of one pattern. More keeps the combined gate from being rebuilt on varied text.
_MAX_MEM = 64 << 20
_NAMED = re.compile(r"\(\?P?<(?![=!])\w+>")


def latin1(pattern: bytes) -> Any:
    """Compile ``pattern`` over bytes: one byte is one character."""
    return re2.compile(pattern, _latin1_options())


def finder(fragment: str) -> Find:
    """Return a function that finds ``fragment`` (Latin-1) in ``text[start:end]``: where it is, or (-1, -1).

    The package's own ``search`` makes a generator and a match object for each call, which costs more than to find something
    in a short text.
    """
    return _search(re2.compile(fragment.encode("latin-1"), _latin1_options()))


def finder_at(fragment: str) -> Find:
    """Return the same for what begins at ``start``."""
    return _search(
        re2.compile(fragment.encode("latin-1"), _latin1_options()), re2._re2.RE2.Anchor.ANCHOR_START
    )


def candidate(pattern: str, name: str) -> Find:
    """Return the same for the pattern (UTF-8) of the rule ``name``; its group ``value`` is what is found, if it has one."""
    compiled = utf8(pattern, name, captures=True)
    group = compiled.groupindex.get(b"value", 0)
    if not group:
        return _search(utf8(pattern, name))
    find, anywhere = compiled._regexp.Match, re2._re2.RE2.Anchor.UNANCHORED

    def search(text: bytes, start: int, end: int) -> tuple[int, int]:
        spans: list[tuple[int, int]] = find(anywhere, text, start, end)
        # An alternative of the pattern may have no group.
        return spans[group] if spans[group][0] >= 0 else spans[0]

    return search


def candidates(pattern: str, name: str) -> Callable[[bytes], Iterator[tuple[int, int]]]:
    """Return a function that yields every candidate of the rule ``name`` in a text that is not empty, one after the other."""
    compiled = utf8(pattern, name, captures=True)
    group = compiled.groupindex.get(b"value", 0)
    if not group:
        compiled = utf8(pattern, name)
    find, anywhere = compiled._regexp.Match, re2._re2.RE2.Anchor.UNANCHORED

    def every(text: bytes) -> Iterator[tuple[int, int]]:
        position, size = 0, len(text)
        while position <= size:
            spans: list[tuple[int, int]] = find(anywhere, text, position, size)
            start, end = spans[0]
            if start < 0:
                return
            position = end if end > position else position + 1
            # An alternative of the pattern may have no group.
            found = spans[group] if spans[group][0] >= 0 else spans[0]
            if found[0] < found[1]:
                yield found

    return every


def _search(compiled: Any, anchor: Any = re2._re2.RE2.Anchor.UNANCHORED) -> Find:
    find = compiled._regexp.Match

    def search(text: bytes, start: int, end: int) -> tuple[int, int]:
        found: tuple[int, int] = find(anchor, text, start, end)[0]
        return found

    return search


def searched(patterns: Sequence[str]) -> Any:
    """Return a set of Latin-1 patterns that says which of them are in a text."""
    options = _latin1_options()
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
        why = error.args[0] if error.args else ""
        said = why.decode("utf-8", "replace") if isinstance(why, bytes) else str(why)
        raise ConfigError(
            f"redaction rule {name}: RE2 does not accept the pattern: {said}. Look-around and back-references do not "
            "exist in RE2; use context words or a validator instead"
        ) from error


def _latin1_options() -> Any:
    options = _options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.never_capture = True
    return options


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
