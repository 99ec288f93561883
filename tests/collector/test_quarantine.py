"""What cannot be redacted is kept for the holder of the private key, and for nobody else."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from collector.ingest import Ingest, Ingested
from collector.quarantine import unseal
from collector.sealed import PrivateKey
from collector.settings import CollectorSettings
from driftgate.ledger import balance
from stream.errors import ConfigError, Permanent

KEY, _ = PrivateKey.generate()
OTHER, _ = PrivateKey.generate()
SECRET = "the long secret of Jane"


def ingest(clock: Any = lambda: 0.0, **settings: Any) -> Ingest:
    quarantine = {"public_key": KEY.public, **settings.pop("quarantine", {})}
    defaults = {"max_string_bytes": 2000, "max_span_bytes": 20_000, "quarantine": quarantine}
    return Ingest(CollectorSettings.model_validate(defaults | settings), clock=clock)


def request(spans: int = 3, *, long: tuple[int, ...] = (1,), text: str = "") -> ExportTraceServiceRequest:
    made = ExportTraceServiceRequest()
    group = made.resource_spans.add()
    group.resource.attributes.add(key="service.name").value.string_value = "shop"
    scope = group.scope_spans.add()
    for number in range(spans):
        span = scope.spans.add(trace_id=b"t" * 16, span_id=(number + 1).to_bytes(8, "big"), name="chat")
        filler = text or "x" * 2500
        span.attributes.add(key="k").value.string_value = f"{SECRET} {filler}" if number in long else "fine"
    return made


def kept(ingested: Ingested) -> list[Any]:
    return [output for output in ingested.outputs if output.topic == "quarantine"]


def balanced(counters: dict[str, int]) -> bool:
    return all(line.balanced for line in balance({"collector": counters}, {}))


def test_what_cannot_be_scanned_is_sealed_and_everything_else_published() -> None:
    ingested = ingest().traces(request(), "acme")
    (item,) = kept(ingested)
    assert (ingested.received, ingested.accepted, ingested.rejected) == (3, 2, 1)
    assert ingested.refused == {}
    assert ingested.quarantined == {"string_too_long": 1}
    assert ingested.message == ("1 of 3 refused: 1 a string is longer than max_string_bytes (kept encrypted)")
    assert SECRET.encode() not in b"".join(output.value for output in ingested.outputs)
    opened = unseal(item.value, item.headers, KEY)
    assert opened.resource_spans[0].resource.attributes[0].value.string_value == "shop"
    (span,) = opened.resource_spans[0].scope_spans[0].spans
    assert span == request().resource_spans[0].scope_spans[0].spans[1]
    headers = dict(item.headers)
    assert headers["tenant"] == b"acme"
    assert (headers["reason"], headers["signal"], headers["count"]) == (b"string_too_long", b"traces", b"1")
    assert headers["key"].decode() == KEY.id
    assert (
        ingested.counters["spans_quarantined"] == ingested.counters["spans_quarantined.string_too_long"] == 1
    )
    assert balanced(ingested.counters)


def test_only_the_private_key_opens_it_and_no_header_can_be_changed() -> None:
    (item,) = kept(ingest().traces(request()))
    with pytest.raises(Permanent, match="not_ours"):
        unseal(item.value, item.headers, OTHER)
    with pytest.raises(Permanent, match="not_ours"):
        unseal(item.value[:-1] + bytes([item.value[-1] ^ 1]), item.headers, KEY)
    for index, (name, _) in enumerate(item.headers):
        changed = (*item.headers[:index], (name, b"traces2"), *item.headers[index + 1 :])
        with pytest.raises(Permanent, match="not_ours"):
            unseal(item.value, changed, KEY)


def test_equal_content_is_not_recognised() -> None:
    made = ingest()
    first, second = kept(made.traces(request())), kept(made.traces(request()))
    assert first[0].value != second[0].value


@pytest.mark.parametrize(
    ("reason", "settings", "text"),
    [
        ("string_too_long", {}, ""),
        ("too_large", {"max_string_bytes": 100_000, "max_span_bytes": 2000}, ""),
        ("too_many_candidates", {"redaction": {"max_candidates": 100}}, "+1 415 555 2671, " * 110),
        ("scan_timeout", {"clock": True}, "a@example.com " * 100),
    ],
)
def test_every_way_to_fail_is_quarantined(reason: str, settings: dict[str, Any], text: str) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 10
        return now[0]

    made = ingest(clock, **settings) if settings.pop("clock", False) else ingest(**settings)
    ingested = made.traces(request(text=text))
    assert ingested.quarantined.get(reason, 0) >= 1
    assert ingested.refused == {}
    assert balanced(ingested.counters)
    assert sum(int(dict(item.headers)["count"]) for item in kept(ingested)) == ingested.rejected


def test_an_unscannable_resource_takes_its_spans_along_once() -> None:
    asked = request(50, long=())
    asked.resource_spans[0].resource.attributes.add(key="big").value.string_value = SECRET + "y" * 2500
    ingested = ingest().traces(asked)
    assert ingested.quarantined == {"string_too_long": 50}
    (item,) = kept(ingested)
    assert len(unseal(item.value, item.headers, KEY).resource_spans[0].scope_spans[0].spans) == 50


def test_what_has_no_use_is_refused_as_ever() -> None:
    asked = request()
    asked.resource_spans[0].scope_spans[0].spans[0].trace_id = b"short"
    ingested = ingest().traces(asked)
    assert ingested.refused == {"bad_trace_id": 1}
    assert ingested.quarantined == {"string_too_long": 1}
    assert balanced(ingested.counters)


def test_logs_are_quarantined_too() -> None:
    asked = ExportLogsServiceRequest()
    scope = asked.resource_logs.add().scope_logs.add()
    for body in ("fine", SECRET + "z" * 2500):
        scope.log_records.add(trace_id=b"t" * 16).body.string_value = body
    ingested = ingest().logs(asked)
    (item,) = kept(ingested)
    opened = unseal(item.value, item.headers, KEY)
    assert isinstance(opened, LogsData)
    assert opened.resource_logs[0].scope_logs[0].log_records[0].body.string_value.startswith(SECRET)
    assert ingested.counters["logs_quarantined"] == 1
    assert balanced(ingested.counters)


def test_the_quarantine_is_bounded_per_hour_and_what_is_beyond_is_refused() -> None:
    now = [0.0]
    made = ingest(lambda: now[0], quarantine={"max_bytes_per_hour": 1200})
    # Random letters, so that compression does not hide the size.
    import random

    text = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOP", k=2500))
    first = made.traces(request(text=text[:1100] * 2))
    assert first.quarantined == {"string_too_long": 1}
    second = made.traces(request(text=text[1200:2300] * 2))
    assert second.quarantined == {}
    assert second.refused == {"string_too_long": 1}
    assert kept(second) == []
    assert "(kept encrypted)" not in second.message
    assert balanced(second.counters)
    now[0] = 3600.0
    assert made.traces(request(text=text[:1100] * 2)).quarantined == {"string_too_long": 1}


def test_a_larger_item_is_refused() -> None:
    import random

    noise = random.Random(2).randbytes(3000).hex()
    made = ingest(quarantine={"max_item_bytes": 1024})
    ingested = made.traces(request(text=noise))
    assert (ingested.refused, ingested.quarantined) == ({"string_too_long": 1}, {})


def test_without_a_key_nothing_is_kept() -> None:
    made = Ingest(CollectorSettings(max_string_bytes=2000))
    ingested = made.traces(request())
    assert (ingested.refused, kept(ingested)) == ({"string_too_long": 1}, [])


@pytest.mark.parametrize("key", ["AAAA", "not base64!", KEY.public + "AA"])
def test_a_bad_public_key_refuses_to_start(key: str) -> None:
    with pytest.raises(ConfigError, match="driftgate quarantine keygen"):
        ingest(quarantine={"public_key": key})


def test_what_is_published_can_be_read_as_before() -> None:
    ingested = ingest().traces(request())
    spans = TracesData.FromString(ingested.outputs[0].value).resource_spans[0].scope_spans[0].spans
    assert [span.span_id[-1] for span in spans] == [1, 3]


def test_a_long_resource_is_not_sealed_again_with_every_span() -> None:
    sent = request(200, long=())
    sent.resource_spans[0].resource.attributes.add(key="k").value.string_value = SECRET * 400
    ingested = ingest(quarantine={"max_item_bytes": 4000}).traces(sent)
    assert ingested.quarantined == {"string_too_long": 200}
    assert len(kept(ingested)) < 10
