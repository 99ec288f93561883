"""The SSRF guard, with real sockets and a name server that is told what to answer."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from sinks.alerts_settings import OutgoingSettings
from sinks.outgoing import Outgoing, Reply, redacted, refusal
from stream.errors import Permanent, Transient

REFUSED = [
    ("127.0.0.1", "loopback"),
    ("127.8.9.10", "loopback"),
    ("0.0.0.0", "unspecified"),
    ("10.1.2.3", "private"),
    ("172.16.0.1", "private"),
    ("192.168.1.1", "private"),
    ("100.64.0.1", "private"),
    ("169.254.169.254", "link_local"),
    ("192.0.2.1", "not_global"),
    ("198.18.0.1", "not_global"),
    ("224.0.0.1", "multicast"),
    ("255.255.255.255", "not_global"),
    ("::1", "loopback"),
    ("::", "unspecified"),
    ("fe80::1", "link_local"),
    ("fe80::1%eth0", "link_local"),
    ("fd00:ec2::254", "private"),
    ("ff02::1", "multicast"),
    ("2001:db8::1", "not_global"),
    ("::ffff:127.0.0.1", "loopback"),
    ("::ffff:10.0.0.1", "private"),
    ("::127.0.0.1", "embedded_ipv4"),
    ("64:ff9b::7f00:1", "loopback"),
    ("64:ff9b::a9fe:a9fe", "link_local"),
    ("64:ff9b:1::1", "private"),
    ("2002:7f00:1::", "embedded_ipv4"),
    ("2001:0:7f00:1::", "embedded_ipv4"),
    ("::ffff:0:169.254.169.254", "embedded_ipv4"),
    ("2001:4860::5efe:7f00:1", "embedded_ipv4"),
]


@pytest.mark.parametrize(("address", "why"), REFUSED, ids=[item[0] for item in REFUSED])
def test_addresses_that_are_not_reached(address: str, why: str) -> None:
    assert refusal(ipaddress.ip_address(address)) == why


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1"]
)
def test_addresses_that_are_reached(address: str) -> None:
    assert refusal(ipaddress.ip_address(address)) == ""


@pytest.mark.parametrize(("address", "why"), REFUSED, ids=[item[0] for item in REFUSED])
def test_private_networks_are_allowed_without_the_rest(address: str, why: str) -> None:
    assert refusal(ipaddress.ip_address(address), allow_private=True) == ("" if why == "private" else why)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://example.org/", "blocked_scheme"),
        ("https://example.org:22/", "blocked_port"),
        ("https://127.0.0.1/", "blocked_loopback"),
        ("https://[::1]/", "blocked_loopback"),
        ("https://[::ffff:169.254.169.254]/", "blocked_link_local"),
        ("https://10.0.0.1:8443/", "blocked_private"),
        ("https://0.0.0.0/", "blocked_unspecified"),
        # Other spellings of 127.0.0.1 that the system's resolver understands.
        ("https://127.1/", "bad_url"),
        ("https://2130706433/", "bad_url"),
        ("https://0x7f.1/", "blocked_loopback"),
        ("https://localhost/", "blocked_loopback"),
        ("https://user:pw@example.org/", "bad_url"),
        ("file:///etc/passwd", "bad_url"),
        ("gopher://example.org/", "bad_url"),
        ("https://", "bad_url"),
        ("not a url", "bad_url"),
    ],
)
def test_urls_that_are_refused_before_anything_is_sent(url: str, reason: str) -> None:
    async def main() -> None:
        async with Outgoing(OutgoingSettings()) as client:
            await client.request("POST", url, timeout=5)

    with pytest.raises(Permanent) as caught:
        asyncio.run(main())
    assert caught.value.reason == reason


def answer_with(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Make every name lead to ``addresses``; returns the names asked for."""
    asked: list[str] = []

    async def getaddrinfo(self: Any, host: str, port: int, **kwargs: Any) -> list[Any]:
        asked.append(host)
        return [
            (socket.AF_INET6 if ":" in item else socket.AF_INET, socket.SOCK_STREAM, 6, "", (item, port))
            for item in addresses
        ]

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize("addresses", [("10.0.0.1",), ("93.184.216.34", "169.254.169.254"), ("::1",)])
def test_a_name_with_any_inside_address_is_refused(
    monkeypatch: pytest.MonkeyPatch, addresses: tuple[str, ...]
) -> None:
    answer_with(monkeypatch, *addresses)

    async def main() -> None:
        async with Outgoing(OutgoingSettings()) as client:
            await client.request("POST", "https://looks-harmless.example/", timeout=5)

    with pytest.raises(Permanent, match="blocked_"):
        asyncio.run(main())


def test_an_allowed_name_still_cannot_lead_to_the_metadata_service(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, "169.254.169.254")
    settings = OutgoingSettings(allow_hosts=("gateway.internal:80",))

    async def main() -> None:
        async with Outgoing(settings) as client:
            await client.request("GET", "http://gateway.internal/", timeout=5)

    with pytest.raises(Permanent, match="link local"):
        asyncio.run(main())


def serve(handler: Callable[[web.Request], Any], use: Callable[[int], Any]) -> Any:
    async def main() -> Any:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            return await use(runner.addresses[0][1])
        finally:
            await runner.cleanup()

    return asyncio.run(main())


def test_an_allowed_name_is_resolved_once_and_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection goes to the checked address, and the host header keeps the name."""

    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=request.headers["Host"])

    async def use(port: int) -> Reply:
        asked = answer_with(monkeypatch, "127.0.0.1")
        settings = OutgoingSettings(allow_hosts=(f"gateway.internal:{port}",))
        async with Outgoing(settings) as client:
            reply = await client.request("GET", f"http://gateway.internal:{port}/x", timeout=5)
        assert asked == ["gateway.internal"]
        assert reply.body.decode() == f"gateway.internal:{port}"
        return reply

    assert serve(handler, use).status == 200


def allowing(port: int) -> OutgoingSettings:
    return OutgoingSettings(allow_hosts=(f"127.0.0.1:{port}",))


def test_redirects_are_not_followed() -> None:
    hits: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        hits.append(request.path)
        return web.Response(status=302, headers={"Location": "/secret"})

    async def use(port: int) -> Reply:
        async with Outgoing(allowing(port)) as client:
            return await client.request("POST", f"http://127.0.0.1:{port}/a", timeout=5)

    assert serve(handler, use).status == 302
    assert hits == ["/a"]


def test_the_environment_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async def handler(request: web.Request) -> web.Response:
        return web.Response(text="direct")

    async def use(port: int) -> Reply:
        async with Outgoing(allowing(port)) as client:
            return await client.request("GET", f"http://127.0.0.1:{port}/", timeout=5)

    assert serve(handler, use).body == b"direct"


def test_answers_are_cut_and_not_unpacked() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Encoding": "gzip"})
        await response.prepare(request)
        for _ in range(64):
            await response.write(b"x" * 65536)
        return response

    async def use(port: int) -> Reply:
        async with Outgoing(allowing(port)) as client:
            return await client.request("GET", f"http://127.0.0.1:{port}/", timeout=5, max_response=1000)

    assert serve(handler, use).body == b"x" * 1000


def test_a_silent_receiver_is_a_timeout_and_a_closed_port_is_the_network() -> None:
    async def handler(request: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async def use(port: int) -> None:
        async with Outgoing(allowing(port)) as client:
            with pytest.raises(Transient) as late:
                await client.request("GET", f"http://127.0.0.1:{port}/", timeout=0.2)
            assert late.value.reason == "timeout"

    serve(handler, use)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]

        async def refused() -> None:
            async with Outgoing(allowing(port)) as client:
                await client.request("GET", f"http://127.0.0.1:{port}/secret-path", timeout=5)

        with pytest.raises(Transient) as closed:
            asyncio.run(refused())
    assert closed.value.reason == "network"
    assert "secret-path" not in str(closed.value)


@pytest.mark.parametrize("host", ["hooks..example.org", "x" * 64 + ".example.org", "."])
def test_a_host_no_name_server_can_be_asked_for_is_refused_for_good(host: str) -> None:
    async def ask() -> None:
        async with Outgoing(OutgoingSettings()) as client:
            await client.request("GET", f"https://{host}/secret-path", timeout=5)

    with pytest.raises(Permanent) as refused:
        asyncio.run(ask())
    assert "secret-path" not in str(refused.value)


def test_a_token_with_a_line_end_is_refused_for_good() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response()

    async def use(port: int) -> None:
        async with Outgoing(allowing(port)) as client:
            with pytest.raises(Permanent) as refused:
                await client.request(
                    "GET", f"http://127.0.0.1:{port}/", headers={"Authorization": "Bearer sec\nret"}
                )
        assert "ret" not in str(refused.value).replace("refused", "")

    serve(handler, use)


def test_a_url_in_a_log_is_only_scheme_and_host() -> None:
    assert redacted("https://hooks.slack.com/services/T0/B0/abc?x=y") == "https://hooks.slack.com/…"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30", 30.0),
        ("0", 0.0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 60.0),
        ("nonsense", 0.0),
        ("", 0.0),
        ("-5", 0.0),
        ("9" * 4000, 999_999_999.0),
    ],
)
def test_retry_after(value: str, seconds: float) -> None:
    assert Reply(429, {"retry-after": value}, b"").retry_after(now=946684739.0) == seconds


@pytest.mark.parametrize(
    "host", ["gateway", "gateway:", "gateway:0", "gateway:99999", ":80", "http://gateway:80"]
)
def test_allow_hosts_needs_host_and_port(host: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        OutgoingSettings(allow_hosts=(host,))
