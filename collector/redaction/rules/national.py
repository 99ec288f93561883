"""Numbers that states give to people and firms, told by a word before them and by their check digits (python-stdnum)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from collector.redaction.edge import WORD
from collector.redaction.rule import Rule, Span
from collector.redaction.validator import is_word, standalone, standard_number


class Number(NamedTuple):
    """One kind of number: the module of python-stdnum that checks it, what it looks like, the words before it.

    ``sample`` is valid and published (most are the examples of python-stdnum). ``wrong`` is needed where numbers have no
    check digit.
    """

    name: str
    module: str
    pattern: str
    words: tuple[str, ...]
    sample: str
    wrong: str = ""


_GAP = "[ .-]?"
_NUMBERS = (
    Number("ABA", "us.rtn", "[0-9]{9}", ("routing number", "routing no", "aba", "rtn"), "111000025"),
    Number(
        "US_ITIN",
        "us.itin",
        "9[0-9]{2}-?[0-9]{2}-?[0-9]{4}",
        ("itin", "taxpayer"),
        "912-90-3456",
        "912-10-3456",
    ),
    Number("UK_NHS", "gb.nhs", f"[0-9]{{3}}{_GAP}[0-9]{{3}}{_GAP}[0-9]{{4}}", ("nhs",), "943-476-5870"),
    Number(
        "EU_VAT",
        "eu.vat",
        r"[A-Z]{2} ?(?:[A-Z0-9]{1,4}[ .-]?){1,4}[A-Z0-9]{2,12}",
        ("vat", "tva", "btw", "iva", "ust id", "ustidnr", "mwst"),
        "BE697449992",
    ),
    Number(
        "AU_TFN", "au.tfn", f"[0-9]{{3}}{_GAP}[0-9]{{3}}{_GAP}[0-9]{{3}}", ("tfn", "tax file"), "123 456 782"
    ),
    Number(
        "AU_ABN",
        "au.abn",
        "[0-9]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{3}",
        ("abn", "australian business"),
        "51824753556",
    ),
    Number(
        "IN_PAN",
        "in_.pan",
        "(?i)[A-Z]{5}[0-9]{4}[A-Z]",
        ("pan", "permanent account", "income tax"),
        "ACUPA7085R",
        "ACUXA7085R",
    ),
    Number(
        "IN_AADHAAR",
        "in_.aadhaar",
        f"[2-9][0-9]{{3}}{_GAP}[0-9]{{4}}{_GAP}[0-9]{{4}}",
        ("aadhaar", "aadhar", "uidai"),
        "234123412346",
    ),
    Number(
        "CA_SIN",
        "ca.sin",
        f"[0-9]{{3}}{_GAP}[0-9]{{3}}{_GAP}[0-9]{{3}}",
        ("sin", "social insurance"),
        "123-456-782",
    ),
    Number(
        "BR_CPF",
        "br.cpf",
        "[0-9]{11}",
        ("cpf", "cadastro"),
        "39053344705",
    ),
    Number(
        "BR_CNPJ",
        "br.cnpj",
        r"[0-9]{2}\.?[0-9]{3}\.?[0-9]{3}/?[0-9]{4}-?[0-9]{2}",
        ("cnpj",),
        "16.727.230/0001-97",
    ),
    Number(
        "ES_DNI",
        "es.dni",
        r"(?i)[0-9]{2}\.?[0-9]{3}\.?[0-9]{3}[ -]?[A-Z]",
        ("dni", "nif", "documento nacional"),
        "54362315-K",
    ),
    Number("ES_NIE", "es.nie", "(?i)[XYZ]-?[0-9]{7}-?[A-Z]", ("nie", "extranjero"), "x-2482300w"),
    Number(
        "DE_TAX_ID",
        "de.idnr",
        "[0-9]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{3}",
        ("steuer id", "steueridentifikationsnummer", "idnr", "tax id", "steuerliche identifikation"),
        "36 574 261 809",
    ),
    Number(
        "FR_NIR",
        "fr.nir",
        "[1-478] ?[0-9]{2} ?[0-9]{2} ?[0-9][0-9AB] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}",
        ("nir", "insee", "securite sociale", "sécurité sociale"),
        "295109912611193",
    ),
    Number(
        "NL_BSN",
        "nl.bsn",
        r"[0-9]{4}\.?[0-9]{2}\.?[0-9]{3}",
        ("bsn", "burgerservicenummer", "sofinummer"),
        "111222333",
    ),
    Number(
        "BE_NN",
        "be.nn",
        r"[0-9]{2}[ .]?[0-9]{2}[ .]?[0-9]{2}[ -]?[0-9]{3}[ .]?[0-9]{2}",
        ("rijksregisternummer", "registre national", "national number", "numéro national"),
        "85073003328",
    ),
    Number("PL_PESEL", "pl.pesel", "[0-9]{11}", ("pesel",), "44051401359"),
    Number(
        "SE_PERSONNUMMER",
        "se.personnummer",
        "(?:[0-9]{2})?[0-9]{6}[-+]?[0-9]{4}",
        ("personnummer", "personal identity"),
        "880320-0016",
    ),
    Number(
        "FI_HETU",
        "fi.hetu",
        "(?i)[0-9]{6}[-+A-Y][0-9]{3}[0-9A-Z]",
        ("hetu", "henkilötunnus", "henkilotunnus"),
        "131052-308T",
    ),
    Number("DK_CPR", "dk.cpr", "[0-9]{6}-?[0-9]{4}", ("cpr", "personnummer"), "211062-5629", "211362-5629"),
    Number(
        "NO_FNR",
        "no.fodselsnummer",
        "[0-9]{6} ?[0-9]{5}",
        ("fødselsnummer", "fodselsnummer", "personnummer"),
        "151086 95088",
    ),
    Number("IE_PPS", "ie.pps", "(?i)[0-9]{7}[A-W][ABHTWX]?", ("pps", "ppsn"), "6433435F"),
    Number("PT_NIF", "pt.nif", "[0-9]{3} ?[0-9]{3} ?[0-9]{3}", ("nif", "contribuinte"), "501 964 843"),
    Number("CZ_RC", "cz.rc", "[0-9]{6}/?[0-9]{3,4}", ("rodné číslo", "rodne cislo"), "710319/2745"),
    Number("RO_CNP", "ro.cnp", "[1-9][0-9]{12}", ("cnp", "cod numeric personal"), "1630615123457"),
    Number("BG_EGN", "bg.egn", "[0-9]{6} ?[0-9]{3} ?[0-9]", ("egn", "егн"), "8032056031"),
    Number("HR_OIB", "hr.oib", "[0-9]{11}", ("oib",), "33392005961"),
    Number("EE_IK", "ee.ik", "[1-8][0-9]{10}", ("isikukood", "asmens kodas"), "36805280109"),
    Number("GR_AMKA", "gr.amka", "[0-9]{11}", ("amka",), "01013099997"),
    Number(
        "AT_SVNR",
        "at.vnr",
        "[0-9]{4} ?[0-9]{6}",
        ("svnr", "sozialversicherungsnummer", "versicherungsnummer"),
        "1237 010180",
    ),
    Number(
        "CH_AHV",
        "ch.ssn",
        r"756\.?[0-9]{4}\.?[0-9]{4}\.?[0-9]{2}",
        ("ahv", "avs", "sozialversicherungsnummer"),
        "756.9217.0769.85",
    ),
    Number("CN_RIC", "cn.ric", "(?i)[0-9]{17}[0-9X]", ("身份证", "resident identity"), "360426199101010071"),
    Number(
        "KR_RRN", "kr.rrn", "[0-9]{6}-?[0-9]{7}", ("주민등록번호", "resident registration"), "971013-9019902"
    ),
    Number(
        "ZA_ID", "za.idnr", "[0-9]{6} ?[0-9]{4} ?[0-9]{3}", ("id number", "identity number"), "7503305044089"
    ),
    Number(
        "MX_CURP",
        "mx.curp",
        "(?i)[A-Z]{4}[0-9]{6}[HMX][A-Z]{5}[A-Z0-9][0-9]",
        ("curp",),
        "BOXW310820HNERXN09",
    ),
    Number("TR_TCKN", "tr.tckimlik", "[1-9][0-9]{10}", ("kimlik", "tckn"), "17291716060"),
)


def _canonical(text: str) -> str:
    return "".join(character for character in text if character.isalnum()).upper()


def _spoiled(sample: str) -> str:
    """Return ``sample`` with another check digit."""
    last = sample[-1]
    other = str((int(last) + 1) % 10) if last.isdigit() else "A" if last.upper() != "A" else "B"
    return sample[:-1] + other


def announced_number(number: Number) -> Rule:
    word, sample = number.words[0], number.sample
    return Rule(
        name=number.name,
        announced=True,
        pattern=number.pattern,
        check=standard_number(number.module),
        context=number.words,
        canonical=_canonical,
        must_match=(f"{word} {sample}", f"{word}: {sample}.", f"my {word} is {sample}, and"),
        must_not_match=(sample, f"{word}: {number.wrong or _spoiled(sample)}", f"the {word} of {sample[:4]}"),
    )


_NRIC_LETTERS = {
    "S": "JZIHGFEDCBA", "T": "JZIHGFEDCBA", "F": "XWUTRQPNMLK", "G": "XWUTRQPNMLK", "M": "XWUTRQPNJLK",
}  # fmt: skip
_NRIC_SHIFT = {"S": 0, "T": 4, "F": 0, "G": 4, "M": 3}


def _nric(text: bytes, start: int, end: int, hint: str) -> Iterator[Span]:
    """Check the letter of a Singapore identity or foreign identification number: weights 2 7 6 5 4 3 2, modulo 11."""
    if is_word(text, start - 1) or is_word(text, end):
        return
    number = text[start:end].decode("ascii").upper()
    kind = number[0]
    total = _NRIC_SHIFT[kind] + sum(
        int(digit) * weight for digit, weight in zip(number[1:8], (2, 7, 6, 5, 4, 3, 2), strict=True)
    )
    if _NRIC_LETTERS[kind][total % 11] == number[8]:
        yield start, end


_NINO = "(?i)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]"

RULES = (
    *(announced_number(number) for number in _NUMBERS),
    Rule(
        name="SG_NRIC",
        gate=rf"{WORD}(?i:[FGMST])[0-9]{{7}}[A-Za-z]",
        reach=32,
        pattern=r"(?i)[FGMST][0-9]{7}[A-Z]",
        check=_nric,
        canonical=str.upper,
        must_match=("S1234567D", "NRIC: S1234567D.", "(s1234567d)"),
        must_not_match=("S1234567A", "XS1234567D", "S12345678D"),
    ),
    Rule(
        name="UK_NINO",
        announced=True,
        pattern=_NINO + "(?: ?[0-9]{2}){3} ?[A-D]",
        check=standalone,
        context=("national insurance", "nino", "ni number", "ni no"),
        canonical=_canonical,
        must_match=("NINO: AB123456C", "National Insurance number AB 12 34 56 C", "ni number is ab123456c."),
        must_not_match=("AB123456C", "nino QQ123456C", "national insurance AB12345C"),
    ),
    Rule(
        name="BR_CPF",
        gate=rf"{WORD}[0-9]{{3}}\.[0-9]{{3}}\.[0-9]{{3}}-[0-9]{{2}}",
        gate_core=r"\.[0-9]{3}\.[0-9]{3}-[0-9]{2}",
        pattern=r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}",
        check=standard_number("br.cpf"),
        canonical=_canonical,
        must_match=("390.533.447-05", "para 390.533.447-05.", "(390.533.447-05)"),
        must_not_match=("390.533.447-06", "1.390.533.447-05", "390.533.447-051"),
    ),
    Rule(
        name="IT_CODICE_FISCALE",
        gate=rf"{WORD}(?i:[A-Z]{{6}}[0-9]{{2}}[A-EHLMPR-T][0-9]{{2}}[A-Z][0-9]{{3}}[A-Z])",
        reach=64,
        pattern=r"(?i)[A-Z]{6}[0-9]{2}[A-EHLMPR-T][0-9]{2}[A-Z][0-9]{3}[A-Z]",
        check=standard_number("it.codicefiscale"),
        canonical=str.upper,
        must_match=("RSSMRA85T10A562S", "C.F. rssmra85t10a562s.", "codice fiscale: RSSMRA85T10A562S"),
        must_not_match=("RSSMRA85T10A562A", "XRSSMRA85T10A562S", "RSSMRA85T10A562"),
    ),
)
