"""Local stand-ins for Slack, PagerDuty, a signed-webhook receiver and a gateway, for tests and for the demonstration.

The servers are real HTTP servers on a free port, they enforce the documented limits and answer with the documented errors, and
they keep what they accepted. ``fail(status, retry_after)`` scripts the next answers; ``on_request`` sees each request
before it takes effect and may raise or wait.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any

import msgspec
from aiohttp import web

from stream.errors import Transient
from stream.records import Evidence, Verdict, WindowEvidence, stable_id

_PLAIN = "text/plain"


class Endpoint:
    """A server on 127.0.0.1; use as an async context manager. ``requests`` are all bodies seen, refused ones too."""

    path = "/"

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.on_request: Callable[[], Awaitable[None]] | None = None
        self.port = 0
        self._failures: list[tuple[int, float | None]] = []
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Any:
        app = web.Application(client_max_size=8 << 20)
        self.routes(app)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop serving; the port stays known, so that entering again serves on it."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    @property
    def host(self) -> str:
        """``host:port``, as ``allow_hosts`` wants it."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Where to send."""
        return f"http://{self.host}{self.path}"

    def fail(self, status: int, *, retry_after: float | None = None, times: int = 1) -> None:
        """Answer the next ``times`` requests with ``status``."""
        self._failures += [(status, retry_after)] * times

    def routes(self, app: web.Application) -> None:
        """Add the routes of this endpoint."""
        app.router.add_post(self.path, self._serve)

    async def _serve(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.requests.append(({name.lower(): value for name, value in request.headers.items()}, body))
        if self.on_request is not None:
            await self.on_request()
        if self._failures:
            status, retry_after = self._failures.pop(0)
            headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
            return web.Response(status=status, headers=headers, text="scripted")
        return self.answer(request, body)

    def answer(self, request: web.Request, body: bytes) -> web.Response:
        """Accept or refuse one request."""
        raise NotImplementedError


class SlackEndpoint(Endpoint):
    """An incoming webhook: ``messages`` are the accepted payloads."""

    path = "/services/T0000/B0000/XXXX"

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[dict[str, Any]] = []

    def answer(self, request: web.Request, body: bytes) -> web.Response:
        """See :meth:`Endpoint.answer`; refuses what Block Kit does not allow."""
        if request.content_type != "application/json":
            return web.Response(status=400, text="invalid_payload", content_type=_PLAIN)
        try:
            payload = msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError:
            return web.Response(status=400, text="invalid_payload", content_type=_PLAIN)
        if problem := slack_problem(payload):
            return web.Response(status=400, text=problem, content_type=_PLAIN)
        self.messages.append(payload)
        return web.Response(text="ok", content_type=_PLAIN)


def slack_problem(payload: dict[str, Any]) -> str:
    """Return Slack's word for what is wrong with a message; empty if nothing is."""
    blocks = payload.get("blocks", [])
    if not isinstance(payload.get("text", ""), str) or not isinstance(blocks, list):
        return "invalid_payload"
    if not payload.get("text") and not blocks:
        return "no_text"
    if len(blocks) > 50:
        return "invalid_blocks"
    if len(msgspec.json.encode(blocks)) > 13_200:
        return "msg_blocks_too_long"
    return "" if all(_block_ok(block) for block in blocks) else "invalid_blocks"


def _block_ok(block: dict[str, Any]) -> bool:
    match block.get("type"):
        case "header":
            return _text_ok(block.get("text"), 150, ("plain_text",))
        case "section":
            fields = block.get("fields", [])
            return (
                ("text" in block or bool(fields))
                and ("text" not in block or _text_ok(block["text"], 3000))
                and len(fields) <= 10
                and all(_text_ok(field, 2000) for field in fields)
            )
        case "context":
            elements = block.get("elements", [])
            return 0 < len(elements) <= 10 and all(_text_ok(element, 2000) for element in elements)
        case "actions":
            return 0 < len(block.get("elements", [])) <= 25
        case "divider":
            return True
        case _:
            return False


def _text_ok(text: Any, limit: int, kinds: tuple[str, ...] = ("plain_text", "mrkdwn")) -> bool:
    return (
        isinstance(text, dict)
        and text.get("type") in kinds
        and isinstance(text.get("text"), str)
        and 0 < len(text["text"]) <= limit
    )


class PagerDutyEndpoint(Endpoint):
    """Events API v2: ``events`` are the accepted ones, ``open`` the alerts by ``dedup_key`` that are not resolved."""

    path = "/v2/enqueue"

    def __init__(self, routing_key: str) -> None:
        super().__init__()
        self.routing_key = routing_key
        self.events: list[dict[str, Any]] = []
        self.open: dict[str, str] = {}

    def answer(self, request: web.Request, body: bytes) -> web.Response:
        """See :meth:`Endpoint.answer`; 400 names every error, as PagerDuty does."""
        try:
            event = msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError:
            return self._refused(["Event object is not JSON"])
        if errors := self._errors(event, len(body)):
            return self._refused(errors)
        key = str(event.get("dedup_key", ""))
        self.events.append(event)
        if event["event_action"] == "resolve":
            self.open.pop(key, None)  # without an open alert it is dropped, which is no error
        elif event["event_action"] == "trigger":
            self.open[key] = event["payload"]["severity"]
        return web.json_response(
            {"status": "success", "message": "Event processed", "dedup_key": key}, status=202
        )

    def _errors(self, event: dict[str, Any], size: int) -> list[str]:
        errors = []
        if size > 512 << 10:
            errors.append("Event size exceeds 512 KB")
        if event.get("routing_key") != self.routing_key:
            errors.append("'routing_key' is invalid")
        action = event.get("event_action")
        if action not in ("trigger", "acknowledge", "resolve"):
            errors.append("'event_action' is invalid")
        key = event.get("dedup_key", "")
        if not isinstance(key, str) or len(key) > 255 or (action != "trigger" and not key):
            errors.append("'dedup_key' is missing or longer than 255 characters")
        if action == "trigger":
            payload = event.get("payload") or {}
            if not 0 < len(payload.get("summary", "")) <= 1024:
                errors.append("'payload.summary' is missing or longer than 1024 characters")
            if not payload.get("source"):
                errors.append("'payload.source' is missing or blank")
            if payload.get("severity") not in ("critical", "error", "warning", "info"):
                errors.append("'payload.severity' is invalid")
            if any(not link.get("href") for link in event.get("links", [])):
                errors.append("'links' need an href")
        return errors

    def _refused(self, errors: list[str]) -> web.Response:
        return web.json_response(
            {"status": "invalid event", "message": "Event object is invalid", "errors": errors}, status=400
        )


class WebhookEndpoint(Endpoint):
    """A receiver of Standard Webhooks 1.0.0: ``messages`` are the payloads by ``webhook-id``, each once."""

    path = "/hooks"

    def __init__(
        self, secret: str, *, tolerance: float = 300.0, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__()
        self._key = base64.b64decode(secret.removeprefix("whsec_"))
        self._tolerance = tolerance
        self._clock = clock
        self.messages: dict[str, dict[str, Any]] = {}
        self.deliveries: list[str] = []

    def answer(self, request: web.Request, body: bytes) -> web.Response:
        """See :meth:`Endpoint.answer`; verifies signature, time and size."""
        message_id = request.headers.get("webhook-id", "")
        timestamp = request.headers.get("webhook-timestamp", "")
        if not message_id or "." in message_id or not timestamp.isdigit():
            return web.Response(status=400, text="headers missing")
        if abs(self._clock() - int(timestamp)) > self._tolerance:
            return web.Response(status=400, text="timestamp too far off")
        wanted = hmac.new(self._key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
        if not any(_same(wanted, item) for item in request.headers.get("webhook-signature", "").split(" ")):
            return web.Response(status=401, text="no matching signature")
        if len(body) > 20_000:
            return web.Response(status=413, text="larger than 20 KB")
        payload = msgspec.json.decode(body, type=dict[str, Any])
        if not {"type", "timestamp", "data"} <= payload.keys():
            return web.Response(status=400, text="type, timestamp and data are needed")
        self.deliveries.append(message_id)
        self.messages.setdefault(message_id, payload)
        return web.Response(status=204)


def _same(wanted: bytes, given: str) -> bool:
    version, _, signature = given.partition(",")
    try:
        return version == "v1" and hmac.compare_digest(base64.b64decode(signature, validate=True), wanted)
    except binascii.Error:
        return False


class GatewayEndpoint(Endpoint):
    """A gateway with two versions behind weights: ``GET /state`` with an ETag, ``POST /rollback``.

    It asks for the bearer ``token``, honours ``If-Match``, and answers a repeated ``Idempotency-Key`` with the first
    answer without doing anything again. ``effects`` lists (key, body) of the calls that changed something.
    """

    path = "/rollback"

    def __init__(self, token: str, weights: dict[str, int] | None = None) -> None:
        super().__init__()
        self.token = token
        self.weights = weights if weights is not None else {"v17": 80, "v18": 20}
        self.version = 1
        self.effects: list[tuple[str, dict[str, Any]]] = []
        self.after_effect: Callable[[], Awaitable[None]] | None = None
        self._answers: dict[str, dict[str, Any]] = {}

    @property
    def state_url(self) -> str:
        """Where the state is read."""
        return f"http://{self.host}/state"

    def routes(self, app: web.Application) -> None:
        """See :meth:`Endpoint.routes`."""
        app.router.add_get("/state", self._state)
        app.router.add_post(self.path, self._rollback)

    async def _state(self, request: web.Request) -> web.Response:
        if not self._authorized(request):
            return web.Response(status=401, text="bearer token needed")
        return web.json_response({"weights": self.weights}, headers={"ETag": f'"{self.version}"'})

    async def _rollback(self, request: web.Request) -> web.Response:
        if not self._authorized(request):
            return web.Response(status=401, text="bearer token needed")
        answer = await self._serve(request)
        if answer.status == 200 and self.after_effect is not None:
            await self.after_effect()
        return answer

    def _authorized(self, request: web.Request) -> bool:
        given = request.headers.get("Authorization", "")
        return hmac.compare_digest(given.encode(), f"Bearer {self.token}".encode())

    def answer(self, request: web.Request, body: bytes) -> web.Response:
        """See :meth:`Endpoint.answer`."""
        key = request.headers.get("Idempotency-Key", "")
        if not key:
            return web.Response(status=400, text="Idempotency-Key needed")
        if key in self._answers:
            return web.json_response(self._answers[key])
        if request.headers.get("If-Match", f'"{self.version}"') != f'"{self.version}"':
            return web.Response(status=412, text="changed meanwhile")
        order = msgspec.json.decode(body, type=dict[str, Any])
        if order.get("candidate") not in self.weights:
            return web.Response(status=404, text="no such version")
        self.weights = {
            name: 0 if name == order["candidate"] else weight for name, weight in self.weights.items()
        }
        self.version += 1
        self.effects.append((key, order))
        self._answers[key] = {"status": "rolled back", "version": self.version}
        return web.json_response(self._answers[key])


def regression(
    number: int = 0,
    *,
    time_unix_nano: int,
    rubric: str = "groundedness",
    candidate: str = "v18",
    **changes: Any,
) -> Verdict:
    """Return a verdict as the drift stage gives it for a proven regression; ``changes`` replace its fields."""
    fields: dict[str, Any] = {
        "verdict_id": stable_id("verdict", candidate, rubric, str(number), repr(sorted(changes.items()))),
        "kind": "canary",
        "time_unix_nano": time_unix_nano,
        "rollout": "support",
        "route": "support",
        "rubric": rubric,
        "arm": "prompt_version",
        "incumbent": "v17",
        "candidate": candidate,
        "state": "regressed",
        "severity": "page",
        "action": "rollback",
        "reason": "the mean fell by 0.21 and the evidence is 58 of 40",
        "evidence": Evidence(
            e_value=58.0,
            e_threshold=40.0,
            pairs=61,
            mean_difference=-0.21,
            candidate_units=61,
            incumbent_units=240,
            windows=[
                WindowEvidence(
                    seconds=900,
                    incumbent_mean=0.81,
                    candidate_mean=0.6,
                    difference=-0.21,
                    incumbent_n=240,
                    candidate_n=61,
                )
            ],
            worst_trace_ids=[stable_id("trace", str(index)) for index in range(3)],
        ),
    }
    return Verdict(**{**fields, **changes})


class ScriptedTraffic:
    """A traffic reader that answers what it is told; ``unavailable`` makes it raise ``Transient``."""

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        self.counts: Mapping[str, int] = counts or {}
        self.unavailable = False
        self.asked: list[tuple[str, dict[str, str], str, int, int]] = []

    def traffic(
        self, tenant: str, match: Mapping[str, str], arm: str, since_ns: int, until_ns: int
    ) -> Mapping[str, int]:
        """See :meth:`sinks.rollback.verification.TrafficReader.traffic`."""
        self.asked.append((tenant, dict(match), arm, since_ns, until_ns))
        if self.unavailable:
            raise Transient("store_unavailable", "scripted")
        return self.counts
