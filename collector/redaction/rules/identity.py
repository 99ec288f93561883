"""Numbers that a state gives to a person."""

from __future__ import annotations

from collections.abc import Iterator

from collector.redaction.edge import NUMBER
from collector.redaction.rule import Rule, Span
from collector.redaction.validator import is_digit, is_word

# Word in the text or key that makes nine bare digits a social security number.
_CONTEXT = ("ssn", "social security")


def _ssn(text: bytes, start: int, end: int, hint: str) -> Iterator[Span]:
    """Accept numbers that the Social Security Administration may give (20 CFR 422, and its randomization rules)."""
    digits = bytes(byte for byte in text[start:end] if 0x30 <= byte <= 0x39)
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    if area in (b"000", b"666") or area >= b"900" or group == b"00" or serial == b"0000":
        return
    if is_word(text, start - 1) or is_word(text, end):
        return
    if text[start - 1 : start] in (b"-", b".") and is_digit(text, start - 2):
        return
    if text[end : end + 1] in (b"-", b".") and is_digit(text, end + 1):
        return
    yield start, end


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit())


_GATE = rf"{NUMBER}(?:[0-9]{{3}}-[0-9]{{2}}-[0-9]{{4}}|[0-9]{{3}} [0-9]{{2}} [0-9]{{4}})"

RULES = (
    Rule(
        name="US_SSN",
        gate=_GATE,
        gate_core=r"[0-9]-[0-9]{2}-[0-9]{4}|[0-9] [0-9]{2} [0-9]{4}",
        pattern=r"[0-9]{3}-[0-9]{2}-[0-9]{4}|[0-9]{3} [0-9]{2} [0-9]{4}",
        check=_ssn,
        canonical=_digits,
        must_match=("536-90-4399", "SSN:536 90 4399.", "(212-09-9999)", "219-09-9998,"),
        must_not_match=(
            "000-12-3456",
            "666-12-3456",
            "912-34-5678",
            "536-00-4399",
            "536-90-0000",
            "1-536-90-43991",
        ),
    ),
    Rule(
        name="US_SSN",
        announced=True,
        pattern=r"[0-9]{9}",
        check=_ssn,
        context=_CONTEXT,
        canonical=_digits,
        must_match=("ssn 536904399", "Social Security number: 536904399", '{"ssn":536904399}'),
        must_not_match=("order 536904399", "invoice 536904399 paid", "id=536904399"),
    ),
)
