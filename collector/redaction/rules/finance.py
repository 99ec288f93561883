"""Money: payment cards and bank accounts."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

from collector.redaction.edge import NUMBER, WHOLE_NUMBER, WORD
from collector.redaction.rule import Rule, Span
from collector.redaction.validator import continues_left, is_word, luhn

_GROUP = re.compile(rb"[0-9]+")
# European products have thirteen digits too, and many begin like a Visa card.
_PRODUCT = re.compile(rb"(?:ean|gtin|isbn|barcode|upc)[^a-z]*$", re.IGNORECASE)
_LETTERS = " abcdefghijklmnopqrstuvwxyz"
_UUID = re.compile(rb"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_TOKEN = re.compile(rb"[0-9A-Za-z]*")
_TOKEN_BEFORE = re.compile(rb"[0-9A-Za-z]*\Z")
_NOT_HEX = re.compile(rb"[g-zG-Z]")

# First digits (from, to) and lengths of the brands, ISO/IEC 7812 and the networks' public tables.
_BRANDS = (
    (4, 4, (13, 16, 19)),  # Visa
    (51, 55, (16,)), (2221, 2720, (16,)),  # Mastercard
    (34, 34, (15,)), (37, 37, (15,)),  # American Express
    (6011, 6011, (16, 17, 18, 19)), (644, 649, (16, 17, 18, 19)), (65, 65, (16, 17, 18, 19)),  # Discover
    (3528, 3589, (16, 17, 18, 19)), (1800, 1800, (15,)), (2131, 2131, (15,)),  # JCB
    (300, 305, (14, 16, 19)), (3095, 3095, (14, 16, 19)), (36, 36, (14, 16, 19)), (38, 39, (14, 16, 19)),  # Diners
    (62, 62, (16, 17, 18, 19)), (81, 81, (16, 17, 18, 19)),  # UnionPay
    (50, 50, (12, 13, 14, 15, 16, 17, 18, 19)), (56, 58, (12, 13, 14, 15, 16, 17, 18, 19)),  # Maestro
    (6304, 6304, (12, 13, 14, 15, 16, 17, 18, 19)), (6390, 6390, (12, 13, 14, 15, 16, 17, 18, 19)),
    (676, 679, (12, 13, 14, 15, 16, 17, 18, 19)),
    (2200, 2204, (16, 17, 18, 19)),  # Mir
    (60, 60, (16,)), (82, 82, (16,)),  # RuPay
)  # fmt: skip
_PREFIXES = {
    prefix: lengths for low, high, lengths in _BRANDS for prefix in (str(n) for n in range(low, high + 1))
}
# How people group the digits, as letters: "dddd" is four groups of four ("a" is 1, "f" is 6, "j" is 10). The look-ahead
# finds overlapping ones; digits may also stand all alone.
_GROUPINGS = re.compile(
    r"(?=(dddd[a-c]?|dddc|ddda|dde|df[ed]|f[jm]|hh|dl|ld|ffd|dhd|(?<!a)a{12,19}(?!a)|[l-s]))"
)
# The same groupings with the brands' first digits, as bytes that nobody has taken apart.
_START = r"(?:4[0-9]{3}|5[0-8][0-9]{2}|2[1-7][0-9]{2}|3[04-9][0-9]{2}|6[0-9]{3}|1800|8[12][0-9]{2})"
_CARD_DIGITS = (
    rf"(?:{_START}(?:[0-9]{{8}}|[ .-]{{1,2}}[0-9]{{6}}|[ .-]{{1,2}}[0-9]{{4}}[ .-]{{1,2}}[0-9]{{4}}"
    r"|[0-9]{4}[ .-]{1,2}[0-9]{8}|[0-9]{2}[ .-]{1,2}[0-9]{6})"
    r"|[1-68](?:[ .-]{1,2}[0-9]){11})"
)
# Where a letter touches the number, there must be one on either side that no hexadecimal word has.
_CARD_GATE = (
    rf"{WHOLE_NUMBER}{_CARD_DIGITS}|[G-Zg-z](?:[0-9A-Za-z]*[A-Za-z])?{_CARD_DIGITS}"
    rf"|[A-Fa-f]{_CARD_DIGITS}[0-9 .-]*[0-9A-Za-z]*[G-Zg-z]"
)
# Length of an IBAN by country: SWIFT IBAN registry, release 99, and the countries that use them without standing there.
_IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "DZ": 26, "EE": 20,
    "EG": 29, "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27,
    "GT": 28, "HN": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IR": 26, "IS": 26, "IT": 27, "JO": 30,
    "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MA": 28, "MC": 27,
    "MD": 24, "ME": 22, "MK": 19, "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23,
    "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31, "SD": 18,
    "SE": 24, "SI": 19, "SK": 24, "SM": 27, "SN": 28, "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26,
    "UA": 29, "VA": 22, "VG": 24, "XK": 20, "YE": 30,
    "AO": 25, "BF": 28, "BJ": 28, "CF": 27, "CG": 27, "CI": 28, "CM": 27, "CV": 25, "GA": 27, "GQ": 27, "GW": 25,
    "KM": 27, "MG": 27, "ML": 28, "MZ": 25, "NE": 28, "TD": 27, "TG": 28,
}  # fmt: skip
_IBAN_SEPARATORS = b" -."
_ACCOUNTS = {
    country: re.compile(rb"[0-9A-Za-z](?:[ .-]?[0-9A-Za-z]){%d}(?![0-9A-Za-z])" % (length - 1))
    for country, length in _IBAN_LENGTHS.items()
}
# The letters are the numbers from 10 on.
_VALUES = {character: str(int(character, 36)) for character in string.digits + string.ascii_uppercase}
# Where accounts begin with eight digits or more (SWIFT IBAN registry): other words that begin with such a code are ids.
_DIGITS_FIRST = (
    "AD", "AE", "AL", "AT", "BA", "BE", "BI", "BR", "CR", "CY", "CZ", "DE", "DJ", "DK", "EE", "EG", "ES", "FI", "FO", "FR",
    "GL", "HR", "HU", "IL", "IS", "LT", "LY", "MC", "ME", "MN", "MR", "NO", "PL", "PT", "RS", "RU", "SD", "SE", "SI", "SK",
    "SO", "ST", "TL", "TN", "VA", "XK",
)  # fmt: skip
_BETWEEN = r"[ .%\\\x80-\xff-]{0,4}"
_IBAN_GATE = (
    rf"{WORD}(?:(?i:{'|'.join(_DIGITS_FIRST)})[0-9]{{2}}(?:{_BETWEEN}[0-9]){{8}}"
    rf"|(?i:{'|'.join(code for code in _IBAN_LENGTHS if code not in _DIGITS_FIRST)})[0-9]{{2}}"
    rf"(?:{_BETWEEN}[A-Za-z0-9]){{11}})"
)


def _card(text: bytes, start: int, end: int, hint: str) -> Iterator[Span]:
    """Find the cards in a run of digit groups: known first digits and length, right check digit, grouped as cards are.

    Digits that are part of a hexadecimal word, a UUID or the decimals of a number are none.
    """
    groups = [match.span() for match in _GROUP.finditer(text, start, end)]
    letters = "".join([_LETTERS[min(high - low, 26)] for low, high in groups])
    for match in _GROUPINGS.finditer(letters):
        first = match.start()
        for last in sorted({first + len(shape) - 1 for shape in _shapes(match[1])}):
            low, high = groups[first][0], groups[last][1]
            if _is_card(text, low, high):
                yield low, high


def _shapes(longest: str) -> Iterator[str]:
    """Yield a grouping and the shorter ones that begin like it: ``dddda`` may be a card of 16 and a single digit."""
    yield longest
    if longest.startswith("dddd"):
        yield longest[:4]


def _is_card(text: bytes, low: int, high: int) -> bool:
    digits = "".join(chr(byte) for byte in text[low:high] if 0x30 <= byte <= 0x39)
    if not any(len(digits) in _PREFIXES.get(digits[:size], ()) for size in (1, 2, 3, 4)) or not luhn(digits):
        return False
    if text[low - 1 : low] in (b".", b",") and continues_left(text, low):
        return False
    if len(digits) == 13 and _PRODUCT.search(text, max(0, low - 16), low):
        return False
    left = _TOKEN_BEFORE.search(text, max(0, low - 64), low)
    right = _TOKEN.match(text, high, high + 64)
    neighbours = (left[0] if left else b"") + (right[0] if right else b"")
    if neighbours and not _NOT_HEX.search(neighbours):
        return False
    return not any(
        match.start() <= low and high <= match.end()
        for match in _UUID.finditer(text, max(0, low - 36), high + 36)
    )


def _iban(text: bytes, start: int, end: int, hint: str) -> Iterator[Span]:
    """Take as many characters as the country's accounts have, and check modulo 97 (ISO 13616)."""
    from stdnum import iban

    account = _ACCOUNTS.get(text[start : start + 2].decode("ascii").upper())
    if account is None or is_word(text, start - 1) or (match := account.match(text, start)) is None:
        return
    number = match[0].translate(None, _IBAN_SEPARATORS).decode("ascii").upper()
    # Most are ids. The remainder tells at once; what else a country asks for takes longer.
    if int("".join([_VALUES[character] for character in number[4:] + number[:4]])) % 97 != 1:
        return
    # What an account looks like within a country is known for the registered ones only.
    registered = bool(iban._ibandb.info(number)[0][1])
    if not registered or iban.is_valid(number, check_country=False):
        yield match.span()


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit())


def _account(text: str) -> str:
    return "".join(character for character in text if character.isalnum()).upper()


RULES = (
    Rule(
        name="CARD",
        gate=_CARD_GATE,
        gate_core=f"{NUMBER}{_CARD_DIGITS}",
        reach=64,
        pattern=r"[0-9](?:[ .-]{0,2}[0-9]){11,}",
        check=_card,
        canonical=_digits,
        keep_last=4,
        must_match=(
            "4111 1111 " + "1111 1111",
            "5555-5555-" + "5555-4444",
            "3782 822463 " + "10005",
            "22210000" + "00000009",
            "card:41111111" + "11111111.",
            "Order 12 4111 1111 " + "1111 1111 12/26",
            "60111111" + "11111117",
        ),
        must_not_match=(
            "4111 1111 " + "1111 1112",
            "1718900000000000000",
            "550e8400-e29b-41d4-4716-446655440000",
            "0.4111111111" + "111111",
            "a41111111" + "11111111f",
            "2024-08-06 12:30:45.123456",
            "9999 9999 9999 9995",
        ),
    ),
    Rule(
        name="IBAN",
        gate=_IBAN_GATE,
        reach=64,
        pattern=rf"(?i)(?:^|[^0-9A-Za-z])(?P<value>(?:{'|'.join(_IBAN_LENGTHS)})[0-9]{{2}})",
        check=_iban,
        canonical=_account,
        keep_last=4,
        must_match=(
            "DE89 3704 0044 " + "0532 0130 00",
            "GB82WEST1234" + "5698765432",
            "gb82 west 1234 5698 " + "7654 32 and more",
            "iban=NO9386011117947",
            "FR14 2004 1010 0505 " + "0001 3M02 606",
            "MA64 0115 1900 0001 2050 " + "0053 4921",
        ),
        must_not_match=(
            "DE88 3704 0044 " + "0532 0130 00",
            "DE8937040044",
            "commit de89370400440532013000aa",
            "SKU GB82-1234",
            "XX89 3704 0044 0532 0130 00",
        ),
    ),
)
