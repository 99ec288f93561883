"""Automata that find gates, of some by their core first: few states, which text of ids, hashes and names does not exceed.

RE2 builds an automaton while it reads, with a state for every combination of gates that are in progress somewhere. Gates that
count what they have seen (digits, hexadecimal characters) multiply each other's states, and on text that does not repeat
itself most of the time goes into building. A core (:attr:`collector.redaction.rule.Rule.gate_core`) counts little; only around
one the gate itself is looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from collector.redaction.context import Context
from collector.redaction.edge import alternatives, is_word, together, without_edge
from collector.redaction.nearby import Finds
from collector.redaction.pattern import Find, finder, finder_at
from collector.redaction.rule import Rule

# A gate with a core begins so many bytes before the core, and ends so many behind it, at most.
BEFORE_CORE = 80
BEHIND_CORE = 192
# Text of ids has more than one digit in so many characters.
_FEW_DIGITS = 7
_DIGITS = b"0123456789"

Idle = Callable[[Finds, int, int, int], bool]


class Sieve:
    """One automaton for several gates.

    Parameters
    ----------
    whole
        Fragments that are looked for as they are.
    cores
        For each core the fragments that hold it.
    idle
        Whether a find in a text (its number, begin and end in the text) is for nothing; without it every find counts.
    """

    def __init__(
        self, whole: Sequence[str], cores: Mapping[str, Sequence[str]] | None = None, idle: Idle | None = None
    ) -> None:
        self.find: Find = finder(together([*whole, *(cores or ())]))
        self.idle = idle
        self.has_cores = bool(cores)
        behind = [fragment for fragments in (cores or {}).values() for fragment in fragments]
        self._whole_at = finder_at(together(whole)) if whole and cores else None
        self._behind = finder(together(behind)) if cores else self.find

    def whole_at(self, text: bytes, start: int) -> tuple[int, int]:
        """Return the gate without a core that begins at ``start``, or (-1, -1); ask where :attr:`find` found something."""
        return (-1, -1) if self._whole_at is None else self._whole_at(text, start, len(text))

    def around(self, text: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the gates around a core."""
        low, high = max(0, start - BEFORE_CORE), min(len(text), end + BEHIND_CORE)
        while (hit := self._behind(text, low, high))[0] >= 0:
            yield hit
            low = hit[0] + 1


def shapes_of(rule: Rule) -> list[str]:
    """Return the alternatives of a rule's gate that are no words."""
    gate = Context(rule.context).gate if rule.announced else rule.gate
    return [each for each in alternatives(gate) if not is_word(each)] if gate else []


def sieves(rules: Sequence[Rule], further: Sequence[str]) -> list[Sieve]:
    """Return the automata for the shapes of ``rules`` and ``further`` ones in most texts: one."""
    whole = [each for rule in rules if not rule.gate_core for each in shapes_of(rule)]
    return [Sieve([*whole, *further], _cores(rules))]


def sieves_of_ids(rules: Sequence[Rule], further: Sequence[str], gate_of_base64: str) -> list[Sieve]:
    """Return the automata for text of ids: for everything but the words that announce something.

    What counts digits or letters behind an edge has one of its own, and so has base64: in one automaton with others it is
    in progress everywhere.
    """
    tokens = list(further)
    counting: list[str] = []
    for rule in rules:
        if rule.announced or not rule.gate:
            continue
        tokens += [each for each in alternatives(rule.gate) if is_word(each)]
        if not rule.gate_core:
            for each in shapes_of(rule):
                (counting if without_edge(each) != each else tokens).append(each)
    cores = _cores(rules)
    counting_cores = {core: gates for core, gates in cores.items() if without_edge(core) != core}
    made = [Sieve(tokens, {core: gates for core, gates in cores.items() if core not in counting_cores})]
    if counting or counting_cores:
        made.append(Sieve(counting, counting_cores, Finds.shape_is_idle))
    if gate_of_base64:
        made.append(Sieve([gate_of_base64], idle=Finds.base64_is_idle))
    return made


def is_ids(text: bytes) -> bool:
    """Whether ``text`` is full of digits, as ids, hashes and base64 are; it decides what is fast, not what is found."""
    return (len(text) - len(text.translate(None, _DIGITS))) * _FEW_DIGITS > len(text)


def _cores(rules: Sequence[Rule]) -> dict[str, list[str]]:
    cores: dict[str, list[str]] = {}
    for rule in rules:
        for core in alternatives(rule.gate_core) if rule.gate_core else ():
            cores.setdefault(core, []).extend(shapes_of(rule))
    return cores
