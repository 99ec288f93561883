"""The OpenTelemetry SDKs for Go, Java and Node export to the receivers; every field arrives, redacted."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status, TracesData
from toolchains import export

from stream.interaction import interactions

TOKEN = "t" * 24
START = 1_700_000_000_123_456_789
MS = 1_000_000


@pytest.mark.parametrize(
    ("language", "protocol"),
    [
        ("go", "grpc"),
        ("go", "http/protobuf"),
        ("java", "grpc"),
        ("java", "http/protobuf"),
        ("node", "grpc"),
        ("node", "http/protobuf"),
        ("node", "http/json"),
    ],
)
def test_every_field_arrives(
    start: Any, monkeypatch: pytest.MonkeyPatch, language: str, protocol: str
) -> None:
    monkeypatch.setenv("TOKEN_A", TOKEN)
    running = start(tenants=[{"name": "acme", "token": "${env:TOKEN_A}"}])
    endpoint = f"{running.http}/v1/traces"
    if protocol == "grpc":
        endpoint = running.grpc if language == "go" else f"http://{running.grpc}"
    ids = export(language, protocol, endpoint, TOKEN)

    assert {dict(output.headers)["tenant"] for output in running.log.outputs} == {b"acme"}
    assert not any(b"jane.doe" in output.value for output in running.log.outputs)
    groups = [
        group
        for output in running.log.outputs
        for group in TracesData.FromString(output.value).resource_spans
    ]
    resource = {a.key: a.value.string_value for a in groups[0].resource.attributes}
    assert (resource["service.name"], resource["owner"]) == ("shop", "[EMAIL]")
    scope = groups[0].scope_spans[0].scope
    assert (scope.name, scope.version) == ("exporter.test", "1.2.3")

    spans = {span.span_id.hex(): span for span in running.log.spans}
    assert set(spans) == {ids["parent"], ids["child"]}
    parent, child = spans[ids["parent"]], spans[ids["child"]]
    assert parent.trace_id.hex() == child.trace_id.hex() == ids["trace_id"]
    assert (parent.name, parent.kind, parent.parent_span_id) == ("POST /ask", Span.SPAN_KIND_SERVER, b"")
    assert (child.name, child.kind, child.parent_span_id.hex()) == (
        "chat m",
        Span.SPAN_KIND_CLIENT,
        ids["parent"],
    )
    assert (parent.start_time_unix_nano, parent.end_time_unix_nano) == (START, START + 4 * MS)
    assert (child.start_time_unix_nano, child.end_time_unix_nano) == (START + MS, START + 3 * MS)
    values = {attribute.key: attribute.value for attribute in child.attributes}
    assert values["gen_ai.usage.input_tokens"].int_value == 12
    assert values["ratio"].double_value == 0.5
    assert values["flag"].bool_value is True
    listed = values["gen_ai.response.finish_reasons"].array_value.values
    assert [value.string_value for value in listed] == ["stop", "length"]
    (event,) = child.events
    assert (event.name, event.time_unix_nano) == ("note", START + 2 * MS)
    assert (event.attributes[0].key, event.attributes[0].value.int_value) == ("n", 7)
    (link,) = child.links
    assert (link.trace_id.hex(), link.span_id.hex()) == (ids["trace_id"], ids["parent"])
    assert (link.attributes[0].key, link.attributes[0].value.string_value) == ("why", "test")
    assert (child.status.code, child.status.message) == (Status.STATUS_CODE_ERROR, "cannot reach [EMAIL]")

    data = TracesData(resource_spans=groups)
    (seen,) = interactions(data)
    assert seen.input_text == "I am [EMAIL], hällo"
    assert (seen.request_model, seen.finish_reasons) == ("m", ["stop", "length"])
    assert seen.usage.input_tokens == 12
    assert seen.route == "/ask"
    assert running.log.counters["spans_received"] == running.log.counters["spans_published"] == 2
