"""Tenants: who they are by token and certificate, and that none can take what belongs to the others."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import random
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificates import Authority, Certificate
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status
from harness import PATIENCE_S
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from pydantic import ValidationError

from collector.budget import Budget, Ticket
from collector.ingest import Ingest
from collector.intake import Intake
from collector.settings import CollectorSettings
from collector.tenant_settings import TenantSettings
from collector.tenants import Tenants
from stream.errors import ConfigError, Permanent, Transient

TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
TOKENS = {"acme": "a" * 24, "umbrella": "u" * 24}
SPIFFE = "spiffe://cluster/ns/acme"


def request_of(spans: int = 1, name: str = "x", **attributes: str) -> bytes:
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    service = attributes.pop("service", None)
    if service is not None:
        group.resource.attributes.add(key="service.name").value.string_value = service
    scope = group.scope_spans.add()
    for number in range(spans):
        span = scope.spans.add(
            trace_id=bytes(range(1, 17)), span_id=(number + 1).to_bytes(8, "big"), name=name
        )
        for key, value in attributes.items():
            span.attributes.add(key=key.replace("__", ".")).value.string_value = value
    return request.SerializeToString()


def send(
    running: Any, body: bytes, token: str | None = None, encoding: str | None = None
) -> tuple[int, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", running.receivers.http_port, timeout=60)
    headers = {"Content-Type": "application/x-protobuf"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if encoding:
        headers["Content-Encoding"] = encoding
    try:
        connection.request("POST", "/v1/traces", body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}
    finally:
        connection.close()


def call(running: Any, body: bytes, token: str) -> None:
    with grpc.insecure_channel(running.grpc) as channel:
        channel.unary_unary(TRACES)(body, timeout=60, metadata=(("authorization", f"Bearer {token}"),))


@pytest.fixture
def tenants(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Return a maker of the ``tenants`` section; keyword arguments are the limits by tenant."""
    for name, token in TOKENS.items():
        monkeypatch.setenv(f"TOKEN_{name}", token)

    def make(**limits: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {"name": name, "token": f"${{env:TOKEN_{name}}}", "limits": limits.get(name)} for name in TOKENS
        ]

    return make


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# Rates


def test_a_tenant_beyond_its_rate_is_refused_until_its_debt_is_paid(start: Any, tenants: Any) -> None:
    clock = Clock()
    running = start(tenants=tenants(acme={"spans_per_second": 10, "burst": "2s"}), clock=clock)
    assert send(running, request_of(50), TOKENS["acme"])[0] == 200  # 20 were saved up, 30 are owed
    status, headers = send(running, b"rubbish", TOKENS["acme"])  # not decoded: it would be a 400
    assert status == 429
    assert 3 <= int(headers["retry-after"]) <= 5
    with pytest.raises(grpc.RpcError) as caught:
        call(running, request_of(), TOKENS["acme"])
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    status_proto = rpc_status.from_call(caught.value)
    info = RetryInfo()
    assert status_proto.details[0].Unpack(info)
    assert 3.0 <= info.retry_delay.ToNanoseconds() / 1e9 <= 4.5
    assert send(running, request_of(), TOKENS["umbrella"])[0] == 200
    clock.now += 2.9
    assert send(running, request_of(), TOKENS["acme"])[0] == 429
    clock.now += 0.2
    assert send(running, request_of(), TOKENS["acme"])[0] == 200
    metrics = running.receivers.metrics()
    assert metrics["requests_refused.rate_limited"] == metrics["tenant.acme.requests_refused"] == 3
    assert metrics["tenant.acme.spans"] == 51
    assert len(running.log.spans) == 52


def test_what_a_compressed_body_becomes_is_what_it_costs(start: Any, tenants: Any) -> None:
    clock = Clock()
    running = start(tenants=tenants(acme={"bytes_per_second": 1000, "burst": "1s"}), clock=clock)
    body = request_of(1, "x" * 10_000)
    assert send(running, gzip.compress(body), TOKENS["acme"], encoding="gzip")[0] == 200
    clock.now += 8
    assert send(running, request_of(), TOKENS["acme"])[0] == 429
    clock.now += 2
    assert send(running, request_of(), TOKENS["acme"])[0] == 200


def test_a_body_that_compression_does_not_make_smaller_is_paid_for_once(start: Any, tenants: Any) -> None:
    running = start(tenants=tenants())
    body = request_of(1, random.Random(1).randbytes(20_000).hex())
    assert send(running, gzip.compress(body), TOKENS["acme"], encoding="gzip")[0] == 200
    assert running.receivers.metrics()["tenant.acme.bytes"] == len(body)


def test_without_tenants_the_rate_holds_for_all_together(start: Any) -> None:
    clock = Clock()
    running = start(tenant_limits={"spans_per_second": 1, "burst": 1}, clock=clock)
    assert send(running, request_of(5))[0] == 200
    assert send(running, request_of(1))[0] == 429


def test_bad_requests_are_paid_for_too(start: Any, tenants: Any) -> None:
    clock = Clock()
    running = start(tenants=tenants(acme={"bytes_per_second": 100, "burst": "1s"}), clock=clock)
    assert send(running, b"rubbish" * 100, TOKENS["acme"])[0] == 400
    assert send(running, b"rubbish" * 100, TOKENS["acme"])[0] == 429


# Fairness


def test_a_greedy_tenant_waits_behind_itself(start: Any, tenants: Any) -> None:
    """One thread, thirty requests of one tenant that wait, then one of another: it is served second, not last."""
    running = start(tenants=tenants(), decode_threads=1)
    import threading

    gate, entered = threading.Event(), threading.Event()
    order: list[str] = []
    real = running.receivers.ingest.traces

    def slow(payload: Any, tenant: str = "default") -> Any:
        entered.set()
        assert gate.wait(PATIENCE_S)
        order.append(tenant)
        return real(payload, tenant)

    running.receivers.ingest.traces = slow
    waiting = lambda: running.receivers.metrics()["waiting_requests"]  # noqa: E731
    with ThreadPoolExecutor(32) as pool:
        futures = [pool.submit(send, running, request_of(), TOKENS["acme"]) for _ in range(30)]
        assert entered.wait(PATIENCE_S)
        while waiting() < 29:
            entered.wait(0.01)
        futures.append(pool.submit(send, running, request_of(), TOKENS["umbrella"]))
        while waiting() < 30:
            entered.wait(0.01)
        gate.set()
        assert {future.result(30)[0] for future in futures} == {200}
    assert order.index("umbrella") <= 2
    assert len(order) == 31


def test_no_tenant_holds_more_than_it_leaves_to_the_others() -> None:
    budget = Budget(1200, 1.0, shared=True)

    def grab(tenant: str) -> int:
        taken = 0
        while taken <= 1200:
            try:
                budget.take(tenant, 10)
            except Transient:
                break
            taken += 10
        return taken

    assert grab("greedy") == 600
    assert grab("second") == 300
    budget.take("third", 200)  # who holds nothing may take all that is free
    with pytest.raises(Transient):
        budget.take("fourth", 101)
    budget.give("greedy", 600)
    assert grab("fourth") == 350
    assert budget.used == 850


def test_a_single_tenant_may_hold_everything() -> None:
    budget = Budget(1000, 1.0)
    budget.take("default", 600)
    budget.take("default", 400)
    assert budget.used == 1000


def test_a_greedy_tenant_leaves_room_in_flight(start: Any, tenants: Any) -> None:
    running = start(tenants=tenants(), max_request_bytes=4096, max_in_flight_bytes=8192)
    running.log.gate = running.call(asyncio.Event)
    body = request_of(1, "x" * 2500)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(send, running, body, TOKENS["acme"])
        assert running.log.entered.wait(PATIENCE_S)
        # Without a share of its own it could take three of these.
        assert send(running, body, TOKENS["acme"])[0] == 429
        second = pool.submit(send, running, body, TOKENS["umbrella"])
        while running.receivers.metrics()["in_flight_requests"] < 2:
            running.log.entered.wait(0.01)
        running.call(running.log.gate.set)
        assert first.result(10)[0] == second.result(10)[0] == 200


def test_the_only_request_of_a_tenant_may_be_larger_than_half_of_the_room() -> None:
    budget = Budget(1000, 1.0, shared=True)
    large, other = Ticket(budget, "acme"), Ticket(budget, "acme")
    for _ in range(9):
        large.grow(100)  # as it arrives
    with pytest.raises(Transient):
        other.grow(10)
    Ticket(budget, "umbrella").grow(100)
    with pytest.raises(Transient):
        large.grow(1)
    large.release()
    other.grow(10)


def test_large_messages_of_one_tenant_take_no_room_from_another(tenants: Any) -> None:
    async def publish(outputs: Any, counters: Any) -> None:
        raise AssertionError

    settings = CollectorSettings.model_validate(
        {"tenants": tenants(), "max_request_bytes": 4096, "max_in_flight_bytes": 8192}
    )
    intake = Intake(settings, Ingest(settings), publish)
    large = intake.admit("acme")
    intake.expect(large)
    intake.received(large, 4000)
    large.release()
    waiting = [intake.admit("umbrella") for _ in range(10)]
    for ticket in waiting:
        intake.expect(ticket)
    assert intake.budget.used == 0


# Cardinality


def test_routes_prompts_and_services_beyond_the_limit_are_folded(start: Any, tenants: Any) -> None:
    clock = Clock()
    limits = {"max_routes": 2, "max_prompt_versions": 1, "max_services": 1}
    running = start(tenants=tenants(acme=limits), clock=clock)

    def routes(token: str, *names: str) -> list[str]:
        before = len(running.log.spans)
        for name in names:
            body = request_of(1, http__route=name, gen_ai__prompt__version=name, service=name, order__id=name)
            assert send(running, body, token)[0] == 200
        return [
            {a.key: a.value.string_value for a in span.attributes}["http.route"]
            for span in running.log.spans[before:]
        ]

    assert routes(TOKENS["acme"], "/a", "/b", "/c", "/a", "/d") == ["/a", "/b", "(other)", "/a", "(other)"]
    last = {a.key: a.value.string_value for a in running.log.spans[-1].attributes}
    assert (last["gen_ai.prompt.version"], last["order.id"]) == ("(other)", "/d")
    assert running.log.counters["folded.http.route"] == 2
    assert running.log.counters["folded.service.name"] == 3  # /b, /c and /d
    # Another tenant has a book of its own.
    assert routes(TOKENS["umbrella"], "/x", "/y", "/z") == ["/x", "/y", "/z"]
    # What was not seen for a day makes room.
    clock.now += 86_000
    assert routes(TOKENS["acme"], "/a", "/e") == ["/a", "(other)"]
    clock.now += 1_000
    assert routes(TOKENS["acme"], "/e", "/a", "/f") == ["/e", "/a", "(other)"]


@pytest.mark.parametrize(
    "values",
    [[f"/{n}" + "x" * 9000 for n in range(4)], [1, 2, 3, 4], [0.5, 1.5, 2.5, 3.5], [b"a", b"b", b"c", b"d"]],
)
def test_values_of_every_kind_count(values: list[Any]) -> None:
    acme = {"name": "acme", "token_sha256": "0" * 64, "limits": {"max_routes": 2}}
    made = Ingest(CollectorSettings.model_validate({"tenants": [acme]}))
    folded = 0
    for value in values:
        sent = ExportTraceServiceRequest.FromString(request_of(1))
        (span,) = sent.resource_spans[0].scope_spans[0].spans
        kind = {str: "string_value", int: "int_value", float: "double_value", bytes: "bytes_value"}[
            type(value)
        ]
        setattr(span.attributes.add(key="http.route").value, kind, value)
        folded += made.traces(sent, "acme").counters.get("folded.http.route", 0)
    assert folded == 2


# Certificates


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def acme(authority: Authority) -> Certificate:
    return authority.issue("client", f"DNS:client.acme.example,URI:{SPIFFE},email:ops@acme.example")


@pytest.fixture(scope="module")
def umbrella(authority: Authority) -> Certificate:
    return authority.issue("umbrella")


@pytest.fixture(scope="module")
def stranger(authority: Authority) -> Certificate:
    return authority.issue("stranger", "DNS:CN=umbrella")


@pytest.fixture
def secured(start: Any, authority: Authority, tenants: Any, tmp_path: Path) -> Any:
    server = authority.issue("localhost", "DNS:localhost,IP:127.0.0.1")
    tls = {"cert_file": str(server.cert), "key_file": str(server.key), "client_ca_file": str(authority.cert)}
    section = tenants()
    section[0]["certificates"] = [f"URI={SPIFFE}"]
    section[1]["certificates"] = ["CN=umbrella"]
    del section[1]["token"]
    return start(tenants=section, grpc={"port": 0, "tls": tls}, http={"port": 0, "tls": tls})


def over_http(running: Any, authority: Authority, shown: Certificate, token: str | None) -> int:
    context = ssl.create_default_context(cafile=authority.cert)
    context.load_cert_chain(shown.cert, shown.key)
    connection = http.client.HTTPSConnection(
        "127.0.0.1", running.receivers.http_port, timeout=60, context=context
    )
    headers = {"Content-Type": "application/x-protobuf"} | (
        {"Authorization": f"Bearer {token}"} if token else {}
    )
    try:
        connection.request("POST", "/v1/traces", request_of(), headers)
        return connection.getresponse().status
    finally:
        connection.close()


def over_grpc(running: Any, authority: Authority, shown: Certificate, token: str | None) -> int:
    credentials = grpc.ssl_channel_credentials(
        authority.cert.read_bytes(), shown.key.read_bytes(), shown.cert.read_bytes()
    )
    codes = {grpc.StatusCode.UNAUTHENTICATED: 401, grpc.StatusCode.PERMISSION_DENIED: 403}
    with grpc.secure_channel(running.grpc, credentials) as channel:
        try:
            metadata = (("authorization", f"Bearer {token}"),) if token else None
            channel.unary_unary(TRACES)(request_of(), timeout=60, metadata=metadata)
        except grpc.RpcError as error:
            return codes[error.code()]
        return 200


@pytest.mark.parametrize("over", [over_http, over_grpc])
@pytest.mark.parametrize(
    ("who", "token", "answer", "tenant"),
    [
        ("acme", None, 200, b"acme"),
        ("umbrella", None, 200, b"umbrella"),
        ("stranger", None, 403, None),  # verified, but nobody's; and a DNS name is no common name
        ("stranger", TOKENS["acme"], 200, b"acme"),  # the token says who it is
        ("acme", TOKENS["acme"], 200, b"acme"),
        ("umbrella", TOKENS["acme"], 403, None),  # a token that was carried away is of no use
        ("acme", "x" * 24, 401, None),  # a wrong token is not made good by a certificate
    ],
)
def test_certificates_name_the_tenant(
    secured: Any,
    authority: Authority,
    request: pytest.FixtureRequest,
    over: Any,
    who: str,
    token: str | None,
    answer: int,
    tenant: bytes | None,
) -> None:
    assert over(secured, authority, request.getfixturevalue(who), token) == answer
    assert [dict(output.headers)["tenant"] for output in secured.log.outputs] == ([tenant] if tenant else [])


def test_a_certificate_of_another_authority_gets_no_connection(
    secured: Any, authority: Authority, tmp_path: Path
) -> None:
    forged = Authority(tmp_path / "other").issue("client", f"URI:{SPIFFE}")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        over_http(secured, authority, forged, None)
    assert secured.log.outputs == []


def test_what_a_configuration_may_not_say() -> None:
    one = {"name": "a", "certificates": ["CN=x"]}
    with pytest.raises(ValidationError, match="client_ca_file"):
        CollectorSettings.model_validate({"tenants": [one]})
    with pytest.raises(ValidationError, match="must start with CN="):
        TenantSettings(name="a", certificates=("x",))
    with pytest.raises(ValidationError, match="needs token, token_sha256 or certificates"):
        TenantSettings(name="a")
    with pytest.raises(ConfigError, match="same certificate name"):
        Tenants([TenantSettings.model_validate(one), TenantSettings.model_validate(one | {"name": "b"})])
    both = Tenants([TenantSettings.model_validate(one), TenantSettings(name="b", certificates=("CN=y",))])
    with pytest.raises(Permanent, match="several tenants"):
        both.of(None, frozenset({"CN=x", "CN=y"}))
