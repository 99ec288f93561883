"""Context: the words that announce an entity, in the text before it or in the key it stands under."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from collector.redaction.pattern import latin1, searched
from collector.redaction.rule import CONTEXT_BYTES, REPLACED, Rule

# Keys repeat from span to span; what they ask for is remembered.
_MOST_KNOWN_HINTS = 4096
_LONGEST_KNOWN_HINT = 128
_GAP = "[ _.-]?"
# Longer words are found inside others (``telephone``); short ones must stand alone: ``tel`` is not in ``hotel``.
_SHORT = 4
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# What may stand before a short word: no letter, or the letter of an escape.
_EDGE = r"(?:^|[^A-Za-z]|\\[bfnrt])"


class Context:
    """The context words of one rule.

    Parameters
    ----------
    words
        Lower case, at least one. A space in a word stands for a space, dot, dash, underscore, or nothing.
    """

    def __init__(self, words: Sequence[str]) -> None:
        parts = [
            f"(?:^|[^a-z]){_spaced(word)}(?:[^a-z]|$)" if len(word) <= _SHORT else _spaced(word)
            for word in words
        ]
        self._pattern = latin1("|".join(parts).encode())
        self._gates = [
            f"{_EDGE}{_spaced(word)}[^A-Za-z]" if len(word) <= _SHORT else _spaced(word) for word in words
        ]

    @property
    def gate(self) -> str:
        """RE2 fragment in Latin-1 that is found in every text with one of the words."""
        return "(?i)(?:" + "|".join(gate.encode().decode("latin-1") for gate in self._gates) + ")"

    def announces(self, text: bytes) -> bool:
        """Whether one of the words is in ``text``."""
        return self._pattern.search(text.lower()) is not None


def before(text: bytes, start: int) -> bytes:
    """Return the bytes before ``start`` in which context counts: without what replacements left there."""
    found = text[max(0, start - CONTEXT_BYTES) : start]
    return REPLACED.sub(b"", found) if b"[" in found or b"pii:" in found else found


def words_of(key: str) -> bytes:
    """Return an attribute key as words: lower case, ``camelCase`` taken apart."""
    return _CAMEL.sub("_", key).lower().encode("utf-8", "replace")


def _spaced(word: str) -> str:
    return re.escape(word.lower()).replace(r"\ ", _GAP)


class HintRules:
    """Which rules a key asks for: those whose context word it holds, and those that are made for such keys."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._contexts = [
            (index, Context(rule.context)) for index, rule in enumerate(rules) if rule.announced
        ]
        self._keys = [
            (index, latin1(rule.keys.encode("latin-1"))) for index, rule in enumerate(rules) if rule.keys
        ]
        self._any = searched([context.gate for _, context in self._contexts])
        self._known: dict[str, tuple[int, ...]] = {}

    def of(self, hint: str) -> tuple[int, ...]:
        """Return the indices of the rules that ``hint`` asks for."""
        if (asked := self._known.get(hint)) is not None:
            return asked
        words = words_of(hint)
        asked = tuple(index for index, pattern in self._keys if pattern.search(words) is not None)
        # A gate wants something behind a short word.
        for member in (self._any.Match(words + b" ") or ()) if self._contexts else ():
            index, context = self._contexts[member]
            if context.announces(words):
                asked += (index,)
        if len(hint) <= _LONGEST_KNOWN_HINT:
            if len(self._known) >= _MOST_KNOWN_HINTS:
                self._known = {}
            self._known[hint] = asked
        return asked

    def asking(self, hints: Iterable[str]) -> frozenset[str]:
        """Return those of ``hints`` that ask for any rule."""
        return frozenset(hint for hint in set(hints) if hint and self.of(hint))
