"""OTLP over HTTP, spoken by the real SDK exporter, by plain requests, and by senders that mean harm."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import socket
import ssl
import subprocess
import tracemalloc
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import zstandard
from google.rpc.status_pb2 import Status
from harness import PATIENCE_S, wait_until
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from stream.errors import Transient

PROTOBUF = "application/x-protobuf"
TRACE_ID = bytes(range(1, 17))
SPAN_ID = bytes(range(1, 9))


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def rpc(self) -> Status:
        return Status.FromString(self.body)


def request_of(*names: str) -> bytes:
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for name in names:
        scope.spans.add(trace_id=TRACE_ID, span_id=SPAN_ID, name=name)
    return request.SerializeToString()


def send(running: Any, body: Any, path: str = "/v1/traces", method: str = "POST", **headers: str) -> Answer:
    sent = {"Content-Type": PROTOBUF} | {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", running.receivers.http_port, timeout=60)
    try:
        connection.request(method, path, body, sent)
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


def json_request(**span: Any) -> dict[str, Any]:
    made = {"traceId": TRACE_ID.hex(), "spanId": SPAN_ID.hex(), "name": "chat"} | span
    return {"resourceSpans": [{"scopeSpans": [{"spans": [made]}]}]}


@pytest.mark.parametrize("compression", list(Compression))
def test_the_sdk_exports(start: Any, compression: Compression) -> None:
    running = start()
    provider = TracerProvider()
    exporter = OTLPSpanExporter(f"{running.http}/v1/traces", compression=compression)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("test").start_as_current_span("chat") as span:
        span.set_attribute("user.id", "jane.doe@example.com")
    provider.shutdown()
    (got,) = running.log.spans
    assert got.attributes[0].value.string_value == "[EMAIL]"


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("identity", bytes),
        ("gzip", gzip.compress),
        ("gzip", lambda body: gzip.compress(body[:7]) + gzip.compress(body[7:])),
        ("GZIP", gzip.compress),
        ("zstd", zstandard.compress),
        ("zstd", lambda body: zstandard.compress(body[:7]) + zstandard.compress(body[7:])),
        ("deflate", zlib.compress),
    ],
)
def test_encodings(start: Any, encoding: str, compress: Callable[[bytes], bytes]) -> None:
    running = start()
    answer = send(running, compress(request_of("a")), Content_Encoding=encoding)
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, b"", PROTOBUF)
    assert [span.name for span in running.log.spans] == ["a"]


def test_json(start: Any) -> None:
    running = start()
    request = json_request(
        traceId=TRACE_ID.hex().upper(),
        parentSpanId="",
        kind=3,
        startTimeUnixNano="1718900000000000000",
        endTimeUnixNano=1718900000000000001,
        unknownField={"a": 1},
        status={"code": 2, "message": "jane.doe@example.com"},
        attributes=[
            {"key": "n", "value": {"intValue": "42"}},
            {"key": "b", "value": {"bytesValue": "AAEC"}},
            {"key": "l", "value": {"arrayValue": {"values": [{"boolValue": True}, {"doubleValue": 0.5}]}}},
            {"key": "m", "value": {"kvlistValue": {"values": [{"key": "k", "value": {"stringValue": "é"}}]}}},
        ],
        events=[{"name": "e", "timeUnixNano": "1"}],
        links=[{"traceId": TRACE_ID.hex(), "spanId": SPAN_ID.hex()}],
    )
    answer = send(running, json.dumps(request), Content_Type="application/json; charset=utf-8")
    assert (answer.status, answer.json) == (200, {})
    assert answer.headers["content-type"].startswith("application/json")
    (span,) = running.log.spans
    assert (span.trace_id, span.span_id, span.kind) == (TRACE_ID, SPAN_ID, 3)
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (1718900000000000000, 1718900000000000001)
    assert span.attributes[0].value.int_value == 42
    assert span.attributes[1].value.bytes_value == b"\0\1\2"
    assert span.attributes[3].value.kvlist_value.values[0].value.string_value == "é"
    assert span.links[0].trace_id == TRACE_ID
    assert span.status.message == "[EMAIL]"


def test_json_logs(start: Any) -> None:
    running = start()
    record = {"traceId": TRACE_ID.hex(), "spanId": SPAN_ID.hex(), "body": {"stringValue": "a@example.com"}}
    body = json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]})
    answer = send(running, body, "/v1/logs", Content_Type="application/json")
    assert (answer.status, answer.json) == (200, {})
    assert running.log.log_records[0].body.string_value == "[EMAIL]"


@pytest.mark.parametrize("trace_id", ["", "zz" * 16, "abc", TRACE_ID.hex() + "00", "0" * 32])
def test_a_wrong_id_in_json_refuses_its_span(start: Any, trace_id: str) -> None:
    running = start()
    request = json_request(traceId=trace_id)
    request["resourceSpans"] += json_request()["resourceSpans"]
    answer = send(running, json.dumps(request), Content_Type="application/json")
    assert answer.status == 200
    assert answer.json["partialSuccess"]["rejectedSpans"] == "1"
    assert "trace_id" in answer.json["partialSuccess"]["errorMessage"]
    assert len(running.log.spans) == 1


def test_partial_success_in_protobuf(start: Any) -> None:
    running = start()
    request = ExportTraceServiceRequest.FromString(request_of("good", "bad"))
    request.resource_spans[0].scope_spans[0].spans[1].span_id = b""
    answer = send(running, request.SerializeToString())
    assert ExportTraceServiceResponse.FromString(answer.body).partial_success.rejected_spans == 1


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"rubbish", PROTOBUF),
        (b"\x0a\x08\x12\x06\x12\x04\x2a\x02\xff\xfe", PROTOBUF),
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b'"x"', "application/json"),
        (b'{"resourceSpans": 1}', "application/json"),
        (b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"name": 5}]}]}]}', "application/json"),
        (b'{"resourceSpans": "\xff\xfe"}', "application/json"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "application/json"),
        (b"[" * 10_000, "application/json"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_malformed_body_is_a_bad_request(start: Any, body: bytes, content_type: str) -> None:
    running = start()
    answer = send(running, body, Content_Type=content_type)
    assert answer.status == 400
    assert answer.headers["content-type"].startswith(content_type)
    status = (
        answer.rpc
        if content_type == PROTOBUF
        else Status(**{k: v for k, v in answer.json.items() if k != "details"})
    )
    assert status.code == 3
    assert status.message.startswith("undecodable: ")
    assert "retry-after" not in answer.headers
    assert send(running, request_of("a")).status == 200


def test_deep_but_valid_json_is_a_bad_request(start: Any) -> None:
    running = start()
    value = '{"stringValue":"x"}'
    for _ in range(200):
        value = '{"arrayValue":{"values":[' + value + "]}}"
    body = json.dumps(json_request(attributes=[{"key": "deep", "value": "VALUE"}])).replace('"VALUE"', value)
    assert send(running, body, Content_Type="application/json").status == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/json", "Content_Encoding": "br"},
        {"Content_Encoding": "compress"},
    ],
)
def test_what_is_not_spoken_here_is_unsupported(start: Any, headers: dict[str, str]) -> None:
    answer = send(start(), request_of("a"), **headers)
    assert answer.status == 415


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("damage", [lambda body: b"rubbish" + body, lambda body: body[: len(body) // 2]])
def test_a_damaged_encoding_is_a_bad_request(
    start: Any, encoding: str, damage: Callable[[bytes], bytes]
) -> None:
    body = request_of("x" * 500)
    packed = gzip.compress(body) if encoding == "gzip" else zstandard.compress(body)
    assert send(start(), damage(packed), Content_Encoding=encoding).status == 400


def gzip_bomb(size: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    block = bytes(1 << 20)
    return b"".join([*(packer.compress(block) for _ in range(size >> 20)), packer.flush()])


def zstd_bomb(size: int) -> bytes:
    packer = zstandard.ZstdCompressor().compressobj()
    block = bytes(1 << 20)
    return b"".join([*(packer.compress(block) for _ in range(size >> 20)), packer.flush()])


@pytest.mark.parametrize(("encoding", "bomb"), [("gzip", gzip_bomb), ("zstd", zstd_bomb)])
def test_a_bomb_does_not_go_off(start: Any, encoding: str, bomb: Callable[[int], bytes]) -> None:
    running = start(max_request_bytes=4 << 20)
    body = bomb(512 << 20)
    assert len(body) < 1 << 20
    tracemalloc.start()
    answer = send(running, body, Content_Encoding=encoding)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert answer.status == 413
    assert peak < 32 << 20
    assert running.receivers.metrics()["in_flight_bytes"] == 0
    assert send(running, request_of("a")).status == 200


def test_two_hundred_megabytes_are_refused_unread(start: Any) -> None:
    running = start()
    with socket.create_connection(("127.0.0.1", running.receivers.http_port), timeout=60) as raw:
        head = f"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: {PROTOBUF}\r\nContent-Length: {200 << 20}\r\n\r\n"
        raw.sendall(head.encode())
        assert raw.recv(4096).startswith(b"HTTP/1.1 413")


def test_two_hundred_megabytes_in_chunks_are_refused_while_they_come(start: Any) -> None:
    running = start(max_request_bytes=1 << 20)
    sent = 0
    with socket.create_connection(("127.0.0.1", running.receivers.http_port), timeout=60) as raw:
        raw.sendall(
            f"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: {PROTOBUF}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        raw.setblocking(False)
        answered = b""
        while not answered and sent < 200 << 20:
            try:
                raw.sendall(chunk)
                sent += 0x10000
            except BlockingIOError:
                pass
            except (BrokenPipeError, ConnectionResetError):
                break
            try:
                answered = raw.recv(4096)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                break
    assert answered.startswith(b"HTTP/1.1 413")
    assert send(running, request_of("a")).status == 200


def test_what_is_no_request_is_not_quoted_in_the_log(start: Any, caplog: pytest.LogCaptureFixture) -> None:
    running = start()
    for rest in (b"Authorization: Bearer the-token\x01\r\n\r\n", b"Content-Length: the-token\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", running.receivers.http_port), timeout=60) as raw:
            raw.sendall(b"POST /v1/traces HTTP/1.1\r\nHost: x\r\n" + rest)
            assert b" 400 " in raw.recv(4096)
    assert "the-token" not in caplog.text


def test_a_sender_that_goes_is_counted_and_holds_nothing(
    start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    running = start()
    with socket.create_connection(("127.0.0.1", running.receivers.http_port), timeout=60) as raw:
        head = f"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: {PROTOBUF}\r\nContent-Length: 1000\r\n\r\nabc"
        raw.sendall(head.encode())
        wait_until(lambda: running.receivers.metrics()["in_flight_bytes"] == 3, "the body")
    wait_until(lambda: running.receivers.metrics().get("requests_refused.no_message") == 1, "the end")
    assert running.receivers.metrics()["in_flight_bytes"] == 0
    assert "Traceback" not in caplog.text


def test_a_body_that_does_not_arrive_holds_nothing_for_long(start: Any) -> None:
    running = start(read_timeout=0.2)
    with socket.create_connection(("127.0.0.1", running.receivers.http_port), timeout=60) as raw:
        head = f"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: {PROTOBUF}\r\nContent-Length: 1000\r\n\r\nabc"
        raw.sendall(head.encode())
        answered = raw.recv(4096)
    # What is late may come another time: 503 may be retried, 400 and 408 may not.
    assert answered.startswith(b"HTTP/1.1 503")
    assert b"Retry-After: " in answered
    assert running.receivers.metrics()["in_flight_bytes"] == 0


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/traces", 405),
        ("POST", "/v1/metrics", 404),
        ("POST", "/nowhere", 404),
    ],
)
def test_other_routes_are_answered_clearly(start: Any, method: str, path: str, status: int) -> None:
    answer = send(start(), b"", path, method)
    assert answer.status == status
    assert answer.rpc.code == 12
    if path == "/v1/metrics":
        assert "not metrics" in answer.rpc.message
    if method == "GET":
        assert answer.headers["allow"] == "POST"


def test_a_log_that_cannot_take_it_now_says_when(start: Any) -> None:
    running = start()
    running.log.error = Transient("log_full", "no room", retry_after=2.0)
    answer = send(running, request_of("a"))
    assert answer.status == 503
    assert 2 <= int(answer.headers["retry-after"]) <= 6
    assert answer.rpc.code == 14
    assert answer.rpc.details[0].type_url.endswith("google.rpc.RetryInfo")
    in_json = send(running, json.dumps(json_request()), Content_Type="application/json")
    assert in_json.status == 503
    assert in_json.json["details"][0]["retryDelay"].endswith("s")


def test_beyond_the_budget_requests_are_refused_before_they_are_decoded(start: Any) -> None:
    running = start(max_request_bytes=4096, max_in_flight_bytes=6000)
    running.log.gate = running.call(asyncio.Event)
    body = request_of("x" * 3500)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(send, running, body)
        assert running.log.entered.wait(PATIENCE_S)
        answer = send(running, b"rubbish" * 500)
        assert answer.status == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.rpc.code == 14
        # It is refused before its body is read, too.
        with socket.create_connection(("127.0.0.1", running.receivers.http_port), timeout=60) as raw:
            head = f"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: {PROTOBUF}\r\nContent-Length: 3500\r\n\r\n"
            raw.sendall(head.encode())
            assert raw.recv(4096).startswith(b"HTTP/1.1 429")
        # What it becomes counts, not what it is sent as.
        assert send(running, gzip.compress(body), Content_Encoding="gzip").status == 429
        running.call(running.log.gate.set)
        assert first.result(10).status == 200
    assert running.receivers.metrics()["in_flight_bytes"] == 0


def test_a_sender_that_leaves_does_not_break_the_books(start: Any) -> None:
    running = start()
    running.log.gate = running.call(asyncio.Event)
    body = request_of("a")
    with socket.create_connection(("127.0.0.1", running.receivers.http_port), timeout=60) as raw:
        head = f"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: {PROTOBUF}\r\nContent-Length: {len(body)}\r\n\r\n"
        raw.sendall(head.encode() + body)
        assert running.log.entered.wait(PATIENCE_S)
    running.call(running.log.gate.set)
    running.run(running.receivers.stop(10))
    assert running.receivers.metrics()["in_flight_bytes"] == 0
    assert running.log.counters["spans_received"] == len(running.log.spans) == 1


def test_tokens(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_A", "a" * 16)
    running = start(tenants=[{"name": "acme", "token": "${env:TOKEN_A}"}])
    answer = send(running, request_of("a"))
    assert (answer.status, answer.rpc.code) == (401, 16)
    assert answer.headers["www-authenticate"] == "Bearer"
    assert send(running, request_of("a"), Authorization="Bearer " + "a" * 16).status == 200
    assert dict(running.log.outputs[0].headers)["tenant"] == b"acme"


def test_live_and_ready(start: Any) -> None:
    running = start()
    assert send(running, None, "/livez", "GET").status == 200
    assert send(running, None, "/readyz", "GET").status == 200
    running.ready = False
    assert send(running, None, "/livez", "GET").status == 200
    assert send(running, None, "/readyz", "GET").status == 503


def test_browsers_of_other_origins_get_no_permission(start: Any) -> None:
    answer = send(start(), request_of("a"), Origin="https://evil.example")
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run([*command.split(), *names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


def test_tls_and_client_certificates(start: Any, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    tls = {"cert_file": str(cert), "key_file": str(key), "client_ca_file": str(cert)}
    running = start(http={"port": 0, "tls": tls}, grpc={"port": 0, "tls": tls})

    def post(context: ssl.SSLContext) -> int:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", running.receivers.http_port, timeout=60, context=context
        )
        try:
            connection.request("POST", "/v1/traces", request_of("a"), {"Content-Type": PROTOBUF})
            return connection.getresponse().status
        finally:
            connection.close()

    context = ssl.create_default_context(cafile=cert)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        post(context)
    context.load_cert_chain(cert, key)
    assert post(context) == 200
