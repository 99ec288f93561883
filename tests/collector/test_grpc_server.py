"""OTLP over gRPC, spoken by the real SDK exporter and by raw calls."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from harness import PATIENCE_S, wait_until
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from collector.receivers import Receivers
from collector.settings import CollectorSettings
from stream.errors import Permanent, StartError, Transient

TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
LOGS = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
TRACE_ID = bytes(range(1, 17))
SPAN_ID = bytes(range(1, 9))


def request_of(*names: str) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for name in names:
        scope.spans.add(trace_id=TRACE_ID, span_id=SPAN_ID, name=name)
    return request


def call(address: str, method: str, body: bytes, **options: Any) -> bytes:
    metadata = options.pop("metadata", None)
    with grpc.insecure_channel(address, options=[("grpc.max_send_message_length", -1)]) as channel:
        return channel.unary_unary(method)(body, timeout=60, metadata=metadata, **options)


def refused(address: str, method: str, body: bytes, **options: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call(address, method, body, **options)
    return caught.value


def retry_delay(error: grpc.RpcError) -> float | None:
    status = rpc_status.from_call(error)
    assert status is not None
    for detail in status.details:
        info = RetryInfo()
        if detail.Unpack(info):
            return info.retry_delay.ToNanoseconds() / 1e9
    return None


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
def test_the_sdk_exports(start: Any, compression: Any) -> None:
    running = start()
    provider = TracerProvider(resource=Resource({"service.name": "shop", "owner": "jane.doe@example.com"}))
    exporter = OTLPSpanExporter(f"http://{running.grpc}", insecure=True, compression=compression)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("test", "1.0")
    for number in range(300):
        with tracer.start_as_current_span("chat") as span:
            span.set_attribute("gen_ai.input.messages", f'[{{"content":"I am\\njane{number}@example.com"}}]')
            span.add_event("e", {"ip": ["203.0.113.77"]})
    assert provider.force_flush()
    provider.shutdown()
    spans = running.log.spans
    assert len(spans) == 300
    assert {span.attributes[0].value.string_value for span in spans} == {'[{"content":"I am\\n[EMAIL]"}]'}
    assert not any(
        b"example.com" in output.value or b"203.0" in output.value for output in running.log.outputs
    )
    assert running.log.counters["spans_received"] == running.log.counters["spans_published"] == 300
    assert running.log.counters["redactions.IPV4"] == 300


def test_full_success_leaves_partial_success_unset(start: Any) -> None:
    running = start()
    assert call(running.grpc, TRACES, request_of("a").SerializeToString()) == b""
    assert call(running.grpc, TRACES, b"") == b""
    assert call(running.grpc, LOGS, b"") == b""
    assert len(running.log.outputs) == 1


def test_partial_success_names_the_reason(start: Any) -> None:
    running = start()
    request = request_of("good", "bad")
    request.resource_spans[0].scope_spans[0].spans[1].trace_id = bytes(16)
    answered = ExportTraceServiceResponse.FromString(call(running.grpc, TRACES, request.SerializeToString()))
    assert answered.partial_success.rejected_spans == 1
    assert "trace_id must be 16 bytes" in answered.partial_success.error_message
    assert [span.name for span in running.log.spans] == ["good"]
    assert running.log.counters["spans_refused.bad_trace_id"] == 1


def test_logs(start: Any) -> None:
    running = start()
    request = ExportLogsServiceRequest()
    scope = request.resource_logs.add().scope_logs.add()
    for trace_id in (TRACE_ID, b"short"):
        scope.log_records.add(trace_id=trace_id, span_id=SPAN_ID).body.string_value = "a@example.com"
    answered = ExportLogsServiceResponse.FromString(call(running.grpc, LOGS, request.SerializeToString()))
    assert answered.partial_success.rejected_log_records == 1
    (record,) = running.log.log_records
    assert record.body.string_value == "[EMAIL]"


def test_metrics_are_answered_clearly(start: Any) -> None:
    running = start()
    with grpc.insecure_channel(running.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        MetricsServiceStub(channel).Export(ExportMetricsServiceRequest(), timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "not metrics" in caught.value.details()


@pytest.mark.parametrize("body", [b"\x0a", b"rubbish", b"\x0a\x08\x12\x06\x12\x04\x2a\x02\xff\xfe"])
def test_a_malformed_body_is_an_invalid_argument(start: Any, body: bytes) -> None:
    running = start()
    error = refused(running.grpc, TRACES, body)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert retry_delay(error) is None
    # The process stays up.
    assert call(running.grpc, TRACES, request_of("a").SerializeToString()) == b""


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
def test_a_body_above_the_limit_is_refused_for_good(start: Any, compression: Any) -> None:
    running = start(max_request_bytes=1 << 20)
    # Compressed it is a thousandth of that: the limit holds for what comes out of it.
    error = refused(
        running.grpc, TRACES, request_of("x" * (8 << 20)).SerializeToString(), compression=compression
    )
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert rpc_status.from_call(error) is None or retry_delay(error) is None
    assert running.log.outputs == []


def test_two_hundred_megabytes_are_refused(start: Any) -> None:
    running = start()
    error = refused(running.grpc, TRACES, bytes(200 << 20))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert call(running.grpc, TRACES, request_of("a").SerializeToString()) == b""


def test_a_log_that_cannot_take_it_now_says_when(start: Any) -> None:
    running = start()
    running.log.error = Transient("log_full", "no room", retry_after=2.0)
    delays = set()
    for _ in range(4):
        error = refused(running.grpc, TRACES, request_of("a").SerializeToString())
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        delay = retry_delay(error)
        assert delay is not None
        assert 1.5 <= delay <= 6.0
        delays.add(delay)
    assert len(delays) > 1
    running.log.error = None
    call(running.grpc, TRACES, request_of("a").SerializeToString())
    # What was not acknowledged is not in the ledger.
    assert running.log.counters["spans_received"] == 1


def test_a_log_that_never_takes_it_says_so(start: Any) -> None:
    running = start()
    running.log.error = Permanent("too_large_for_the_log", "smaller spans, please")
    error = refused(running.grpc, TRACES, request_of("a").SerializeToString())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert retry_delay(error) is None


def test_beyond_the_budget_requests_are_refused_before_they_are_decoded(start: Any) -> None:
    running = start(max_request_bytes=4096, max_in_flight_bytes=6000)
    running.log.gate = running.call(asyncio.Event)
    body = request_of("x" * 3500).SerializeToString()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(call, running.grpc, TRACES, body)
        assert running.log.entered.wait(PATIENCE_S)
        assert running.receivers.metrics()["in_flight_bytes"] == len(body)
        # Were it decoded, it would be an invalid argument.
        error = refused(running.grpc, TRACES, b"rubbish" * 500)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        delay = retry_delay(error)
        assert delay is not None
        assert delay > 0
        running.call(running.log.gate.set)
        assert first.result(10) == b""
    assert running.receivers.metrics()["in_flight_bytes"] == 0
    assert running.receivers.metrics()["requests_refused.overloaded"] == 1


def test_tokens_name_the_tenant(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_A", "a" * 16)
    monkeypatch.setenv("TOKEN_B", "b" * 16)
    tenants = [{"name": "acme", "token": "${env:TOKEN_A}"}, {"name": "umbrella", "token": "${env:TOKEN_B}"}]
    running = start(tenants=tenants)
    body = request_of("a").SerializeToString()
    call(running.grpc, TRACES, body, metadata=[("authorization", "Bearer " + "b" * 16)])
    assert dict(running.log.outputs[0].headers)["tenant"] == b"umbrella"
    for metadata in (None, [("authorization", "Bearer " + "c" * 16)], [("authorization", "b" * 16)]):
        error = refused(running.grpc, TRACES, body, metadata=metadata)
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "b" * 16 not in error.details()
    assert len(running.log.outputs) == 1


def test_health(start: Any) -> None:
    running = start()
    with grpc.insecure_channel(running.grpc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        def check(service: str = "") -> int:
            return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=60).status

        serving, not_serving = (
            health_pb2.HealthCheckResponse.SERVING,
            health_pb2.HealthCheckResponse.NOT_SERVING,
        )
        assert check() == check("opentelemetry.proto.collector.trace.v1.TraceService") == serving
        running.ready = False
        assert check() == not_serving
        running.ready = True
        assert check() == serving


def test_health_is_watched_until_the_stop(start: Any) -> None:
    running = start()
    serving, not_serving, unknown = (
        health_pb2.HealthCheckResponse.SERVING,
        health_pb2.HealthCheckResponse.NOT_SERVING,
        health_pb2.HealthCheckResponse.SERVICE_UNKNOWN,
    )
    with grpc.insecure_channel(running.grpc) as channel:

        def watch(service: str) -> Any:
            return health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_S
            )

        traces, other = watch("opentelemetry.proto.collector.trace.v1.TraceService"), watch("other")
        assert (next(traces).status, next(other).status) == (serving, unknown)
        running.ready = False
        assert next(traces).status == not_serving
        running.ready = True
        assert next(traces).status == serving
        # Without an end of its own, the stop would wait for it as long as it may.
        stopping = asyncio.run_coroutine_threadsafe(running.receivers.stop(10 * PATIENCE_S), running.loop)
        assert [answer.status for answer in traces] == [not_serving]
        stopping.result(PATIENCE_S)


def test_both_listeners_close_at_once_and_what_runs_is_answered(start: Any) -> None:
    running = start()
    running.log.gate = running.call(asyncio.Event)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(call, running.grpc, TRACES, request_of("a").SerializeToString())
        assert running.log.entered.wait(PATIENCE_S)
        address = ("127.0.0.1", running.receivers.http_port)
        stopping = asyncio.run_coroutine_threadsafe(running.receivers.stop(10 * PATIENCE_S), running.loop)

        def closed() -> bool:
            try:
                socket.create_connection(address, timeout=PATIENCE_S).close()
            except ConnectionError:
                return True
            return False

        wait_until(closed, "the HTTP port to close")
        running.call(running.log.gate.set)
        assert late.result(PATIENCE_S) == b""
        stopping.result(PATIENCE_S)


def test_a_taken_port_is_an_error_that_names_the_setting(start: Any) -> None:
    running = start()
    for section, port in (("grpc", running.receivers.grpc_port), ("http", running.receivers.http_port)):
        ports = {"grpc": {"port": 0}, "http": {"port": 0}} | {section: {"port": port}}
        receivers = Receivers(CollectorSettings.model_validate(ports), running.log.publish, lambda: True)
        with pytest.raises(StartError, match=rf"{port}.*collector\.{section}\.port"):
            running.run(receivers.start())
        running.run(receivers.stop(0))


def test_stop_waits_for_requests_in_flight_and_is_idempotent(start: Any) -> None:
    running = start()
    running.log.gate = running.call(asyncio.Event)
    with ThreadPoolExecutor(2) as pool:
        request = pool.submit(call, running.grpc, TRACES, request_of("a").SerializeToString())
        assert running.log.entered.wait(PATIENCE_S)
        stopping = pool.submit(running.run, running.receivers.stop(10))
        running.call(running.log.gate.set)
        assert request.result(10) == b""
        stopping.result(10)
    running.run(running.receivers.stop(10))
    assert len(running.log.spans) == 1
    assert refused(running.grpc, TRACES, b"").code() is grpc.StatusCode.UNAVAILABLE


def test_a_sender_that_leaves_does_not_break_the_books(start: Any) -> None:
    running = start()
    running.log.gate = running.call(asyncio.Event)
    with grpc.insecure_channel(running.grpc) as channel:
        leaving = channel.unary_unary(TRACES).future(request_of("a").SerializeToString())
        assert running.log.entered.wait(PATIENCE_S)
        leaving.cancel()
        # Answered after the cancellation has arrived: the connection keeps the order.
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
    running.call(running.log.gate.set)
    running.run(running.receivers.stop(10))
    assert running.receivers.metrics()["in_flight_bytes"] == 0
    assert running.log.counters["spans_received"] == len(running.log.spans) == 1


def test_a_missing_certificate_is_a_start_error(start: Any, tmp_path: Path) -> None:
    tls = {"cert_file": str(tmp_path / "cert.pem"), "key_file": str(tmp_path / "key.pem")}
    for section in ("grpc", "http"):
        with pytest.raises(StartError, match=rf"collector\.{section}\.tls: .*\.pem"):
            start(**{section: {"port": 0, "tls": tls}})


def test_the_stub_of_the_protocol_works(start: Any) -> None:
    running = start()
    with grpc.insecure_channel(running.grpc, compression=grpc.Compression.Gzip) as channel:
        answered = TraceServiceStub(channel).Export(request_of("a", "b"), timeout=60)
    assert not answered.HasField("partial_success")
    assert [span.name for span in running.log.spans] == ["a", "b"]
