"""A look at the bytes around what opened a gate: whether any rule behind that gate takes anything there.

"Said number" holds "id number", and ids look like accounts. Most such texts hold nothing, and to read one rule by rule costs
a hundred times what it costs to look at the few bytes in question. In what is called idle here the rules would find nothing;
where the bytes alone cannot tell (escapes, JSON, too much to try), nothing is idle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from collector.redaction import base64_text, view
from collector.redaction.context import Context, before
from collector.redaction.edge import alternatives, is_word, together
from collector.redaction.json_text import may_be_json
from collector.redaction.pattern import Find, candidate, finder_at
from collector.redaction.rule import CONTEXT_BYTES, Rule

# A find begins so far before its word, at most, unless there are escapes: the tag of a field, and a letter.
_EDGE = 4
# Bytes behind the last place where a candidate may begin; the longest that a candidate must be is 95 (a wallet).
LONGEST_CANDIDATE = 160
# Bytes next to a candidate that its check may look at, and that an escape may reach into.
_AROUND = 16
# What is tried at one find, and finds that are tried in one text.
_MOST_CANDIDATES = 24
_MOST_FINDS = 16
# Finds that are tried between two looks at the clock.
_TIME_EVERY = 64
_NO_LETTERS = bytes(set(range(256)) - set(b"abcdefghijklmnopqrstuvwxyz") - set(range(128, 256)))
# What a check that has a bug may raise. The engine meets it again, and refuses the text.
_BUGS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class Nearby:
    """Tells which finds of the gates of ``rules`` are idle. Holds no state between calls.

    Parameters
    ----------
    rules
        All rules in force.
    words
        Further fragments that may have been found among the words; a find with one of them is never idle.
    max_base64_bytes
        How long a run of base64 may be that is looked into.
    """

    def __init__(self, rules: Sequence[Rule], words: Sequence[str], max_base64_bytes: int) -> None:
        self._rules = rules
        self._max_base64_bytes = max_base64_bytes
        others = list(words)
        self._by_three: dict[bytes, dict[int, None]] = {}
        self._by_two: dict[bytes, dict[int, None]] = {}
        self._reaching: list[tuple[Find, int, int]] = []
        unreaching: list[str] = []
        for index, rule in enumerate(rules):
            if rule.announced:
                for word in rule.context:
                    letters = _letters(word.encode())
                    self._by_three.setdefault(letters[:3], {})[index] = None
                    self._by_two.setdefault(letters[:2], {})[index] = None
            elif rule.gate:
                gates = alternatives(rule.gate)
                others += [each for each in gates if is_word(each)]
                shapes = [each for each in gates if not is_word(each)]
                if rule.reach:
                    self._reaching.append((finder_at(together(shapes)), index, rule.reach))
                else:
                    unreaching += shapes
        self._other_word = finder_at(together(others)) if others else None
        self._unreaching = finder_at(together(unreaching)) if unreaching else None
        self._contexts = {index: Context(rule.context) for index, rule in enumerate(rules) if rule.announced}
        self._candidates = [candidate(rule.pattern, rule.name) for rule in rules]

    def finds_in(
        self, texts: Sequence[bytes], hints: Sequence[str], expired: Callable[[], bool] | None = None
    ) -> Finds:
        """Return what tells idle finds in ``texts``, which stand under the keys ``hints``; none is idle when time is up."""
        return Finds(self, texts, hints, expired)

    def announces_nothing(self, text: bytes, hint: str, start: int, end: int) -> bool:
        """Whether the words found at ``text[start:end]``, and others that begin there, announce nothing behind them."""
        last = start + _EDGE + CONTEXT_BYTES
        limit = min(len(text), last + LONGEST_CANDIDATE)
        if not view.is_plain(text, max(0, start - _AROUND), limit):
            return False
        if self._other_word is not None and self._other_word(text, start, len(text))[0] >= 0:
            return False
        announced = self._announced_by(text[start:end])
        return bool(announced) and all(
            self._takes_nothing(index, text, hint, start, last, limit) for index in announced
        )

    def _announced_by(self, found: bytes) -> tuple[int, ...]:
        """Return the rules with a word that begins where ``found`` does: it holds two letters of each, or three."""
        letters = _letters(found)
        rules: dict[int, None] = {}
        for at in range(len(letters) - 2):
            rules |= self._by_three.get(letters[at : at + 3], {})
        return tuple(rules | self._by_two.get(letters[-2:], {}))

    def _takes_nothing(
        self, index: int, text: bytes, hint: str, position: int, last: int, limit: int
    ) -> bool:
        """Whether the rule takes no candidate that begins in ``text[position:last]``, each of which is tried."""
        find, check = self._candidates[index], self._rules[index].check
        for _ in range(_MOST_CANDIDATES):
            start, end = find(text, position, limit)
            if start < 0 or start > last:
                return True
            if end + _AROUND > limit and limit < len(text):
                return False
            try:
                if (
                    check is None or next(iter(check(text, start, end, hint)), None) is not None
                ) and self._contexts[index].announces(before(text, start)):
                    return False
            except _BUGS:
                return False
            position = start + 1
        return False

    def shapes_nothing(self, text: bytes, hint: str, start: int, end: int) -> bool:
        """Whether no rule takes anything where a shape was found at ``text[start:end]``."""
        if self._unreaching is not None and self._unreaching(text, start, len(text))[0] >= 0:
            return False
        some = False
        for gate, index, reach in self._reaching:
            if gate(text, start, len(text))[0] < 0:
                continue
            some = True
            low, high = max(0, start - reach), min(len(text), end + reach)
            if not view.is_plain(text, max(0, low - _AROUND), min(len(text), high + _AROUND)):
                return False
            if not self._holds_none(index, text, hint, low, high):
                return False
        return some

    def _holds_none(self, index: int, text: bytes, hint: str, position: int, limit: int) -> bool:
        """Whether the rule takes none of the candidates that :meth:`re.Pattern.finditer` finds in ``text[position:limit]``."""
        find, check = self._candidates[index], self._rules[index].check
        while (found := find(text, position, limit))[0] >= 0:
            start, end = found
            try:
                if check is None or next(iter(check(text, start, end, hint)), None) is not None:
                    return False
            except _BUGS:
                return False
            position = max(end, position + 1)
        return True

    def encodes_nothing(self, text: bytes, start: int) -> bool:
        """Whether the base64 that was found at ``start`` is not looked into."""
        end = base64_text.end_of_run(text, start)
        if not view.is_plain(text, max(0, start - _AROUND), min(len(text), end + _AROUND)):
            return False
        return next(base64_text.runs(text[start:end], self._max_base64_bytes), None) is None


class Finds:
    """The finds in some texts."""

    def __init__(
        self,
        nearby: Nearby,
        texts: Sequence[bytes],
        hints: Sequence[str],
        expired: Callable[[], bool] | None,
    ) -> None:
        self._expired = expired
        self._tries = 0
        self._nearby = nearby
        self._texts = texts
        self._hints = hints
        self._left: dict[int, int] = {}

    def shape_is_idle(self, part: int, start: int, end: int) -> bool:
        """Whether nothing is found where a shape was found at ``start`` to ``end`` of text ``part``."""
        return self._may_try(part) and self._nearby.shapes_nothing(
            self._texts[part], self._hints[part], start, end
        )

    def base64_is_idle(self, part: int, start: int, end: int) -> bool:
        """Whether the run of base64 at ``start`` of text ``part`` encodes no text after all."""
        return self._may_try(part) and self._nearby.encodes_nothing(self._texts[part], start)

    def word_is_idle(self, part: int, start: int, end: int) -> bool:
        """Whether nothing is announced by the words that begin at ``start`` of text ``part``, where a gate found some."""
        return self._may_try(part) and self._nearby.announces_nothing(
            self._texts[part], self._hints[part], start, end
        )

    def _may_try(self, part: int) -> bool:
        """Whether a find in text ``part`` may be tried. What stands in JSON may be announced by its key, from afar."""
        self._tries += 1
        if self._expired is not None and self._tries % _TIME_EVERY == 0 and self._expired():
            self._tries = -1  # and so at every further try
            return False
        if (left := self._left.get(part)) is None:
            left = 0 if may_be_json(self._texts[part]) else _MOST_FINDS
        self._left[part] = left - 1
        return left > 0


def _letters(word: bytes) -> bytes:
    return word.lower().translate(None, _NO_LETTERS)
