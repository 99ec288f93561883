"""How to reach a person: e-mail addresses and telephone numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator

from collector.redaction.context import before
from collector.redaction.edge import LETTERS, LONE_NUMBER
from collector.redaction.pattern import finder
from collector.redaction.rule import Rule, Span
from collector.redaction.validator import continues_left, is_digit, is_word

# RFC 5321 allows more, but "=", "/", "?" and so on are what stands before addresses, not in them.
_LOCAL = r"[\p{L}\p{N}._+'-]"
_LABEL = r"[\p{L}\p{N}](?:[\p{L}\p{N}-]*[\p{L}\p{N}])?"

_IMAGE = re.compile(rb"[0-9](?:\.[0-9])?x\.(?:png|jpe?g|gif|webp|svg|avif)")
_GROUP = re.compile(rb"[0-9]+")
_NORTH_AMERICAN = re.compile(
    rb"(?:1[ .-]?)?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}([.-]))[2-9][0-9]{2}[ .-][0-9]{4}"
)
_CALL = finder(
    r"phone|mobile|telefon|tele?fono|t[e\xc3\xa9]+l[e\xc3\xa9]+ph|handy|whatsapp|contact|call|dial|reach|sms"
    r"|(?:^|[^a-z])(?:tel|cell|fax|ring|text)(?:[^a-z]|$)"
)
# The same words where a gate looks for them, and nine digits with what may stand between them, encoded or not.
_E = r"(?:[e\xc3\xa9]|\\+u00e9|%c3%a9)"
_CALL_GATE = (
    rf"(?i)phone|mobile|telefon|tele?fono|t{_E}+l{_E}+ph|handy|whatsapp|contact|call|dial|reach|sms"
    rf"|{LETTERS}(?:tel|cell|fax|ring|text)(?:[^A-Za-z]|$)"
)
_NINE_DIGITS = r"[0-9](?:[ \t()./%\\\x80-\xff-]{0,4}[0-9]){8}"
# Dates are the most frequent runs of digit groups.
_DATE = re.compile(rb"(?:19|20)[0-9]{2}[-./](?:0[1-9]|1[0-2])[-./][0-3][0-9](?![0-9])")
# Where numbers written without a country code are tried, if a word says that a telephone number comes.
_REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "NL", "AU", "IN", "BR")
_MOST_DIGITS = 17  # 15 by ITU-T E.164, and two for a leading 00
_FEWEST_DIGITS = 7  # with a country code; the pattern asks for nine without
_LONGEST = 48  # bytes, with all separators


def _email(text: bytes, start: int, end: int, hint: str) -> Iterator[Span]:
    """Accept it without the punctuation before it; not ``git@host:path``, not ``icon@2x.png``."""
    while start < end and text[start] in b".'+-":
        start += 1
    local, _, domain = text[start:end].partition(b"@")
    if not local or _IMAGE.fullmatch(domain):
        return
    if local in (b"git", b"hg", b"svn") and (text[end : end + 1] == b":" or text[start - 1 : start] == b"/"):
        return
    yield start, end


def _phone(text: bytes, start: int, end: int, hint: str) -> Iterator[Span]:
    """Find the telephone numbers in a run of digit groups.

    A number with a country code must have a length that exists in that country; a North American number must be
    written as one; any other national number needs a word such as "phone" before it and must be valid in its country.
    """
    found = False
    for match in _NORTH_AMERICAN.finditer(text, start, end):
        low, high = match.span()
        if not is_word(text, low - 1) and not is_word(text, high) and not continues_left(text, low):
            found = True
            yield low, high
    plus = text[start] == 0x2B
    if is_digit(text, start - 1) or continues_left(text, start):
        return
    if not plus and (is_word(text, start - 1) or text[start - 1 : start] in (b"_", b"#")):
        return
    if plus and (stop := _international(text, start, _ends(text, start, end), plus=True)) is not None:
        yield start, stop
    if found or plus:
        return
    announced = _calls(before(text, start).lower()) or (
        hint != "" and _calls(hint.lower().encode("utf-8", "replace"))
    )
    while (stop := _announced_or_abroad(text, start, end, announced)) is not None:
        yield start, stop
        # What follows in the run has a telephone number before it, which announces one. A list is found at once.
        announced = True
        group = _GROUP.search(text, stop, end)
        if group is None:
            return
        start = group.start()


def _calls(text: bytes) -> bool:
    return _CALL(text, 0, len(text))[0] >= 0


def _ends(text: bytes, start: int, end: int) -> list[int]:
    return [match.end() for match in _GROUP.finditer(text, start, min(end, start + _LONGEST))]


def _announced_or_abroad(text: bytes, start: int, end: int, announced: bool) -> int | None:
    """Return where a number that starts at ``start`` with 00, or one without a country code after a word, ends."""
    abroad = text[start : start + 2] == b"00"
    if not (announced or abroad) or _DATE.match(text, start, end):
        return None
    ends = _ends(text, start, end)
    # 00 begins many numbers; separators, or a word, tell a telephone number.
    if abroad and (announced or len(ends) > 1):
        stop = _international(text, start, ends, plus=False)
        if stop is not None:
            return stop
    if announced:
        for stop in reversed(ends):
            if not is_word(text, stop) and _national(text[start:stop]):
                return stop
    return None


def _international(text: bytes, start: int, ends: list[int], *, plus: bool) -> int | None:
    """Return where the longest possible number that starts at ``start`` ends."""
    import phonenumbers

    best: int | None = None
    for stop in reversed(ends):
        if is_word(text, stop):
            continue
        written = text[start:stop].decode("ascii", "replace")
        if not _FEWEST_DIGITS <= sum(character.isdigit() for character in written) <= _MOST_DIGITS:
            continue
        try:
            number = phonenumbers.parse(written if plus else "+" + written[2:], None)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_valid_number(number):
            return stop
        # Without the plus only a number that exists counts: 00 begins many other numbers.
        if best is None and plus and phonenumbers.is_possible_number(number):
            best = stop
    return best


def _national(written: bytes) -> bool:
    import phonenumbers

    for region in _REGIONS:
        try:
            number = phonenumbers.parse(written.decode("ascii", "replace"), region)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_valid_number(number):
            return True
    return False


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit())


RULES = (
    Rule(
        name="EMAIL",
        gate=r"[^\x00-\x20]@[0-9A-Za-z\x80-\xff\\%_-]+\.[0-9A-Za-z\x80-\xff\\%]",
        pattern=rf"{_LOCAL}+@(?:{_LABEL}\.)+(?:xn--[a-z0-9-]+|\p{{L}}{{2,63}})",
        check=_email,
        canonical=str.lower,
        must_match=(
            "jane.doe@example.com",
            "<o'brien+tag@mail.example.co.uk>,",
            "Write to müller@bücher.example.",
            "mailto:a_b@x-y.io?subject=hi",
            "jane%40example.com",
        ),
        must_not_match=(
            "@property",
            "@types/node@18.2.0",
            "git@github",
            "meet me @ noon",
            "user@localhost",
            "icon@2x.png",
            "https://medium.com/@some.name",
            "a @ b.com",
        ),
    ),
    Rule(
        name="PHONE",
        gate=(
            r"\+\(?[0-9][0-9 ().%/\\\x80-\xff-]{6}"
            r"|[2-9][0-9]{2}(?:\) ?|[.-])[2-9][0-9]{2}[ .-][0-9]{4}"
            rf"|{LONE_NUMBER}00[ ./()-]{{0,2}}[1-9](?:[ ./()-]{{0,2}}[0-9]){{6}}"
        ),
        gate_core=(
            r"\+\(?[0-9][0-9 ().%/\\\x80-\xff-]{6}"
            r"|(?:\) ?|[.-])[2-9][0-9]{2}[ .-][0-9]{4}"
            rf"|{LONE_NUMBER}00[ ./()-]{{0,2}}[1-9](?:[ ./()-]{{0,2}}[0-9]){{6}}"
        ),
        gate_pair=(_CALL_GATE, _NINE_DIGITS),
        pattern=r"\+\(?[0-9](?:[ ./()-]{0,2}[0-9]){6,}|\(?[0-9](?:[ ./()-]{0,2}[0-9]){8,}",
        check=_phone,
        canonical=_digits,
        must_match=(
            "+1 415-555-2671",
            "+49 30 901820",
            "(415) 555-2671",
            "415.555.2671",
            "1-800-555-0199",
            "+447911123456",
            "Tel. 020 7946 0958",
            "my phone number is 4155552671",
            "0049 30 901820",
        ),
        must_not_match=(
            "4155552671",
            "2024-08-06 12:30:45",
            "1718900000000000000",
            "order 415-555-26",
            "3.14159265358979",
            "550e8400-e29b-41d4-a716-446655440000",
            "lat 51.5073509, lon -0.1277583",
            "1,234,567.89",
            "192.168.100.200",
            "order 0012345678901",
        ),
    ),
)
