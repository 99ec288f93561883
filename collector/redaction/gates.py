"""The gates of all rules together: which texts, and which parts of a protobuf message, need a closer look.

A few passes over everything find the gates that are open; most texts have none. One automaton is for shapes, one for words,
and on text of ids they are taken apart further (:mod:`collector.redaction.sieve`, :mod:`collector.redaction.announcing`). The
words of a pair with digits (:attr:`collector.redaction.rule.Rule.gate_pair`) count where digits are in the same text. A gate
may open for nothing, but must never stay shut where a rule would find something; in texts, a find that is worth nothing is
told from the bytes around it (:mod:`collector.redaction.nearby`).

On the wire, texts stand as they are, so the same passes run over a whole serialized request. What is no text there is
found by its tag and length: numbers of nine digits or more, maps and arrays, and indices into dictionaries.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

from collector.redaction import base64_text
from collector.redaction import view as view_module
from collector.redaction.announcing import Announcing
from collector.redaction.context import Context, HintRules
from collector.redaction.edge import alternatives, is_word, together
from collector.redaction.members import Members
from collector.redaction.nearby import Finds, Nearby
from collector.redaction.pattern import NOTHING, candidate, finder, without_anchors
from collector.redaction.rule import Rule
from collector.redaction.sieve import Idle, Sieve, is_ids, shapes_of, sieves, sieves_of_ids
from collector.redaction.structure import STRUCTURE, is_container, key_gate, number_at

# Keys repeat from span to span.
_MOST_KNOWN_HINTS = 4096
_LONGEST_KNOWN_HINT = 128

# Digits that make a pair with the space between them may begin so far before it.
_BEFORE_FIRST = 64
# In so few bytes no automaton grows, so the fewest passes are the fastest.
_SHORT = 512
# Bytes at the beginning that tell whether the first of a pair is frequent.
_SAMPLE = 8192


class Gates:
    """The gates of ``rules``.

    Parameters
    ----------
    rules
        All rules in force.
    max_base64_bytes
        How long a run of base64 may be that is looked into; 0: none is.

    Raises
    ------
    ConfigError
        A rule's own pattern, which is its gate, is not valid RE2.
    """

    def __init__(self, rules: Sequence[Rule], *, max_base64_bytes: int) -> None:
        opens = [Context(rule.context).gate if rule.announced else rule.gate for rule in rules]
        derived = {
            index: without_anchors(rule.pattern)
            for index, rule in enumerate(rules)
            if not (rule.gate or rule.announced or rule.keys)
        }
        own = {gate: rule.gate_core for gate, rule in zip(opens, rules, strict=True) if gate}
        pairs = list(dict.fromkeys(rule.gate_pair for rule in rules if rule.gate_pair))
        firsts = [view_module.GATE_PAIR[0], *(first for first, _ in pairs)]
        seconds = [view_module.GATE_PAIR[1], *(second for _, second in pairs)]
        words = [alternative for gate in own for alternative in alternatives(gate) if is_word(alternative)]
        keys = [key_gate(rule.keys) for rule in rules if rule.keys]
        words += keys
        further = [*STRUCTURE, *([view_module.GATE] if rules else ())]
        gate_of_base64 = base64_text.GATE if rules and max_base64_bytes > 0 else ""
        every = [*further, *([gate_of_base64] if gate_of_base64 else ())]
        self._sieves = sieves(rules, every)
        self._sieves_of_ids = sieves_of_ids(rules, [*further, *keys], gate_of_base64)
        # For numbers: they are short.
        self._shapes = [finder(together([*every, *(each for rule in rules for each in shapes_of(rule))]))]
        if derived:
            # A user's pattern may ask for characters that JSON escapes, so each text with a backslash is looked at.
            own_patterns = candidate(_any([r"\\", *derived.values()]), "rules together")
            self._shapes.append(own_patterns)
            for made in (self._sieves, self._sieves_of_ids):
                made.append(Sieve([NOTHING]))
                made[-1].find = own_patterns
        # Without rules there are no words; a pattern of nothing would match everywhere.
        self._words = finder(together([*words, *firsts] if rules else [NOTHING]))
        self._words_and_seconds = finder(together([*words, *seconds]))
        self._only_words = finder(together(words or [NOTHING]))
        self._firsts = finder(together(firsts))
        self._known_firsts: dict[bytes, bool] = {}
        self._seconds = finder(together(seconds))
        self._has_words = bool(rules)
        self._nearby = Nearby(rules, keys, max_base64_bytes)
        self._announcing = Announcing(rules, firsts)
        self._hint_rules = HintRules(rules)
        self._hint_firsts = finder(together(firsts[1:] or [NOTHING]))
        self._known_hints: dict[str, bool] = {}
        # Which rules a text needs.
        self._always = list(derived)
        self._members = Members(own, [each for pair in pairs for each in pair], self._announcing)
        self._alone: dict[str, list[int]] = {}
        for index, gate in enumerate(opens):
            if gate:
                self._alone.setdefault(gate, []).append(index)
        self._together = [
            (*rule.gate_pair, finder(rule.gate_pair[0]), index)
            for index, rule in enumerate(rules)
            if rule.gate_pair
        ]

    def suspects(
        self, texts: Sequence[bytes], hints: Sequence[str], expired: Callable[[], bool] | None = None
    ) -> list[int]:
        """Return the indices of texts in which any gate is open, or whose hint asks for a closer look, ascending.

        When the time is up (``expired``), open gates are no longer looked at more closely.
        """
        joined = b"\n".join(texts)
        if not texts:
            return []
        ends = list(accumulate([len(text) + 1 for text in texts]))
        ends[-1] = len(joined)
        indices = self._suspects(
            joined,
            lambda: ends,
            most_containers=len(joined),
            finds=self._nearby.finds_in(texts, hints, expired),
        )
        if asking := self._hint_rules.asking(hints):
            indices.update(index for index, hint in enumerate(hints) if hint in asking)
        if firsts := {hint for hint in set(hints) if hint and self._is_first(hint)}:
            indices.update(
                index
                for index, hint in enumerate(hints)
                if hint in firsts and self._seconds(texts[index], 0, len(texts[index]))[0] >= 0
            )
        return sorted(indices)

    def suspects_on_wire(
        self, wire: bytes, ends_of: Callable[[], Sequence[int]], *, most_containers: int
    ) -> set[int]:
        """Return which parts of a serialized message need a closer look.

        Parameters
        ----------
        wire
            The message: no unknown fields, each field written in the shortest way.
        ends_of
            Called at the first find: where each part ends, ascending; together they are the message.
        most_containers
            A part with more maps, and arrays in arrays, is looked at.
        """
        return self._suspects(wire, ends_of, most_containers=most_containers, finds=None)

    def _suspects(
        self,
        wire: bytes,
        ends_of: Callable[[], Sequence[int]],
        *,
        most_containers: int,
        finds: Finds | None,
    ) -> set[int]:
        """Return the parts with an open gate. With ``finds`` the parts are its texts, and idle finds do not count."""
        found: set[int] = set()
        numbers: set[int] = (
            set()
        )  # parts with a number of nine digits or more, which is the second of any pair
        containers: dict[int, int] = {}
        ends: Sequence[int] = ()
        size = len(wire)
        middle = wire[size // 2 : size // 2 + _SAMPLE]
        of_ids = size > _SHORT and is_ids(middle)
        for sieve in self._sieves_of_ids if of_ids else self._sieves:
            position = 0
            while position < size and (hit := sieve.find(wire, position, size))[0] >= 0:
                ends = ends or ends_of()
                start, end = hit
                part = _part_of(ends, start, finds)
                position = start + 1
                if part in found and end <= ends[part]:
                    position = max(ends[part] - 1, position)
                    continue
                if sieve.has_cores:
                    hit = sieve.whole_at(wire, start)
                if hit[0] >= 0:
                    last = _last_part_of(ends, part, hit[1])
                    if (number := number_at(wire, *hit)) is not None:
                        if number and self._opens(number):
                            found.add(part)
                        numbers |= {part} if number else set()
                    elif is_container(wire, *hit) and containers.get(part, 0) < most_containers:
                        containers[part] = containers.get(part, 0) + 1
                    elif not _is_idle(sieve.idle, finds, ends, (part, last), hit):
                        found.update(range(part, last + 1))
                        # One byte is kept: to a gate that wants an edge before a word, it may be one.
                        position = max(ends[last] - 1, position)
                        continue
                if sieve.has_cores:
                    _open_parts(sieve.around(wire, start, end), sieve.idle, ends, found, finds)
        if self._has_words:
            find_words = self._find_words_of_ids if of_ids else self._find_words
            find_words(wire, lambda: ends or ends_of(), numbers, found, finds)
        return found

    def _find_words_of_ids(
        self,
        wire: bytes,
        ends_of: Callable[[], Sequence[int]],
        numbers: set[int],
        found: set[int],
        finds: Finds | None,
    ) -> None:
        """Do the same as :meth:`_find_words`, by the cores of words."""
        size = len(wire)
        position = 0
        while position < size and (core := self._announcing.find(wire, position, size))[0] >= 0:
            ends = ends_of()
            part = _part_of(ends, core[0], finds)
            position = core[0] + 1
            if part in found and core[1] <= ends[part]:
                position = max(ends[part] - 1, position)
                continue
            first = self._announcing.first_at(wire, core[0], size)
            if first[0] >= 0:
                for each in range(part, _last_part_of(ends, part, first[1]) + 1):
                    if each in numbers or self._seconds(wire, _before_part(ends, each), ends[each])[0] >= 0:
                        found.add(each)
            _open_parts(self._announcing.around(wire, *core), Finds.word_is_idle, ends, found, finds)

    def _find_words(
        self,
        wire: bytes,
        ends_of: Callable[[], Sequence[int]],
        numbers: set[int],
        found: set[int],
        finds: Finds | None,
    ) -> None:
        """Add to ``found`` the parts with a word that opens a gate, or with both of a pair.

        Of a pair, what is the less frequent in ``wire`` is looked for first, as a sample tells: every find costs a
        microsecond or two.
        """
        size = len(wire)
        firsts_are_rare = self._firsts(wire, 0, min(size, _SAMPLE, size // 16))[0] < 0
        find = self._words if firsts_are_rare else self._words_and_seconds
        if not firsts_are_rare and numbers:
            ends = ends_of()
            found.update(
                part for part in numbers if self._firsts(wire, _before_part(ends, part), ends[part])[0] >= 0
            )
        position = 0
        while position < size and (hit := find(wire, position, size))[0] >= 0:
            ends = ends_of()
            start, end = hit
            part = _part_of(ends, start, finds)
            last = _last_part_of(ends, part, end)
            of_pair = (
                self._is_first_of_pair(wire[start:end])
                if firsts_are_rare
                else self._seconds(wire, start, end) == hit
            )
            if part in found and part == last:
                position = max(ends[part] - 1, position + 1)
                continue
            if (
                not of_pair
                and _is_idle(Finds.word_is_idle, finds, ends, (part, last), hit)
                # What begins a pair here may have been behind the word.
                and self._firsts(wire, start, min(start + _BEFORE_FIRST, ends[part]))[0] != start
            ):
                position = start + 1
                continue
            for each in range(part, last + 1):
                if each in found:
                    continue
                begin = _before_part(ends, each)
                if not of_pair:
                    found.add(each)
                elif firsts_are_rare:
                    # What comes after it may pair with it, or be a word that opens a gate by itself.
                    begin = max(begin, start - _BEFORE_FIRST)
                    if each in numbers or self._words_and_seconds(wire, begin, ends[each])[0] >= 0:
                        found.add(each)
                elif (
                    self._firsts(wire, begin, ends[each])[0] >= 0
                    or self._only_words(wire, max(begin, start), ends[each])[0] >= 0
                ):
                    found.add(each)
            position = max(ends[last] - 1, position + 1)

    def rules_in(self, text: bytes, hint: str) -> list[int]:
        """Return the indices of the rules that may find something in ``text`` under the key ``hint``."""
        candidates = dict.fromkeys(self._always)
        members = self._members.of(text)
        for gate in members:
            candidates |= dict.fromkeys(self._alone.get(gate, ()))
        key = hint.encode("utf-8", "replace")
        for first, second, word, index in self._together:
            if second in members and (first in members or word(key, 0, len(key))[0] >= 0):
                candidates[index] = None
        if hint and (asked := self._hint_rules.of(hint)):
            candidates |= dict.fromkeys(asked)
        return list(candidates)

    def _opens(self, number: bytes) -> bool:
        return any(find(number, 0, len(number))[0] >= 0 for find in self._shapes)

    def _is_first_of_pair(self, word: bytes) -> bool:
        """Whether what was found among the words is the first of a pair."""
        if (known := self._known_firsts.get(word)) is None:
            known = self._firsts(word, 0, len(word))[0] == 0
            if len(self._known_firsts) >= _MOST_KNOWN_HINTS:
                self._known_firsts = {}
            self._known_firsts[word] = known
        return known

    def _is_first(self, hint: str) -> bool:
        """Whether ``hint`` holds the first of any pair."""
        if (known := self._known_hints.get(hint)) is None:
            key = hint.encode("utf-8", "replace")
            known = self._hint_firsts(key, 0, len(key))[0] >= 0
            if len(hint) <= _LONGEST_KNOWN_HINT:
                if len(self._known_hints) >= _MOST_KNOWN_HINTS:
                    self._known_hints = {}
                self._known_hints[hint] = known
        return known


def _open_parts(
    hits: Iterable[tuple[int, int]],
    idle: Idle | None,
    ends: Sequence[int],
    found: set[int],
    finds: Finds | None,
) -> None:
    """Add to ``found`` the parts that gates around a core open."""
    for hit in hits:
        part = _part_of(ends, hit[0], finds)
        last = _last_part_of(ends, part, hit[1])
        if part == last and part in found:
            continue
        if not _is_idle(idle, finds, ends, (part, last), hit):
            found.update(range(part, last + 1))


def _is_idle(
    idle: Idle | None, finds: Finds | None, ends: Sequence[int], parts: tuple[int, int], hit: tuple[int, int]
) -> bool:
    """Whether a find in one text opens nothing there; one that reaches into another part is never idle."""
    part, last = parts
    if finds is None or idle is None or part < last:
        return False
    begin = ends[part - 1] if part else 0
    return idle(finds, part, max(0, hit[0] - begin), hit[1] - begin)


def _before_part(ends: Sequence[int], part: int) -> int:
    """Return where ``part`` begins, and one byte more: a gate that wants an edge before a word needs to see it."""
    return max(0, ends[part - 1] - 1) if part else 0


def _part_of(ends: Sequence[int], start: int, finds: Finds | None) -> int:
    """Return the part that a find at ``start`` begins in. Between texts there is a newline, which is before the next one."""
    part = bisect_right(ends, start)
    return part + 1 if finds is not None and start == ends[part] - 1 and part + 1 < len(ends) else part


def _last_part_of(ends: Sequence[int], part: int, end: int) -> int:
    """Return the last part that a find up to ``end`` touches which begins in ``part``."""
    return part if end <= ends[part] else min(bisect_right(ends, end - 1, part), len(ends) - 1)


def _any(fragments: Sequence[str]) -> str:
    return "|".join(f"(?:{fragment})" for fragment in fragments)
