"""Documents, patients, birthdays: nothing but a word before them tells them from any other number."""

from __future__ import annotations

import re
from collections.abc import Iterator

from collector.redaction.rule import Rule, Span
from collector.redaction.validator import continues, is_digit, is_word

_MONTHS = (
    "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
    "|januar|februar|märz|mai|juni|juli|okt|dez|ene|abr|ago|dic|janv|févr|avr|juil|août|déc|gen|mag|giu|lug|set|ott"
)
_DATE = (
    r"[0-9]{4}[-/.][0-9]{1,2}[-/.][0-9]{1,2}|[0-9]{1,2}[-/. ][0-9]{1,2}[-/. ](?:[0-9]{4}|[0-9]{2})|(?:19|20)[0-9]{6}"
    rf"|[0-9]{{1,2}}(?:st|nd|rd|th|\.)?[ -](?:of |de )?(?:{_MONTHS})\pL*\.?,?[ -](?:de )?(?:19|20)[0-9]{{2}}"
    rf"|(?:{_MONTHS})\pL*\.? [0-9]{{1,2}}(?:st|nd|rd|th)?,? (?:19|20)[0-9]{{2}}"
)
_DIGITS = re.compile(rb"[0-9]+")
_FEWEST_DIGITS = 4
_SHORTEST = 6


def _document(text: bytes, start: int, end: int, hint: str) -> Iterator[Span]:
    """Accept what stands alone, has six characters and four digits or more, and is no date."""
    if is_word(text, start - 1) or is_word(text, end) or continues(text, start, end):
        return
    found = text[start:end]
    digits = sum(0x30 <= byte <= 0x39 for byte in found)
    if len(found) >= _SHORTEST and digits >= _FEWEST_DIGITS and not _ISO_DATE.fullmatch(found):
        yield start, end


_ISO_DATE = re.compile(rb"(?:19|20)[0-9]{2}-?[0-9]{2}-?[0-9]{2}|[0-9]{1,2}-[0-9]{1,2}-[0-9]{2,4}")


def _birthday(text: bytes, start: int, end: int, hint: str) -> Iterator[Span]:
    """Accept dates whose day and month exist."""
    if is_word(text, start - 1) or is_digit(text, end) or continues(text, start, end):
        return
    numbers = [int(number) for number in _DIGITS.findall(text[start:end])]
    small = [number for number in numbers if number < 1000]
    if len(numbers) == 3 and not (len(small) >= 2 and min(small) >= 0 and sorted(small)[-2] <= 31):
        return
    if len(numbers) == 1 and not (1 <= numbers[0] // 100 % 100 <= 12 and 1 <= numbers[0] % 100 <= 31):
        return
    yield start, end


RULES = (
    Rule(
        name="PASSPORT",
        announced=True,
        pattern=r"[A-Z0-9]{7,10}",
        check=_document,
        context=("passport", "reisepass", "passeport", "pasaporte", "passaporto", "paspoort"),
        must_match=(
            "passport number X12345678",
            "Passport: 123456789.",
            "Reisepass C01X00T47 lost",
            "passport_no=L8980123",
        ),
        must_not_match=("X12345678", "passport renewal in 2024", "passport ABCDEFGH", "passport issued 20240806"),
    ),
    Rule(
        name="DRIVER_LICENSE",
        announced=True,
        pattern=r"[A-Z0-9]+(?:[ -][A-Z0-9]+){0,4}",
        check=_document,
        context=(
            "driver license", "drivers license", "driver's license", "driver licence", "driving licence",
            "driving license", "driver's licence", "führerschein", "permis de conduire", "patente di guida",
        ),
        must_match=(
            "driver's license D1234567",
            "Driving licence: MORGA657054SM9IJ.",
            "drivers_license=A123-4567-8901",
        ),
        must_not_match=("D1234567", "driving licence ABC", "driver license 2024", "driver's license from 2024-08-06"),
    ),
    Rule(
        name="MEDICAL_ID",
        announced=True,
        pattern=r"[A-Z0-9]+(?:-[A-Z0-9]+){0,4}",
        check=_document,
        context=(
            "medical record", "mrn", "patient id", "patient number", "patient no", "health insurance number",
            "health card", "medicare", "medicaid", "versichertennummer", "npi",
        ),
        must_match=("MRN 00123456", "patient id: P-884213.", "Medicare 1EG4-TE5-MK73", "medical_record_number=A9931772"),
        must_not_match=("00123456", "patient number of 12", "medicare part B", "patient id 2024-08-06"),
    ),
    Rule(
        name="BIRTH_DATE",
        announced=True,
        pattern=f"(?i){_DATE}",
        check=_birthday,
        context=(
            "date of birth", "birth date", "birthday", "dob", "d.o.b", "born on", "geburtsdatum", "geboren am",
            "date de naissance", "né le", "née le", "fecha de nacimiento", "nacido el", "nacida el", "data di nascita",
            "data de nascimento",
        ),
        must_match=(
            "date of birth: 1985-03-14",
            "DOB 03/14/1985",
            "born on March 14, 1985 in",
            "born on the 14th of March 1985.",
            "geboren am 14.03.1985",
            "birth_date=19850314",
        ),
        must_not_match=("1985-03-14", "dob 99/99/1985", "born in 1985", "released on March 14, 1985"),
    ),
)  # fmt: skip
