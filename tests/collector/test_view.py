"""Readings of a text and the way back."""

from __future__ import annotations

import json
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from collector.redaction.pattern import utf8, without_anchors
from collector.redaction.view import View, views

plain = st.text(
    st.characters(codec="utf-8", exclude_characters="\\%\u00ad", max_codepoint=0x1FFF), max_size=30
).filter(lambda text: not re.search("[\u00a0\u2000-\u206f\u3000\ufeff\uff01-\uff5e]", text))


def readings(text: str) -> list[View]:
    return [view for view in views(text.encode()) if view is not None]


@settings(deadline=None)
@given(plain, st.integers(1, 4))
def test_each_level_of_json_escapes_is_undone(text: str, levels: int) -> None:
    escaped = text
    for _ in range(levels):
        escaped = json.dumps(escaped)[1:-1]
    read = [view.text.decode() for view in readings(escaped)]
    assert text in [escaped, *read]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(plain, st.sampled_from(["\\n", "\\u0040", "%40", "\u200b", "＠", "\\\\", "\\ud83d\\ude00"]))
    ),
    st.data(),
)
def test_offsets_lead_back_to_whole_escapes(pieces: list[tuple[str, str]], data: st.DataObject) -> None:
    text = "".join(part + escape for part, escape in pieces).encode()
    for view in readings(text.decode()):
        if len(view.text) < 2:
            continue
        start = data.draw(st.integers(0, len(view.text) - 2))
        end = data.draw(st.integers(start + 1, len(view.text)))
        low, high = view.origin(start, end)
        assert 0 <= low < high <= len(text)
        # Reading the origin alone gives at least what was read there.
        again = [text[low:high], *(v.text for v in views(text[low:high]) if v is not None)]
        assert any(view.text[start:end] in reading for reading in again)


def test_anchors_are_removed_and_nothing_else() -> None:
    cases = {
        r"\bEMP-[0-9]{6}\b": "xEMP-123456x",
        r"^a$": "xax",
        r"(?P<value>a)(?P<b>c)": "ac",
        r"\\bx": r"\bx",
        r"[\^$]x": "$x",
        r"[]^]x": "^x",
        r"\Qa^b\E$": "a^bz",
        r"[[:alpha:]^]\b": "^",
        r"\$5\b": "x$55",
        r"(?i)\Aa\z": "xAx",
    }
    for pattern, text in cases.items():
        assert utf8(without_anchors(pattern), "test").search(text.encode()), (
            pattern,
            without_anchors(pattern),
        )
