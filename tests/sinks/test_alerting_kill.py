"""SIGKILL at the worst moments: at most one effective rollback per decision, and every notification arrives."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from sinks.incidents.store import IncidentStore
from sinks.testing import GatewayEndpoint, PagerDutyEndpoint, SlackEndpoint, WebhookEndpoint, regression

PROGRAM = Path(__file__).with_name("alerting_process.py")
ROOT = PROGRAM.parents[2]
ROUTING_KEY = "r" * 32
SIGNING = "whsec_" + base64.b64encode(b"k" * 32).decode()
TOKEN = "gateway" + "-" + "token"
ROLLOUTS = 12
KILLS = 14


class Victim:
    """Starts the process again and again, and kills it when told."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        self.kills = 0
        self.armed = True
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, str(PROGRAM), str(self.folder), env=self.environment, cwd=str(ROOT),
            stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip

    def kill(self) -> None:
        if self.armed and self.process is not None and self.process.returncode is None:
            self.kills += 1
            self.process.send_signal(signal.SIGKILL)

    async def keep_running(self) -> None:
        """Restart whenever it was killed, until the last kill has happened."""
        while True:
            await self.start()
            assert self.process is not None
            code = await self.process.wait()
            assert code == -signal.SIGKILL, "it ended by itself"
            if self.kills >= KILLS:
                self.armed = False
                return


@pytest.mark.slow
def test_killed_at_random_it_rolls_back_once_and_tells_everybody(tmp_path: Path) -> None:
    asyncio.run(asyncio.wait_for(scene(tmp_path), 240))


async def scene(folder: Path) -> None:
    chance = random.Random(7)
    slack, pagerduty = SlackEndpoint(), PagerDutyEndpoint(ROUTING_KEY)
    webhook, gateway = WebhookEndpoint(SIGNING), GatewayEndpoint(TOKEN)
    gateway.weights = {f"v{n}": 10 for n in range(17, 18 + ROLLOUTS)}
    async with AsyncExitStack() as stack:
        for endpoint in (slack, pagerduty, webhook, gateway):
            await stack.enter_async_context(endpoint)
        environment = {
            **os.environ, "PD": ROUTING_KEY, "WH": SIGNING, "GW": TOKEN, "SLACK": slack.url, "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        write(folder, slack, pagerduty, webhook, gateway)
        victim = Victim(folder, environment)

        def killer(probability: float) -> Callable[[], Awaitable[None]]:
            async def maybe() -> None:
                if chance.random() < probability:
                    victim.kill()

            return maybe

        # Before the gateway acts; after it acted and before its answer is read; while a notification is on its way.
        gateway.on_request = killer(0.4)
        gateway.after_effect = killer(0.5)
        for endpoint in (slack, pagerduty, webhook):
            endpoint.on_request = killer(0.1)

        async def at_any_time() -> None:
            while True:
                await asyncio.sleep(chance.uniform(0.8, 3.0))
                victim.kill()

        clockwork = asyncio.create_task(at_any_time())
        await victim.keep_running()
        clockwork.cancel()
        (folder / "drain").touch()
        await victim.start()
        assert victim.process is not None
        assert await victim.process.wait() == 0
        assert victim.kills >= KILLS
    check(folder, slack, pagerduty, webhook, gateway)


def write(
    folder: Path, slack: SlackEndpoint, pagerduty: PagerDutyEndpoint, webhook: WebhookEndpoint,
    gateway: GatewayEndpoint,
) -> None:  # fmt: skip
    import time

    hosts = [endpoint.host for endpoint in (slack, pagerduty, webhook, gateway)]
    retry = {"first": 0.1, "longest": 0.5, "attempts": 200}
    config = {
        "alerts": {
            "allow_hosts": hosts,
            "group_wait": 0,
            "retry": retry,
            "channels": [
                {"type": "slack", "url": "${env:SLACK}", "per_minute": 6000},
                {"type": "pagerduty", "routing_key": "${env:PD}", "url": pagerduty.url, "per_minute": 6000},
                {"type": "webhook", "url": webhook.url, "secrets": ["${env:WH}"], "per_minute": 6000},
            ],
        },
        "rollback": {
            "mode": "enforce",
            "allow_hosts": hosts,
            "max_per_hour": 1000,
            "verify": {"settle": 0, "hold": 0.2, "telemetry_lag": 0, "deadline": 60, "interval": 0.1},
            "targets": [{"name": "gateway", "url": gateway.url, "token": "${env:GW}", "retries": retry}],
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    now = time.time_ns()
    lines = []
    for number in range(ROLLOUTS):
        for rubric in ("groundedness", "refusal"):
            verdict = regression(
                time_unix_nano=now, rubric=rubric, rollout=f"rollout-{number}", candidate=f"v{18 + number}"
            )
            lines.append(msgspec.json.encode(verdict))
    (folder / "verdicts.jsonl").write_bytes(b"\n".join(lines))


def check(
    folder: Path, slack: SlackEndpoint, pagerduty: PagerDutyEndpoint, webhook: WebhookEndpoint,
    gateway: GatewayEndpoint,
) -> None:  # fmt: skip
    db = IncidentStore(folder / "incidents.db")
    incidents = db.list_incidents(limit=1000)
    assert len(incidents) == ROLLOUTS
    assert {item["state"] for item in incidents} == {"resolved"}
    assert {item["state"] for item in db.list_rollbacks(limit=1000)} == {"verified"}
    # One effect per decision, though calls were repeated.
    effects = Counter(body["candidate"] for _, body in gateway.effects)
    assert effects == {f"v{18 + number}": 1 for number in range(ROLLOUTS)}
    assert len({key for key, _ in gateway.effects}) == ROLLOUTS
    assert gateway.weights["v17"] == 10
    # Every message arrived under its own id, and nothing was given up.
    assert db.list_dead() == []
    delivered = db.read("SELECT message_id, lane FROM outbox WHERE state = 'delivered' AND event <> 'call'")
    assert {f"msg_{row['message_id']}" for row in delivered if row["lane"] == "notify/webhook"} == set(
        webhook.messages
    )
    assert len(webhook.deliveries) >= len(webhook.messages)
    assert pagerduty.open == {}
    for incident in incidents:
        incident_id = incident["incident_id"]
        types = [
            item["type"] for item in webhook.messages.values() if item["data"]["incident_id"] == incident_id
        ]
        assert types.count("incident.firing") == types.count("incident.resolved") == 1
        actions = [event["event_action"] for event in pagerduty.events if event["dedup_key"] == incident_id]
        assert actions[0] == "trigger"
        assert actions[-1] == "resolve"
        said = [item["text"] for item in slack.messages if incident_id in str(item["blocks"])]
        assert any("Resolved" in text for text in said)
    # The books balance: what the log's ledger counted is what happened, once.
    ledger = json.loads((folder / "drained").read_bytes())
    assert ledger["verdicts_in"] == 2 * ROLLOUTS
    assert ledger["incidents_opened"] == ledger["incidents_resolved"] == ROLLOUTS
    assert ledger["rollbacks_requested"] == 2 * ROLLOUTS
    assert (
        ledger["rollbacks_queued"] == ledger["rollbacks_called"] == ledger["rollbacks_verified"] == ROLLOUTS
    )
    assert ledger["rollbacks_blocked.already_acted"] == ROLLOUTS
    assert ledger["notifications_queued"] == ledger["notifications_delivered"] + ledger.get(
        "notifications_cancelled", 0
    )
    db.close()
