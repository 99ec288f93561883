"""Whatever is thrown at a running process: a clear answer with the right status, and it stays up with its books right."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator

import grpc
import pytest
from harness import Client, Process, wait_until
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from traces import attribute, hexid, request, trace

CONFIG = {
    "sampling": {"completion": {"after_root": "300ms", "idle": "1s"}},
    "drift": {"bucket": "1s", "lateness": "5s", "units": {"idle": "1s", "trace_idle": "1s"}},
}
PROTOBUF = "application/x-protobuf"


@pytest.fixture
def process(make_process: Callable[..., Process]) -> Iterator[Process]:
    """Return a running process that must be alive, ready and balanced at the end of the test."""
    made = make_process(CONFIG)
    made.start()
    yield made
    assert made.running(), made.said()
    client = Client(made.ports["grpc"])
    sound = trace("after")
    assert client.send(request(sound), threading.Event())
    client.close()
    trace_id = sound[0].trace_id.hex()
    wait_until(
        lambda: made.sql(f"SELECT count() FROM otel_traces WHERE TraceId = '{trace_id}'") == [(3,)],
        "a sound trace to come through afterwards",
    )
    wait_until(made.drained, "every stage to take everything")
    doctor = made.run("doctor", check=False)
    assert doctor.returncode == 0, doctor.stdout


def _post(process: Process, body: bytes, kind: str = PROTOBUF, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", process.ports["http"], timeout=60)
    connection.request(
        "POST",
        "/v1/traces",
        body,
        {"Content-Type": kind, **{k.replace("_", "-"): v for k, v in headers.items()}},
    )
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def _export(process: Process, made: ExportTraceServiceRequest) -> tuple[int, str]:
    """Send over gRPC; return rejected spans and the message."""
    client = Client(process.ports["grpc"])
    try:
        answer = client._export(made, timeout=60)
    finally:
        client.close()
    return answer.partial_success.rejected_spans, answer.partial_success.error_message


def test_what_is_not_otlp_is_refused_for_good(process: Process) -> None:
    assert _post(process, b"\xff\xff\xff garbage")[0] == 400
    assert _post(process, b"{not json", "application/json")[0] == 400
    assert _post(process, b"[1, 2]", "application/json")[0] == 400
    assert _post(process, b"x", "text/plain")[0] == 415
    assert _post(process, b"not gzip", Content_Encoding="gzip")[0] == 400
    assert _post(process, b"x", Content_Encoding="rot13")[0] == 415
    # A name that is not UTF-8: field 5 of a span.
    made = request(trace("utf8")).SerializeToString().replace(b"POST /ask", b"POST \xff\xfesk")
    assert _post(process, made)[0] == 400
    deep = b'{"resourceSpans":' + b"[" * 10_000 + b"]" * 10_000 + b"}"
    assert _post(process, deep, "application/json")[0] == 400


def test_a_request_of_200_mb_is_refused_before_it_is_read(process: Process) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", process.ports["http"], timeout=60)
    connection.putrequest("POST", "/v1/traces")
    connection.putheader("Content-Type", PROTOBUF)
    connection.putheader("Content-Length", str(200 << 20))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()

    big = request(trace("big"))
    big.resource_spans[0].resource.attributes.append(attribute("blob", "x" * (70 << 20)))
    channel = grpc.insecure_channel(
        f"127.0.0.1:{process.ports['grpc']}", options=[("grpc.max_send_message_length", -1)]
    )
    send = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
    with pytest.raises(grpc.RpcError) as raised:
        send(big.SerializeToString(), timeout=60)
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    channel.close()


def test_one_bad_span_is_refused_and_its_neighbours_are_taken(process: Process) -> None:
    huge, sound = trace("huge"), trace("sound")
    huge[2].attributes.append(attribute("blob", "x" * (50 << 20)))
    rejected, message = _export(process, request([*huge, *sound]))
    assert rejected == 1
    assert message

    wrong = trace("wrong")
    wrong[0].trace_id = b"\x01" * 7
    wrong[1].trace_id = bytes(16)
    wrong[2].span_id = b""
    rejected, message = _export(process, request([*wrong, *trace("right")]))
    assert rejected == 3

    nested = AnyValue(string_value="bottom")
    for _ in range(44):  # protobuf itself stops at 100 levels, two of which each of these takes
        nested = AnyValue(array_value=ArrayValue(values=[nested]))
    deep = trace("deep")
    deep[0].attributes.append(KeyValue(key="nested", value=nested))
    rejected, message = _export(process, request([*deep, *trace("flat")]))
    assert rejected == 1
    wait_until(process.drained, "draining")
    ids = {row[0] for row in process.sql("SELECT DISTINCT TraceId FROM otel_traces")}
    assert {hexid("trace", name, size=16).hex() for name in ("sound", "right", "flat")} <= ids


def test_times_of_1970_and_2262_are_stored(process: Process) -> None:
    old, future = trace("old", start_ns=1), trace("future", start_ns=2**63 - 10**9)
    none = trace("none")
    for span in none:
        span.start_time_unix_nano = span.end_time_unix_nano = 0
    beyond = trace("beyond")
    for span in beyond:
        span.start_time_unix_nano = span.end_time_unix_nano = 2**64 - 1
    _export(process, request([*old, *future, *none, *beyond]))
    wait_until(process.drained, "draining")
    wait_until(lambda: process.sql("SELECT count() FROM otel_traces") == [(12,)], "all twelve spans")
    assert process.sql("SELECT toYear(min(Timestamp)), toYear(max(Timestamp)) FROM otel_traces") == [
        (1970, 2262)
    ]
    # A clock that is centuries ahead must not close everybody else's windows.
    excluded = process.status()["ledger"]["drift"]
    assert any(name.startswith(("scores_excluded.", "scores_rejected.")) for name in excluded)


def test_duplicates_are_counted_once(process: Process) -> None:
    spans = trace("twice")
    for _ in range(3):
        _export(process, request(spans))
    _export(process, request([*spans, *spans]))
    wait_until(process.drained, "draining")
    wait_until(lambda: process.sql("SELECT count() FROM otel_traces") == [(3,)], "three spans")
    assert process.sql("SELECT uniqExact(score_id) = count(), count() > 0 FROM scores") == [(True, True)]


@pytest.mark.slow
def test_a_trace_of_100_000_spans_and_an_index_bomb_pass(process: Process) -> None:
    trace_id = hexid("giant", size=16)
    for chunk in range(20):
        made = ExportTraceServiceRequest()
        spans = made.resource_spans.add().scope_spans.add().spans
        for index in range(5_000):
            spans.add(
                trace_id=trace_id,
                span_id=hexid("giant", chunk, index, size=8),
                parent_span_id=b"\x01" * 8,
                name="step",
                start_time_unix_nano=1_800_000_000_000_000_000,
                end_time_unix_nano=1_800_000_000_000_000_001,
            )
        assert _export(process, made) == (0, "")
    bomb = trace("bomb")
    bomb[2].attributes.append(attribute("gen_ai.prompt.99999999.content", "boom"))
    bomb[2].attributes.append(attribute("llm.input_messages.4294967296.message.content", "boom"))
    bomb[2].attributes.extend(attribute(f"gen_ai.prompt.{n}.content", "x") for n in range(5_000))
    _export(process, request(bomb))
    wait_until(
        lambda: (
            process.sql(f"SELECT count() FROM otel_traces WHERE TraceId = '{trace_id.hex()}'") == [(100_000,)]
        ),
        "all spans of the giant trace",
        120,
    )


def test_bad_queries_get_clickhouse_errors(process: Process) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", process.ports["query"], timeout=60)
    connection.request("POST", "/", b"SELECT nonsense FROM nowhere")
    answer = connection.getresponse()
    text = answer.read().decode()
    assert answer.status in (400, 404)
    assert "Code:" in text
    connection.close()
    assert json.loads(process.run("query", "SELECT 1 AS x", "--format", "JSON").stdout)["data"] == [{"x": 1}]
