"""Outgoing HTTP that cannot be turned against the inside of the network (SSRF).

Every address a name resolves to is checked, and the connection goes to exactly those addresses, so that a second answer
of the name server changes nothing (DNS rebinding). No redirects, no proxies from the environment, no cookies, https
only, ports 443 and 8443 only, bounded answers and times. ``allow_hosts`` names the exceptions by ``host:port``.
The checks follow Stripe's smokescreen (pkg/smokescreen, classifyAddr).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from time import time
from types import TracebackType
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from sinks.alerts_settings import OutgoingSettings
from stream.errors import Permanent, Transient

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_PORTS = (443, 8443)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.IPv6Network("64:ff9b:1::/48")
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_TUNNELS = tuple(  # 6to4, Teredo, SIIT
    ipaddress.IPv6Network(network) for network in ("2002::/16", "2001::/32", "::ffff:0:0:0/96")
)
_PRIVATE = tuple(
    ipaddress.ip_network(network)
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)
_ISATAP = (0x00005EFE, 0x02005EFE)
_MAX_RESPONSE = 64 << 10


class Reply(msgspec.Struct, frozen=True):
    """What the other side answered. Header names are lower-case; ``body`` is cut at the limit given."""

    status: int
    headers: dict[str, str]
    body: bytes

    def retry_after(self, now: float | None = None) -> float:
        """Return the seconds asked for by ``Retry-After`` (a number or a date, RFC 9110 10.2.3); 0 if none."""
        value = self.headers.get("retry-after", "").strip()
        if not value:
            return 0.0
        if value.isascii() and value.isdigit():
            return float(min(int(value[:9]), 10**9))
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - (time() if now is None else now))
        except (ValueError, OverflowError):
            return 0.0


def refusal(address: Address, *, allow_private: bool = False) -> str:
    """Return why ``address`` must not be reached, one word; empty if it may."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return refusal(address.ipv4_mapped, allow_private=allow_private)
        if address in _NAT64:
            return refusal(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF), allow_private=allow_private)
        if address.scope_id is not None or address.is_link_local or address.is_site_local:
            return "link_local"
        if address.is_loopback:
            return "loopback"
        if any(address in network for network in _TUNNELS) or (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
            return "embedded_ipv4"
        if address in _COMPATIBLE:
            return "unspecified" if address.is_unspecified else "embedded_ipv4"
        if address in _NAT64_LOCAL:
            return "" if allow_private else "private"
    if address.is_unspecified:
        return "unspecified"
    if address.is_loopback:
        return "loopback"
    if address.is_link_local:
        return "link_local"
    if address.is_multicast:
        return "multicast"
    if any(address in network for network in _PRIVATE if network.version == address.version):
        return "" if allow_private else "private"
    return "" if address.is_global else "not_global"


def redacted(url: str) -> str:
    """Return what of ``url`` may be logged: scheme and host. A path or query can be a secret (Slack's is)."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or '?'}/…"


class Outgoing:
    """A client for the requests of one section. Use as an async context manager, or :meth:`close` it."""

    def __init__(self, settings: OutgoingSettings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Outgoing:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: bytes = b"",
        timeout: float = 15.0, max_response: int = _MAX_RESPONSE,  # noqa: ASYNC109 - the whole request's limit
    ) -> Reply:  # fmt: skip
        """Send one request and return the answer, whatever its status.

        Raises
        ------
        Permanent
            The URL or the address it leads to is not allowed (``blocked_*``, ``bad_url``), or the request cannot be one.
        Transient
            ``network`` or ``timeout``: no complete answer came.
        """
        target = self._checked(url)
        session = self._open()
        try:
            async with session.request(
                method, target, data=body or None, headers=headers, allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout),
            ) as response:  # fmt: skip
                content = bytearray()
                async for chunk in response.content.iter_chunked(16 << 10):
                    content += chunk
                    if len(content) >= max_response:
                        break
                names = {name.lower(): value for name, value in response.headers.items()}
                return Reply(response.status, names, bytes(content[:max_response]))
        except TimeoutError as error:
            raise Transient("timeout", f"{redacted(url)} did not answer within {timeout:g} s") from error
        except aiohttp.InvalidURL as error:
            raise Permanent("bad_url", "the URL cannot be used") from error
        except ValueError as error:
            # A host that no name server can be asked for, or a line end in a token. The text may hold it.
            raise Permanent("bad_request", "a host name or a header of the request is not valid") from error
        except (aiohttp.ClientError, OSError) as error:
            if (blocked := _blocked_cause(error)) is not None:
                raise blocked from error
            # The text of aiohttp's errors can hold the URL; the class says enough.
            raise Transient("network", f"{redacted(url)}: {error.__class__.__name__}") from error

    async def close(self) -> None:
        """Close all connections; idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._loop is not asyncio.get_running_loop():
            self._loop = asyncio.get_running_loop()
            connector = aiohttp.TCPConnector(
                resolver=_CheckedResolver(self._settings), limit=32, use_dns_cache=False, force_close=True
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # a small answer could unpack to a large one
                headers={"User-Agent": "driftgate", "Accept-Encoding": "identity"},
            )
        return self._session

    def _checked(self, url: str) -> URL:
        try:
            target = URL(url)
            host, port = target.host, target.port
        except ValueError as error:
            raise Permanent("bad_url", "the URL cannot be parsed") from error
        if target.scheme not in ("http", "https") or not host or port is None:
            raise Permanent("bad_url", "expected an http or https URL with a host")
        if target.user is not None or target.password is not None:
            raise Permanent("bad_url", "credentials do not belong into a URL")
        if allowed(self._settings, host, port):
            return target
        if target.scheme != "https":
            raise Permanent(
                "blocked_scheme", f"{redacted(url)} is not https; name it in allow_hosts to allow it"
            )
        if port not in _PORTS:
            raise Permanent(
                "blocked_port", f"port {port} of {redacted(url)} is not 443 or 8443; name it in allow_hosts"
            )
        # aiohttp does not ask a resolver about literal addresses.
        literal = _literal(host)
        if literal is not None and (
            why := refusal(literal, allow_private=self._settings.allow_private_networks)
        ):
            raise _blocked(host, why)
        return target


def allowed(settings: OutgoingSettings, host: str, port: int) -> bool:
    """Return whether ``host:port`` is named in ``allow_hosts``."""
    name = f"[{host}]" if ":" in host else host
    return f"{name}:{port}".lower() in settings.allow_hosts


class _RefusedError(OSError):
    """Carries the decision of the resolver through aiohttp."""

    def __init__(self, permanent: Permanent) -> None:
        super().__init__(permanent.reason)
        self.permanent = permanent


class _CheckedResolver(AbstractResolver):
    def __init__(self, settings: OutgoingSettings) -> None:
        self._settings = settings

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, family=family
        )
        named = allowed(self._settings, host, port)
        results: list[ResolveResult] = []
        for kind, _, protocol, _, where in found:
            address = ipaddress.ip_address(where[0])
            why = refusal(address, allow_private=self._settings.allow_private_networks)
            # A name that was allowed may be private or loopback; the metadata service is never what was meant.
            if why and not (named and why != "link_local"):
                # One bad address refuses the name: which one gets used is not ours to hope.
                raise _RefusedError(_blocked(host, why))
            results.append(
                ResolveResult(
                    hostname=host,
                    host=str(address),
                    port=port,
                    family=kind,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
            )
        if not results:
            raise OSError("the name has no address")
        return results

    async def close(self) -> None:
        """Nothing to close."""


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.split("%", 1)[0])
    except ValueError:
        return None


def _blocked(host: str, why: str) -> Permanent:
    return Permanent(
        f"blocked_{why}",
        f"{host} leads to an address that is {why.replace('_', ' ')}; name it in allow_hosts if it is meant",
    )


def _blocked_cause(error: BaseException | None) -> Permanent | None:
    while error is not None:
        if isinstance(error, _RefusedError):
            return error.permanent
        error = error.__cause__ or (error.__context__ if not error.__suppress_context__ else None)
    return None
