"""The administration port: who may do what, and what pull gates say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from driftgate.config import WebSettings
from driftgate.runtime.status import StageStatus, Status
from driftgate.web import Web
from stream.errors import Permanent
from stream.secret import Secret

TOKEN = "admin-" + "token"


class Desk:
    """Remembers what was asked for."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str, str]] = []
        self.verdict = "inconclusive"

    def incidents(self) -> list[dict[str, Any]]:
        return [{"incident_id": "i1"}]

    def acknowledge(self, incident_id: str, who: str) -> None:
        if incident_id != "i1":
            raise Permanent("unknown_incident", "there is none")
        self.done.append(("ack", incident_id, who))

    def approve(self, incident_id: str, who: str) -> None:
        self.done.append(("approve", incident_id, who))

    def gate(self, rollout: str) -> dict[str, Any]:
        if rollout != "r":
            raise Permanent("unknown_rollout", "there is none")
        return {"verdict": self.verdict, "e_value": 1.0, "n": 0}


def _status(state: str = "running", ready: bool = True) -> Status:
    return Status(
        version="0",
        ready=ready,
        time_unix_nano=1,
        stages=[StageStatus("sampler", state, "because", 3, 1, 2 * 10**9)],
    )


def _serve(
    work: Callable[[aiohttp.ClientSession, str, Desk], Awaitable[None]],
    status: Status | None = None,
    token: Secret | None = None,
) -> None:
    async def run() -> None:
        desk = Desk()
        web = Web(WebSettings(port=0, token=token), lambda: status or _status(), desk)
        await web.start()
        try:
            async with aiohttp.ClientSession() as session:
                await work(session, f"http://127.0.0.1:{web.port}", desk)
        finally:
            await web.stop()

    asyncio.run(run())


def test_with_a_token_only_health_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_TOKEN", TOKEN)

    async def work(session: aiohttp.ClientSession, base: str, desk: Desk) -> None:
        for path, code in [("/livez", 200), ("/readyz", 200), ("/metrics", 401), ("/v1/status", 401)]:
            assert (await session.get(base + path)).status == code
        wrong = {"Authorization": "Bearer " + TOKEN + "x"}
        assert (await session.post(base + "/v1/incidents/i1/approve", headers=wrong)).status == 401
        right = {"Authorization": "Bearer " + TOKEN}
        assert (await session.get(base + "/v1/status", headers=right)).status == 200
        answer = await session.post(base + "/v1/incidents/i1/approve", headers=right, json={"who": "ada"})
        assert answer.status == 200
        assert desk.done == [("approve", "i1", "ada")]

    _serve(work, token=Secret("${env:ADMIN_TOKEN}"))


def test_without_a_token_a_web_page_in_a_browser_cannot_act() -> None:
    async def work(session: aiohttp.ClientSession, base: str, desk: Desk) -> None:
        form = await session.post(base + "/v1/incidents/i1/approve", data={"who": "mallory"})
        assert form.status == 415
        assert desk.done == []
        rebound = await session.get(base + "/v1/status", headers={"Host": "evil.example"})
        assert rebound.status == 421
        assert (await session.post(base + "/v1/incidents/i1/ack", json={})).status == 200
        assert desk.done == [("ack", "i1", "127.0.0.1")]

    _serve(work)


def test_what_is_not_known_is_404() -> None:
    async def work(session: aiohttp.ClientSession, base: str, desk: Desk) -> None:
        assert (await session.post(base + "/v1/incidents/nope/ack", json={})).status == 404
        assert (await session.get(base + "/v1/gates/nope")).status == 404

    _serve(work)


def test_flagger_is_told_to_roll_back_exactly_when_the_gate_fails() -> None:
    async def work(session: aiohttp.ClientSession, base: str, desk: Desk) -> None:
        for verdict, code in [("pass", 412), ("inconclusive", 412), ("fail", 200)]:
            desk.verdict = verdict
            assert (await (await session.get(base + "/v1/gates/r")).json())["verdict"] == verdict
            assert (await session.get(base + "/v1/gates/r/flagger-rollback")).status == code

    _serve(work)


def test_a_failing_stage_is_not_ready_and_named() -> None:
    async def work(session: aiohttp.ClientSession, base: str, desk: Desk) -> None:
        answer = await session.get(base + "/readyz")
        assert answer.status == 503
        assert "sampler: failing because" in await answer.text()
        metrics = await (await session.get(base + "/metrics")).text()
        assert 'driftgate_stage_up{stage="sampler",state="failing"} 0.0' in metrics
        assert 'driftgate_stage_lag{stage="sampler"} 3.0' in metrics

    _serve(work, _status("failing"))
