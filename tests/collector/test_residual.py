"""The second look finds what is left, wherever and however it stands, and nothing else."""

from __future__ import annotations

import base64
import http.client
import random
from collections import Counter
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from planted import DIGITS, FORMS, PLACES, Place, add, request, values
from structlog.testing import capture_logs

from collector.ingest import Ingest
from collector.redaction.engine import Engine
from collector.redaction.residual import Residual
from collector.rescan import Rescan
from collector.settings import CollectorSettings
from driftgate.metrics import render
from driftgate.runtime.status import Status
from stream.stage import Output

MAIL = "jane.doe@example.com"
CARD = "4111 1111 " + "1111 1111"


@pytest.fixture(scope="module")
def ingest() -> Ingest:
    return Ingest()


@pytest.fixture(scope="module")
def residual(ingest: Ingest) -> Residual:
    return Residual(ingest.engine, 1.0)


def output(message: Any) -> Output:
    topic = "otlp_spans" if isinstance(message, ExportTraceServiceRequest) else "otlp_logs"
    return Output(topic, message.SerializeToString(), headers=(("tenant", b"default"),))


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_it_finds_in_every_place_and_form_what_was_not_redacted(
    ingest: Ingest, residual: Residual, place: Place
) -> None:
    r = random.Random(place.name)
    found = values(ingest.engine, drawn=40)
    for form in FORMS:
        fitting = [value for value in found if not form.digits_only or value.entity in DIGITS]
        for value in r.sample(fitting, 3):
            sent = request(place.signal)
            place.put(add(sent, 0), form.write(value.text))
            where = (place.name, form.name, value.text)
            before = residual.scan(output(sent))
            assert before.items == 1
            assert before.finds, where
            for output_ in getattr(ingest, place.signal)(sent.SerializeToString()).outputs:
                assert residual.scan(output_).finds == {}, where


def test_it_says_which_entity_and_where(residual: Residual) -> None:
    sent = ExportTraceServiceRequest()
    group = add(sent, 0)
    group.resource.attributes.add(key="owner").value.string_value = MAIL
    group.scope_spans[0].scope.name = CARD
    span = group.scope_spans[0].spans[0]
    span.name = f"{MAIL} and {MAIL}"
    span.attributes.add(key=MAIL).value.int_value = 4111111111111111
    span.status.message = MAIL
    assert residual.scan(output(sent)).finds == {
        ("EMAIL", "resource.attribute"): 1,
        ("CARD", "scope.name"): 1,
        ("EMAIL", "span.name"): 2,
        ("EMAIL", "span.attribute.key"): 1,
        ("CARD", "span.attribute"): 1,
        ("EMAIL", "span.status"): 1,
    }


def test_what_the_policy_keeps_is_no_leak() -> None:
    made = Ingest(
        CollectorSettings.model_validate(
            {
                "redaction": {
                    "allow": [MAIL],
                    "paths": [{"path": "span.attributes.app.user.ip", "operator": "keep"}],
                    "tenants": {"acme": {"operators": {"CARD": "keep"}}},
                }
            }
        )
    )
    sent = ExportTraceServiceRequest()
    span = add(sent, 0).scope_spans[0].spans[0]
    span.name = f"{MAIL} {CARD}"
    user = span.attributes.add(key="app").value.kvlist_value.values.add(key="user").value
    user.kvlist_value.values.add(key="ip").value.string_value = "203.0.113.9"
    residual = Residual(made.engine, 1.0)
    for tenant, finds in (("acme", {}), ("default", {("CARD", "span.name"): 1})):
        again = Output("otlp_spans", sent.SerializeToString(), headers=(("tenant", tenant.encode()),))
        assert residual.scan(again).finds == finds
        for published in made.traces(sent.SerializeToString(), tenant).outputs:
            assert residual.scan(published).finds == {}


def test_base64_that_the_policy_does_not_look_into_is_no_leak() -> None:
    made = Ingest(CollectorSettings.model_validate({"redaction": {"max_base64_bytes": 0}}))
    sent = request("traces")
    group = add(sent, 0)
    encoded = base64.b64encode(f"write to {MAIL} soon".encode()).decode()
    group.scope_spans[0].spans[0].attributes.add(key="k").value.string_value = encoded
    assert Residual(made.engine, 1.0).scan(output(sent)).finds == {}


def test_the_same_share_of_spans_is_looked_at_every_time(ingest: Ingest) -> None:
    residual = Residual(ingest.engine, 0.01)
    r = random.Random(3)
    ids = [(r.randbytes(16), r.randbytes(8)) for _ in range(100_000)]
    chosen = [pair for pair in ids if residual.chosen(*pair)]
    assert 850 < len(chosen) < 1150
    again, none = Residual(ingest.engine, 0.01), Residual(ingest.engine, 0)
    assert chosen == [pair for pair in ids if again.chosen(*pair)]
    assert not any(none.chosen(*pair) for pair in ids)
    sequential = [(bytes(16), number.to_bytes(8, "big")) for number in range(100_000)]
    assert 850 < sum(residual.chosen(*pair) for pair in sequential) < 1150


def test_the_rescan_counts_once_for_the_ledger_and_is_bounded(residual: Residual) -> None:
    sent = ExportTraceServiceRequest()
    add(sent, 0).scope_spans[0].spans[0].name = MAIL
    rescan = Rescan(residual, busy_share=1.0)
    rescan.offer([output(sent), output(sent)])
    assert rescan.settle(60)
    expected = {"residual_items": 2, "residual_finds": 2, "residual_finds.EMAIL.span.name": 2}
    taken = rescan.take()
    assert taken == expected
    assert rescan.take() == {}
    rescan.give_back(taken)
    assert rescan.take() == rescan.metrics() == expected
    broken = Output("otlp_spans", b"\xff\xff")
    rescan.offer([broken])
    assert rescan.settle(60)
    assert rescan.take() == {"residual_failed": 1}
    large = Output("otlp_spans", bytes(9 << 20))
    rescan.offer([large])
    assert Counter(rescan.take()) == {"residual_records_skipped": 1}
    rescan.close()
    rescan.offer([output(sent)])
    assert rescan.take() == {"residual_records_skipped": 1}


def test_a_leak_reaches_the_metrics_the_ledger_and_the_log(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start(redaction={"residual_share": 1.0})
    sent = ExportTraceServiceRequest()
    add(sent, 0).scope_spans[0].spans[0].name = MAIL

    def post() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", running.receivers.http_port, timeout=30)
        connection.request(
            "POST", "/v1/traces", sent.SerializeToString(), {"Content-Type": "application/x-protobuf"}
        )
        status = connection.getresponse().status
        connection.close()
        return status

    rescan = running.receivers._intake._rescan
    assert post() == 200
    assert rescan.settle(60)
    assert running.receivers.metrics()["residual_items"] == 1
    assert "residual_finds" not in running.receivers.metrics()
    monkeypatch.setattr(Engine, "redact_batch", lambda *_, **__: {})  # an engine that finds nothing
    with capture_logs() as logged:
        assert post() == 200
        assert rescan.settle(60)
    monkeypatch.undo()
    assert [(line["event"], line["entity"], line["place"]) for line in logged] == [
        ("personal_data_left_in_output", "EMAIL", "span.name")
    ]
    assert MAIL not in str(logged)
    status = Status(version="", ready=True, time_unix_nano=0, receivers=running.receivers.metrics())
    exposed = render(status).decode()
    assert 'driftgate_residual_finds_total{entity="EMAIL",place="span.name"} 1.0' in exposed
    assert 'driftgate_redactions_total{entity="EMAIL",place="span.name"} 1.0' in exposed
    assert post() == 200  # the next request takes the counts along
    assert running.log.counters["residual_finds"] == 1
    assert running.log.counters["redacted.span.name.EMAIL"] == 2


def test_the_last_counts_are_saved_at_the_stop(start: Any) -> None:
    running = start(redaction={"residual_share": 1.0})
    sent = ExportTraceServiceRequest()
    add(sent, 0)
    connection = http.client.HTTPConnection("127.0.0.1", running.receivers.http_port, timeout=30)
    connection.request(
        "POST", "/v1/traces", sent.SerializeToString(), {"Content-Type": "application/x-protobuf"}
    )
    assert connection.getresponse().status == 200
    connection.close()
    assert running.receivers._intake._rescan.settle(60)
    running.run(running.receivers.stop())
    assert running.log.counters["residual_items"] == 1
