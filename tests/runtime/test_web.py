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

INCIDENT: dict[str, Any] = {
    "incident_id": "i1", "state": "firing", "resolution": "", "severity": "page", "tenant": "default",
    "rollout": "r", "route": "<script>alert(1)</script>", "incumbent": "v1", "candidate": "v2",
    "opened_at": 1_700_000_000_000_000_000, "resolved_at": 0, "acknowledged_at": 0, "acknowledged_by": "",
    "silenced_until": 0, "silenced_by": "", "verdict_id": "ab12", "summary": "v2 is <b>bad</b>",
    "conditions": [
        {"rubric": "refusal", "state": "regressed", "severity": "page", "since": 1, "reason": "0.5 below"}
    ],
    "rollbacks": [], "messages": [], "history": [],
}  # fmt: skip


class Desk:
    """Remembers what was asked for."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str, str]] = []
        self.verdict = "inconclusive"
        self.stopped_by = ""

    def incidents(self) -> list[dict[str, Any]]:
        return [{"incident_id": "i1"}]

    def incident(self, incident_id: str) -> dict[str, Any]:
        if incident_id != "i1":
            raise Permanent("unknown_incident", "there is none")
        return INCIDENT

    def silence(self, incident_id: str, seconds: float, who: str, comment: str) -> None:
        self.done.append((f"silence {seconds:g} {comment}", incident_id, who))

    def resolve(self, incident_id: str, who: str, comment: str) -> None:
        self.done.append((f"resolve {comment}", incident_id, who))

    def kill_switch(self) -> dict[str, Any]:
        return {"on": bool(self.stopped_by), "by": self.stopped_by, "configured": False}

    def set_kill_switch(self, on: bool, who: str) -> None:
        self.stopped_by = who if on else ""

    def given_up(self) -> list[dict[str, Any]]:
        return [{"message_id": "m1"}]

    def send_again(self, message_id: str) -> None:
        self.done.append(("resend", message_id, ""))

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
        # Bytes that are no text, which a client of ours would not send.
        reader, writer = await asyncio.open_connection("127.0.0.1", int(base.rpartition(":")[2]))
        writer.write(b"GET /v1/status HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n")
        assert b" 401 " in await reader.readline()
        writer.close()
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
        broken = await session.get(base + "/v1/status", headers={"Host": "::1:8080"})
        assert broken.status == 421
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


def test_people_act_on_incidents_over_http() -> None:
    async def work(session: aiohttp.ClientSession, base: str, desk: Desk) -> None:
        async def post(path: str, **body: Any) -> int:
            return (await session.post(base + path, json={"who": "ada", **body})).status

        assert await post("/v1/incidents/i1/silence", seconds=3600, comment="load test") == 200
        assert await post("/v1/incidents/i1/silence", seconds=-1) == 400
        assert await post("/v1/incidents/i1/silence") == 400
        assert await post("/v1/incidents/i1/resolve", comment="known") == 200
        assert await post("/v1/notifications/m1/replay") == 200
        assert desk.done == [
            ("silence 3600 load test", "i1", "ada"),
            ("resolve known", "i1", "ada"),
            ("resend", "m1", ""),
        ]
        for broken in (b"{", b'{"who": 5}', b"\xff"):
            headers = {"Content-Type": "application/json"}
            answer = await session.post(base + "/v1/incidents/i1/approve", data=broken, headers=headers)
            assert answer.status == 400
            assert "the body is not" in (await answer.json())["error"]
        assert len(desk.done) == 3
        assert await post("/v1/kill-switch") == 400
        assert await post("/v1/kill-switch", on=True) == 200
        assert (await (await session.get(base + "/v1/kill-switch")).json())["by"] == "ada"
        assert (await (await session.get(base + "/v1/incidents/i1")).json())["candidate"] == "v2"

    _serve(work)


def test_pages_show_data_as_text_and_take_a_browsers_password_for_reading_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ADMIN_TOKEN", TOKEN)

    async def work(session: aiohttp.ClientSession, base: str, desk: Desk) -> None:
        browser = {"Authorization": aiohttp.encode_basic_auth("anybody", TOKEN)}
        asked = await session.get(base + "/incidents/i1")
        assert asked.status == 401
        assert asked.headers["WWW-Authenticate"].startswith("Basic ")
        assert (
            await session.get(base + "/", headers={"Authorization": aiohttp.encode_basic_auth("a", "b")})
        ).status == 401
        page = await session.get(base + "/incidents/i1", headers=browser)
        text = await page.text()
        assert page.status == 200
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert "refusal" in text
        assert "v2 is &lt;b&gt;bad&lt;/b&gt;" in text
        assert "<script" not in text
        assert (await session.get(base + "/incidents/nope", headers=browser)).status == 404
        assert "sampler" in await (await session.get(base + "/", headers=browser)).text()
        # A password that a browser sends by itself must not act, and a page elsewhere could make it post.
        act = await session.post(base + "/v1/incidents/i1/ack", headers=browser, json={})
        assert act.status == 401
        assert desk.done == []

    _serve(work, token=Secret("${env:ADMIN_TOKEN}"))
