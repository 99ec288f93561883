"""The administration port: health, metrics, status, incidents, and pull gates that progressive-delivery tools poll.

GET  /livez, /readyz            health; never asks for the token
GET  /metrics                   Prometheus
GET  /, /incidents/{id}         pages for people (driftgate/pages.py); a browser gives the token as password
GET  /v1/status                 everything the process says about itself
*    /v1/incidents, /v1/kill-switch, /v1/notifications   see driftgate/incident_routes.py
POST /v1/dead-letters/replay    {"ids": [...], "again": false}: send dead letters back, where the process owns the log
GET  /v1/gates/{rollout}        {"verdict": "pass" | "fail" | "inconclusive", …} for Argo Rollouts' web metric
GET  /v1/gates/{rollout}/flagger-rollback   200 exactly when the gate fails, for Flagger's rollback webhook
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from aiohttp import web

from driftgate import pages
from driftgate.config import WebSettings
from driftgate.incident_routes import IncidentRoutes, Operations, as_json
from driftgate.runtime.status import Status
from stream.errors import DriftgateError, Permanent, StartError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_OPEN_PATHS = ("/livez", "/readyz")
_MAX_BODY = 64 << 10
_MAX_IDS = 32 << 20  # bytes of a body that names dead letters: about two million
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class _Replay(msgspec.Struct, forbid_unknown_fields=True):
    ids: list[str]
    again: bool = False


class Web:
    """Serves one process; ``status`` may read the disk and is called off the event loop."""

    def __init__(
        self,
        settings: WebSettings,
        status: Callable[[], Status],
        operations: Operations,
        replay: Callable[[Sequence[str], bool], dict[str, str]] | None = None,
    ) -> None:
        self._replay = replay
        self._settings = settings
        self._status = status
        self._operations = operations
        self._token = settings.token.reveal() if settings.token else ""
        self._runner: web.AppRunner | None = None
        self.port = settings.port

    async def start(self) -> None:
        """Listen.

        Raises
        ------
        StartError
            The port is taken.
        """
        app = web.Application(middlewares=[self._guard], client_max_size=_MAX_BODY)
        app.add_routes(
            [
                web.get("/livez", self._live),
                web.get("/readyz", self._ready),
                web.get("/metrics", self._metrics),
                web.get("/v1/status", self._show_status),
                *IncidentRoutes(self._operations).routes(),
                web.get("/", self._front_page),
                web.get("/incidents/{id}", self._incident_page),
                web.post("/v1/dead-letters/replay", self._replay_letters),
                web.get("/v1/gates/{rollout}", self._gate),
                web.get("/v1/gates/{rollout}/flagger-rollback", self._flagger),
                web.post("/v1/gates/{rollout}/flagger-rollback", self._flagger),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._settings.host, self._settings.port)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise StartError(
                f"cannot listen on {self._settings.host}:{self._settings.port} ({error.strerror}); set `web.port`"
            ) from error
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening; idempotent."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        shown = not self._token or request.path in _OPEN_PATHS
        if not shown and not hmac.compare_digest(_given(request), self._token.encode()):
            how = 'Basic realm="driftgate", charset="UTF-8"' if _is_page(request) else "Bearer"
            return web.json_response(
                {"error": "a bearer token is needed"}, status=401, headers={"WWW-Authenticate": how}
            )
        if not self._token:
            # Without a token, this is what keeps a web page in the user's browser from reading or acting here: it
            # cannot name us as its host (a rebound DNS name is another), nor send JSON without asking first.
            if _named(request) not in {*_LOOPBACK, self._settings.host}:
                return web.json_response({"error": "call it localhost, or set web.token"}, status=421)
            if request.method == "POST" and request.content_type != "application/json":
                return web.json_response({"error": "send Content-Type: application/json"}, status=415)
        try:
            return await handler(request)
        except Permanent as error:
            return web.json_response({"error": str(error)}, status=404 if "unknown" in error.reason else 409)
        except DriftgateError as error:
            return web.json_response({"error": str(error)}, status=503)

    async def _live(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _ready(self, request: web.Request) -> web.Response:
        status = await asyncio.to_thread(self._status)
        stuck = [
            f"{stage.name}: {stage.state} {stage.reason}"
            for stage in status.stages
            if stage.state == "failing"
        ]
        if status.ready and not stuck:
            return web.Response(text="ok\n")
        stuck += [
            f"{item.stage}: {item.topic}/{item.partition} stands still, {item.lag} records to take"
            for item in status.stalled
        ]
        return web.Response(text="not ready\n" + "".join(f"{line}\n" for line in stuck), status=503)

    async def _metrics(self, request: web.Request) -> web.Response:
        from driftgate.metrics import render

        status = await asyncio.to_thread(self._status)
        return web.Response(
            body=render(status), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def _show_status(self, request: web.Request) -> web.Response:
        return as_json(await asyncio.to_thread(self._status))

    async def _front_page(self, request: web.Request) -> web.Response:
        status = await asyncio.to_thread(self._status)
        return _page(pages.front(status))

    async def _incident_page(self, request: web.Request) -> web.Response:
        incident = await asyncio.to_thread(self._operations.incident, request.match_info["id"])
        return _page(pages.incident(incident))

    async def _replay_letters(self, request: web.Request) -> web.Response:
        if self._replay is None:
            raise Permanent(
                "unknown_here", "this process does not own a log; use `driftgate dead-letters replay`"
            )
        try:
            body = await request.clone(client_max_size=_MAX_IDS).read()
            asked = msgspec.json.decode(body, type=_Replay)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            return web.json_response({"error": f'send {{"ids": […]}}: {error}'}, status=400)
        return as_json(await asyncio.to_thread(self._replay, asked.ids, asked.again))

    async def _gate(self, request: web.Request) -> web.Response:
        return as_json(await asyncio.to_thread(self._operations.gate, request.match_info["rollout"]))

    async def _flagger(self, request: web.Request) -> web.Response:
        gate = await asyncio.to_thread(self._operations.gate, request.match_info["rollout"])
        return web.json_response(gate, status=200 if gate["verdict"] == "fail" else 412)


def _page(text: str) -> web.Response:
    return web.Response(text=text, content_type="text/html", headers=pages.HEADERS)


def _named(request: web.Request) -> str | None:
    """Return the host that the request names; ``None`` where it is none."""
    try:
        return request.url.host
    except ValueError:
        return None


def _given(request: web.Request) -> bytes:
    """Return the token that was shown: as bearer token, or as a browser's password where it only reads pages."""
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode("utf-8", "surrogateescape")  # a header may hold any bytes
    if scheme.lower() == "basic" and _is_page(request):
        with contextlib.suppress(binascii.Error, ValueError):
            return base64.b64decode(value, validate=True).partition(b":")[2]
    return b""


def _is_page(request: web.Request) -> bool:
    return request.method == "GET" and (request.path == "/" or request.path.startswith("/incidents/"))
