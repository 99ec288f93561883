"""Context: the words that announce an entity, in the text before it or in the key it stands under."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

from collector.redaction.edge import LETTERS, alternatives
from collector.redaction.pattern import Find, finder, latin1, searched
from collector.redaction.rule import CONTEXT_BYTES, REPLACED, Rule

# Keys repeat from span to span; what they ask for is remembered.
_MOST_KNOWN_HINTS = 4096
_LONGEST_KNOWN_HINT = 128
# Words whose places in a text are remembered.
_MOST_WORDS = 64
# Also the spaces that browsers and word processors leave between words.
_GAP = "(?:[ _.-]|\u00a0|\u202f|\u3000)?"
# Longer words are found inside others (``telephone``); short ones must stand alone: ``tel`` is not in ``hotel``.
_SHORT = 4
_REST = re.compile(rb"[A-Za-z]{1,4}(?![A-Za-z])")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class Context:
    """The context words of one rule.

    Parameters
    ----------
    words
        Lower case, at least one. A space in a word stands for a space, dot, dash, underscore, or nothing.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._gates = [
            _gate_of_short(word) if len(word) <= _SHORT else f"(?i:{_encoded(word)})" for word in words
        ]

    # Many are made for their gate only.

    @cached_property
    def _alone(self) -> Find:
        return _finder(
            f"(?:^|[^a-z]){_spaced(word)}(?:[^a-z]|$)" if len(word) <= _SHORT else _spaced(word)
            for word in self.words
        )

    @cached_property
    def _anywhere(self) -> Find:
        return _finder(map(_spaced, self.words))

    @property
    def gate(self) -> str:
        """RE2 fragment in Latin-1 that is found in every text with one of the words."""
        return "|".join(gate.encode().decode("latin-1") for gate in self._gates)

    @property
    def cores(self) -> dict[str, str]:
        """What each alternative of :attr:`gate` holds: of a short word the word itself, wherever it stands."""
        cores: dict[str, str] = {}
        for word, gate in zip(self.words, self._gates, strict=True):
            core = (
                f"(?i:{_spaced(word)})".encode().decode("latin-1")
                if len(word) <= _SHORT and word.isascii()
                else ""
            )
            cores |= {each: core or each for each in alternatives(gate.encode().decode("latin-1"))}
        return cores

    def near(self, text: bytes, hint: str) -> tuple[int, int, Callable[[int], bool]]:
        """Return where in ``text``, under the key ``hint``, something may be announced that begins there.

        The first index and the last, and what says it of one between them.
        """
        if hint and self.announces(words_of(hint)):
            return 0, len(text), lambda start: True
        if b"[" in text or b"pii:" in text:
            # Where something was replaced, what stands on both sides of it may be one word.
            return 0, len(text), lambda start: self.announces(before(text, start))
        lower = text.lower()
        words: list[int] = []
        position, size = 0, len(lower)
        while (word := self._anywhere(lower, position, size)[0]) >= 0:
            if len(words) == _MOST_WORDS:
                return 0, size, lambda start: self.announces(before(text, start))
            words.append(word)
            position = word + 1
        if not words:
            return 0, -1, lambda start: False

        def announced(start: int) -> bool:
            last = words[bisect_left(words, start) - 1]
            return last >= start - CONTEXT_BYTES and self.announces(before(text, start))

        return words[0] + 1, words[-1] + CONTEXT_BYTES, announced

    def announces(self, text: bytes) -> bool:
        """Whether one of the words is in ``text``."""
        return self._alone(text.lower(), 0, len(text))[0] >= 0


def before(text: bytes, start: int) -> bytes:
    """Return the bytes before ``start`` in which context counts: without what replacements left there.

    A short rest of a word that is longer is no word: ``hotel`` must not end as ``tel``.
    """
    first = max(0, start - CONTEXT_BYTES)
    found = text[first:start]
    if first > 0 and text[first - 1 : first].isalpha() and (rest := _REST.match(found)):
        found = found[rest.end() :]
    return REPLACED.sub(b"", found) if b"[" in found or b"pii:" in found else found


def announcing(key: str) -> str:
    """Return what of an attribute key may announce something: what replacements left there does not, ``[PHONE]`` and the like."""
    if "[" not in key and "pii:" not in key:
        return key
    return REPLACED.sub(b"", key.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")


def announcing_all(keys: Sequence[str]) -> Sequence[str]:
    """Return :func:`announcing` of each."""
    changed = {key: made for key in set(keys) if (made := announcing(key)) != key}
    return [changed.get(key, key) for key in keys] if changed else keys


def words_of(key: str) -> bytes:
    """Return an attribute key as words: lower case, ``camelCase`` taken apart."""
    return _CAMEL.sub("_", key).lower().encode("utf-8", "replace")


def _finder(words: Iterable[str]) -> Find:
    return finder("|".join(words).encode().decode("latin-1"))


def _encoded(word: str) -> str:
    """Return the fragment for ``word`` in which letters beyond ASCII may be escaped."""
    return "".join(
        _spaced(character)
        if character.isascii()
        else rf"(?:{character}|\\+u[0-9A-Fa-f]{{4}}|(?:%[0-9A-Fa-f]{{2}}){{2,3}})"
        for character in word
    )


def _spaced(word: str) -> str:
    return re.escape(word.lower()).replace(r"\ ", _GAP)


def _gate_of_short(word: str) -> str:
    """Return the gate of a word that must stand alone, or as a part of ``camelCase``."""
    spaced = _encoded(word)
    gates = [f"{LETTERS}(?i:{spaced})(?:[^A-Za-z]|$)"]
    if len(word) > 1 and word.isascii() and word[0].isalpha() and word[-1].isalpha():
        first, last = word[0].upper(), word[-1]
        gates += (
            f"[a-z0-9]{first}(?i:{_spaced(word[1:])})(?:[^A-Za-z]|$)",
            f"{LETTERS}(?i:{_spaced(word[:-1])}){last}[A-Z]",
            f"[a-z0-9]{first}(?i:{_spaced(word[1:-1])}){last}[A-Z]",
        )
    return "|".join(gates)


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
