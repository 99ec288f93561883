"""The words that announce something, found in text of ids by their letters first.

Three letters in any case stand in many an id. An automaton that knows what may touch each word has many states, and text of
ids visits all of them; so one automaton looks for the letters, and a small one of the word found says whether it is the word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import takewhile

from collector.redaction.context import Context
from collector.redaction.edge import together
from collector.redaction.pattern import NOTHING, Find, finder, finder_at
from collector.redaction.rule import Rule

# A word's gate begins so many bytes before its letters at most, and ends so many behind their beginning.
_BEFORE = 8
_LONGEST = 96
_MOST_KNOWN = 4096
# What makes the letter before a word no letter: an escape, or a tag on the wire.
_NO_TEXT = re.compile(rb"[\\%\x00-\x1f\"*:\x80-\xff]")
_ONLY_LETTERS = re.compile(rb"[A-Za-z0-9 '_.-]+")
_NO_LETTERS = bytes(set(range(256)) - set(b"abcdefghijklmnopqrstuvwxyz0123456789"))


class Announcing:
    """The context words of ``rules``, and what begins a pair. ``gates`` are the gates of rules with such words.

    Parameters
    ----------
    rules
        All rules in force.
    firsts
        Fragments of what begins a pair.
    """

    def __init__(self, rules: Sequence[Rule], firsts: Sequence[str]) -> None:
        contexts = [Context(rule.context) for rule in rules if rule.announced]
        self.gates = frozenset(context.gate for context in contexts)
        self._words = [_Word(word, context.gate) for context in contexts for word in context.words]
        cores = dict.fromkeys(core for word in self._words for core in word.cores)
        self.find: Find = finder(together([*cores, *firsts] or [NOTHING]))
        self.first_at: Find = finder_at(together(firsts or [NOTHING]))
        self._every = _Words(self._words)
        self._known: dict[bytes, _Words] = {}

    def around(self, text: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the words whose letters begin at ``text[start:end]``, where :attr:`find` found some."""
        words = self._beginning_with(text[start:end])
        if words.find is None or (words.are_short and not _may_stand_alone(text, start, end)):
            return
        low, high = max(0, start - _BEFORE), min(len(text), max(end, start + _LONGEST))
        while 0 <= (hit := words.find(text, low, high))[0] <= start:
            yield hit
            low = hit[0] + 1

    def gates_near(self, text: bytes) -> set[str]:
        """Return gates of rules, among them each that is in ``text``."""
        found: set[str] = set()
        position, size = 0, len(text)
        while position < size and (core := self.find(text, position, size))[0] >= 0:
            if next(self.around(text, *core), None) is not None:
                found |= self._beginning_with(text[core[0] : core[1]]).gates
            position = core[0] + 1
        return found

    def _beginning_with(self, core: bytes) -> _Words:
        """Return the words that may begin where ``core`` was found."""
        if not _ONLY_LETTERS.fullmatch(core):
            return self._every
        letters = _letters(core)
        if letters not in self._known:
            if len(self._known) >= _MOST_KNOWN:
                self._known = {}
            self._known[letters] = _Words([word for word in self._words if word.may_begin(letters)], letters)
        return self._known[letters]


class _Words:
    """What finds some words, and the gates they are in. They ``are_short`` if each is no more than ``letters``."""

    __slots__ = ("are_short", "find", "gates")

    def __init__(self, words: Sequence[_Word], letters: bytes | None = None) -> None:
        fragments = [fragment for word in words for fragment in word.fragments]
        self.find = finder(together(fragments)) if words else None
        self.gates = frozenset(word.gate for word in words)
        self.are_short = all(word.is_short and word.letters == letters for word in words)


class _Word:
    """A word that announces, and the gate of the rule that it is in."""

    __slots__ = ("cores", "fragments", "gate", "is_ascii", "is_short", "letters")

    def __init__(self, word: str, gate: str) -> None:
        found = Context([word]).cores
        self.gate = gate
        self.fragments = tuple(found)
        self.cores = tuple(found.values())
        self.is_ascii = word.isascii()
        # A short word has a core that is not its gate.
        self.is_short = self.is_ascii and self.fragments != self.cores
        # Its letters up to the first beyond ASCII.
        self.letters = _letters("".join(takewhile(str.isascii, word)).encode())

    def may_begin(self, letters: bytes) -> bool:
        """Whether the word may begin where a core was found that consists of ``letters``."""
        if self.letters.startswith(letters):
            return True
        # Where a word goes on beyond ASCII, no letter stands.
        return self.is_ascii and letters.startswith(self.letters)


def _may_stand_alone(text: bytes, start: int, end: int) -> bool:
    """Whether ``text[start:end]`` may be a word, or a part of ``camelCase``, by what touches it."""
    behind = text[end : end + 1]
    if behind.isalpha() and not (behind.isupper() and text[end - 1 : end].islower()):
        return False
    before = text[start - 1 : start] if start else b""
    return (
        not before.isalpha()
        or (before.islower() and text[start : start + 1].isupper())
        # The letter may belong to an escape, or be the length of the text.
        or _NO_TEXT.search(text, max(0, start - _BEFORE), start) is not None
    )


def _letters(word: bytes) -> bytes:
    return word.lower().translate(None, _NO_LETTERS)
