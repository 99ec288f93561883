"""Each entity in every place of OTLP and every form: nothing leaks, and everything else is as it was sent.

``DRIFTGATE_PLANTED_CASES`` sets how many cases are drawn (all there are at most); nightly runs set 100000 or more.
"""

from __future__ import annotations

import base64
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from collector.ingest import Ingest
from collector.redaction.engine import Engine
from collector.redaction.policy import built_in_rules

CASES = int(os.environ.get("DRIFTGATE_PLANTED_CASES", "6000"))
_SPANS = 60


def escape_all(text: str) -> str:
    return "".join(f"\\u{ord(c):04x}" for c in text)


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def full_width(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if c.isdigit() else c for c in text)


def zero_width(text: str) -> str:
    return re.sub(r"(?<=\d)(?=\d)", "\u200b", text)


FORMS: dict[str, Callable[[str], str]] = {
    "plain": lambda v: v,
    "sentence": lambda v: f"Please note {v}, thanks.",
    "lines": lambda v: f"first\n{v}\nlast",
    "brackets": lambda v: f"(see {v})",
    "json": lambda v: json.dumps({"content": v, "n": [1, None]}),
    "json in json": lambda v: json.dumps([{"arguments": json.dumps({"to": f"a\n{v}"})}]),
    "json escapes": lambda v: '{"a":"' + escape_all(v) + '"}',
    "json cut off": lambda v: '[{"content":"a\\n' + json.dumps(v)[1:-1] + '\\n","b',
    "escapes cut off": lambda v: '{"c":"' + escape_all(v),
    "percent": lambda v: "https://x.test/?q=" + quote(v, safe="") + "&z=1",
    "base64": lambda v: b64(f"this is what was said: {v} and no more"),
    "data uri": lambda v: "see data:text/plain;base64," + b64(f"first line\n{v}\nlast line") + " there",
    "url-safe base64": lambda v: (
        base64.urlsafe_b64encode(f"this was said ~~~??? {v} ~~~???".encode()).decode().rstrip("=")
    ),
    "base64 of json": lambda v: b64(json.dumps({"content": f"x {v}"})),
    "json of base64": lambda v: json.dumps({"data": b64(f"a long enough text with {v}")}),
}
# Only where digits are the entity: a word in other characters is another word.
DIGIT_FORMS = {"full width": full_width, "zero width": zero_width}
DIGITS = {"CARD", "PHONE", "US_SSN", "UK_NHS", "DE_TAX_ID", "PL_PESEL", "NL_BSN", "IN_AADHAAR", "ABA"}


def planted() -> list[tuple[str, str, str]]:
    """Entity, text with it in it, and the letters and digits that must be gone."""
    engine = Engine()
    found = []
    for rule in built_in_rules():
        for example in rule.must_match:
            left = engine.redact(example)[0]
            gone = [word for word in re.findall(r"[0-9A-Za-z]{3,}", example) if word not in left]
            if gone and not example.startswith("{"):  # not those that are JSON themselves
                found.append((rule.name, example, max(gone, key=len)))
    return found


def value(text: str) -> AnyValue:
    return AnyValue(string_value=text)


def _name(span: Any, text: str) -> None:
    span.name = text


def _state(span: Any, text: str) -> None:
    span.trace_state = text


def _status(span: Any, text: str) -> None:
    span.status.message = text


def _attribute(span: Any, text: str) -> None:
    span.attributes.append(KeyValue(key="k", value=value(text)))


def _key(span: Any, text: str) -> None:
    span.attributes.append(KeyValue(key=text, value=value("v")))


def _bytes(span: Any, text: str) -> None:
    span.attributes.append(KeyValue(key="k", value=AnyValue(bytes_value=text.encode())))


def _array(span: Any, text: str) -> None:
    span.attributes.add(key="k").value.array_value.values.extend([value("x"), value(text)])


def _map(span: Any, text: str) -> None:
    span.attributes.add(key="k").value.kvlist_value.values.add(key="in").value.CopyFrom(value(text))


def _map_key(span: Any, text: str) -> None:
    span.attributes.add(key="k").value.kvlist_value.values.add(key=text).value.int_value = 1


def _deep(span: Any, text: str) -> None:
    inner = span.attributes.add(key="k").value
    for _ in range(8):
        inner = inner.array_value.values.add().kvlist_value.values.add(key="d").value
    inner.string_value = text


def _event_name(span: Any, text: str) -> None:
    span.events.add(name=text)


def _event_attribute(span: Any, text: str) -> None:
    span.events.add(name="e").attributes.append(KeyValue(key="k", value=value(text)))


def _link_attribute(span: Any, text: str) -> None:
    link = span.links.add(trace_id=b"t" * 16, span_id=b"s" * 8)
    link.attributes.append(KeyValue(key="k", value=value(text)))


def _link_state(span: Any, text: str) -> None:
    span.links.add(trace_id=b"t" * 16, span_id=b"s" * 8, trace_state=text)


PLACES = [
    _name, _state, _status, _attribute, _key, _bytes, _array, _map, _map_key, _deep, _event_name, _event_attribute,
    _link_attribute, _link_state,
]  # fmt: skip


def cases() -> Iterator[tuple[str, str, str, str, Callable[[Any, str], None]]]:
    """All of them, in an order that is random and always the same; each entity in each form comes first."""
    every = []
    for entity, text, core in planted():
        forms = FORMS | (DIGIT_FORMS if entity in DIGITS else {})
        every += [(entity, form, text, core, place) for form in forms for place in PLACES]
    random.Random(5).shuffle(every)
    yield from every[:CASES]
    # Beyond all combinations: again, among other words.
    r = random.Random(6)
    for _ in range(CASES - len(every)):
        entity, form, text, core, place = r.choice(every)
        words = " ".join(r.choices(["ok", "the", "order", "é", "日本", "total", "[x]"], k=r.randrange(1, 6)))
        yield entity, form, f"{words} {text} {words}", core, place


def spelled(text: str) -> str:
    """A text with every encoding undone: what a reader could get out of it."""
    for _ in range(3):
        text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), text)
        text = re.sub(r"%([0-9a-fA-F]{2})", lambda m: chr(int(m[1], 16)), text)
        for run in re.findall(r"[A-Za-z0-9+/_-]{16,}={0,2}", text):
            plain = run.rstrip("=").replace("-", "+").replace("_", "/")
            decoded = base64.b64decode(plain + "=" * (-len(plain) % 4)) if len(plain) % 4 != 1 else b""
            text += " " + decoded.decode("utf-8", "ignore")
    text = "".join(chr(ord(c) - 0xFEE0) if 0xFF10 <= ord(c) <= 0xFF19 else c for c in text)
    return text.replace("\u200b", "")


def build(chosen: list[Any]) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.append(KeyValue(key="service.name", value=value("shop")))
    scope = group.scope_spans.add()
    scope.scope.name = "scope"
    for number, (_, form, text, _, place) in enumerate(chosen):
        span = scope.spans.add(trace_id=b"t" * 16, span_id=number.to_bytes(7, "big") + b"s", name="chat")
        span.attributes.append(KeyValue(key="gen_ai.request.model", value=value("gpt-4.1")))
        span.start_time_unix_nano, span.end_time_unix_nano = (
            1_700_000_000_000_000_000,
            1_700_000_001_000_000_000,
        )
        place(span, (FORMS | DIGIT_FORMS)[form](text))
    return request


@pytest.mark.timeout(3600)
def test_nothing_leaks_and_nothing_is_corrupted() -> None:
    ingest = Ingest()
    every = list(cases())
    assert len(every) == CASES
    for first in range(0, len(every), _SPANS):
        chosen = every[first : first + _SPANS]
        sent = build(chosen)
        # The same request with nothing planted: what must be left but for the place itself.
        result = ingest.traces(build(chosen).SerializeToString())
        assert result.accepted == len(chosen), result.messages
        data = TracesData.FromString(result.outputs[0].value)
        spans = data.resource_spans[0].scope_spans[0].spans
        assert len(spans) == len(chosen)
        assert data.resource_spans[0].resource == sent.resource_spans[0].resource
        for case, span, before in zip(
            chosen, spans, sent.resource_spans[0].scope_spans[0].spans, strict=True
        ):
            entity, form, text, core, place = case
            where = (entity, form, place.__name__, text)
            assert core not in spelled(str(strings(span))), where
            assert (span.trace_id, span.span_id) == (before.trace_id, before.span_id)
            assert span.attributes[0] == before.attributes[0]
            assert span.start_time_unix_nano == before.start_time_unix_nano
            assert shape(span) == shape(before), where
        again = ingest.traces(result.outputs[0].value)
        assert again.redactions == {}
        assert again.outputs[0].value == result.outputs[0].value


def strings(message: Any) -> list[str]:
    """Every string and bytes field of a message."""
    found: list[str] = []
    for field, content in message.ListFields():
        for item in content if isinstance(content, (list, tuple)) or hasattr(content, "add") else [content]:
            if hasattr(item, "ListFields"):
                found += strings(item)
            elif isinstance(item, str):
                found.append(item)
            elif isinstance(item, bytes) and field.name == "bytes_value":
                found.append(item.decode())
    return found


def shape(message: Any) -> list[Any]:
    """The fields that are set, without the texts in them."""
    return [
        (field.name, [shape(item) for item in content] if hasattr(content, "add") else None)
        if field.type == field.TYPE_MESSAGE and hasattr(content, "add")
        else (field.name, shape(content) if hasattr(content, "ListFields") else None)
        for field, content in message.ListFields()
    ]
