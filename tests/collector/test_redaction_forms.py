"""Every entity in every form a text can have: nothing leaks, and what surrounds it stays."""

from __future__ import annotations

import base64
import json
import re
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from collector.redaction.engine import Engine

# Assembled from parts, so that no scanner takes this file for a leak.
PLANTED: dict[str, list[str]] = {
    "EMAIL": ["jane.doe@example.com", "o'brien+news@mail.example.co.uk", "j_d-1@sub.example.museum"],
    "CARD": [
        "4111 1111 " + "1111 1111",
        "55555555" + "55554444",
        "3782-822463-" + "10005",
        "2223003122" + "003222",
    ],
    "IBAN": ["DE89 3704 0044 0532 " + "0130 00", "GB82WEST123456" + "98765432", "NO93860" + "11117947"],
    "US_SSN": ["536-90-" + "4399", "219-09-" + "9998"],
    "PHONE": ["+1 415-555-2671", "(415) 555-2671", "+49 30 901820", "415.555.2671", "+447911123456"],
    "IPV4": ["203.0.113.77", "10.20.30.40"],
    "IPV6": ["2001:db8:85a3::8a2e:370:7334", "fe80::1ff:fe23:4567:890a"],
    "JWT": ["eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl"],
    "PRIVATE_KEY": [
        "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEowIBAAKCAQEA\nAbCdEf==\n-----END RSA " + "PRIVATE KEY-----"
    ],
    "AWS_KEY": ["AKIA" + "IOSFODNN7EXAMPLE"],
    "GITHUB_TOKEN": ["ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a"],
    "OPENAI_KEY": ["sk-" + "proj-abc_DEF1234567890abcdefghij", "sk-" + "abcdEFGHijklMNOP1234567890"],
    "ANTHROPIC_KEY": ["sk-ant-" + "api03-abcdefghijklmnop-QRSTUV_wxyz"],
    "SLACK_TOKEN": ["xoxb-" + "123456789012-1234567890123-AbCdEfGhIjKlMnOp"],
    "STRIPE_KEY": ["sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc"],
    "GOOGLE_KEY": ["AIza" + "SyA-1234567890abcdefghijklmnopqrstu"],
}
CASES = [(entity, value) for entity, values in PLANTED.items() for value in values]
# What is redacted is a part of these: the token behind "Bearer", the login in the address.
PARTS = [
    ("BEARER_TOKEN", "Authorization: Bearer mF_9.B5f-4.1JqM4z7", "mF_9.B5f-4.1JqM4z7"),
    ("URL_CREDENTIALS", "postgres://app:s3cr3t" + "@db.internal/app", "app:s3cr3t"),
    ("URL_CREDENTIALS", "redis://:hunter22" + "@cache:6379/0", ":hunter22"),
]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


def core(value: str) -> str:
    """What must not be found in the output in any spelling: its letters and digits."""
    return re.sub(r"[^0-9A-Za-z]", "", value).lower()


def leaks(value: str, output: str) -> bool:
    return core(value) in core(output)


def unescape(text: str) -> str:
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text)


def escape_all(text: str) -> str:
    return "".join(f"\\u{ord(character):04x}" for character in text)


def full_width(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if c.isdigit() or c in "@." else c for c in text)


FORMS = {
    "plain": lambda v: v,
    "sentence": lambda v: f"Please note {v}, thanks.",
    "newlines": lambda v: f"first\n{v}\nlast",
    "quoted": lambda v: f"he said '{v}' (\"{v}\")",
    "key=value": lambda v: f"x={v};y=1",
    "tab escape cut off": lambda v: '[{"content":"a\\n' + json.dumps(v)[1:-1] + "\\tb",
    "escaped characters cut off": lambda v: '{"c":"' + escape_all(v),
    "twice escaped cut off": lambda v: (
        '{"c":"{\\"d\\":\\"a\\\\n' + json.dumps(json.dumps(v)[1:-1])[1:-1] + "\\\\n"
    ),
    "repr": lambda v: repr({"content": f"a\n{v}\nb"}),
    "slash escape": lambda v: v.replace("/", "\\/") + "\\/",
    "percent": lambda v: "https://x.test/?q=" + quote(v, safe="") + "&z=1",
    "json": lambda v: json.dumps({"content": f"a\n{v}\nb", "n": 1}),
    "json key": lambda v: json.dumps({v: 1}),
    "json in json": lambda v: json.dumps([{"arguments": json.dumps({"to": v, "k": [v]})}]),
    "json in json in json": lambda v: json.dumps({"a": json.dumps({"b": json.dumps(f"\n{v}\n")})}),
    "json unicode escapes": lambda v: '{"a":"' + escape_all(v) + '"}',
    "json deep": lambda v: "[" * 70 + json.dumps("\n" + v) + "]" * 70,
    "json too deep for any parser": lambda v: "[" * 5000 + json.dumps("\n" + v) + "]" * 5000,
    "json duplicate key": lambda v: '{"a":' + json.dumps(v) + ',"a":"clean"}',
    "json in json duplicate key": lambda v: json.dumps({"x": '{"a":' + json.dumps(v) + ',"a":"clean"}'}),
    "json lines": lambda v: json.dumps({"a": 1}) + "\n" + json.dumps({"a": f"\n{v}"}),
    "sse": lambda v: "data: " + json.dumps({"delta": f"\n{v}\n"}) + "\n\n",
    "markdown": lambda v: f"```\n{v}\n```\n* **{v}**\n| {v} |",
    "chinese": lambda v: f"我的号码是{v}。",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("entity", "value"), CASES)
def test_no_form_hides_an_entity(engine: Engine, entity: str, value: str, form: str) -> None:
    text = FORMS[form](value)
    output, entities = engine.redact(text)
    assert not leaks(value, output), output
    assert not leaks(value, unescape(output)), output
    assert entity in entities or form == "json duplicate key" or form == "json in json duplicate key"
    assert engine.redact(output) == (output, ())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("entity", "text", "secret"), PARTS)
def test_no_form_hides_a_part(engine: Engine, entity: str, text: str, secret: str, form: str) -> None:
    output, _ = engine.redact(FORMS[form](text))
    assert not leaks(secret, output), output


@pytest.mark.parametrize(
    "transform", [full_width, lambda v: "\u200b".join(v), lambda v: v.replace(" ", "\u00a0")]
)
@pytest.mark.parametrize(
    ("entity", "value"), [case for case in CASES if case[0] in ("EMAIL", "CARD", "PHONE", "US_SSN")]
)
def test_look_alike_characters_hide_nothing(
    engine: Engine, entity: str, value: str, transform: object
) -> None:
    output, entities = engine.redact(f"see {transform(value)} here")  # type: ignore[operator]
    assert output == f"see [{entity}] here"
    assert entities == (entity,)


words = st.sampled_from(
    [
        "the",
        "customer",
        "asked",
        "about",
        "an",
        "order",
        "and",
        "said",
        "thanks",
        "no",
        "total",
        "of",
        "#12",
        "items",
        "paid",
        "$9.99",
        "ok",
        "é",
        "日本",
        "🙂",
        "a-b",
        "x_y",
        "(see)",
        "[n]",
    ]
)
separators = st.sampled_from([" ", ", ", "; ", "\n", "\t", " | ", ") ", "? ", "! ", '" ', "> "])
prose = st.lists(st.tuples(words, separators), max_size=12).map(
    lambda parts: "".join(w + s for w, s in parts)
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prose,
    st.sampled_from(CASES),
    st.sampled_from(["", ".", ",", "!", "?", ";", ")", '"', "\n", " ", "。"]),
    prose,
)
def test_the_surroundings_stay(
    engine: Engine, before: str, case: tuple[str, str], mark: str, after: str
) -> None:
    entity, value = case
    after = mark + (" " + after if after else "")
    output, entities = engine.redact(before + value + after)
    assert output == f"{before}[{entity}]{after}"
    assert entities == (entity,)


@settings(max_examples=300, deadline=None)
@given(prose, st.sampled_from(CASES), prose, st.integers(1, 4))
def test_json_stays_json_and_equal_but_for_the_find(
    engine: Engine, before: str, case: tuple[str, str], after: str, levels: int
) -> None:
    entity, value = case

    def build(text: str) -> str:
        made = text
        for level in range(levels):
            made = json.dumps(
                {"role": "user", "n": [level, 1.5, None, True], "c": [made]}, ensure_ascii=level % 2 == 0
            )
        return made

    def unpack(text: str) -> object:
        document = json.loads(text)
        inner = document["c"][0]
        if inner.startswith('{"role"'):
            document["c"] = [unpack(inner)]
        return document

    output, _ = engine.redact(build(before + " " + value + "\n" + after))
    assert unpack(output) == unpack(build(before + f" [{entity}]\n" + after))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(CASES), min_size=2, max_size=5),
    st.sampled_from([" ", "\n", ", ", "; ", "/", "|", " - ", ""]),
)
@example([("US_SSN", "852-45-0206"), ("PHONE", "852-725-0000")], " ")
def test_neighbours_do_not_hide_each_other(
    engine: Engine, cases: list[tuple[str, str]], separator: str
) -> None:
    text = separator.join(value for _, value in cases)
    output, _ = engine.redact(text)
    if separator:
        for _, value in cases:
            assert not leaks(value, output), output
    assert engine.redact(output) == (output, ())


@settings(max_examples=500, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from([value for _, value in CASES]),
            st.text(max_size=8),
            st.text("0123456789 .-+():@/\\nu%[]{}\",'", max_size=20),
            st.sampled_from(
                ["\\n", "\\u0040", "%40", "\\\\", '{"a":"', '"}', "Bearer ", "phone ", "://", "-----BEGIN"]
            ),
        ),
        max_size=8,
    ).map("".join)
)
def test_redacting_twice_is_redacting_once(engine: Engine, text: str) -> None:
    output, _ = engine.redact(text)
    assert engine.redact(output) == (output, ())


def test_numbers_in_json_are_found(engine: Engine) -> None:
    card = 4111111111111111
    output, entities = engine.redact(json.dumps({"a": card, "b": [float(card)], "c": 17189, "d": 10**25}))
    assert json.loads(output) == {"a": "[CARD]", "b": ["[CARD]"], "c": 17189, "d": 10**25}
    assert entities == ("CARD", "CARD")


def test_json_that_python_writes_is_read_and_its_numbers_stay(engine: Engine) -> None:
    text = '{"score":NaN,"most":[-Infinity,1e999],"password":"correct horse"}'
    assert engine.redact(text) == (text.replace("correct horse", "[SECRET]"), ("SECRET",))


@pytest.mark.parametrize(
    ("key", "number", "entity"),
    [
        ("birth_date", 19850314, "BIRTH_DATE"),
        ("mrn", 884213, "MEDICAL_ID"),
        ("password", 30412789, "SECRET"),
        ("passport_no", 12345678, "PASSPORT"),
    ],
)
def test_short_numbers_that_a_key_announces_are_found(
    engine: Engine, key: str, number: int, entity: str
) -> None:
    output, entities = engine.redact(json.dumps({"n": number, key: [number]}))
    assert (json.loads(output), entities) == ({"n": number, key: [f"[{entity}]"]}, (entity,))


def test_equal_tags_do_not_merge_keys(engine: Engine) -> None:
    output, _ = engine.redact('{"a@example.com":1,"b@example.com":2,"[EMAIL]":3}')
    assert sorted(json.loads(output).values()) == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("call ＋49 30 901820 now", "call [PHONE] now"),
        ("4111－1111－" + "1111－1111", "[CARD]"),
        ("是536－90－4399。", "是[US_SSN]。"),
        ("password：Tr0ub4dor&3", "password：[SECRET]"),
        ("api_key＝9f8A7b6C5d4E3f2G1h0I", "api_key＝[SECRET]"),
        (
            r"https:\/\/discord.com\/api\/webhooks\/123456789012345678\/" + "AbCdEfGhIjKlMnOpQrStUv",
            r"https:\/\/discord.com\/api\/webhooks\/[DISCORD_TOKEN]",
        ),
    ],
)
def test_full_width_marks_and_escaped_slashes_hide_nothing(engine: Engine, text: str, expected: str) -> None:
    assert engine.redact(text)[0] == expected


@pytest.mark.parametrize("alphabet", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("before", ["https://x.test/v1/users/", "/u/", "com/a/", "x/y/zz/"])
def test_base64_in_a_path_is_redacted(engine: Engine, before: str, alphabet: Any) -> None:
    encoded = alphabet(b"state of jane.doe@example.com and so on").decode().rstrip("=")
    output, entities = engine.redact(f"{before}{encoded}/edit?q=1")
    assert entities == ("EMAIL",)
    inner = output.removeprefix(before).removesuffix("/edit?q=1")
    assert base64.urlsafe_b64decode(inner + "==") == b"state of [EMAIL] and so on"
    assert engine.redact(output) == (output, ())
