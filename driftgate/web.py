"""The administration port: health, metrics, status, incidents, and pull gates that progressive-delivery tools poll.

GET  /livez, /readyz            health; never asks for the token
GET  /metrics                   Prometheus
GET  /v1/status                 everything the process says about itself
GET  /v1/incidents              open and recent incidents
POST /v1/incidents/{id}/ack     somebody has it
POST /v1/incidents/{id}/approve let the rollback that waits for a person go
GET  /v1/gates/{rollout}        {"verdict": "pass" | "fail" | "inconclusive", …} for Argo Rollouts' web metric
GET  /v1/gates/{rollout}/flagger-rollback   200 exactly when the gate fails, for Flagger's rollback webhook
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
from aiohttp import web

from driftgate.config import WebSettings
from driftgate.runtime.status import Status
from stream.errors import DriftgateError, Permanent, StartError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_OPEN_PATHS = ("/livez", "/readyz")
_MAX_BODY = 64 << 10
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Operations(Protocol):
    """What the administration port can ask and do about incidents."""

    def incidents(self) -> list[dict[str, Any]]:
        """Return open and recent incidents."""

    def acknowledge(self, incident_id: str, who: str) -> None:
        """Say that somebody has it."""

    def approve(self, incident_id: str, who: str) -> None:
        """Let a rollback that waits for a person go."""

    def gate(self, rollout: str) -> dict[str, Any]:
        """Return the state of one rollout for a pull gate."""


class Web:
    """Serves one process; ``status`` may read the disk and is called off the event loop."""

    def __init__(self, settings: WebSettings, status: Callable[[], Status], operations: Operations) -> None:
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
                web.get("/v1/incidents", self._list_incidents),
                web.post("/v1/incidents/{id}/ack", self._acknowledge),
                web.post("/v1/incidents/{id}/approve", self._approve),
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
        if self._token and request.path not in _OPEN_PATHS:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self._token.encode()):
                return web.json_response({"error": "a bearer token is needed"}, status=401)
        if not self._token:
            # Without a token, this is what keeps a web page in the user's browser from reading or acting here: it
            # cannot name us as its host (a rebound DNS name is another), nor send JSON without asking first.
            if request.url.host not in {*_LOOPBACK, self._settings.host}:
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
        return web.Response(text="not ready\n" + "".join(f"{line}\n" for line in stuck), status=503)

    async def _metrics(self, request: web.Request) -> web.Response:
        from driftgate.metrics import render

        status = await asyncio.to_thread(self._status)
        return web.Response(
            body=render(status), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def _show_status(self, request: web.Request) -> web.Response:
        return _json(await asyncio.to_thread(self._status))

    async def _list_incidents(self, request: web.Request) -> web.Response:
        return _json(await asyncio.to_thread(self._operations.incidents))

    async def _acknowledge(self, request: web.Request) -> web.Response:
        await asyncio.to_thread(self._operations.acknowledge, request.match_info["id"], await _who(request))
        return _json({"done": True})

    async def _approve(self, request: web.Request) -> web.Response:
        await asyncio.to_thread(self._operations.approve, request.match_info["id"], await _who(request))
        return _json({"done": True})

    async def _gate(self, request: web.Request) -> web.Response:
        return _json(await asyncio.to_thread(self._operations.gate, request.match_info["rollout"]))

    async def _flagger(self, request: web.Request) -> web.Response:
        gate = await asyncio.to_thread(self._operations.gate, request.match_info["rollout"])
        return web.json_response(gate, status=200 if gate["verdict"] == "fail" else 412)


def _json(value: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


async def _who(request: web.Request) -> str:
    """Return who acts: the ``who`` of a JSON body, else the peer's address."""
    if request.can_read_body:
        try:
            body = msgspec.json.decode(await request.read(), type=dict[str, str])
        except (msgspec.DecodeError, msgspec.ValidationError):
            body = {}
        if body.get("who"):
            return body["who"][:200]
    return request.remote or "unknown"
