"""Every entity in every place of OTLP: nothing leaks, and the rest of the message is unchanged."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from collector.ingest import Ingest
from collector.settings import CollectorSettings

VALUES = {
    "EMAIL": "jane.doe@example.com",
    "CARD": "4111 1111 " + "1111 1111",
    "IBAN": "DE89 3704 0044 0532 " + "0130 00",
    "US_SSN": "536-90-" + "4399",
    "PHONE": "+1 415-555-2671",
    "IPV4": "203.0.113.77",
    "IPV6": "2001:db8:85a3::8a2e:370:7334",
    "JWT": "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "PRIVATE_KEY": "-----BEGIN " + "PRIVATE KEY-----\nMIIEowIBAAKCAQEA\n-----END PRIVATE KEY-----",
    "AWS_KEY": "AKIA" + "IOSFODNN7EXAMPLE",
    "GITHUB_TOKEN": "ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a",
    "OPENAI_KEY": "sk-" + "proj-abc_DEF1234567890abcdefghij",
    "ANTHROPIC_KEY": "sk-ant-" + "api03-abcdefghijklmnop-QRSTUV_wxyz",
    "SLACK_TOKEN": "xoxb-" + "123456789012-1234567890123-AbCdEfGhIjKlMnOp",
    "STRIPE_KEY": "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
    "GOOGLE_KEY": "AIza" + "SyA-1234567890abcdefghijklmnopqrstu",
}
TRACE_ID = bytes(range(1, 17))
SPAN_ID = bytes(range(1, 9))


def trace_request() -> ExportTraceServiceRequest:
    """A request with something in every field."""
    request = ExportTraceServiceRequest()
    for number in range(2):
        group = request.resource_spans.add(schema_url="https://opentelemetry.io/schemas/1.37.0")
        group.resource.attributes.add(key="service.name").value.string_value = f"shop-{number}"
        group.resource.entity_refs.add(
            schema_url="s", type="host", id_keys=["host.id"], description_keys=["host.name"]
        )
        scope = group.scope_spans.add(schema_url="https://opentelemetry.io/schemas/1.37.0")
        scope.scope.name, scope.scope.version = "instrumentation", "1.2.3.4"
        scope.scope.attributes.add(key="scope.attr").value.bool_value = True
        for item in range(2):
            span = scope.spans.add(
                trace_id=TRACE_ID,
                span_id=bytes([number, item, *SPAN_ID[2:]]),
                parent_span_id=SPAN_ID,
                trace_state="ot=th:8",
                name="chat gpt-4o",
                kind=3,
                start_time_unix_nano=1718900000000000000,
                end_time_unix_nano=1718900000100000000,
                flags=257,
                dropped_attributes_count=1,
            )
            span.status.code, span.status.message = 2, "failed"
            span.attributes.add(key="gen_ai.request.model").value.string_value = "gpt-4o"
            span.attributes.add(key="gen_ai.usage.input_tokens").value.int_value = 12
            span.attributes.add(key="score").value.double_value = 0.25
            span.attributes.add(key="empty")
            event = span.events.add(name="exception", time_unix_nano=1718900000050000000)
            event.attributes.add(key="exception.type").value.string_value = "ValueError"
            link = span.links.add(trace_id=TRACE_ID, span_id=SPAN_ID, trace_state="ot=th:4")
            link.attributes.add(key="link.kind").value.string_value = "retry"
    return request


def log_request() -> ExportLogsServiceRequest:
    request = ExportLogsServiceRequest()
    group = request.resource_logs.add(schema_url="https://opentelemetry.io/schemas/1.37.0")
    group.resource.attributes.add(key="service.name").value.string_value = "shop"
    scope = group.scope_logs.add(schema_url="s")
    scope.scope.name = "instrumentation"
    record = scope.log_records.add(
        trace_id=TRACE_ID,
        span_id=SPAN_ID,
        severity_text="INFO",
        event_name="gen_ai.user.message",
        severity_number=9,
    )
    record.body.string_value = "hello"
    record.attributes.add(key="gen_ai.system").value.string_value = "openai"
    return request


Setter = Callable[[Any, str], None]


def any_value_setters() -> Iterator[tuple[str, Callable[[AnyValue, str], None]]]:
    def nested(value: AnyValue, text: str) -> None:
        for level in range(6):
            value = (
                value.array_value.values.add()
                if level % 2
                else value.kvlist_value.values.add(key=f"k{level}").value
            )
        value.string_value = text

    def kvlist_key(value: AnyValue, text: str) -> None:
        value.kvlist_value.values.add(key=text).value.int_value = 1

    yield "string", lambda value, text: setattr(value, "string_value", text)
    yield "array", lambda value, text: setattr(value.array_value.values.add(), "string_value", text)
    yield (
        "kvlist",
        lambda value, text: setattr(value.kvlist_value.values.add(key="k").value, "string_value", text),
    )
    yield "kvlist key", kvlist_key
    yield "nested", nested
    yield "bytes", lambda value, text: setattr(value, "bytes_value", text.encode())
    yield (
        "json",
        lambda value, text: setattr(
            value, "string_value", json.dumps({"m": [text]}, separators=(",", ":"), ensure_ascii=False)
        ),
    )


def trace_places() -> dict[str, Setter]:
    def span(request: Any) -> Any:
        return request.resource_spans[0].scope_spans[0].spans[1]

    places: dict[str, Setter] = {
        "resource.schema_url": lambda r, t: setattr(r.resource_spans[0], "schema_url", t),
        "resource.entity_ref.schema_url": lambda r, t: setattr(
            r.resource_spans[0].resource.entity_refs[0], "schema_url", t
        ),
        "resource.entity_ref.type": lambda r, t: setattr(
            r.resource_spans[0].resource.entity_refs[0], "type", t
        ),
        "resource.entity_ref.id_keys": lambda r, t: (
            r.resource_spans[0].resource.entity_refs[0].id_keys.append(t)
        ),
        "resource.entity_ref.description_keys": lambda r, t: (
            r.resource_spans[0].resource.entity_refs[0].description_keys.append(t)
        ),
        "scope.schema_url": lambda r, t: setattr(r.resource_spans[0].scope_spans[0], "schema_url", t),
        "scope.name": lambda r, t: setattr(r.resource_spans[0].scope_spans[0].scope, "name", t),
        "scope.version": lambda r, t: setattr(r.resource_spans[0].scope_spans[0].scope, "version", t),
        "span.name": lambda r, t: setattr(span(r), "name", t),
        "span.trace_state": lambda r, t: setattr(span(r), "trace_state", t),
        "span.status": lambda r, t: setattr(span(r).status, "message", t),
        "event.name": lambda r, t: setattr(span(r).events[0], "name", t),
        "link.trace_state": lambda r, t: setattr(span(r).links[0], "trace_state", t),
    }
    owners: dict[str, Callable[[Any], Any]] = {
        "resource": lambda r: r.resource_spans[0].resource,
        "scope": lambda r: r.resource_spans[0].scope_spans[0].scope,
        "span": span,
        "event": lambda r: span(r).events[0],
        "link": lambda r: span(r).links[0],
    }
    for owner, find in owners.items():
        places[f"{owner}.attribute.key"] = lambda r, t, find=find: find(r).attributes.add(key=t)  # type: ignore[misc]
        for kind, setter in any_value_setters():
            places[f"{owner}.attribute.{kind}"] = lambda r, t, find=find, setter=setter: setter(  # type: ignore[misc]
                find(r).attributes.add(key="planted").value, t
            )
    return places


def log_places() -> dict[str, Setter]:
    def record(request: Any) -> Any:
        return request.resource_logs[0].scope_logs[0].log_records[0]

    def set_body(request: Any, text: str, setter: Any) -> None:
        record(request).body.Clear()
        setter(record(request).body, text)

    places: dict[str, Setter] = {
        "severity_text": lambda r, t: setattr(record(r), "severity_text", t),
        "event_name": lambda r, t: setattr(record(r), "event_name", t),
        "attribute.key": lambda r, t: record(r).attributes.add(key=t),
        "resource.attribute": lambda r, t: setattr(
            r.resource_logs[0].resource.attributes.add(key="planted").value, "string_value", t
        ),
    }
    for kind, setter in any_value_setters():
        places[f"body.{kind}"] = lambda r, t, setter=setter: set_body(r, t, setter)  # type: ignore[misc]
        places[f"attribute.{kind}"] = lambda r, t, setter=setter: setter(  # type: ignore[misc]
            record(r).attributes.add(key="planted").value, t
        )
    return places


TRACE_PLACES = trace_places()
LOG_PLACES = log_places()


@pytest.fixture(scope="module")
def ingest() -> Ingest:
    return Ingest()


def check(ingest: Ingest, signal: str, setter: Setter, entity: str, planted: str, expected: str) -> None:
    make, data = (trace_request, TracesData) if signal == "traces" else (log_request, LogsData)
    request, wanted = make(), make()
    setter(request, planted)
    setter(wanted, expected)
    ingested = getattr(ingest, signal)(request.SerializeToString())
    (output,) = ingested.outputs
    assert VALUES[entity].encode() not in output.value
    assert data.FromString(output.value) == data.FromString(wanted.SerializeToString())
    assert ingested.redactions == {entity: 1}
    assert ingested.refused == {}


@pytest.mark.parametrize("entity", VALUES)
@pytest.mark.parametrize("place", TRACE_PLACES)
def test_no_place_in_traces_hides_an_entity(ingest: Ingest, place: str, entity: str) -> None:
    check(ingest, "traces", TRACE_PLACES[place], entity, VALUES[entity], f"[{entity}]")


@pytest.mark.parametrize("entity", VALUES)
@pytest.mark.parametrize("place", LOG_PLACES)
def test_no_place_in_logs_hides_an_entity(ingest: Ingest, place: str, entity: str) -> None:
    check(ingest, "logs", LOG_PLACES[place], entity, VALUES[entity], f"[{entity}]")


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(TRACE_PLACES)),
    st.sampled_from(sorted(VALUES)),
    st.text("abc def\n{}[]\"'\\é日🙂,;:", max_size=30).map(lambda text: text + " "),
    st.text("abc def\n{}[]\"'\\é日🙂,;", max_size=30).map(lambda text: " " + text),
)
def test_the_rest_of_the_message_is_unchanged(
    ingest: Ingest, place: str, entity: str, before: str, after: str
) -> None:
    check(
        ingest,
        "traces",
        TRACE_PLACES[place],
        entity,
        before + VALUES[entity] + after,
        before + f"[{entity}]" + after,
    )


@pytest.mark.parametrize("number", [4111111111111111, -4111111111111111])
@pytest.mark.parametrize("kind", ["int_value", "double_value"])
def test_a_card_as_a_number_is_found(ingest: Ingest, kind: str, number: int) -> None:
    request = trace_request()
    span = request.resource_spans[0].scope_spans[0].spans[0]
    setattr(span.attributes.add(key="n").value, kind, number)
    setattr(span.attributes.add(key="list").value.array_value.values.add(), kind, number)
    ingested = ingest.traces(request.SerializeToString())
    assert ingested.redactions == {"CARD": 2}
    out = TracesData.FromString(ingested.outputs[0].value).resource_spans[0].scope_spans[0].spans[0]
    assert out.attributes[4].value.string_value in ("[CARD]", "-[CARD]")


@pytest.mark.parametrize("kind", ["int_value", "double_value"])
def test_a_short_number_that_its_key_announces_is_found(ingest: Ingest, kind: str) -> None:
    request = trace_request()
    span = request.resource_spans[0].scope_spans[0].spans[0]
    setattr(span.attributes.add(key="patient.mrn").value, kind, 884213)
    inner = span.attributes.add(key="of").value.kvlist_value.values.add(key="birthDate")
    setattr(inner.value.array_value.values.add(), kind, 19850314)
    assert ingest.traces(request.SerializeToString()).redactions == {"BIRTH_DATE": 1, "MEDICAL_ID": 1}


def test_a_clean_request_is_unchanged(ingest: Ingest) -> None:
    for make, signal, data in ((trace_request, "traces", TracesData), (log_request, "logs", LogsData)):
        ingested = getattr(ingest, signal)(make().SerializeToString())
        assert data.FromString(ingested.outputs[0].value) == data.FromString(make().SerializeToString())
        assert ingested.redactions == {}


def test_unknown_fields_are_dropped(ingest: Ingest) -> None:
    secret = VALUES["EMAIL"].encode()
    unknown = bytes([0xFA, 0x3E, len(secret)]) + secret  # field 1007, a string
    request = trace_request()
    span = request.resource_spans[0].scope_spans[0].spans[0]
    span.MergeFromString(unknown)
    span.attributes[0].value.MergeFromString(unknown)
    request.MergeFromString(unknown)
    assert request.SerializeToString().count(secret) == 3
    ingested = ingest.traces(request.SerializeToString())
    assert secret not in ingested.outputs[0].value
    assert ingested.accepted == 4


def test_keys_that_become_equal_stay_apart(ingest: Ingest) -> None:
    request = trace_request()
    span = request.resource_spans[0].scope_spans[0].spans[0]
    del span.attributes[:]
    for key in ("a@example.com", "b@example.com", "c@example.com"):
        span.attributes.add(key=key).value.string_value = "x"
    ingested = ingest.traces(request)
    out = TracesData.FromString(ingested.outputs[0].value).resource_spans[0].scope_spans[0].spans[0]
    assert [attribute.key for attribute in out.attributes] == ["[EMAIL]", "[EMAIL]_2", "[EMAIL]_3"]


@pytest.mark.timeout(300)
def test_many_keys_that_become_equal_take_no_forever() -> None:
    # A busy machine may need longer than the five seconds that are the default.
    ingest = Ingest(CollectorSettings.model_validate({"redaction": {"max_scan_time": "5m"}}))
    request = trace_request()
    span = request.resource_spans[0].scope_spans[0].spans[0]
    for number in range(20_000):
        span.attributes.add(key=f"a{number}@example.com")
    span.name = json.dumps({f"a{number}@example.com": 1 for number in range(20_000)})
    ingested = ingest.traces(request)
    assert ingested.redactions == {"EMAIL": 40_000}
    out = TracesData.FromString(ingested.outputs[0].value).resource_spans[0].scope_spans[0].spans[0]
    assert len({attribute.key for attribute in out.attributes}) == 20_004
    assert len(json.loads(out.name)) == 20_000


def test_a_key_found_clean_once_is_still_found_when_it_is_not() -> None:
    ingest = Ingest()
    for _ in range(2):
        request = trace_request()
        request.resource_spans[0].scope_spans[0].spans[0].attributes.add(key="jane.doe@example.com")
        ingested = ingest.traces(request)
        assert ingested.redactions == {"EMAIL": 1}
        assert ingested.report.places == {("EMAIL", "span.attribute.key"): 1}


def test_redacting_the_output_again_changes_nothing(ingest: Ingest) -> None:
    request = trace_request()
    for setter in TRACE_PLACES.values():
        for value in VALUES.values():
            setter(request, value)
    once = ingest.traces(copy.deepcopy(request)).outputs[0].value
    again = ingest.traces(once)
    assert again.outputs[0].value == once
    assert again.redactions == {}


def test_the_report_names_places_and_no_values(ingest: Ingest) -> None:
    request = trace_request()
    request.resource_spans[0].scope_spans[0].spans[0].name = VALUES["EMAIL"]
    request.resource_spans[0].scope_spans[0].scope.name = VALUES["CARD"]
    report = ingest.traces(request).report
    assert report.places == {("EMAIL", "span.name"): 1, ("CARD", "scope.name"): 1}
    assert report.entities == {"CARD": 1, "EMAIL": 1}


def test_an_attribute_key_is_context_for_its_value() -> None:
    ingest = Ingest(CollectorSettings())
    request = trace_request()
    attributes = request.resource_spans[0].scope_spans[0].spans[0].attributes
    attributes.add(key="customer.ssn").value.int_value = 536904399
    attributes.add(key="customer.phone").value.string_value = "4155552671"
    attributes.add(key="order").value.string_value = "4155552671"
    attributes.add(key="count").value.int_value = 536904399
    out = TracesData.FromString(ingest.traces(request).outputs[0].value)
    values = [a.value for a in out.resource_spans[0].scope_spans[0].spans[0].attributes][4:]
    assert [value.string_value or value.int_value for value in values] == [
        "[US_SSN]",
        "[PHONE]",
        "4155552671",
        536904399,
    ]
