"""Every protocol × every fault: code, delay, content type, what is counted, and that the receiver goes on.

The rules are those of the OTLP specification 1.11: what may be tried again says when, what may not says no delay; error
bodies are a ``google.rpc.Status`` in the content type of the request; nothing refused is stored.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grpc
import pytest
import zstandard
from google.protobuf import json_format
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from stream.errors import Permanent, Transient

PROTOCOLS = ("grpc", "http/protobuf", "http/json")
SIGNALS = {
    "traces": ("opentelemetry.proto.collector.trace.v1.TraceService", "/v1/traces"),
    "logs": ("opentelemetry.proto.collector.logs.v1.LogsService", "/v1/logs"),
    "metrics": ("opentelemetry.proto.collector.metrics.v1.MetricsService", "/v1/metrics"),
    "profiles": (
        "opentelemetry.proto.collector.profiles.v1development.ProfilesService",
        "/v1development/profiles",
    ),
}
TOKEN = "t" * 24


class Told(NamedTuple):
    """What a sender is told, the same for all protocols; ``http`` is None over gRPC and ``delay`` when there is none."""

    code: str
    http: int | None
    delay: float | None
    message: str
    details: list[Any]


class Fault(NamedTuple):
    """A row of the matrix."""

    name: str
    code: str
    http: int
    reason: str
    retryable: bool = False
    settings: dict[str, Any] = {}  # noqa: RUF012 - never changed
    before: Callable[[Any], None] = lambda running: None
    body: bytes | None = None  # None: a good request
    signal: str = "traces"
    token: str | None = TOKEN


def _log_down(running: Any) -> None:
    running.log.error = Transient("unavailable", "the log is down", retry_after=2.0)


def _log_refuses(running: Any) -> None:
    running.log.error = Permanent("too_large_for_the_log", "smaller, please")


def _spend(running: Any) -> None:
    assert send(running, "http/protobuf", body=good("http/protobuf", spans=50)).http == 200


FAULTS = [
    Fault("undecodable", "INVALID_ARGUMENT", 400, "undecodable", body=b"\xff\xffrubbish"),
    Fault(
        "too_large",
        "RESOURCE_EXHAUSTED",
        413,
        "too_large",
        settings={"max_request_bytes": 1024},
        body=b"x" * 5000,
    ),
    Fault("no_token", "UNAUTHENTICATED", 401, "unauthenticated", token=None),
    Fault("wrong_token", "UNAUTHENTICATED", 401, "unauthenticated", token="w" * 24),
    Fault(
        "rate_limited",
        "UNAVAILABLE",
        429,
        "rate_limited",
        retryable=True,
        settings={"tenant_limits": {"spans_per_second": 0.01, "burst": 1}},
        before=_spend,
    ),
    Fault(
        "overloaded",
        "UNAVAILABLE",
        429,
        "overloaded",
        retryable=True,
        before=lambda running: running.receivers._intake.budget.take("other", (256 << 20) - 8),
    ),
    Fault("log_down", "UNAVAILABLE", 503, "unavailable", retryable=True, before=_log_down),
    Fault("log_refuses", "INVALID_ARGUMENT", 400, "too_large_for_the_log", before=_log_refuses),
    Fault("metrics", "UNIMPLEMENTED", 404, "unimplemented", signal="metrics"),
    Fault("profiles", "UNIMPLEMENTED", 404, "unimplemented", signal="profiles"),
]


def good(protocol: str, spans: int = 1) -> bytes:
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for number in range(spans):
        scope.spans.add(trace_id=b"\1" * 16, span_id=(number + 1).to_bytes(8, "big"), name="chat")
    if protocol != "http/json":
        return request.SerializeToString()
    made = json.loads(json_format.MessageToJson(request))
    for span in made["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        span["traceId"], span["spanId"] = "01" * 16, "00" * 7 + "01"
    return json.dumps(made).encode()


def send(
    running: Any, protocol: str, signal: str = "traces", body: bytes = b"", token: str | None = TOKEN
) -> Told:
    service, path = SIGNALS[signal]
    if protocol == "grpc":
        metadata = (("authorization", f"Bearer {token}"),) if token else None
        with grpc.insecure_channel(running.grpc) as channel:
            try:
                channel.unary_unary(f"/{service}/Export")(body, timeout=60, metadata=metadata)
            except grpc.RpcError as error:
                status = rpc_status.from_call(error)
                return told(error.code().name, None, error.details(), status, None)
        return Told("OK", None, None, "", [])
    content_type = "application/json" if protocol == "http/json" else "application/x-protobuf"
    headers = {"Content-Type": content_type} | ({"Authorization": f"Bearer {token}"} if token else {})
    connection = http.client.HTTPConnection("127.0.0.1", running.receivers.http_port, timeout=60)
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        raw = answer.read()
    finally:
        connection.close()
    if answer.status == 200:
        return Told("OK", 200, None, "", [])
    assert answer.headers["Content-Type"].startswith(content_type)
    status = json_format.Parse(raw, Status()) if protocol == "http/json" else Status.FromString(raw)
    code = next(code.name for code in grpc.StatusCode if code.value[0] == status.code)
    return told(code, answer.status, status.message, status, answer.headers["Retry-After"])


def told(code: str, http_status: int | None, message: str, status: Any, header: str | None) -> Told:
    details: list[Any] = []
    delay = None
    for detail in status.details if status is not None else ():
        for kind in (RetryInfo, BadRequest):
            found = kind()
            if detail.Unpack(found):
                details.append(found)
                if kind is RetryInfo:
                    delay = found.retry_delay.ToNanoseconds() / 1e9
    if http_status is not None:
        assert (header is None) == (delay is None)
        if header is not None:
            assert int(header) >= max(1, delay or 0) > 0
    return Told(code, http_status, delay, message, details)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_matrix(start: Any, monkeypatch: pytest.MonkeyPatch, protocol: str, fault: Fault) -> None:
    monkeypatch.setenv("TOKEN_A", TOKEN)
    running = start(tenants=[{"name": "acme", "token": "${env:TOKEN_A}"}], **fault.settings)
    fault.before(running)
    stored = len(running.log.outputs)
    counters = dict(running.log.counters)
    body = good(protocol) if fault.body is None else fault.body
    answer = send(running, protocol, fault.signal, body, fault.token)
    assert answer.code == fault.code
    if answer.http is not None:
        assert answer.http == fault.http
    assert (answer.delay is not None) == fault.retryable
    by_grpc_itself = protocol == "grpc" and fault.name == "too_large"
    if not by_grpc_itself:
        assert answer.message.startswith(fault.reason)
    assert TOKEN not in answer.message
    if fault.code == "INVALID_ARGUMENT":
        (bad,) = (detail for detail in answer.details if isinstance(detail, BadRequest))
        assert bad.field_violations[0].description == answer.message
    # Nothing of it is stored or in the ledger, and the refusal is counted.
    assert len(running.log.outputs) == stored
    assert running.log.counters == counters
    if not by_grpc_itself and fault.signal == "traces":
        assert running.receivers.metrics()[f"requests_refused.{fault.reason}"] == 1
    # The receiver goes on.
    running.log.error = None
    if fault.name not in ("rate_limited", "overloaded"):
        assert send(running, protocol, body=good(protocol)).code == "OK"
        assert len(running.log.outputs) == stored + 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("signal", ["traces", "logs"])
def test_an_empty_request_is_a_success(start: Any, protocol: str, signal: str) -> None:
    running = start()
    assert send(running, protocol, signal, b"{}" if protocol == "http/json" else b"").code == "OK"
    assert running.log.outputs == []


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/v1/traces", {}, 405),
        ("PUT", "/v1/logs", {}, 405),
        ("POST", "/v1/nothing", {}, 404),
        ("POST", "/v1/traces", {"Content-Type": "text/plain"}, 415),
        ("POST", "/v1/traces", {"Content-Type": ""}, 415),
        ("POST", "/v1/traces", {"Content-Encoding": "br"}, 415),
        ("POST", "/v1/traces", {"Content-Encoding": "gzip"}, 400),
    ],
)
def test_what_only_http_can_get_wrong(
    start: Any, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    running = start()
    connection = http.client.HTTPConnection("127.0.0.1", running.receivers.http_port, timeout=60)
    connection.request(method, path, good("grpc"), {"Content-Type": "application/x-protobuf"} | headers)
    answer = connection.getresponse()
    assert answer.status == status
    assert answer.headers["Retry-After"] is None
    answer.read()
    connection.close()
    assert running.log.outputs == []


def test_one_http_connection_serves_many_requests_and_errors(start: Any) -> None:
    running = start()
    connection = http.client.HTTPConnection("127.0.0.1", running.receivers.http_port, timeout=60)
    headers = {"Content-Type": "application/x-protobuf"}
    connection.connect()
    local = connection.sock.getsockname()
    for body, packing, status in (
        (good("grpc"), {}, 200),
        (b"\xff", {}, 400),
        (gzip.compress(good("grpc")), {"Content-Encoding": "gzip"}, 200),
        (zstandard.compress(good("grpc")), {"Content-Encoding": "zstd"}, 200),
    ):
        connection.request("POST", "/v1/traces", body, headers | packing)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status
        assert connection.sock.getsockname() == local
    connection.close()


# gRPC


def test_a_refused_message_is_not_received(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a token 60 MB are refused after a window of bytes."""
    monkeypatch.setenv("TOKEN_A", TOKEN)
    running = start(tenants=[{"name": "acme", "token": "${env:TOKEN_A}"}])
    received = 0
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def forward() -> None:
            nonlocal received
            client, _ = proxy.accept()
            server = socket.create_connection(("127.0.0.1", running.receivers.grpc_port))

            def back() -> None:
                with contextlib.suppress(OSError):
                    while data := server.recv(65536):
                        client.sendall(data)

            answering = threading.Thread(target=back, daemon=True)
            answering.start()
            with server:
                with contextlib.suppress(OSError):
                    while data := client.recv(65536):
                        received += len(data)
                        server.sendall(data)
                answering.join(20)  # the answer may still be on its way when nothing more is taken

        threading.Thread(target=forward, daemon=True).start()
        address = f"127.0.0.1:{proxy.getsockname()[1]}"
        options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        with (
            grpc.insecure_channel(address, options=options) as channel,
            pytest.raises(grpc.RpcError) as caught,
        ):
            channel.unary_unary(f"/{SIGNALS['traces'][0]}/Export")(bytes(60 << 20), timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert received < 30 << 20  # a window, which grows while a busy machine is late to refuse


def test_a_message_that_does_not_arrive_holds_nothing_for_long(start: Any) -> None:
    running = start(read_timeout=3)
    assert (
        send(running, "grpc", body=good("grpc", spans=100)).code == "OK"
    )  # so that another large one is expected
    with grpc.insecure_channel(running.grpc) as channel:
        call = channel.stream_unary(f"/{SIGNALS['traces'][0]}/Export")
        wait = threading.Event()

        def silent() -> Iterator[bytes]:
            wait.wait(30)
            yield b""

        with pytest.raises(grpc.RpcError) as caught:
            call(silent(), timeout=60)
        wait.set()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "too_slow" in caught.value.details()
    assert running.receivers.metrics()["in_flight_bytes"] == 0
    assert send(running, "grpc", body=good("grpc")).code == "OK"


def test_when_there_is_no_room_a_message_is_not_received(start: Any) -> None:
    running = start(max_request_bytes=1 << 20, max_in_flight_bytes=1 << 20)
    large = good("grpc", spans=20_000)
    assert send(running, "grpc", body=large).code == "OK"
    budget = running.receivers._intake.budget
    budget.take("other", (1 << 20) - 1000)
    assert (
        send(running, "grpc", body=b"\xff").code == "UNAVAILABLE"
    )  # one byte would fit; a large one is expected
    budget.give("other", (1 << 20) - 1000)
    assert send(running, "grpc", body=large).code == "OK"
    assert running.receivers.metrics()["in_flight_bytes"] == 0


def test_old_connections_are_renewed_without_losing_a_call(start: Any) -> None:
    running = start(grpc={"port": 0, "max_connection_age": "200ms"})
    connections = 0
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def pump(source: socket.socket, target: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        def accept() -> None:
            nonlocal connections
            with contextlib.suppress(OSError):
                while True:
                    client, _ = proxy.accept()
                    connections += 1
                    server = socket.create_connection(("127.0.0.1", running.receivers.grpc_port))
                    for pair in ((client, server), (server, client)):
                        threading.Thread(target=pump, args=pair, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"127.0.0.1:{proxy.getsockname()[1]}", options=options) as channel:
            export = channel.unary_unary(f"/{SIGNALS['traces'][0]}/Export")
            end = time.monotonic() + 60
            while connections < 2 and time.monotonic() < end:
                assert export(good("grpc"), timeout=60) == b""
    assert connections >= 2


def test_reflection_names_the_services(start: Any) -> None:
    running = start()
    with grpc.insecure_channel(running.grpc) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = set(database.get_services())
        assert {SIGNALS["traces"][0], SIGNALS["logs"][0], "grpc.health.v1.Health"} <= services
        assert SIGNALS["metrics"][0] not in services
        file = database.FindFileContainingSymbol(SIGNALS["traces"][0])
    assert [method.name for method in file.service[0].method] == ["Export"]


def test_reflection_can_be_switched_off(start: Any) -> None:
    running = start(grpc={"port": 0, "reflection": False})
    with grpc.insecure_channel(running.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        list(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _headers(**fields: str) -> bytes:
    """HPACK, each field a literal that is never indexed."""
    out = b""
    for name, value in fields.items():
        raw = name.replace("__", ":").replace("_", "-").encode()
        out += b"\x10" + bytes([len(raw)]) + raw + bytes([len(value)]) + value.encode()
    return out


def test_zstd_over_grpc_is_refused(start: Any) -> None:
    """gRPC's core knows gzip and deflate. What it does not know ends as INTERNAL, is not stored, and hangs nothing."""
    running = start()
    head = _headers(
        __method="POST",
        __scheme="http",
        __path=f"/{SIGNALS['traces'][0]}/Export",
        __authority="localhost",
        te="trailers",
        content_type="application/grpc",
        grpc_encoding="zstd",
    )
    packed = zstandard.compress(good("grpc"))
    with socket.create_connection(("127.0.0.1", running.receivers.grpc_port), timeout=60) as raw:
        raw.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b""))
        raw.sendall(_frame(1, 4, 1, head))
        raw.sendall(_frame(0, 1, 1, b"\1" + len(packed).to_bytes(4, "big") + packed))
        answered = b""
        while b"grpc-status" not in answered:
            piece = raw.recv(65536)
            assert piece
            answered += piece
    at = answered.index(b"grpc-status") + len(b"grpc-status")
    assert answered[at : at + 3] == b"\x0213"
    assert running.log.outputs == []
    assert send(running, "grpc", body=good("grpc")).code == "OK"


# Browsers


def ask(running: Any, method: str, origin: str, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", running.receivers.http_port, timeout=60)
    named = {"Origin": origin} | {name.replace("_", "-"): value for name, value in headers.items()}
    body = good("grpc") if method == "POST" else None
    connection.request(method, "/v1/traces", body, named)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


PREFLIGHT = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "content-type"}
APP = "https://app.example.com"


def test_a_page_of_a_named_origin_may_send(start: Any) -> None:
    running = start(http={"port": 0, "cors": {"allowed_origins": [APP], "allowed_headers": ["X-Trace"]}})
    asked = ask(running, "OPTIONS", APP, **PREFLIGHT)
    assert asked.status == 204
    assert asked.headers["Access-Control-Allow-Origin"] == APP
    assert asked.headers["Access-Control-Allow-Methods"] == "POST"
    allowed = asked.headers["Access-Control-Allow-Headers"]
    assert allowed == "content-type, content-encoding, authorization, x-trace"
    assert asked.headers["Access-Control-Max-Age"] == "600"
    assert asked.headers["Access-Control-Allow-Credentials"] is None
    sent = ask(running, "POST", APP, Content_Type="application/x-protobuf")
    assert (sent.status, sent.headers["Access-Control-Allow-Origin"], sent.headers["Vary"]) == (
        200,
        APP,
        "Origin",
    )
    # A page may read why it was refused, and when to come back.
    bad = ask(running, "POST", APP, Content_Type="text/plain")
    assert (bad.status, bad.headers["Access-Control-Allow-Origin"]) == (415, APP)
    assert bad.headers["Access-Control-Expose-Headers"] == "Retry-After"


@pytest.mark.parametrize(
    "origin", ["https://evil.example", APP + ".evil.example", "https://app.example.com:8443", "null"]
)
def test_a_page_of_another_origin_may_not(start: Any, origin: str) -> None:
    running = start(http={"port": 0, "cors": {"allowed_origins": [APP]}})
    asked = ask(running, "OPTIONS", origin, **PREFLIGHT)
    assert asked.status == 403
    assert not [name for name in asked.headers if name.lower().startswith("access-control")]


def test_all_origins_if_asked_for(start: Any) -> None:
    running = start(http={"port": 0, "cors": {"allowed_origins": ["*"]}})
    assert ask(running, "OPTIONS", "null", **PREFLIGHT).headers["Access-Control-Allow-Origin"] == "*"


def test_without_configuration_no_page_may(start: Any) -> None:
    asked = ask(start(), "OPTIONS", APP, **PREFLIGHT)
    assert asked.status == 405
    assert not [name for name in asked.headers if name.lower().startswith("access-control")]
