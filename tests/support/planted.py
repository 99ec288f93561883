"""Values of every entity, forms a value can be written in, and places of OTLP it can stand in, for leak tests.

A form can be undone: ``undo(write(text))`` is ``text``, and what the collector made of it is read with ``undo`` too, so
that not only leaks are found but also everything around the value that is not as it was.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import random
import re
import string
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import phonenumbers
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from stdnum import iban, luhn
from stdnum.iso7064 import mod_97_10

from collector.redaction.engine import Engine
from collector.redaction.policy import built_in_rules
from collector.redaction.rules.finance import _IBAN_LENGTHS


class Value(NamedTuple):
    """A text with an entity in it, what it must become, and the letters and digits that must be gone."""

    entity: str
    text: str
    clean: str
    core: str


class Form(NamedTuple):
    """How a text is written, and how that is undone."""

    name: str
    write: Callable[[str], str]
    undo: Callable[[str], str]
    digits_only: bool = False
    ends_secrets: bool = True  # a password may hold commas and asterisks, so what follows may be taken along
    exact: bool = True  # whether the rest of the text is exactly as it was; else only nothing leaks


class Place(NamedTuple):
    """Where a text stands: how it gets there, and how it is read."""

    name: str
    signal: str
    put: Callable[[Any, str], None]  # into a ResourceSpans or ResourceLogs with one scope and one item
    get: Callable[[Any], str]


# Values ---------------------------------------------------------------------------------------------------------------

_LETTERS = string.ascii_letters + string.digits


def values(engine: Engine, drawn: int, seed: int = 11) -> list[Value]:
    """Return the examples of all built-in rules and ``drawn`` further values."""
    found = [
        _value(engine, rule.name, example)
        for rule in built_in_rules()
        for example in rule.must_match
        if not example.startswith("{")  # not those that are JSON themselves
    ]
    source = random.Random(seed)
    makers = list(MAKERS.items())
    for number in range(drawn):
        entity, make = makers[number % len(makers)]
        found.append(_value(engine, entity, make(source)))
    return [value for value in found if value is not None]


def _value(engine: Engine, entity: str, text: str) -> Value | None:
    clean, entities = engine.redact(text)
    assert entity in entities or entity in engine.entities_in(text), (entity, text)
    gone = [word for word in re.findall(r"[0-9A-Za-z]{3,}", text) if word not in clean]
    return Value(entity, text, clean, max(gone, key=len)) if gone else None


def _grouped(digits: str, separator: str, sizes: tuple[int, ...]) -> str:
    groups, position = [], 0
    for size in sizes:
        groups.append(digits[position : position + size])
        position += size
    return separator.join(group for group in groups if group)


def _card(r: random.Random) -> str:
    prefix, length = r.choice(
        [("4", 16), ("51", 16), ("55", 16), ("2221", 16), ("2720", 16), ("34", 15), ("37", 15), ("6011", 16), ("65", 16),
         ("3530", 16), ("36", 14), ("62", 19), ("4", 19)]
    )  # fmt: skip
    body = prefix + "".join(r.choices(string.digits, k=length - len(prefix) - 1))
    digits = body + luhn.calc_check_digit(body)
    if length == 16:
        return _grouped(digits, r.choice([" ", "-", ""]), (4, 4, 4, 4))
    if length == 15:
        return _grouped(digits, r.choice([" ", "-", ""]), (4, 6, 5))
    return digits


def _iban(r: random.Random) -> str:
    country = r.choice(sorted(_IBAN_LENGTHS))
    structure = iban._ibandb.info(country + "00")[0][1].get("bban", f"{_IBAN_LENGTHS[country] - 4}!n")
    alphabets = {"n": string.digits, "a": string.ascii_uppercase, "c": string.digits + string.ascii_uppercase}
    body = "".join(
        "".join(r.choices(alphabets[kind], k=int(size)))
        for size, kind in re.findall(r"([0-9]+)!([nac])", structure)
    )
    check = mod_97_10.calc_check_digits(body + country)
    account = f"{country}{check}{body}"
    return r.choice([account, " ".join(re.findall(".{1,4}", account)), account.lower()])


def _phone(r: random.Random) -> str:
    while True:
        number = phonenumbers.example_number(r.choice(sorted(phonenumbers.SUPPORTED_REGIONS)))
        if number is not None:
            break
    return phonenumbers.format_number(
        number, r.choice([phonenumbers.PhoneNumberFormat.E164, phonenumbers.PhoneNumberFormat.INTERNATIONAL])
    )


def _email(r: random.Random) -> str:
    name = "".join(r.choices(_LETTERS + "._+-", k=r.randrange(3, 20))).strip("._+-") or "abc"
    name = re.sub(r"[.]{2,}", ".", name) + "q" + str(r.randrange(100, 999))
    domain = "".join(r.choices(string.ascii_lowercase, k=r.randrange(3, 12)))
    return f"{name}@{domain}.{r.choice(['com', 'de', 'co.uk', 'io', 'example', 'org'])}"


def _ssn(r: random.Random) -> str:
    area = r.choice([n for n in range(100, 900) if n != 666])
    return f"{area}-{r.randrange(1, 100):02}-{r.randrange(1000, 10000)}"


def _ipv4(r: random.Random) -> str:
    return f"{r.choice([8, 10, 52, 172, 192, 203, 223])}.{r.randrange(256)}.{r.randrange(256)}.{r.randrange(1, 255)}"


def _ipv6(r: random.Random) -> str:
    return str(ipaddress.IPv6Address((0x2001 << 112) | r.getrandbits(112)))


def _letters(r: random.Random, count: int, letters: str = _LETTERS) -> str:
    return "".join(r.choices(letters, k=count))


MAKERS: dict[str, Callable[[random.Random], str]] = {
    "CARD": _card,
    "IBAN": _iban,
    "PHONE": _phone,
    "EMAIL": _email,
    "US_SSN": _ssn,
    "IPV4": _ipv4,
    "IPV6": _ipv6,
    "AWS_KEY": lambda r: "AKIA" + _letters(r, 16, string.ascii_uppercase + "234567"),
    "GITHUB_TOKEN": lambda r: r.choice(["ghp_", "gho_", "ghs_"]) + _letters(r, 36),
    "OPENAI_KEY": lambda r: "sk-" + "proj-" + _letters(r, 47) + "7",
    "ANTHROPIC_KEY": lambda r: "sk-ant-" + "api03-" + _letters(r, 60),
    "SLACK_TOKEN": lambda r: (
        "xoxb-"
        + _letters(r, 12, string.digits)
        + "-"
        + _letters(r, 12, string.digits)
        + "-"
        + _letters(r, 24)
    ),
    "STRIPE_KEY": lambda r: "sk_live_" + _letters(r, 24),
    "GOOGLE_KEY": lambda r: "AIza" + _letters(r, 35),
    "GITLAB_TOKEN": lambda r: "glpat-" + _letters(r, 20),
    "HUGGINGFACE_TOKEN": lambda r: "hf_" + _letters(r, 34, string.ascii_letters),
    "NPM_TOKEN": lambda r: "npm_" + _letters(r, 36),
    "SECRET": lambda r: f"api_key={_letters(r, 24)}a1B2",
    "URL_CREDENTIALS": lambda r: f"postgres://app:{_letters(r, 14)}@db.example/main",
}


# Forms ----------------------------------------------------------------------------------------------------------------


def _around(name: str, before: str, after: str) -> Form:
    def undo(text: str) -> str:
        assert text.startswith(before), ("start", text)
        assert text.endswith(after), ("end", text)
        return text[len(before) : len(text) - len(after)]

    return Form(name, lambda v: before + v + after, undo)


def _loose(name: str, before: str, after: str) -> Form:
    """Around, where a secret may take ``after`` along."""
    undo = lambda text: text.removeprefix(before).removesuffix(after)  # noqa: E731
    return Form(name, lambda v: before + v + after, undo, ends_secrets=False)


def _then(outer: Form, inner: Form) -> Form:
    """``inner`` written as ``outer``."""
    return Form(
        f"{inner.name} as {outer.name}",
        lambda v: outer.write(inner.write(v)),
        lambda text: inner.undo(outer.undo(text)),
    )


def _json(name: str, build: Callable[[str], Any], find: Callable[[Any], str], **how: Any) -> Form:
    def undo(text: str) -> str:
        document = json.loads(text)
        found = find(document)
        assert document == build(found), ("the rest of the document", text)
        return found

    return Form(name, lambda v: json.dumps(build(v), **how), undo)


def _escape_all(text: str) -> str:
    return "".join(f"\\u{ord(c):04x}" for c in text)


def _inside(text: str) -> str:
    return json.dumps(text)[1:-1]


def _read(text: str) -> str:
    found = json.loads(f'"{text}"')
    assert isinstance(found, str)
    return found


def _b64(before: str, after: str) -> Form:
    around = _around("", before, after)

    def write(v: str) -> str:
        return base64.b64encode(around.write(v).encode()).decode()

    def undo(text: str) -> str:
        return around.undo(base64.b64decode(text, validate=True).decode())

    return Form("base64", write, undo)


def _url_safe() -> Form:
    around = _around("", "this was said ~~~??? ", " ~~~???")

    def write(v: str) -> str:
        return base64.urlsafe_b64encode(around.write(v).encode()).decode().rstrip("=")

    def undo(text: str) -> str:
        return around.undo(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode())

    return Form("url-safe base64", write, undo)


def _lines() -> Form:
    """JSON lines: no JSON document as a whole, and each line must stay one."""

    def write(v: str) -> str:
        return (
            f"{json.dumps({'n': 1, 'a': 'fine'})}\n{json.dumps({'n': 2, 'a': f'x{chr(10)}{v}{chr(10)}'})}\n"
        )

    def undo(text: str) -> str:
        first, second, last = text.split("\n")
        assert (json.loads(first), last) == ({"n": 1, "a": "fine"}, "")
        found = json.loads(second)["a"]
        assert json.loads(second) == {"n": 2, "a": found}
        return _around("", "x\n", "\n").undo(found)

    return Form("json lines", write, undo)


def _full_width(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if c in string.digits else c for c in text)


def _half_width(text: str) -> str:
    return "".join(chr(ord(c) - 0xFEE0) if 0xFF10 <= ord(c) <= 0xFF19 else c for c in text)


PLAIN = _around("plain", "", "")
SENTENCE = _around("sentence", "Please note ", " and thanks.")
JSON = _json("json", lambda v: {"content": v, "n": [1, None, 0.5]}, lambda d: d["content"])
CUT_OFF = Form(
    "json cut off",
    lambda v: '[{"content":"a\\n' + _inside(v) + '\\n","b',
    lambda text: _read(_around("", '[{"content":"a\\n', '\\n","b').undo(text)),
)
BASE64 = _b64("this is what was said: ", " and no more")

FORMS: list[Form] = [
    PLAIN,
    SENTENCE,
    _around("at the start", "", " is all"),
    _around("at the end", "all is ", ""),
    _around("lines", "first\n", "\nlast"),
    _around("crlf", "first\r\n", "\r\nlast"),
    _around("tabs", "a\t", "\tb"),
    _around("brackets", "(see ", ")"),
    _around("square brackets", "[see ", "]"),
    _around("angle brackets", "<", ">"),
    _around("double quotes", '"', '"'),
    _around("single quotes", "'", "'"),
    _around("quotation marks", "“", "”"),
    _loose("markdown", "**", "**"),
    _around("code", "`", "`"),
    _around("table", "| ", " | 7 |"),
    _around("comma", "ok, ", ", ok"),
    _loose("csv", "17,", ",0.5,ok"),
    _around("full stop", "Ok. ", ". Ok"),
    _around("question", "¿", "?"),
    _around("other script", "日本 ", " です"),
    _around("umlauts", "é ", " ü"),
    JSON,
    _json("json utf-8", lambda v: ["é", {"a": f"ü {v} 日"}], lambda d: d[1]["a"][2:-2], ensure_ascii=False),
    _json("json indented", lambda v: {"a": [{"b": f"x\n{v}\n\ty"}]}, lambda d: d["a"][0]["b"][2:-3], indent=2),
    _json("json quotes", lambda v: {"a": f'he said "{v}" \\ twice'}, lambda d: d["a"][9:-9]),
    _json("json key", lambda v: {v: 1, "other": True}, lambda d: next(iter(d))),
    Form("json escapes", lambda v: '{"a":"' + _escape_all(v) + '"}', lambda text: json.loads(text)["a"]),
    _then(JSON, JSON),
    _then(JSON, _then(JSON, _around("lines", "a\n", "\nb"))),
    _lines(),
    CUT_OFF,
    Form(
        "json in json cut off",
        lambda v: '{"arguments":"' + _inside('{"to":"a\n' + _inside(v) + "\\n"),
        lambda text: _read(_around("", '{"to":"a\n', "\\n").undo(_read(_around("", '{"arguments":"', "").undo(text)))),
    ),
    Form(
        "escapes cut off",
        lambda v: '{"c":"' + _escape_all(v),
        lambda text: _read(_around("", '{"c":"', "").undo(text)),
    ),
    Form(
        "percent",
        lambda v: "https://x.test/?q=" + quote(v, safe="") + "&z=1",
        lambda text: unquote(_around("", "https://x.test/?q=", "&z=1").undo(text)),
    ),
    Form(
        "percent twice",
        lambda v: "https://x.test/?q=" + quote(quote(v, safe=""), safe="") + "&z=1",
        lambda text: unquote(unquote(_around("", "https://x.test/?q=", "&z=1").undo(text))),
        exact=False,  # a value behind %2520 may take a part of the escape along
    ),
    BASE64,
    _then(_around("data uri", "see data:text/plain;base64,", " there"), _b64("first line\n", "\nlast line")),
    _url_safe(),
    _then(BASE64, JSON),
    _then(JSON, BASE64),
    _then(CUT_OFF, BASE64),
    Form("full width", _full_width, _half_width, digits_only=True),
    Form(
        "zero width",
        lambda v: re.sub(r"(?<=\d)(?=\d)", "\u200b", v),
        lambda text: text.replace("\u200b", ""),
        digits_only=True,
    ),
    _then(JSON, Form("full width", _full_width, _half_width))._replace(digits_only=True),
]  # fmt: skip
# Only where digits are the entity: a word in other characters is another word.
DIGITS = {"CARD", "PHONE", "US_SSN", "UK_NHS", "DE_TAX_ID", "PL_PESEL", "NL_BSN", "IN_AADHAAR", "ABA", "IPV4"}


# Places ---------------------------------------------------------------------------------------------------------------


def _field(name: str, signal: str, owner: Callable[[Any], Any], field: str) -> Place:
    return Place(
        name, signal, lambda g, text: setattr(owner(g), field, text), lambda g: str(getattr(owner(g), field))
    )


def _any(name: str, signal: str, owner: Callable[[Any], Any]) -> Iterator[Place]:
    """Places in the attributes of ``owner``, of which there is one already."""

    def attribute(g: Any) -> KeyValue:
        return owner(g).attributes[-1]  # type: ignore[no-any-return]

    def make(
        inside: Callable[[AnyValue], AnyValue], read: Callable[[AnyValue], AnyValue], kind: str
    ) -> Place:
        def put(g: Any, text: str) -> None:
            value = inside(owner(g).attributes.add(key="k").value)
            value.string_value = text

        return Place(f"{name}.{kind}", signal, put, lambda g: read(attribute(g).value).string_value)

    def put_key(g: Any, text: str) -> None:
        owner(g).attributes.add(key=text).value.bool_value = True

    def put_bytes(g: Any, text: str) -> None:
        owner(g).attributes.add(key="k").value.bytes_value = text.encode()

    def put_inner_key(g: Any, text: str) -> None:
        owner(g).attributes.add(key="k").value.kvlist_value.values.add(key=text).value.int_value = 1

    def deep(value: AnyValue) -> AnyValue:
        for _ in range(8):
            value = value.array_value.values.add().kvlist_value.values.add(key="deep").value
        return value

    def deep_read(value: AnyValue) -> AnyValue:
        for _ in range(8):
            value = value.array_value.values[0].kvlist_value.values[0].value
        return value

    def second(value: AnyValue) -> AnyValue:
        value.array_value.values.add(string_value="x")
        return value.array_value.values.add()

    yield make(lambda v: v, lambda v: v, "string")
    yield make(second, lambda v: v.array_value.values[1], "array")
    yield make(
        lambda v: v.kvlist_value.values.add(key="in").value, lambda v: v.kvlist_value.values[0].value, "map"
    )
    yield make(deep, deep_read, "deep")
    yield Place(f"{name}.key", signal, put_key, lambda g: attribute(g).key)
    yield Place(f"{name}.bytes", signal, put_bytes, lambda g: attribute(g).value.bytes_value.decode())
    yield Place(
        f"{name}.map key", signal, put_inner_key, lambda g: attribute(g).value.kvlist_value.values[0].key
    )


def _span(g: Any) -> Any:
    return g.scope_spans[0].spans[0]


def _log(g: Any) -> Any:
    return g.scope_logs[0].log_records[0]


def _body(g: Any, text: str) -> None:
    _log(g).body.string_value = text


PLACES: list[Place] = [
    *_any("span", "traces", _span),
    *_any("event", "traces", lambda g: _span(g).events[0]),
    *_any("link", "traces", lambda g: _span(g).links[0]),
    *_any("resource", "traces", lambda g: g.resource),
    *_any("scope", "traces", lambda g: g.scope_spans[0].scope),
    *_any("log", "logs", _log),
    _field("span.name", "traces", _span, "name"),
    _field("span.trace_state", "traces", _span, "trace_state"),
    _field("span.status", "traces", lambda g: _span(g).status, "message"),
    _field("event.name", "traces", lambda g: _span(g).events[0], "name"),
    _field("link.trace_state", "traces", lambda g: _span(g).links[0], "trace_state"),
    _field("scope.name", "traces", lambda g: g.scope_spans[0].scope, "name"),
    _field("scope.version", "traces", lambda g: g.scope_spans[0].scope, "version"),
    _field("scope.schema_url", "traces", lambda g: g.scope_spans[0], "schema_url"),
    _field("resource.schema_url", "traces", lambda g: g, "schema_url"),
    Place("log.body", "logs", _body, lambda g: _log(g).body.string_value),
    _field("log.severity_text", "logs", _log, "severity_text"),
    _field("log.event_name", "logs", _log, "event_name"),
]


# Requests -------------------------------------------------------------------------------------------------------------


def request(signal: str) -> Any:
    return ExportTraceServiceRequest() if signal == "traces" else ExportLogsServiceRequest()


def groups(message: Any) -> Any:
    return message.resource_spans if hasattr(message, "resource_spans") else message.resource_logs


def add(message: Any, number: int) -> Any:
    """Add a resource with one scope and one span or log record, with something in every field."""
    identity = number.to_bytes(7, "big") + b"s"
    group = groups(message).add()
    group.resource.attributes.add(key="service.name").value.string_value = "shop"
    if hasattr(group, "scope_spans"):
        scope = group.scope_spans.add()
        span = scope.spans.add(
            trace_id=b"t" * 16, span_id=identity, name="chat", trace_state="ot=th:8", kind=3
        )
        span.start_time_unix_nano, span.end_time_unix_nano = (
            1_718_900_000_000_000_000,
            1_718_900_000_100_000_000,
        )
        span.attributes.add(key="gen_ai.request.model").value.string_value = "gpt-4.1"
        span.events.add(name="e", time_unix_nano=1_718_900_000_050_000_000)
        span.links.add(trace_id=b"u" * 16, span_id=b"v" * 8)
        span.status.code = 2
    else:
        scope = group.scope_logs.add()
        record = scope.log_records.add(trace_id=b"t" * 16, span_id=identity, severity_text="INFO")
        record.body.string_value = "hello"
    scope.scope.name, scope.scope.version = "instrumentation", "1.2.3"
    return group
