"""What people do about incidents, over HTTP: look, acknowledge, approve, silence, close, stop rollbacks, send again.

GET  /v1/incidents                     open and recent incidents
GET  /v1/incidents/{id}                one of them, with its messages and how far they got
POST /v1/incidents/{id}/ack            somebody has it
POST /v1/incidents/{id}/approve        let the rollback that waits for a person go
POST /v1/incidents/{id}/silence        {"seconds": 3600}: say nothing about it for so long; 0 lifts the silence
POST /v1/incidents/{id}/resolve        close it
GET  /v1/kill-switch                   whether rollbacks are stopped, and by whom
POST /v1/kill-switch                   {"on": true}: stop all rollback calls from now on; false: allow them again
GET  /v1/notifications                 messages that were given up
POST /v1/notifications/{id}/replay     send one again

Every POST takes {"who": name, "comment": text}; without a name it is the peer's address. A body that cannot be
read is refused, and nothing is done.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import msgspec
from aiohttp import web

_LONGEST_SILENCE_S = 366 * 86400.0


class Operations(Protocol):
    """What the administration port can ask and do about incidents."""

    def incidents(self) -> list[dict[str, Any]]:
        """Return open and recent incidents."""

    def incident(self, incident_id: str) -> dict[str, Any]:
        """Return one with its messages."""

    def acknowledge(self, incident_id: str, who: str) -> None:
        """Say that somebody has it."""

    def approve(self, incident_id: str, who: str) -> None:
        """Let a rollback that waits for a person go."""

    def silence(self, incident_id: str, seconds: float, who: str, comment: str) -> None:
        """Hold its messages for so long; 0 lifts the silence."""

    def resolve(self, incident_id: str, who: str, comment: str) -> None:
        """Close it by hand."""

    def kill_switch(self) -> dict[str, Any]:
        """Return ``on``, ``by`` (who set it while running) and ``configured``."""

    def set_kill_switch(self, on: bool, who: str) -> None:
        """Stop all rollback calls, or allow them again."""

    def given_up(self) -> list[dict[str, Any]]:
        """Return the messages that were given up, the newest first."""

    def send_again(self, message_id: str) -> None:
        """Send one of them again."""

    def gate(self, rollout: str) -> dict[str, Any]:
        """Return the state of one rollout for a pull gate."""


class _Act(msgspec.Struct):
    who: str = ""
    comment: str = ""
    seconds: float | None = None
    on: bool | None = None


class IncidentRoutes:
    """Adds the routes above to an application; ``operations`` may read the disk and is called off the event loop."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/v1/incidents", self._list),
            web.get("/v1/incidents/{id}", self._show),
            web.post("/v1/incidents/{id}/ack", self._acknowledge),
            web.post("/v1/incidents/{id}/approve", self._approve),
            web.post("/v1/incidents/{id}/silence", self._silence),
            web.post("/v1/incidents/{id}/resolve", self._resolve),
            web.get("/v1/kill-switch", self._kill_switch),
            web.post("/v1/kill-switch", self._set_kill_switch),
            web.get("/v1/notifications", self._given_up),
            web.post("/v1/notifications/{id}/replay", self._send_again),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        return as_json(await asyncio.to_thread(self._operations.incidents))

    async def _show(self, request: web.Request) -> web.Response:
        return as_json(await asyncio.to_thread(self._operations.incident, request.match_info["id"]))

    async def _acknowledge(self, request: web.Request) -> web.Response:
        act = await _act(request)
        await asyncio.to_thread(self._operations.acknowledge, request.match_info["id"], act.who)
        return _done()

    async def _approve(self, request: web.Request) -> web.Response:
        act = await _act(request)
        await asyncio.to_thread(self._operations.approve, request.match_info["id"], act.who)
        return _done()

    async def _silence(self, request: web.Request) -> web.Response:
        act = await _act(request)
        if act.seconds is None or not 0 <= act.seconds <= _LONGEST_SILENCE_S:
            return web.json_response(
                {"error": f'send {{"seconds": 0 to {_LONGEST_SILENCE_S:.0f}}}; 0 lifts the silence'},
                status=400,
            )
        await asyncio.to_thread(
            self._operations.silence, request.match_info["id"], act.seconds, act.who, act.comment
        )
        return _done()

    async def _resolve(self, request: web.Request) -> web.Response:
        act = await _act(request)
        await asyncio.to_thread(self._operations.resolve, request.match_info["id"], act.who, act.comment)
        return _done()

    async def _kill_switch(self, request: web.Request) -> web.Response:
        return as_json(await asyncio.to_thread(self._operations.kill_switch))

    async def _set_kill_switch(self, request: web.Request) -> web.Response:
        act = await _act(request)
        if act.on is None:
            return web.json_response({"error": 'send {"on": true} or {"on": false}'}, status=400)
        await asyncio.to_thread(self._operations.set_kill_switch, act.on, act.who)
        return as_json(await asyncio.to_thread(self._operations.kill_switch))

    async def _given_up(self, request: web.Request) -> web.Response:
        return as_json(await asyncio.to_thread(self._operations.given_up))

    async def _send_again(self, request: web.Request) -> web.Response:
        await asyncio.to_thread(self._operations.send_again, request.match_info["id"])
        return _done()


def as_json(value: Any) -> web.Response:
    """Return an answer of plain values and structs."""
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def _done() -> web.Response:
    return as_json({"done": True})


async def _act(request: web.Request) -> _Act:
    """Return what the body says, if there is one; what cannot be read is no consent to anything."""
    act = _Act()
    if body := await request.read():
        try:
            act = msgspec.json.decode(body, type=_Act)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            told = msgspec.json.encode({"error": f"the body is not what this takes: {error}"}).decode()
            raise web.HTTPBadRequest(text=told, content_type="application/json") from error
    act.who = act.who[:200] or request.remote or "unknown"
    return act
