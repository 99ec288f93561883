"""What is fuzzed: one function per target, which raises when something is wrong with the answer to arbitrary bytes.

Allowed answers are :class:`stream.errors.Permanent` and :class:`collector.redaction.rule.Unscannable` (what nobody can
use is refused) and a result that holds what it promises: the books of the request balance, what is published can be decoded
again, and a planted e-mail address is in none of it.
"""

from __future__ import annotations

import functools
import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import zstandard
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from collector import otlp_json
from collector.compression import ENCODINGS, decompress
from collector.ingest import Ingest, Ingested
from collector.redaction.engine import Engine
from collector.redaction.rule import Unscannable
from collector.settings import CollectorSettings
from stream.errors import Permanent

PLANTED = "jane.doe" + "@" + "example.com"
_LIMIT = 1 << 20


@functools.cache
def _engine() -> Engine:
    return Engine()


@functools.cache
def _ingest() -> Ingest:
    settings = CollectorSettings.model_validate(
        {
            "max_request_bytes": _LIMIT,
            "max_in_flight_bytes": _LIMIT,
            "max_span_bytes": 64 << 10,
            "max_string_bytes": 32 << 10,
            "max_record_bytes": 16 << 10,
            "max_spans_per_request": 50,
        }
    )
    return Ingest(settings, partitions=3, engine=_engine())


def protobuf(data: bytes) -> None:
    """A request body as gRPC hands it on; the first byte chooses the signal."""
    _taken(data[:1] < b"\x80", data[1:])


def receiver(data: bytes) -> None:
    """A request body of the HTTP receiver; the first byte chooses signal, content type and encoding."""
    choice = data[0] if data else 0
    traces, as_json, encoding = bool(choice & 1), bool(choice & 2), ENCODINGS[choice >> 2 & 3]
    try:
        plain = decompress(data[1:], encoding, _LIMIT, lambda size: None)
        assert len(plain) <= _LIMIT
        payload: Any = plain
        if as_json:
            payload = otlp_json.traces(plain) if traces else otlp_json.logs(plain)
    except Permanent as error:
        assert error.reason in ("undecodable", "too_large"), error
        return
    _taken(traces, payload)


def compression(data: bytes) -> None:
    """What was compressed comes out again, and a small limit holds, for each encoding and each way to cut it."""
    cut = len(data) // 2
    for encoding, pack in (("gzip", gzip.compress), ("deflate", zlib.compress), ("zstd", zstandard.compress)):
        packed = pack(data)
        assert decompress(packed, encoding, len(data) or 1, lambda size: None) == data
        if encoding != "deflate":
            members = pack(data[:cut]) + pack(data[cut:])
            assert decompress(members, encoding, len(data) or 1, lambda size: None) == data
        if len(data) > 1:
            try:
                decompress(packed, encoding, len(data) - 1, lambda size: None)
            except Permanent as error:
                assert error.reason == "too_large"
            else:
                raise AssertionError(f"{encoding}: the limit does not hold")
        try:
            decompress(packed[: len(packed) * 2 // 3], encoding, _LIMIT, lambda size: None)
        except Permanent as error:
            assert error.reason == "undecodable"
        else:
            raise AssertionError(f"{encoding}: a body that is cut off was taken")


def engine(data: bytes) -> None:
    """Arbitrary text, and the same with a value planted between two words of it."""
    text = data.decode("utf-8", "replace")
    middle = len(text) // 2
    for given in (text, f"{text[:middle]} {PLANTED} {text[middle:]}"):
        try:
            redacted, _ = _engine().redact(given, hint="gen_ai.input.messages")
        except Unscannable:
            continue
        assert PLANTED not in redacted
        redacted.encode("utf-8", "surrogatepass")


def structured(data: bytes) -> None:
    """A request of valid shape: places, nesting and texts come from the data, so that it gets past the decoder."""
    import atheris

    source = atheris.FuzzedDataProvider(data)
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    scope = group.scope_spans.add()
    _value(source, group.resource.attributes.add(key=_text(source)).value, 0)
    for _ in range(source.ConsumeIntInRange(1, 4)):
        span = scope.spans.add(
            trace_id=source.ConsumeBytes(16), span_id=source.ConsumeBytes(8), name=_text(source)
        )
        span.trace_state = _text(source)
        for _ in range(source.ConsumeIntInRange(0, 3)):
            _value(source, span.attributes.add(key=_text(source)).value, 0)
        if source.ConsumeBool():
            event = span.events.add(name=_text(source))
            _value(source, event.attributes.add(key=_text(source)).value, 0)
        if source.ConsumeBool():
            span.links.add(
                trace_id=source.ConsumeBytes(16), span_id=source.ConsumeBytes(8), trace_state=_text(source)
            )
        span.status.message = _text(source)
    _taken(True, request.SerializeToString())


def _text(source: Any) -> str:
    text: str = source.ConsumeUnicodeNoSurrogates(source.ConsumeIntInRange(0, 40))
    return f"{text} {PLANTED} {text}" if source.ConsumeBool() else text


def _value(source: Any, target: Any, depth: int) -> None:
    choice = source.ConsumeIntInRange(0, 6 if depth < 30 else 3)
    if choice == 0:
        target.string_value = _text(source)
    elif choice == 1:
        target.string_value = json.dumps({_text(source): [_text(source), json.dumps({"a": _text(source)})]})
    elif choice == 2:
        target.bytes_value = _text(source).encode()
    elif choice == 3:
        target.int_value = source.ConsumeInt(8)
    elif choice == 4:
        _value(source, target.array_value.values.add(), depth + 1)
    else:
        _value(source, target.kvlist_value.values.add(key=_text(source)).value, depth + 1)


def _taken(traces: bool, payload: bytes | Any) -> None:
    try:
        ingested = _ingest().traces(payload) if traces else _ingest().logs(payload)
    except Permanent as error:
        assert error.reason == "undecodable", error
        return
    _holds(ingested, "spans" if traces else "logs")


def _holds(ingested: Ingested, noun: str) -> None:
    counters = ingested.counters
    assert ingested.received == ingested.accepted + ingested.rejected
    parts = sum(
        counters.get(f"{noun}_{part}", 0) for part in ("published", "refused", "quarantined", "ignored")
    )
    assert counters.get(f"{noun}_received", 0) == parts
    assert bool(ingested.message) == bool(ingested.rejected)
    assert len(ingested.message) < 4 << 10
    published = 0
    for output in ingested.outputs:
        assert PLANTED.encode() not in output.value
        if output.topic == "otlp_spans":
            data = TracesData.FromString(output.value)
            published += sum(len(s.spans) for g in data.resource_spans for s in g.scope_spans)
        else:
            logs = LogsData.FromString(output.value)
            published += sum(len(s.log_records) for g in logs.resource_logs for s in g.scope_logs)
    assert published == counters[f"{noun}_published"]


def self_test(data: bytes) -> None:
    """Breaks on some input, to see that this is noticed."""
    assert b"jane" not in data.lower()


TARGETS: dict[str, Callable[[bytes], None]] = {
    "protobuf": protobuf,
    "receiver": receiver,
    "compression": compression,
    "engine": engine,
    "structured": structured,
    "self_test": self_test,
}


def seeds(target: str) -> list[bytes]:
    """Return bodies from which the fuzzer starts."""
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.add(key="service.name").value.string_value = "shop"
    span = group.scope_spans.add().spans.add(trace_id=b"\1" * 16, span_id=b"\1" * 8, name="chat")
    span.attributes.add(key="user.email").value.string_value = f"mail {PLANTED} now"
    nested = (
        span.attributes.add(key="m").value.kvlist_value.values.add(key="k").value.array_value.values.add()
    )
    nested.string_value = '{"card": "4111 1111 1111 1111", "again": "{\\"ip\\": \\"203.0.113.77\\"}"}'
    span.events.add(name="e").attributes.add(key="n").value.int_value = 4
    span.links.add(trace_id=b"\2" * 16, span_id=b"\2" * 8)
    logs = ExportLogsServiceRequest()
    record = logs.resource_logs.add().scope_logs.add().log_records.add(trace_id=b"\1" * 16, span_id=b"\1" * 8)
    record.event_name = "gen_ai.user.message"
    record.body.kvlist_value.values.add(key="content").value.string_value = "call +1 415-555-2671"
    raw = {True: request.SerializeToString(), False: logs.SerializeToString()}
    shaped = {
        True: json.dumps(
            {"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "01" * 16, "spanId": "01" * 8, "name": "a",
             "attributes": [{"key": "k", "value": {"stringValue": "\\u0041"}}], "unknown": [{}]}]}]}]}
        ).encode(),
        False: json.dumps(
            {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"traceId": "01" * 16, "timeUnixNano": "1"}]}]}]}
        ).encode(),
    }  # fmt: skip
    if target == "protobuf":
        return [b"\0" + raw[True], b"\xff" + raw[False]]
    if target == "receiver":
        packers = {
            "identity": bytes,
            "gzip": gzip.compress,
            "zstd": zstandard.compress,
            "deflate": zlib.compress,
        }
        return [
            bytes([index << 2 | as_json << 1 | traces])
            + packers[encoding]((shaped if as_json else raw)[traces])
            for index, encoding in enumerate(ENCODINGS)
            for as_json in (False, True)
            for traces in (False, True)
        ]
    texts = [
        b"plain words and 4111 1111 1111 1111",
        b'{"a":"x\\u0040y","b":["203.0.113.77",{"c":"sk-' + b"a" * 30 + b'"}]}',
        b"aHR0cHM6Ly91c2VyOnBhc3N3b3JkQGV4YW1wbGUuY29tL3BhdGg=",
        "ｐａｓｓｗｏｒｄ： ｈｕｎｔｅｒ２２２２".encode(),
    ]
    return [*texts, raw[True]]
