"""Operators, own rules, allowed texts, pseudonyms, and what refuses to start."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from collector.redaction.edge import WORD
from collector.redaction.engine import Engine
from collector.redaction.policy import built_in_rules
from collector.redaction.rule import Rule, Unscannable
from collector.settings import RedactionSettings
from stream.errors import ConfigError

CARD = "4111 1111 " + "1111 1111"
OWN: dict[str, Any] = {
    "name": "EMPLOYEE_ID",
    "pattern": r"\bEMP-(?P<value>[0-9]{6})\b",
    "must_match": ["EMP-123456"],
    "must_not_match": ["EMP-12345"],
}


def engine(**settings: Any) -> Engine:
    return Engine(RedactionSettings.model_validate(settings))


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("PSEUDONYM_KEY", "k" * 32)
    return {"pseudonym": {"key": "${env:PSEUDONYM_KEY}"}}


def test_operators() -> None:
    text = f"a@example.com {CARD} 203.0.113.77"
    made = engine(operators={"EMAIL": "drop", "CARD": "mask"})
    assert made.redact(text)[0] == " ****1111 [IPV4]"
    assert engine(default_operator="mask").redact(text)[0] == "**** ****1111 ****"


def test_a_mask_shows_the_last_characters_as_a_reader_sees_them() -> None:
    made = engine(operators={"CARD": "mask"})
    digits = CARD.replace(" ", "")
    wide = "".join(chr(ord(digit) + 0xFEE0) for digit in digits)
    assert made.redact(f"my {wide}.") == ("my ****1111.", ("CARD",))
    assert made.redact(f"q={digits[:-1]}%31&z") == ("q=****1111&z", ("CARD",))


def test_an_escaped_text_has_the_same_pseudonym(key: dict[str, Any]) -> None:
    made = engine(**key)
    (plain, escaped) = (made.redact(text, hint="user.id")[0] for text in ("a@example.com", "a%40example.com"))
    assert plain == escaped


def test_the_longest_of_overlapping_finds_names_the_whole() -> None:
    own = OWN | {
        "pattern": "user jane[.]doe@example",
        "must_match": ["user jane.doe@example"],
        "must_not_match": ["x"],
    }
    assert engine(rules=[own]).redact("for user jane.doe@example.com now") == (
        "for [EMPLOYEE_ID] now",
        ("EMPLOYEE_ID",),
    )


def test_a_pseudonym_joins_within_a_tenant_and_not_beyond(key: dict[str, Any]) -> None:
    made = engine(**key)
    first, _ = made.redact("Jane.Doe@example.com", hint="user.id")
    assert first.startswith("pii:email:k1:")
    assert made.redact("jane.doe@example.com", hint="user.id")[0] == first
    assert made.redact("john.doe@example.com", hint="user.id")[0] != first
    assert made.redact("jane.doe@example.com", hint="user.id", tenant="other")[0] != first
    assert made.redact(first, hint="user.id") == (first, ())


def test_ids_that_are_not_personal_stay_and_text_gets_tags(key: dict[str, Any]) -> None:
    made = engine(**key)
    assert made.redact("sess-123", hint="session.id") == ("sess-123", ())
    assert made.redact("mail jane.doe@example.com", hint="gen_ai.input.messages")[0] == "mail [EMAIL]"
    assert engine().redact("jane.doe@example.com", hint="user.id")[0] == "[EMAIL]"


def test_another_key_gives_another_pseudonym(key: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    before = engine(**key).redact("a@example.com", hint="user.id")[0]
    monkeypatch.setenv("PSEUDONYM_KEY", "j" * 32)
    assert engine(**key).redact("a@example.com", hint="user.id")[0] != before


@pytest.mark.parametrize("operator", ["pseudonym", "mask", "tag", "drop"])
def test_pseudonyms_and_masks_are_never_found_again(operator: str, key: dict[str, Any]) -> None:
    made = engine(default_operator=operator, **key)
    for rule in built_in_rules():
        for text in rule.must_match:
            output, _ = made.redact(text)
            assert made.redact(output) == (output, ()), rule.name


def test_a_pseudonym_without_a_key_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"redaction\.pseudonym\.key"):
        RedactionSettings(default_operator="pseudonym")


def test_a_short_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSEUDONYM_KEY", "short")
    with pytest.raises(ConfigError, match="at least 32"):
        engine(pseudonym={"key": "${env:PSEUDONYM_KEY}"})


def test_a_missing_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PSEUDONYM_KEY", raising=False)
    with pytest.raises(ConfigError, match="PSEUDONYM_KEY is not set"):
        engine(pseudonym={"key": "${env:PSEUDONYM_KEY}"})


def test_allow_spares_the_text_and_nothing_around_it() -> None:
    made = engine(allow=["help@example.com"])
    assert made.redact(f"help@example.com {CARD} a@example.com")[0] == "help@example.com [CARD] [EMAIL]"
    assert made.redact("not-help@example.com")[0] == "[EMAIL]"


def test_allow_may_name_an_example_of_a_rule() -> None:
    assert engine(allow=["jane.doe@example.com"]).redact("jane.doe@example.com")[1] == ()


def test_disable() -> None:
    assert engine(disable=["EMAIL"]).redact(f"a@example.com {CARD}")[0] == "a@example.com [CARD]"


def test_own_rule_redacts_its_value_group_in_every_form() -> None:
    made = engine(rules=[OWN])
    assert made.redact("see EMP-123456.")[0] == "see EMP-[EMPLOYEE_ID]."
    assert made.redact('{"a":"x\\nEMP-123456"}')[0] == '{"a":"x\\nEMP-[EMPLOYEE_ID]"}'
    assert made.redact('{"a":"x\\nEMP-123456')[0] == '{"a":"x\\nEMP-[EMPLOYEE_ID]'
    assert made.redact("EMP-1234567")[1] == ()


def test_own_rule_over_characters_that_json_escapes() -> None:
    own = OWN | {
        "pattern": 'id="[a-z]{4}"\n',
        "must_match": ['id="abcd"\n'],
        "must_not_match": ['id="abc"\n'],
    }
    assert engine(rules=[own]).redact('{"a":"<x id=\\"abcd\\"\\n>"}')[0] == '{"a":"<x [EMPLOYEE_ID]>"}'


def test_own_rule_with_context_and_validator() -> None:
    own = OWN | {
        "pattern": "[0-9]{11}",
        "context": ["steuer-id", "tax id"],
        "validator": "stdnum.de.idnr",
        "must_match": ["Steuer-ID: 36574261809"],
        "must_not_match": ["36574261809", "tax id 36574261808"],
    }
    made = engine(rules=[own], disable=["DE_TAX_ID"])
    assert made.redact("Tax ID 36574261809" + " and" * 12 + " order 36574261809")[0] == (
        "Tax ID [EMPLOYEE_ID]" + " and" * 12 + " order 36574261809"
    )
    assert made.redact("36574261809", hint="customer.tax id")[0] == "[EMPLOYEE_ID]"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pattern": "(?<=x)y"}, "RE2 does not accept the pattern: [a-z]"),
        ({"must_match": ["nothing here"]}, "EMPLOYEE_ID misses example 1 of must_match"),
        (
            {"must_not_match": ["fine", "EMP-123456"]},
            "EMPLOYEE_ID wrongly matches example 2 of must_not_match",
        ),
        ({"validator": "stdnum.nowhere"}, "no validator 'stdnum.nowhere'"),
        ({"validator": "os.system"}, "neither 'luhn' nor"),
    ],
)
def test_a_rule_that_does_not_do_what_it_says_refuses_to_start(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        engine(rules=[OWN | change])


@pytest.mark.parametrize("section", ["disable", "operators"])
def test_unknown_entities_are_refused(section: str) -> None:
    value: Any = ["EMIAL"] if section == "disable" else {"EMIAL": "mask"}
    with pytest.raises(ConfigError, match=f"redaction.{section} names .'EMIAL'.*EMAIL"):
        engine(**{section: value})


def test_the_policy_version_follows_the_policy(key: dict[str, Any]) -> None:
    policies: list[dict[str, Any]] = [
        {},
        {"disable": ["EMAIL"]},
        {"allow": ["x"]},
        {"operators": {"EMAIL": "mask"}},
        {"rules": [OWN]},
        {"rules": [OWN | {"pattern": r"EMP-[0-9]{6}\b"}]},
        key,
        {"pseudonym": key["pseudonym"] | {"key_id": "k2"}},
    ]
    versions = [engine(**policy).policy_version for policy in policies]
    assert len(set(versions)) == len(versions)
    assert versions == [engine(**policy).policy_version for policy in policies]
    # The examples are no part of what is redacted.
    assert engine(rules=[OWN | {"must_match": ["EMP-654321"]}]).policy_version == versions[4]


def test_a_failing_check_makes_the_text_unscannable() -> None:
    def broken(text: bytes, start: int, end: int, hint: str) -> Iterator[tuple[int, int]]:
        if b"crash" in text:
            raise ValueError(text.decode())
        yield start, end

    made = Engine(rules=[Rule(name="X", gate="x", pattern="x[0-9]", check=broken)])
    assert made.redact("x1")[0] == "[X]"
    with pytest.raises(Unscannable) as caught:
        made.redact("crash x1")
    assert caught.value.reason == "scan_failed"
    assert "x1" not in str(caught.value)


def test_a_text_made_of_candidates_is_refused_in_bounded_time() -> None:
    made = engine(max_candidates=1000)
    with pytest.raises(Unscannable) as caught:
        made.redact("+1 415 555 2671, " * 2000)
    assert caught.value.reason == "too_many_candidates"


@pytest.mark.parametrize(
    "text",
    [
        "1 " * 400_000,
        "11 " * 300_000,
        "4111-" * 200_000,
        "@" * 500_000,
        "a@" * 300_000,
        "a." * 300_000,
        "-----BEGIN PRIVATE KEY-----" * 20_000,
        "eyJhbGci." * 60_000,
        "://a:" * 100_000,
        ":" * 500_000,
        "\\" * 500_000,
        "\\u0040" * 80_000,
        "%25" * 150_000,
        "[" * 500_000,
        '{"a":' * 100_000,
        '"' * 500_000,
        "DE89 " * 100_000,
        "bearer " * 80_000,
        "+" * 500_000,
        "+1" * 250_000,
        "1.1.1.1." * 60_000,
        "\u200b" * 150_000,
    ],
    ids=lambda text: text[:12].encode("unicode_escape").decode(),
)
@pytest.mark.timeout(20)
def test_no_text_takes_forever(text: str) -> None:
    with contextlib.suppress(Unscannable):
        Engine().redact(text)


def test_a_batch_is_bounded_too() -> None:
    made = engine(max_candidates=100)
    texts = [b"+1 415 555 2671, " * 40] * 60
    found = made.redact_batch(texts, [""] * len(texts))
    assert len(found) == len(texts)
    kinds = [isinstance(found[index], Unscannable) for index in range(len(texts))]
    assert not kinds[0]
    assert kinds[-1]


def test_base64_is_looked_into_up_to_its_limit() -> None:
    text = base64.b64encode(b"write to jane.doe@example.com please").decode()
    output, entities = engine().redact(f"data:text/plain;base64,{text}")
    assert entities == ("EMAIL",)
    assert base64.b64decode(output.partition(",")[2]) == b"write to [EMAIL] please"
    assert engine(max_base64_bytes=0).redact(text) == (text, ())
    assert engine(max_base64_bytes=40).redact(text) == (text, ())
    image = base64.b64encode(bytes(range(256)) * 4).decode()
    assert engine().redact(image) == (image, ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("password: Tr0ub4dor&3xyz end", "password: [SECRET] end"),
        ("password=Tr0ub4dor|3;xyz", "password=[SECRET]"),
        ("Server=db;Password=Zx9!kLm2;Encrypt=true", "Server=db;Password=[SECRET];Encrypt=true"),
        ("password: hunter2!, then more", "password: [SECRET], then more"),
        ("https://x.example/?password=hunter2!&user=7", "https://x.example/?password=[SECRET]&user=7"),
    ],
)
def test_no_part_of_a_password_stays_and_the_next_field_does(text: str, expected: str) -> None:
    assert Engine().redact(text)[0] == expected


def test_when_the_time_is_up_gates_are_not_looked_at_either() -> None:
    calls = 0

    def check(text: bytes, start: int, end: int, hint: str) -> Iterator[tuple[int, int]]:
        nonlocal calls
        calls += 1
        return iter(())

    rule = Rule(name="NOTHING", gate=rf"{WORD}[0-9]{{9}}", reach=32, pattern="[0-9]{9}", check=check)
    made = Engine(rules=[rule])
    texts = [str(10**8 + number).encode() for number in range(5000)]
    assert made.redact_batch(texts, [""] * len(texts)) == {}
    assert calls >= 5000
    calls = 0
    found = made.redact_batch(texts, [""] * len(texts), expired=lambda: True)
    assert {str(result) for result in found.values()} == {
        "scan_timeout: scanning took longer than max_scan_time"
    }
    assert calls < 500
