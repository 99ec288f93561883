"""What is told from the bytes around a find, and by cores of gates, is what reading everything tells.

Texts are drawn that are made of what opens gates for nothing: ids, hashes, numbers, words that announce, in any case and
glued to others, next to values that are real and such that are spoiled. Reading every text rule by rule is the reference.

``DRIFTGATE_NEAR_TEXTS`` sets how many texts are drawn and ``DRIFTGATE_NEAR_SEED`` which; nightly runs set more.
"""

from __future__ import annotations

import base64
import os
import random
import re
import uuid
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from open_gates import Open
from planted import Value, values

from collector.redaction.context import Context
from collector.redaction.edge import alternatives, is_word
from collector.redaction.engine import Engine
from collector.redaction.nearby import LONGEST_CANDIDATE
from collector.redaction.pattern import finder
from collector.redaction.policy import built_in_rules
from collector.redaction.sieve import BEFORE_CORE, BEHIND_CORE

TEXTS = int(os.environ.get("DRIFTGATE_NEAR_TEXTS", "600"))
SEED = int(os.environ.get("DRIFTGATE_NEAR_SEED", "0"))
_BATCH = 50
_BETWEEN = (
    " ", " ", " ", " ", "", "", ",", ", ", ": ", "=", "-", ".", "/", "\n", "\t", "\\n", "%20", "\\u0020", "é", "\u00a0",
    "\u2013", "\u200b", "[EMAIL]", '"', "_", "x", "0", " is ", " number ", "  ", "(", "+",
)  # fmt: skip


class Draw:
    """Draws texts."""

    def __init__(self, seed: int, planted: Sequence[Value]) -> None:
        self.r = random.Random(seed)
        self.planted = planted
        self.words = sorted({word for rule in built_in_rules() for word in rule.context})
        self.words += ["call", "phone", "tel", "sms", "password:", "api_key="]

    def token(self) -> str:
        r = self.r
        kind = r.random()
        if kind < 0.15:
            return r.randbytes(r.choice((2, 4, 8, 16, 20))).hex()
        if kind < 0.3:
            return base64.urlsafe_b64encode(r.randbytes(r.choice((6, 9, 24)))).decode()
        if kind < 0.4:
            return str(r.randrange(10 ** r.randrange(1, 20)))
        if kind < 0.45:
            return str(uuid.UUID(int=r.getrandbits(128)))
        if kind < 0.5:
            return base64.b64encode(" ".join((self.value(), self.value(), "and more text")).encode()).decode()
        if kind < 0.75:
            word = r.choice(self.words)
            return r.choice((word, word, word.upper(), word.title().replace(" ", ""), word.replace(" ", "_")))
        return self.value()

    def value(self) -> str:
        """Return a planted value, every other time with a digit or letter changed."""
        r = self.r
        text = r.choice(self.planted).text
        # A JSON Web Key without its "kty" is none, which the gate alone tells.
        if r.random() < 0.5 and "kty" not in text:
            at = r.randrange(len(text))
            text = text[:at] + r.choice("0123456789abcXYZ -") + text[at + 1 :]
        return text

    def text(self) -> bytes:
        """Return a text; one in eight is JSON."""
        r = self.r
        parts: list[str] = []
        for _ in range(r.randrange(1, 14)):
            parts += (self.token(), r.choice(_BETWEEN))
        text = "".join(parts).encode()
        if r.random() < 0.125:
            return (
                b'{"'
                + r.choice(self.words).encode()
                + b'":"'
                + text.replace(b"\\", b"").replace(b'"', b"")
                + b'"}'
            )
        return text


@pytest.fixture(scope="module")
def planted() -> list[Value]:
    return values(Engine(), 4)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("padding", [b"", b"7f3a99b0 4e21 " * 40, b"nothing to see here at all " * 20])
def test_the_same_as_reading_everything(planted: list[Value], padding: bytes) -> None:
    """The padding decides how the batch is read: as text or as ids."""
    engine, reference = Engine(), Engine()
    reference.gates = Open(reference)
    draw = Draw(len(padding) + SEED, planted)
    for _ in range(max(1, TEXTS // 3 // _BATCH)):
        texts = [draw.text() + b" " * bool(padding) + padding for _ in range(_BATCH)]
        hints = [draw.r.choice(("", "", "", "note", *draw.words)) for _ in texts]
        fast, everything = (each.redact_batch(texts, hints) for each in (engine, reference))
        assert [
            (texts[index], fast.get(index))
            for index in range(_BATCH)
            if fast.get(index) != everything.get(index)
        ] == []


_TOUCHING = (
    " ", "x", "X", "7", "-", "\n", "\\n", "\\u0020", "\\x20", "%20", '"', "*", ":", "é", "\x05", "\x05K", "éK", ":K", "aB", "Ab", "",
)  # fmt: skip


def test_words_are_told_from_letters_as_their_gates_tell_them() -> None:
    """In text of ids a word is looked for by its letters, and by what touches them; the gate says what a word is."""
    engine, r = Engine(), random.Random(SEED)
    announced = {
        index: (rule.context, finder(Context(rule.context).gate))
        for index, rule in enumerate(engine.rules)
        if rule.announced
    }
    ids = b"7f3a99b0 4e21 " * 10
    words = sorted({(len(word) > 4, word) for context, _ in announced.values() for word in context})
    for _ in range(3 * TEXTS):
        # Short ones more often: those are what stands in ids.
        word = words[int(len(words) * r.random() ** 2)][1]
        word = r.choice((word, word.upper(), word.title(), word.replace(" ", r.choice(("", "_", "--")))))
        text = ids + "".join((r.choice(_TOUCHING), word, r.choice(_TOUCHING))).encode() + r.choice((b"", ids))
        assert set(engine.gates.rules_in(text, "")) & announced.keys() == {
            index for index, (_, find) in announced.items() if find(text, 0, len(text))[0] >= 0
        }, text


def test_what_is_idle_is_not_read(planted: list[Value]) -> None:
    """Otherwise the test above would pass with a look that never tells anything."""
    ids = b" 7f3a99b0 4e21" * 40
    idle = (
        b"he said number 12 was fine",
        b"GB82 9f3a 77c1 44d0 11aa and 4111 1111 1111 1112 in" + ids,
        b"4aba7 536904399" + ids,
    )
    assert [Engine().gates.suspects([text], [""]) for text in idle] == [[], [], []]


@pytest.mark.parametrize(
    ("gate", "core", "most_before"),
    [
        pytest.param(
            gate, rule.gate_core, BEFORE_CORE if rule.name != "CARD" else 10**6, id=f"{rule.name}-{number}"
        )
        for rule in built_in_rules()
        for number, gate in enumerate(alternatives(rule.gate))
        if rule.gate_core and not is_word(gate)
    ],
)
@settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_gate_holds_its_core(gate: str, core: str, most_before: int, data: st.DataObject) -> None:
    """Texts are made of the gate's own expression. What is far before a card's digits is nothing that its check looks at."""
    text = data.draw(st.from_regex(re.compile(gate.encode("latin-1")), fullmatch=True))
    low, high = finder(core)(text, 0, len(text))
    assert 0 <= low <= most_before
    assert len(text) - high <= BEHIND_CORE


def test_shortest_candidates_fit_in_what_is_looked_at() -> None:
    """A candidate that begins in the last place would otherwise be cut off unseen."""
    for rule in built_in_rules():
        if rule.announced:
            pattern = rule.pattern.replace(r"\pL", r"\w")
            assert re._parser.parse(pattern).getwidth()[0] <= LONGEST_CANDIDATE  # type: ignore[attr-defined]
            assert "(?P<" not in rule.pattern, (
                "where a group stands in a match says nothing of where the match begins"
            )


def test_short_words_have_their_letters_as_core() -> None:
    for rule in built_in_rules():
        if rule.announced:
            context = Context(rule.context)
            assert list(context.cores) == list(dict.fromkeys(alternatives(context.gate)))
