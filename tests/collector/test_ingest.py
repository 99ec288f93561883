"""From a request to log records: what is accepted, refused and counted, and how it is cut."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData
from opentelemetry.proto.trace.v1.trace_pb2 import Span, TracesData

from collector.ingest import Ingest, Ingested
from collector.partition import partition
from collector.redaction.engine import Engine
from collector.settings import CollectorSettings
from stream.errors import Permanent

TRACE_ID = bytes(range(1, 17))
SPAN_ID = bytes(range(1, 9))


def request_of(*spans: Span) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.add(key="service.name").value.string_value = "shop"
    group.scope_spans.add().spans.extend(spans)
    return request


def span(**fields: Any) -> Span:
    return Span(**({"trace_id": TRACE_ID, "span_id": SPAN_ID, "name": "chat"} | fields))


def ingest(**settings: Any) -> Ingest:
    return Ingest(CollectorSettings.model_validate(settings))


def spans_in(ingested: Ingested) -> list[Span]:
    return [
        one
        for output in ingested.outputs
        for group in TracesData.FromString(output.value).resource_spans
        for scope in group.scope_spans
        for one in scope.spans
    ]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


def balanced(ingested: Ingested) -> bool:
    counters = ingested.counters
    noun = "spans" if "spans_received" in counters else "logs"
    rest = counters.get("spans_quarantined", 0) + counters.get("logs_ignored", 0)
    reasons = sum(count for name, count in counters.items() if name.startswith(f"{noun}_refused."))
    return (
        counters[f"{noun}_received"] == counters[f"{noun}_published"] + counters[f"{noun}_refused"] + rest
        and counters[f"{noun}_refused"] == reasons == ingested.rejected
        and ingested.received == ingested.accepted + ingested.rejected
    )


def nested(depth: int) -> Span:
    made = span()
    value = made.attributes.add(key="deep").value
    for _ in range(depth):
        value = value.array_value.values.add()
    value.string_value = "jane.doe@example.com"
    return made


def with_attribute(text: str) -> Span:
    made = span()
    made.attributes.add(key="a").value.string_value = text
    return made


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (span(trace_id=b""), "bad_trace_id"),
        (span(trace_id=bytes(16)), "bad_trace_id"),
        (span(trace_id=bytes(15) + b"x" * 2), "bad_trace_id"),
        (span(span_id=b""), "bad_span_id"),
        (span(span_id=bytes(8)), "bad_span_id"),
        (span(span_id=b"x" * 9), "bad_span_id"),
        (span(parent_span_id=b"jane.doe@example.com"), "bad_parent_span_id"),
        (span(links=[Span.Link(trace_id=b"jane.doe@example.com", span_id=SPAN_ID)]), "bad_link"),
        (nested(21), "too_deep"),
        (with_attribute("x" * 2000), "string_too_long"),
        (span(attributes=[with_attribute("x" * 900).attributes[0]] * 6), "too_large"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_span_is_refused_alone(bad: Span, reason: str) -> None:
    good = span(span_id=b"goodgood")
    made = ingest(max_string_bytes=1024, max_span_bytes=4096)
    ingested = made.traces(request_of(good, bad, good).SerializeToString())
    assert ingested.refused == {reason: 1}
    assert ingested.accepted == 2
    assert [one.span_id for one in spans_in(ingested)] == [b"goodgood"] * 2
    assert ingested.counters[f"spans_refused.{reason}"] == 1
    assert ingested.message.startswith("1 of 3 refused: 1 ")
    assert balanced(ingested)


def test_the_deepest_allowed_nesting_is_redacted() -> None:
    ingested = ingest().traces(request_of(nested(20)))
    assert ingested.redactions == {"EMAIL": 1}


def test_a_resource_that_cannot_be_scanned_refuses_its_spans_only() -> None:
    request = request_of(span(), span())
    request.resource_spans[0].resource.attributes.add(key="x").value.string_value = "x" * 2000
    request.resource_spans.add().scope_spans.add().spans.append(span(span_id=b"goodgood"))
    ingested = ingest(max_string_bytes=1024).traces(request)
    assert ingested.refused == {"string_too_long": 2}
    assert [one.span_id for one in spans_in(ingested)] == [b"goodgood"]
    assert balanced(ingested)


def test_spans_beyond_the_limit_are_refused() -> None:
    ingested = ingest(max_spans_per_request=3).traces(request_of(*[span() for _ in range(5)]))
    assert ingested.refused == {"too_many_spans": 2}
    assert len(spans_in(ingested)) == 3
    assert balanced(ingested)


@pytest.mark.parametrize("time", [0, 1, 2**63 - 1, 2**64 - 1])
def test_any_timestamp_is_accepted_as_it_is(time: int) -> None:
    (out,) = spans_in(ingest().traces(request_of(span(start_time_unix_nano=time, end_time_unix_nano=0))))
    assert out.start_time_unix_nano == time


def test_duplicate_spans_are_passed_on() -> None:
    assert len(spans_in(ingest().traces(request_of(span(), span())))) == 2


def test_an_empty_request_is_nothing() -> None:
    ingested = ingest().traces(b"")
    assert (ingested.received, ingested.outputs, ingested.message) == (0, [], "")


@pytest.mark.parametrize(
    "payload",
    [
        b"\x0a",
        b"not protobuf at all",
        request_of(span()).SerializeToString()[:-3],
        # A name that is not UTF-8.
        b"\x0a\x08\x12\x06\x12\x04\x2a\x02\xff\xfe",
    ],
)
def test_what_is_no_request_is_permanent(payload: bytes) -> None:
    with pytest.raises(Permanent) as caught:
        ingest().traces(payload)
    assert caught.value.reason == "undecodable"


def test_nesting_of_ten_thousand_is_permanent() -> None:
    value = b""
    for _ in range(10_000):
        inner = b"\x0a" + _varint(len(value)) + value  # ArrayValue.values
        value = b"\x2a" + _varint(len(inner)) + inner  # AnyValue.array_value
    attribute = b"\x0a\x01a\x12" + _varint(len(value)) + value
    made = span().SerializeToString() + b"\x4a" + _varint(len(attribute)) + attribute
    scope = b"\x12" + _varint(len(made)) + made
    group = b"\x12" + _varint(len(scope)) + scope
    with pytest.raises(Permanent, match="100 levels"):
        ingest().traces(b"\x0a" + _varint(len(group)) + group)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def test_headers_and_key() -> None:
    made = ingest()
    (output,) = made.traces(request_of(span(), span()), "acme").outputs
    assert output.topic == "otlp_spans"
    assert output.key == TRACE_ID
    assert dict(output.headers) == {
        "tenant": b"acme",
        "redaction-policy": made.engine.policy_version.encode(),
    }
    (output,) = made.traces(request_of(span(), span(trace_id=b"another trace id")), "acme").outputs
    assert output.key == b""


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 900)), max_size=40),
    st.integers(1, 4),
)
def test_cutting_loses_nothing_and_keeps_the_limit(
    engine: Engine, items: list[tuple[int, int, int]], partitions: int
) -> None:
    request = ExportTraceServiceRequest()
    groups = []
    for number in range(3):
        group = request.resource_spans.add(schema_url=f"r{number}")
        group.resource.attributes.add(key="service.name").value.string_value = f"s{number}"
        for part in range(2):
            scope = group.scope_spans.add(schema_url=f"s{number}")
            scope.scope.name = f"n{part}"
            groups.append(scope)
    wanted = []
    for number, (trace, group_number, size) in enumerate(items):
        made = with_attribute("x" * size)
        made.trace_id = bytes([trace + 1]) * 16
        made.span_id = number.to_bytes(7, "big") + b"s"
        groups[group_number].spans.append(made)
        wanted.append((made.span_id, f"s{group_number // 2}", f"n{group_number % 2}"))
    limited = Ingest(CollectorSettings(max_record_bytes=2048), partitions=partitions, engine=engine)
    ingested = limited.traces(request)
    seen = []
    for output in ingested.outputs:
        data = TracesData.FromString(output.value)
        traces = set()
        count = 0
        for group in data.resource_spans:
            for scope in group.scope_spans:
                for one in scope.spans:
                    seen.append(
                        (one.span_id, group.resource.attributes[0].value.string_value, scope.scope.name)
                    )
                    traces.add(one.trace_id)
                    count += 1
        assert len(output.value) <= 2048 or count == 1
        assert output.key == (traces.pop() if len(traces) == 1 else b"")
        if partitions > 1:
            assert {partition(trace, partitions) for trace in traces | ({output.key} - {b""})} <= {
                output.partition
            }
        else:
            assert output.partition is None
    assert sorted(seen) == sorted(wanted)
    assert balanced(ingested)


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_large_resource_is_not_copied_for_every_span(engine: Engine, partitions: int) -> None:
    spans = [span(span_id=(number + 1).to_bytes(8, "big")) for number in range(1000)]
    request = request_of(*spans)
    request.resource_spans[0].resource.attributes.add(key="x").value.string_value = "so it is " * 10_000
    limited = Ingest(CollectorSettings(max_record_bytes=20_000), partitions=partitions, engine=engine)
    ingested = limited.traces(request)
    assert spans_in(ingested) == spans
    assert sum(len(output.value) for output in ingested.outputs) < 6 * request.ByteSize()


def logs_of(*records: dict[str, Any]) -> ExportLogsServiceRequest:
    request = ExportLogsServiceRequest()
    scope = request.resource_logs.add().scope_logs.add()
    for record in records:
        made = scope.log_records.add(**{k: v for k, v in record.items() if k not in ("attribute", "body")})
        if "attribute" in record:
            made.attributes.add(key=record["attribute"][0]).value.string_value = record["attribute"][1]
        if "body" in record:
            made.body.string_value = record["body"]
    return request


@pytest.mark.parametrize(
    ("record", "published"),
    [
        ({"event_name": "gen_ai.client.inference.operation.details"}, True),
        ({"attribute": ("event.name", "gen_ai.user.message")}, True),
        ({"attribute": ("gen_ai.system", "openai")}, True),
        ({"trace_id": TRACE_ID, "span_id": SPAN_ID, "body": "hello"}, True),
        ({"body": "jane.doe@example.com"}, False),
        ({"trace_id": bytes(16), "body": "hello"}, False),
        ({"attribute": ("event.name", "app.start")}, False),
    ],
)
def test_log_records_about_nothing_of_ours_are_ignored(record: dict[str, Any], published: bool) -> None:
    ingested = ingest().logs(logs_of(record).SerializeToString())
    assert ingested.accepted == 1
    assert ingested.counters["logs_published"] == published
    assert ingested.counters["logs_ignored"] == (not published)
    assert len(ingested.outputs) == published
    assert balanced(ingested)


def test_logs_are_redacted_refused_and_keyed() -> None:
    ingested = ingest().logs(
        logs_of(
            {"trace_id": TRACE_ID, "span_id": SPAN_ID, "body": "jane.doe@example.com"},
            {"trace_id": b"short", "body": "x"},
            {"event_name": "gen_ai.choice", "trace_id": TRACE_ID, "span_id": b"short"},
        )
    )
    assert ingested.refused == {"bad_trace_id": 1, "bad_span_id": 1}
    (output,) = ingested.outputs
    assert (output.topic, output.key) == ("otlp_logs", TRACE_ID)
    record = LogsData.FromString(output.value).resource_logs[0].scope_logs[0].log_records[0]
    assert record.body.string_value == "[EMAIL]"
    assert ingested.counters["redactions.EMAIL"] == 1
    assert balanced(ingested)


def test_a_span_of_fifty_megabytes_is_refused_and_the_rest_taken() -> None:
    huge = with_attribute("jane.doe@example.com " * (50 * 1024 * 1024 // 21))
    ingested = ingest().traces(request_of(span(), huge).SerializeToString())
    assert ingested.refused == {"too_large": 1}
    assert len(spans_in(ingested)) == 1


def test_an_index_bomb_of_keys_stays_within_bounds() -> None:
    made = ingest()
    bomb = span()
    for number in range(5000):
        bomb.attributes.add(key=f"gen_ai.prompt.{number * 10**9}.content").value.string_value = "x"
    for _ in range(2):
        ingested = made.traces(request_of(bomb))
        assert ingested.accepted == 1
        assert len(spans_in(ingested)[0].attributes) == 5000


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_resource_without_spans_is_not_passed_on_unread(engine: Engine, partitions: int) -> None:
    request = request_of(span())
    request.resource_spans.add().resource.attributes.add(
        key="mail"
    ).value.string_value = "jane.doe@example.com"
    request.resource_spans[0].scope_spans.add().scope.name = "jane.doe@example.com"
    ingested = Ingest(engine=engine, partitions=partitions).traces(request)
    assert ingested.accepted == 1
    assert len(spans_in(ingested)) == 1
    assert all(b"jane.doe" not in output.value for output in ingested.outputs)
