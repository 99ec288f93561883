"""Every built-in rule: its examples in every form, its words in keys, and what its words do not announce."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from collector.redaction.engine import Engine, Redacted
from collector.redaction.policy import built_in_rules, forms
from collector.redaction.rule import Rule

RULES = built_in_rules()


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.name}-{rule.must_match[0][:12]}")
def test_examples_in_every_form(engine: Engine, rule: Rule) -> None:
    for example in rule.must_match:
        for form in forms(example):
            assert rule.name in engine.entities_in(form), form
            output, _ = engine.redact(form)
            assert engine.redact(output) == (output, ())


@pytest.mark.parametrize("hint", ["", "user.phone"])
@pytest.mark.parametrize("between", [" ", ", "])
def test_long_lists_are_redacted_and_not_refused(engine: Engine, between: str, hint: str) -> None:
    texts = [between.join([example] * 60).encode() for rule in RULES for example in rule.must_match]
    found = engine.redact_batch(texts, [hint] * len(texts))
    assert {index: str(result) for index, result in found.items() if not isinstance(result, Redacted)} == {}


@pytest.mark.parametrize(
    ("key", "value", "entity"),
    [
        ("user.passport_number", "X12345678", "PASSPORT"),
        ("passportNumber", "X12345678", "PASSPORT"),
        ("customer.dateOfBirth", "1985-03-14", "BIRTH_DATE"),
        ("dob", "03/14/1985", "BIRTH_DATE"),
        ("patient.mrn", "00123456", "MEDICAL_ID"),
        ("payment.routing_number", "111000025", "ABA"),
        ("nhsNumber", "9434765870", "UK_NHS"),
        ("customer.tfn", "123456782", "AU_TFN"),
        ("tax_id", "36574261809", "DE_TAX_ID"),
        ("db.password", "correct horse battery", "SECRET"),
        ("clientSecret", "abcdefgh", "SECRET"),
        ("api-key", "letmein", "SECRET"),
        ("net.mac", "02:42:ac:11:00:02", "MAC_ADDRESS"),
        ("user.ssn", "536904399", "US_SSN"),
        ("sessionToken", "9f8A7b6C5d4E3f2G1h0I", "SECRET"),
        ("http.request.header.authorization", "9f8A7b6C5d4E3f2G1h0I", "BEARER_TOKEN"),
    ],
)
def test_a_key_announces(engine: Engine, key: str, value: str, entity: str) -> None:
    assert engine.redact(value, hint=key) == (f"[{entity}]", (entity,))
    assert engine.redact(value, hint="other") == (value, ())
    assert json.loads(engine.redact(json.dumps({"a": [{key: value}]}))[0]) == {"a": [{key: f"[{entity}]"}]}


@pytest.mark.parametrize("value", ["true", "${DB_PASSWORD}", "********", "<password>", "[SECRET]", "null"])
def test_placeholders_under_a_key_stay(engine: Engine, value: str) -> None:
    assert engine.redact(value, hint="db.password") == (value, ())


@pytest.mark.parametrize("key", ["adobe", "database", "kidney", "hotelier", "mydobby", "passwords_changed"])
def test_short_words_inside_others_announce_nothing(engine: Engine, key: str) -> None:
    assert engine.redact("03/14/1985", hint=key)[1] == ()
    assert engine.redact(f"{key} 111000025, {key}: 1985-03-14")[1] == ()


def test_context_does_not_reach_far(engine: Engine) -> None:
    near = "NHS number of the patient is 9434765870"
    assert engine.redact(near)[1] == ("UK_NHS",)
    assert engine.redact("NHS " + "and so on " * 6 + "9434765870")[1] == ()


@pytest.mark.parametrize("between", ["", " and nothing more" * 9])
def test_the_last_word_of_a_text_announces(engine: Engine, between: str) -> None:
    text = f"MRN unknown{between}, patient id: P-884213 and{between} medicare pays"
    assert engine.redact(text) == (text.replace("P-884213", "[MEDICAL_ID]"), ("MEDICAL_ID",))


@pytest.mark.parametrize("space", ["\u00a0", "\u202f", "\u3000"])
def test_words_with_other_spaces_between_them_announce(engine: Engine, space: str) -> None:
    text = f"my routing{space}number:{space}111000025, née{space}le{space}14.03.1985"
    assert engine.redact(text) == (
        f"my routing{space}number:{space}[ABA], née{space}le{space}[BIRTH_DATE]",
        ("ABA", "BIRTH_DATE"),
    )


def test_what_a_key_was_replaced_by_announces_nothing(engine: Engine) -> None:
    text = '{"+1 415-555-2671":"4155552671","536-90-4399":[536904399]}'
    output, _ = engine.redact(text)
    assert output == '{"[PHONE]":"4155552671","[US_SSN]":[536904399]}'
    assert engine.redact(output) == (output, ())
    assert engine.redact("4155552671", hint="[PHONE]_2")[1] == ()
    assert engine.redact("4155552671", hint="phone [EMAIL]")[1] == ("PHONE",)


def test_many_keys_are_remembered_and_forgotten(engine: Engine) -> None:
    document = {f"key{number}": "03/14/1985" for number in range(9000)} | {"dob": "03/14/1985"}
    output, entities = engine.redact(json.dumps(document))
    assert entities == ("BIRTH_DATE",)
    assert json.loads(output)["dob"] == "[BIRTH_DATE]"


def test_the_page_names_every_entity() -> None:
    page = (Path(__file__).parents[2] / "docs" / "redaction.md").read_text()
    assert [rule.name for rule in RULES if f"`{rule.name}`" not in page] == []


def test_a_word_at_the_start_of_every_text_of_a_batch(engine: Engine) -> None:
    texts = [
        b"pan: ACUPA7085R",
        b"dob 1985-03-14",
        b"tfn 123456782",
        b"a@example.com",
        b"cpr 2110625629",
        b"",
    ] * 3
    found = engine.redact_batch(texts, [""] * len(texts))
    assert sorted(found) == [index for index, text in enumerate(texts) if text]


@pytest.mark.parametrize("length", [20, 300, 3000])
def test_no_part_of_a_long_secret_stays(engine: Engine, length: int) -> None:
    secret = ("aB3-xY9_kQ7-" * length)[:length]
    for text in (f"password={secret} end", f"api_key: {secret} end"):
        output, _ = engine.redact(text)
        assert output.endswith("[SECRET] end")
    assert engine.redact(secret, hint="client_secret")[0] == "[SECRET]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("17,4111111111111111,12", "17,[CARD],12"),
        ("4111111111111111,536-90-4399", "[CARD],[US_SSN]"),
        ("52.96.114.195,10.138.194.224,1.2.3", "[IPV4],[IPV4],1.2.3"),
        ("7,+14155552671,9", "7,[PHONE],9"),
        ("7,415.555.2671,203.0.113.7", "7,[PHONE],[IPV4]"),
        ("mrn 00123456,415", "mrn [MEDICAL_ID],415"),
        # Numbers as people write them stay whole.
        ("0,4111111111111111", "0,4111111111111111"),
        ("1.234.123.200,50 EUR", "1.234.123.200,50 EUR"),
        ("tfn 1,123,456,782", "tfn 1,123,456,782"),
    ],
)
def test_the_fields_of_a_table_are_told_from_the_parts_of_a_number(
    engine: Engine, text: str, expected: str
) -> None:
    assert engine.redact(text)[0] == expected


@pytest.mark.parametrize(
    ("text", "is_address"),
    [
        ("server: 203.0.113.77", True),
        ("recv=203.0.113.77", True),
        ('src_ip == "203.0.113.77"', True),
        ("ver 10.20.30.40", False),
        ("agentVer=10.20.30.40", False),
        ("chromedriver 114.0.57.90", False),
        ("opencv-python == 4.9.0.80", False),
    ],
)
def test_words_that_end_as_version_words_do_hide_no_address(
    engine: Engine, text: str, is_address: bool
) -> None:
    assert engine.redact(text)[1] == (("IPV4",) if is_address else ())


def test_a_password_of_underscores_does_not_keep_the_matcher_busy(engine: Engine) -> None:
    assert engine.redact("password=" + "a_" * 5000 + "$") == ("password=[SECRET]", ("SECRET",))


def test_a_key_that_is_no_text_announces_nothing_and_refuses_nothing(engine: Engine) -> None:
    output, entities = engine.redact('{"\\ud800":"from 10.20.30.40, +1 415-555-2671"}')
    assert (output, entities) == ('{"\\ud800":"from [IPV4], [PHONE]"}', ("IPV4", "PHONE"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "Basic [BEARER_TOKEN]"),
        ('Digest username="jane", response="6629fae49393a05397450978507c4ef1"', "Digest [BEARER_TOKEN]"),
        ("Bearer ${TOKEN}", "Bearer ${TOKEN}"),
        ("required", "required"),
    ],
)
def test_what_a_header_authorizes_with(engine: Engine, value: str, expected: str) -> None:
    for key in ("http.request.header.authorization", "Authorization", "proxy-authorization"):
        assert engine.redact(value, hint=key)[0] == expected
        assert engine.redact(expected, hint=key) == (expected, ())
        assert json.loads(engine.redact(json.dumps({key: [value]}))[0]) == {key: [expected]}


@pytest.mark.parametrize("levels", [1, 4, 6])
@pytest.mark.parametrize("key", ["password", "client_secret", "authorization", "ssn"])
def test_a_key_announces_in_json_within_json(engine: Engine, key: str, levels: int) -> None:
    text = json.dumps({key: "Basic 536904399"})
    for _ in range(levels - 1):
        text = json.dumps({"arguments": text})
    assert "536904399" not in engine.redact(text)[0]


@pytest.mark.parametrize(
    "text",
    [
        "---- BEGIN SSH2 " + "PRIVATE KEY ----\nComment: x\nP2/56wAAAi4AAAA3aWYt\nbW9kbntzaWdue3Jz",
        "PuTTY-User-Key-File-3: ssh-ed25519\nPublic-Lines: 1\nAAAAC3Nz\nPrivate-Lines: 2\nbW9kbntzaWdue3Jz",
        's = "-----BEGIN RSA PRIVATE KEY-----\\n" +\n    "bW9kbntzaWdue3Jz\\n" +\n    "bW9kbntzaWdue3Jz\\n"',
    ],
)
def test_keys_that_are_cut_off_or_written_in_code(engine: Engine, text: str) -> None:
    assert "bW9kbntzaWdue3Jz" not in engine.redact(text)[0]


@pytest.mark.parametrize("separator", [";", ";;"])
def test_a_long_line_of_passwords_is_read_once(engine: Engine, separator: str) -> None:
    output, entities = engine.redact(separator.join(["pwd=abc123"] * 20_000))
    assert entities
    assert "abc123" not in output
