"""Where a word or a number can begin in bytes that nobody has taken apart yet: RE2 fragments for gates.

A gate reads texts as they are, and whole protobuf messages as they are on the wire. What stands right before a word there
may look like a part of it: the letter of an escape (``\\n``, ``%0A``, ``\\u000a``), or the byte that says how long the
string is, which follows the tag of its field or a byte of 128 and more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# An escaped character, a character class (in which no ] is escaped by standing first), or any other character.
_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|\[:[a-z^]+:\]|[^\]\\])*\]|.", re.DOTALL)

# The last byte of an escape is a letter or a digit, and no part of what follows.
_ESCAPES = r"\\[bfnrt]|\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}|%[0-9A-Fa-f]{2}"
# Tags of string fields up to number 7; LogRecord.event_name, the one that is higher, is never left to gates alone.
_TAGS = r"[\x00-\x1f\"*:\x80-\xff]"


# What opens a group, and three characters, of which one may be the gap between two words.
_THREE_LETTERS = re.compile(r"(?:\((?:\?[a-z]*:)?)*(?:[A-Za-z0-9_-]|\\[.-]|\(\?:\[ _\.-\][^)]*\)\?){3}")


def edge(characters: str) -> str:
    """Return the fragment that matches before something that no ``characters`` (of a character class) may touch."""
    return rf"(?:^|[^{characters}]|{_ESCAPES}|{_TAGS}[{characters}])"


def _number(marks: str, characters: str) -> str:
    """Return the edge of a number that neither ``characters`` touch nor a digit and one of ``marks`` precede."""
    return (
        rf"(?:^|[^{characters}{marks}]|(?:^|[^0-9]|{_ESCAPES}|{_TAGS}[0-9])[{marks}]"
        rf"|{_ESCAPES}|{_TAGS}[{characters}{marks}])"
    )


# Before what is not a part of a longer word, number, or sequence of letters.
WORD = edge("0-9A-Za-z")
NUMBER = edge("0-9")
# Numbers that are no decimals, or no part of a word, a version or an id either.
WHOLE_NUMBER = _number(".", "0-9A-Za-z")
LONE_NUMBER = _number(".-", "0-9A-Za-z_#")
LETTERS = edge("A-Za-z")
EDGES = (WORD, NUMBER, WHOLE_NUMBER, LONE_NUMBER, LETTERS)


def together(fragments: Iterable[str]) -> str:
    """Return one fragment that matches what any of ``fragments`` does.

    Alternatives that begin with the same edge are written behind one: an automaton that tries each edge by itself is many
    times as large, and is built anew for every other text.
    """
    behind: dict[str, list[str]] = {}
    for fragment in fragments:
        for alternative in alternatives(fragment):
            edge = next((edge for edge in EDGES if alternative.startswith(edge)), "")
            behind.setdefault(edge, []).append(alternative[len(edge) :])
    return "|".join(edge + "(?:" + _factored(found) + ")" for edge, found in sorted(behind.items()))


def without_edge(alternative: str) -> str:
    """Return an alternative without the edge that it begins with, if it does."""
    return alternative[len(next((edge for edge in EDGES if alternative.startswith(edge)), "")) :]


def is_word(alternative: str) -> bool:
    """Whether an alternative begins with three letters, digits or signs that stand for themselves."""
    return _THREE_LETTERS.match(without_edge(alternative)) is not None


def _factored(alternatives: Iterable[str]) -> str:
    """Return the alternatives, sorted so that RE2 can take common beginnings together, those in any case as one group."""
    exact, any_case = [], []
    for alternative in sorted(set(alternatives)):
        tokens = list(_TOKEN.finditer(alternative))
        depth, closes = 0, 0
        for token in tokens:
            depth += (token[0] == "(") - (token[0] == ")")
            if depth == 0:
                closes = token.end()
                break
        if alternative.startswith("(?i:") and closes == len(alternative):
            any_case.append(alternative[4:-1])
        else:
            exact.append(alternative)
    if any_case:
        exact.append(f"(?i:{'|'.join(any_case)})")
    return "|".join(exact)


def alternatives(fragment: str) -> list[str]:
    """Return the alternatives of ``fragment``, taken apart where no parenthesis or class is open."""
    if fragment.startswith("(?i)"):
        return [f"(?i:{alternative})" for alternative in alternatives(fragment[4:])]
    found: list[str] = []
    depth = first = 0
    for token in _TOKEN.finditer(fragment):
        depth += (token[0] == "(") - (token[0] == ")")
        if token[0] == "|" and depth == 0:
            found.append(fragment[first : token.start()])
            first = token.end()
    return [*found, fragment[first:]]
