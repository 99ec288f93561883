"""Numbers of further countries' registers of people and taxpayers, told by a word before them and python-stdnum's checks."""

from __future__ import annotations

from collector.redaction.rule import Rule
from collector.redaction.rules.national import Number, announced_number
from collector.redaction.validator import luhn, standalone_if

_NUMBERS = (
    Number(
        "IS_KENNITALA", "is_.kennitala", "[0-9]{6}-?[0-9]{4}", ("kennitala",), "120174-3399", "120174-3389"
    ),
    Number("LT_AK", "lt.asmens", "[1-6][0-9]{10}", ("asmens kodas",), "33309240064"),
    Number("SI_EMSO", "si.emso", "[0-9]{13}", ("emšo", "emso", "jmbg"), "0101006500006"),
    Number("SK_RC", "sk.rc", "[0-9]{6}/?[0-9]{3,4}", ("rodné číslo", "rodne cislo"), "710319/2745"),
    Number("IL_ID", "il.idnr", "[0-9]{8}-?[0-9]", ("teudat zehut", "תעודת זהות", "ת.ז"), "039337423"),
    Number(
        "TH_PIN",
        "th.pin",
        "[0-9]-?[0-9]{4}-?[0-9]{5}-?[0-9]{2}-?[0-9]",
        ("thai id", "บัตรประชาชน", "citizen id"),
        "1-2345-45678-78-1",
    ),
    Number(
        "MY_NRIC",
        "my.nric",
        "[0-9]{6}-?[0-9]{2}-?[0-9]{4}",
        ("mykad", "nric", "kad pengenalan"),
        "770305-02-1234",
        "771305-02-1234",
    ),
    Number(
        "ID_NIK", "id.nik", "[0-9]{16}", ("nik", "ktp", "nomor induk"), "3171011708450001", "3171011713450001"
    ),
    Number(
        "JP_MY_NUMBER",
        "jp.in_",
        "[0-9]{4} ?[0-9]{4} ?[0-9]{4}",
        ("my number", "マイナンバー", "個人番号"),
        "6214 9832 0257",
    ),
    Number("VN_MST", "vn.mst", "[0-9]{10}(?:-?[0-9]{3})?", ("mst", "mã số thuế"), "0100233488"),
    Number(
        "PK_CNIC",
        "pk.cnic",
        "[0-9]{5}-?[0-9]{7}-?[0-9]",
        ("cnic", "nadra"),
        "34201-0891231-8",
        "04201-0891231-0",
    ),
    Number("CL_RUT", "cl.rut", r"(?i)[0-9]{1,2}\.?[0-9]{3}\.?[0-9]{3}-?[0-9K]", ("rut",), "12.531.909-2"),
    Number("AR_CUIT", "ar.cuit", "[0-9]{2}-?[0-9]{8}-?[0-9]", ("cuit", "cuil"), "20-05536168-2"),
    Number("EC_CI", "ec.ci", "[0-9]{9}-?[0-9]", ("cédula", "cedula"), "171430710-3"),
    Number("DO_CEDULA", "do.cedula", "[0-9]{3}-?[0-9]{7}-?[0-9]", ("cédula", "cedula"), "00113918205"),
    Number("UA_RNTRC", "ua.rntrc", "[0-9]{10}", ("рнокпп", "rntrc", "ідентифікаційний"), "1759013776"),
    Number("RU_INN", "ru.inn", "[0-9]{12}|[0-9]{10}", ("инн",), "123456789047"),
    Number("NZ_IRD", "nz.ird", "[0-9]{2,3}-?[0-9]{3}-?[0-9]{3}", ("ird", "inland revenue"), "49-098-576"),
    Number("UK_UTR", "gb.utr", "[0-9]{10}", ("utr", "taxpayer reference"), "1955839661"),
    Number(
        "US_EIN",
        "us.ein",
        "[0-9]{2}-[0-9]{7}",
        ("employer identification", "fein", "ein no", "ein number"),
        "91-1144442",
        "07-1144442",
    ),
    Number("KE_PIN", "ke.pin", "(?i)[AP][0-9]{9}[A-Z]", ("kra", "kra pin"), "A004416331M", "B004416331M"),
)


def _provider(number: str) -> bool:
    """Whether the number of a US health care provider has its check digit: Luhn behind 80840 (45 CFR 162.406)."""
    return luhn("80840" + number)


RULES = (
    *(announced_number(number) for number in _NUMBERS),
    Rule(
        name="US_NPI",
        announced=True,
        pattern="[12][0-9]{9}",
        check=standalone_if(_provider),
        context=("npi", "national provider"),
        must_match=("NPI 1234567893", "npi: 1245319599.", "National Provider Identifier 1234567893"),
        must_not_match=("1234567893", "npi 1234567890", "npi 123"),
    ),
)
