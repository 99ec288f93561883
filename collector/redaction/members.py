"""Which gates are open in one text: it decides which rules are tried on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from collector.redaction.announcing import Announcing
from collector.redaction.edge import alternatives, is_word, together
from collector.redaction.pattern import finder, searched
from collector.redaction.sieve import is_ids

# Where text is full of ids: gates that share an automaton.
_GROUP = 8


class Members:
    """Says which of some gates are in a text.

    RE2's own set is fastest on prose; one for words and one for shapes stay small. On ids and hashes, where each text shows it
    something new, it builds its automaton anew for every text, and small automata one after the other take a tenth of the
    time; gates of words that announce are asked only where their letters are. Which is asked changes nothing else.

    Parameters
    ----------
    gates
        The gates, and for each its core, or an empty string.
    of_pairs
        Further gates: the fragments of pairs.
    announcing
        Says which of them may be in a text because of a word that announces.
    """

    def __init__(self, gates: Mapping[str, str], of_pairs: Sequence[str], announcing: Announcing) -> None:
        parts = {gate: alternatives(gate) for gate in (*gates, *of_pairs)}
        self._sets = [
            _Set({gate: [each for each in mine if is_word(each) is words] for gate, mine in parts.items()})
            for words in (True, False)
        ]
        self._announcing = announcing
        self._of_pairs = of_pairs
        self._finders = {gate: finder(together(mine)) for gate, mine in parts.items()}
        # What is in a text with the gate and counts little. Similar ones share an automaton.
        small = {
            gate: [core, *filter(is_word, parts[gate])] if core else parts[gate]
            for gate, core in gates.items()
            if gate not in announcing.gates
        }
        order = sorted(small, key=small.__getitem__)
        groups = [order[at : at + _GROUP] for at in range(0, len(order), _GROUP)]
        self._groups = [
            (finder(together([each for gate in group for each in small[gate]])), group) for group in groups
        ]

    def of(self, text: bytes) -> list[str]:
        """Return those that are in ``text``."""
        size = len(text)
        if not is_ids(text):
            return [gate for each in self._sets for gate in each.of(text)]
        asked = [gate for find, group in self._groups if find(text, 0, size)[0] >= 0 for gate in group]
        asked += (*self._announcing.gates_near(text), *self._of_pairs)
        return [gate for gate in asked if self._finders[gate](text, 0, size)[0] >= 0]


class _Set:
    """RE2's set, of gates of which those alternatives count that are named; one without any is in no text."""

    def __init__(self, parts: Mapping[str, Sequence[str]]) -> None:
        parts = {gate: mine for gate, mine in parts.items() if mine}
        self._gates = list(parts)
        self._set = searched([together(mine) for mine in parts.values()]) if parts else None

    def of(self, text: bytes) -> list[str]:
        if self._set is None:
            return []
        return [self._gates[index] for index in sorted(self._set.Match(text) or ())]
