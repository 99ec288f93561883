"""The dispatcher against local endpoints that enforce what the real ones document, and a gateway that checks its caller."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from harness import PATIENCE_S
from standardwebhooks.webhooks import Webhook

from sinks.alerter import AlerterStage
from sinks.alerts_settings import AlertSettings, RollbackSettings
from sinks.dispatcher import Dispatcher
from sinks.incidents.operator import Operator
from sinks.incidents.store import IncidentStore
from sinks.testing import (
    GatewayEndpoint,
    PagerDutyEndpoint,
    ScriptedTraffic,
    SlackEndpoint,
    WebhookEndpoint,
    regression,
)
from stream.errors import ConfigError
from stream.records import TOPIC_VERDICTS, Verdict, WindowEvidence
from stream.stage import Batch, Record
from stream.testing import FakeClock

ROUTING_KEY = "r" * 32
SIGNING = "whsec_" + base64.b64encode(b"k" * 32).decode()
OLD_SIGNING = "whsec_" + base64.b64encode(b"o" * 24).decode()
TOKEN = "gateway" + "-" + "token"
OK = {"state": "ok", "severity": "none", "action": "none"}


class World:
    """All endpoints, a stage and a dispatcher on a clock that is told."""

    def __init__(self, path: Path, **rollback: Any) -> None:
        self.path = path
        self.clock = FakeClock()
        self.slack = SlackEndpoint()
        self.pagerduty = PagerDutyEndpoint(ROUTING_KEY)
        self.webhook = WebhookEndpoint(SIGNING, clock=lambda: self.clock.now_ns / 1e9)
        self.gateway = GatewayEndpoint(TOKEN)
        self.traffic = ScriptedTraffic()
        self.rollback_changes = rollback
        self.alert_changes: dict[str, Any] = {}
        self.target_changes: dict[str, Any] = {}
        self.webhook_changes: dict[str, Any] = {}
        self.offset = 0

    def start(self) -> None:
        hosts = [end.host for end in (self.slack, self.pagerduty, self.webhook, self.gateway)]
        self.db = IncidentStore(self.path)
        self.alerts = AlertSettings.model_validate(
            {
                "allow_hosts": hosts,
                "external_url": "https://driftgate.example",
                "channels": [
                    {"type": "slack", "url": "${env:SLACK}"},
                    {"type": "pagerduty", "routing_key": "${env:PD}", "url": self.pagerduty.url},
                    {
                        "type": "webhook",
                        "url": self.webhook.url,
                        "secrets": ["${env:WH}", "${env:WH_OLD}"],
                        **self.webhook_changes,
                    },
                ],
                **self.alert_changes,
            }
        )
        target = {
            "name": "gateway",
            "url": self.gateway.url,
            "token": "${env:GATEWAY}",
            "read": {"url": self.gateway.state_url, "pointer": "/weights/{{candidate}}", "done": 0},
            "undo": {"url": self.gateway.url, "body": {"set": {"{{candidate}}": "{{previous}}"}}},
            **self.target_changes,
        }
        self.rollback = RollbackSettings.model_validate(
            {"mode": "enforce", "allow_hosts": hosts, "targets": [target], **self.rollback_changes}
        )
        self.stage = AlerterStage(self.db, self.alerts, self.rollback)
        self.stage.assign(0, {})
        self.operator = Operator(self.db, self.alerts, self.rollback)
        self.dispatcher = Dispatcher(self.db, self.alerts, self.rollback, traffic=self.traffic)

    def say(self, *verdicts: Verdict) -> None:
        records = [
            Record(TOPIC_VERDICTS, 0, self.offset + n, msgspec.json.encode(item))
            for n, item in enumerate(verdicts)
        ]
        self.offset += len(records)
        self.stage.process(Batch(records, self.clock.now_ns))

    def regression(self, number: int = 0, **changes: Any) -> Verdict:
        return regression(number, time_unix_nano=self.clock.now_ns, **changes)

    async def steps(self, count: int = 1, seconds: float = 1.0) -> dict[str, int]:
        total: dict[str, int] = {}
        for _ in range(count):
            self.clock.advance(seconds)
            report = await self.dispatcher.step(self.clock.now_ns)
            for name, by in report.outcomes.items():
                total[name] = total.get(name, 0) + by
        return total

    @property
    def incident(self) -> dict[str, Any]:
        [incident] = self.db.list_incidents()
        return incident

    @property
    def only_rollback(self) -> dict[str, Any]:
        [rollback] = self.db.list_rollbacks()
        return rollback


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("PD", ROUTING_KEY)
    monkeypatch.setenv("WH", SIGNING)
    monkeypatch.setenv("WH_OLD", OLD_SIGNING)
    monkeypatch.setenv("GATEWAY", TOKEN)
    return monkeypatch


@asynccontextmanager
async def running(world: World, environment: pytest.MonkeyPatch) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        for endpoint in (world.slack, world.pagerduty, world.webhook, world.gateway):
            await stack.enter_async_context(endpoint)
        environment.setenv("SLACK", world.slack.url)
        world.start()
        stack.callback(world.db.close)
        try:
            yield world
        finally:
            await world.dispatcher.close()


Play = Callable[[Callable[[World], Coroutine[Any, Any, None]]], World]


@pytest.fixture
def play(tmp_path: Path, secrets: pytest.MonkeyPatch) -> Callable[..., World]:
    """Run a scene in a fresh world."""

    def run(scene: Callable[[World], Coroutine[Any, Any, None]], world: World | None = None) -> World:
        made = world or World(tmp_path / "incidents.db")

        async def main() -> None:
            async with running(made, secrets):
                await scene(made)

        asyncio.run(main())
        return made

    return run


def test_from_verdict_to_verified_rollback(play: Callable[..., World]) -> None:
    """The whole way: fire, call, watch, resolve; every endpoint accepted what it got."""

    async def scene(world: World) -> None:
        world.say(world.regression(), world.regression(rubric="refusal"))
        world.traffic.counts = {"v17": 100}
        await world.steps(5)
        called = world.only_rollback
        assert called["state"] == "verifying"
        assert called["status_code"] == 200
        assert called["previous_state"] == 20
        assert called["undo"] == {"method": "POST", "url": world.gateway.url, "body": {"set": {"v18": 20}}}
        assert world.gateway.weights == {"v17": 80, "v18": 0}
        await world.steps(30, seconds=2)
        assert world.incident["state"] == "resolved"
        assert world.only_rollback["state"] == "verified"
        await world.steps(3)
        assert world.db.backlog() == {}

    world = play(scene)
    key, body = world.gateway.effects[0]
    assert len(world.gateway.effects) == 1
    assert body["candidate"] == "v18"
    assert body["incumbent"] == "v17"
    assert key
    assert world.slack.messages[0]["blocks"][0]["text"]["text"] == "Page: support v18"
    assert world.slack.messages[-1]["blocks"][0]["text"]["text"].startswith("Resolved")
    actions = [event["event_action"] for event in world.pagerduty.events]
    assert actions[0] == "trigger"
    assert actions[-1] == "resolve"
    assert world.pagerduty.open == {}
    assert len({event["dedup_key"] for event in world.pagerduty.events}) == 1
    types = [item["type"] for item in world.webhook.messages.values()]
    assert types[0] == "incident.firing"
    assert types[-1] == "incident.resolved"
    findings = next(iter(world.webhook.messages.values()))["data"]["conditions"]
    assert {item["rubric"] for item in findings} == {"groundedness", "refusal"}


def test_the_signature_is_what_standard_webhooks_wants(play: Callable[..., World]) -> None:
    """The oracle is the specification's own library; both secrets of a rotation sign."""

    async def scene(world: World) -> None:
        world.clock.now_ns = time.time_ns()
        world.say(world.regression())
        await world.steps(6)

    world = play(scene)
    headers, body = world.webhook.requests[0]
    for secret in (SIGNING, OLD_SIGNING):
        assert Webhook(secret).verify(body, headers)["type"] == "incident.firing"
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(SIGNING).verify(body + b" ", headers)
    assert len(body) < 20_000


def test_retries_say_the_same_under_the_same_id(play: Callable[..., World]) -> None:
    async def scene(world: World) -> None:
        world.webhook.fail(503, times=3)
        world.say(world.regression())
        await world.steps(40)

    world = play(scene)
    tries = [item for item in world.webhook.requests if b"incident.firing" in item[1]]
    assert len(tries) == 4
    assert len({headers["webhook-id"] for headers, _ in tries}) == 1
    assert len({body for _, body in tries}) == 1
    assert len({headers["webhook-timestamp"] for headers, _ in tries}) == 4


def test_the_end_never_overtakes_the_beginning(play: Callable[..., World]) -> None:
    async def scene(world: World) -> None:
        world.webhook.fail(503, times=5)
        world.say(world.regression())
        await world.steps(2)
        world.operator.resolve(world.incident["incident_id"], "ada", world.clock.now_ns)
        await world.steps(60)

    world = play(scene)
    types = [world.webhook.messages[item]["type"] for item in world.webhook.deliveries]
    assert types[0] == "incident.firing"
    assert types[-1] == "incident.resolved"
    assert len(types) == len(set(types))


def test_retry_after_is_followed_for_the_whole_channel(play: Callable[..., World]) -> None:
    async def scene(world: World) -> None:
        world.slack.fail(429, retry_after=30)
        world.say(world.regression())
        await world.steps(6)
        world.say(world.regression(rollout="another"))
        assert len(world.slack.requests) == 1
        await world.steps(20)
        assert len(world.slack.requests) == 1
        await world.steps(20)

    world = play(scene)
    titles = [item["blocks"][0]["text"]["text"] for item in world.slack.messages]
    assert len([title for title in titles if title.startswith("Page: support")]) >= 1
    assert len([title for title in titles if title.startswith("Page: another")]) >= 1


@pytest.mark.parametrize(("channel", "status"), [("pagerduty", 400), ("webhook", 410), ("slack", 302)])
def test_a_refusal_is_a_dead_letter_that_can_be_replayed(
    play: Callable[..., World], channel: str, status: int
) -> None:
    async def scene(world: World) -> None:
        endpoint = getattr(world, channel)
        endpoint.fail(status)
        world.say(world.regression())
        await world.steps(8)
        [dead] = world.db.list_dead()
        assert dead["lane"] == f"notify/{channel}"
        assert f"http_{status}" in dead["error"]
        assert dead["attempts"] == 1
        before = len(endpoint.requests)
        world.operator.replay(dead["message_id"], world.clock.now_ns)
        await world.steps(3)
        assert len(endpoint.requests) > before
        assert world.db.list_dead() == []

    play(scene)


def test_a_wrong_routing_key_is_not_tried_again(play: Callable[..., World]) -> None:
    async def scene(world: World) -> None:
        world.pagerduty.routing_key = "x" * 32
        world.say(world.regression())
        await world.steps(30)
        assert {item["attempts"] for item in world.db.list_dead()} == {1}

    world = play(scene)
    assert world.pagerduty.events == []


def test_tries_run_out(tmp_path: Path, play: Callable[..., World]) -> None:
    world = World(tmp_path / "x.db")
    world.alert_changes = {"retry": {"attempts": 3, "first": "1s"}}

    async def scene(world: World) -> None:
        world.slack.fail(500, times=100)
        world.say(world.regression())
        await world.steps(30)
        assert world.db.list_dead()[-1]["attempts"] == 3

    play(scene, world)
    assert world.db.path.exists()


def test_a_silent_channel_does_not_hold_up_the_others(play: Callable[..., World]) -> None:
    async def scene(world: World) -> None:
        await world.slack.stop()
        world.say(world.regression())
        await world.steps(8)
        assert world.pagerduty.open
        assert world.webhook.messages
        assert world.gateway.effects
        await world.slack.__aenter__()
        await world.steps(40)
        assert world.slack.messages

    play(scene)


def test_a_silenced_incident_is_told_when_the_silence_ends(
    tmp_path: Path, play: Callable[..., World]
) -> None:
    world = World(tmp_path / "x.db", mode="observe")

    async def scene(world: World) -> None:
        world.say(world.regression())
        world.operator.silence(
            world.incident["incident_id"], world.clock.now_ns + 60 * 10**9, "ada", world.clock.now_ns
        )
        await world.steps(30)
        assert not world.slack.requests
        await world.steps(40)
        assert len(world.slack.messages) == 1

    play(scene, world)


def test_a_configured_silence_holds_messages_and_not_the_rollback(
    tmp_path: Path, play: Callable[..., World]
) -> None:
    world = World(tmp_path / "x.db")
    world.alert_changes = {"silences": [{"rollout": "support", "comment": "known"}]}

    async def scene(world: World) -> None:
        world.traffic.counts = {"v17": 100}
        world.say(world.regression())
        world.say(world.regression(rollout="other", action="none"))
        await world.steps(60, seconds=2)
        assert world.gateway.effects
        # Over and done while the silence lasts: nobody hears of it afterwards either.
        assert world.only_rollback["state"] == "verified"
        titles = [item["blocks"][0]["text"]["text"] for item in world.slack.messages]
        assert titles == ["Page: other v18"]

    play(scene, world)


def test_warnings_are_limited_and_pages_are_not(tmp_path: Path, play: Callable[..., World]) -> None:
    world = World(tmp_path / "x.db", mode="observe")
    world.alert_changes = {"warnings_per_hour": 3, "pending": {"warn": 0}}
    warn = {"state": "warn", "severity": "warn", "action": "none"}

    async def scene(world: World) -> None:
        world.say(*(world.regression(n, rollout=f"w{n}", **warn) for n in range(6)))
        await world.steps(20)
        assert len(world.slack.messages) == 3
        world.say(*(world.regression(n, rollout=f"p{n}") for n in range(4)))
        await world.steps(20)
        assert len([m for m in world.slack.messages if m["text"].startswith(":rotating")]) == 4
        world.clock.advance(3600)
        await world.steps(20)
        assert len(world.slack.messages) == 10

    play(scene, world)


def test_slack_gets_one_message_a_second(play: Callable[..., World]) -> None:
    async def scene(world: World) -> None:
        world.say(*(world.regression(n, rollout=f"p{n}", action="none") for n in range(8)))
        await world.steps(6)
        before = len(world.slack.messages)
        await world.steps(10, seconds=0.1)
        assert len(world.slack.messages) - before <= 1

    play(scene)


def test_hostile_texts_stay_within_the_limits_and_make_no_markup(play: Callable[..., World]) -> None:
    nasty = "<!channel> <https://evil.example|click> & \u202e" + "x" * 5000

    async def scene(world: World) -> None:
        rubrics = [f"{nasty[:200]}{n}" for n in range(40)]
        world.say(
            *(
                world.regression(n, rubric=rubric, rollout=nasty, candidate=nasty, route=nasty, reason=nasty)
                for n, rubric in enumerate(rubrics)
            )
        )
        await world.steps(10)
        assert not [item for item in world.db.list_dead() if item["event"] != "call"]

    world = play(scene)
    assert world.slack.messages
    assert world.pagerduty.events
    assert world.webhook.messages
    assert "<!channel>" not in str([block for item in world.slack.messages for block in item["blocks"][1:]])


def test_a_gateway_that_fails_pages_as_critical_and_is_called_until_it_works(
    play: Callable[..., World],
) -> None:
    async def scene(world: World) -> None:
        world.gateway.fail(503, times=4)
        world.say(world.regression())
        await world.steps(6)
        assert world.incident["severity"] == "critical"
        assert world.pagerduty.open[world.incident["incident_id"]] == "critical"
        assert world.only_rollback["state"] == "queued"
        await world.steps(60)
        assert world.only_rollback["state"] == "verifying"

    world = play(scene)
    keys = {headers["idempotency-key"] for headers, _ in world.gateway.requests}
    assert len(world.gateway.requests) == 5
    assert len(keys) == 1
    assert len(world.gateway.effects) == 1


def test_an_answer_that_is_lost_is_no_second_rollback(play: Callable[..., World]) -> None:
    """The gateway acted and its answer never came: the next try finds the candidate off."""

    async def scene(world: World) -> None:
        world.gateway.after_effect = _lose_connection
        world.say(world.regression())
        await world.steps(3)
        world.gateway.after_effect = None
        await world.steps(40)
        rollback = world.only_rollback
        assert rollback["state"] in ("verifying", "unverified")
        assert rollback["previous_state"] == 20

    world = play(scene)
    assert len(world.gateway.effects) == 1


async def _lose_connection() -> None:
    raise ConnectionResetError


def test_without_a_readable_state_the_idempotency_key_prevents_a_second_one(
    tmp_path: Path, play: Callable[..., World]
) -> None:
    world = World(tmp_path / "x.db")
    world.target_changes = {"read": None, "undo": None}

    async def scene(world: World) -> None:
        world.gateway.after_effect = _lose_connection
        world.say(world.regression())
        await world.steps(3)
        world.gateway.after_effect = None
        await world.steps(20)

    play(scene, world)
    assert len(world.gateway.requests) > 1
    assert len(world.gateway.effects) == 1


def test_compare_and_set_reads_again_when_somebody_else_wrote(play: Callable[..., World]) -> None:
    async def scene(world: World) -> None:
        async def interfere() -> None:
            world.gateway.on_request = None
            world.gateway.weights = {"v17": 50, "v18": 50}
            world.gateway.version += 1

        world.gateway.on_request = interfere
        world.say(world.regression())
        await world.steps(10)
        assert world.only_rollback["previous_state"] == 50
        assert world.incident["severity"] == "page"

    world = play(scene)
    assert len(world.gateway.effects) == 1
    assert world.gateway.weights == {"v17": 50, "v18": 0}


def test_a_candidate_that_is_off_already_is_not_called(play: Callable[..., World]) -> None:
    async def scene(world: World) -> None:
        world.gateway.weights = {"v17": 100, "v18": 0}
        world.say(world.regression())
        await world.steps(5)
        assert world.only_rollback["state"] == "verifying"
        assert "already" in world.only_rollback["detail"]

    assert play(scene).gateway.requests == []


def test_a_state_that_is_not_as_expected_is_left_alone_and_paged(
    tmp_path: Path, play: Callable[..., World]
) -> None:
    world = World(tmp_path / "x.db")

    async def scene(world: World) -> None:
        world.say(world.regression())
        await world.steps(6)
        assert world.only_rollback["state"] == "failed"
        assert "changed" in world.only_rollback["detail"]
        assert world.incident["severity"] == "critical"

    async def with_expectation(world: World) -> None:
        world.target_changes = {
            "read": {"url": world.gateway.state_url, "pointer": "/weights/{{candidate}}", "expect": 99}
        }
        world.start()
        await scene(world)

    play(with_expectation, world)
    assert world.gateway.requests == []


def test_a_wrong_token_fails_at_once_and_a_person_may_try_again(
    play: Callable[..., World], secrets: pytest.MonkeyPatch
) -> None:
    async def scene(world: World) -> None:
        secrets.setenv("GATEWAY", "wrong")
        world.say(world.regression())
        await world.steps(6)
        assert world.only_rollback["state"] == "failed"
        assert world.incident["severity"] == "critical"
        secrets.setenv("GATEWAY", TOKEN)
        world.operator.approve(world.incident["incident_id"], "ada", world.clock.now_ns)
        await world.steps(3)
        assert world.only_rollback["state"] == "verifying"
        assert world.only_rollback["decided_by"] == "ada"

    assert len(play(scene).gateway.effects) == 1


def test_approve_mode_calls_after_a_person_said_so(tmp_path: Path, play: Callable[..., World]) -> None:
    world = World(tmp_path / "x.db", mode="approve")

    async def scene(world: World) -> None:
        world.say(world.regression())
        await world.steps(10)
        assert world.gateway.effects == []
        world.operator.approve(world.incident["incident_id"], "ada", world.clock.now_ns)
        await world.steps(2)
        assert len(world.gateway.effects) == 1

    play(scene, world)


def test_dry_run_reads_and_records_and_does_not_call(tmp_path: Path, play: Callable[..., World]) -> None:
    world = World(tmp_path / "x.db")
    world.target_changes = {"dry_run": True}

    async def scene(world: World) -> None:
        world.say(world.regression())
        await world.steps(6)
        rollback = world.only_rollback
        assert rollback["state"] == "dry_run"
        assert '"candidate":"v18"' in rollback["detail"]
        assert TOKEN not in str(rollback)

    assert play(scene, world).gateway.requests == []


def test_the_kill_switch_stops_what_is_being_retried(play: Callable[..., World]) -> None:
    async def scene(world: World) -> None:
        world.gateway.fail(503, times=100)
        world.say(world.regression())
        await world.steps(3)
        tries = len(world.gateway.requests)
        assert tries >= 1
        world.operator.set_kill_switch(True, "ada", world.clock.now_ns)
        await world.steps(60)
        assert len(world.gateway.requests) == tries
        assert world.only_rollback["state"] == "blocked"
        assert world.only_rollback["detail"] == "kill_switch"

    play(scene)


def test_a_rollback_is_told_of_though_it_was_over_before_a_slow_channel_came_to_it(
    play: Callable[..., World], tmp_path: Path
) -> None:
    """A rubric that flapped may go untold; a gateway that was changed may not."""
    rollouts = [f"r{number}" for number in range(4)]
    world = World(tmp_path / "slow.db", max_per_hour=100)
    world.webhook_changes = {"per_minute": 1}

    async def scene(world: World) -> None:
        world.traffic.counts = {"v17": 100}
        world.say(*(world.regression(number, rollout=rollout) for number, rollout in enumerate(rollouts)))
        await world.steps(60, seconds=2)
        assert {item["state"] for item in world.db.list_incidents()} == {"resolved"}
        # The scene is what it is meant to be: somebody has not been told yet.
        assert len({item["data"]["rollout"] for item in world.webhook.messages.values()}) < len(rollouts)
        await world.steps(12, seconds=61)
        assert world.db.backlog() == {}

    play(scene, world)
    for rollout in rollouts:
        told = [
            item["type"] for item in world.webhook.messages.values() if item["data"]["rollout"] == rollout
        ]
        assert told[0] == "incident.firing"
        assert told[-1] == "incident.resolved"
        assert told.count("incident.firing") == told.count("incident.resolved") == 1


def test_an_update_that_waits_its_turn_does_not_hold_up_the_end(play: Callable[..., World]) -> None:
    """A rubric that joins is told after group_interval; a rollback that is verified before that is told at once."""

    async def scene(world: World) -> None:
        world.traffic.counts = {"v17": 100}
        world.say(world.regression())
        await world.steps(5)
        world.say(world.regression(1, rubric="refusal", action="none"))
        await world.steps(60)  # less than group_interval
        assert world.only_rollback["state"] == "verified"
        assert world.pagerduty.events[-1]["event_action"] == "resolve"
        assert [item["type"] for item in world.webhook.messages.values()][-1] == "incident.resolved"
        assert world.db.backlog() == {}

    play(scene)


def test_a_candidate_with_traffic_fails_the_verification_and_may_recover(play: Callable[..., World]) -> None:
    async def scene(world: World) -> None:
        world.traffic.counts = {"v17": 100, "v18": 3}
        world.say(world.regression())
        await world.steps(33, seconds=10)
        assert world.only_rollback["state"] == "verify_failed"
        assert world.incident["severity"] == "critical"
        await world.steps(2)
        assert world.pagerduty.open[world.incident["incident_id"]] == "critical"
        world.traffic.counts = {"v17": 100}
        await world.steps(10, seconds=10)
        assert world.only_rollback["state"] == "verified"
        assert world.incident["state"] == "resolved"
        await world.steps(5)
        assert world.pagerduty.open == {}

    play(scene)


@pytest.mark.parametrize("unavailable", [False, True])
def test_no_telemetry_is_said_and_is_never_a_success(play: Callable[..., World], unavailable: bool) -> None:
    async def scene(world: World) -> None:
        world.traffic.unavailable = unavailable
        world.say(world.regression())
        await world.steps(40, seconds=10)
        assert world.only_rollback["state"] == "unverified"
        assert world.incident["state"] == "firing"
        last = world.pagerduty.events[-1]
        assert last["payload"]["severity"] == "warning"
        assert "could not be read" in str(last) if unavailable else "cannot verify" in str(last)

    play(scene)


def test_verification_asks_for_spans_after_the_grace_of_this_route(play: Callable[..., World]) -> None:
    async def scene(world: World) -> None:
        world.traffic.counts = {"v17": 100}
        world.say(world.regression())
        await world.steps(40)

    world = play(scene)
    called = world_called(world)
    for tenant, match, arm, since, until in world.traffic.asked:
        assert (tenant, match, arm) == ("default", {"route": "support"}, "prompt_version")
        assert since >= called + 10 * 10**9
        assert until > since


def world_called(world: World) -> int:
    db = IncidentStore(world.path)
    called = int(db.list_rollbacks()[0]["called_at"])
    db.close()
    return called


def test_echoes_of_a_candidate_that_was_taken_back_make_no_new_incident(play: Callable[..., World]) -> None:
    async def scene(world: World) -> None:
        world.traffic.counts = {"v17": 100}
        world.say(world.regression())
        await world.steps(60)
        assert world.incident["state"] == "resolved"
        world.say(
            world.regression(1, rubric="refusal"),
            world.regression(2, state="no_data", severity="warn", action="none"),
        )
        assert world.incident["state"] == "resolved"
        # Much later, a regression of the same candidate is news: somebody brought it back.
        world.clock.advance(3600)
        world.say(world.regression(3))
        assert [item["state"] for item in world.db.list_incidents()] == ["firing", "resolved"]
        assert len(world.gateway.effects) == 1

    play(scene)


def test_what_was_proven_of_a_candidate_that_is_gone_pages_nobody_again(play: Callable[..., World]) -> None:
    """The gate repeats `regressed` every minute for as long as the incumbent has traffic."""

    def repeated(world: World, number: int, units: int) -> None:
        verdict = world.regression(number, action="none")
        windows = [
            WindowEvidence(seconds=900, incumbent_n=500, candidate_n=units),
            WindowEvidence(seconds=3600, incumbent_n=900, candidate_n=118),
        ]
        world.say(
            msgspec.structs.replace(
                verdict, evidence=msgspec.structs.replace(verdict.evidence, windows=windows)
            )
        )

    async def scene(world: World) -> None:
        world.traffic.counts = {"v17": 100}
        world.say(world.regression())
        await world.steps(60)
        assert world.incident["state"] == "resolved"
        told = len(world.pagerduty.events)
        for number in range(30):
            world.clock.advance(120)
            repeated(world, 1 + number, units=0 if number > 8 else 5)
            await world.steps(1)
        assert world.incident["state"] == "resolved"
        assert len(world.pagerduty.events) == told
        repeated(world, 99, units=3)
        assert [item["state"] for item in world.db.list_incidents()] == ["firing", "resolved"]

    play(scene)


def test_an_incident_about_a_candidate_that_people_took_back_expires(play: Callable[..., World]) -> None:
    async def scene(world: World) -> None:
        world.say(world.regression(action="none"))
        await world.steps(5)
        for number in range(26):
            world.clock.advance(3600)
            verdict = world.regression(1 + number, action="none")
            empty = msgspec.structs.replace(verdict.evidence, windows=[WindowEvidence(seconds=900)])
            world.say(msgspec.structs.replace(verdict, evidence=empty))
            await world.steps(1)
        assert world.incident["resolution"] == "expired: no verdict for long"

    play(scene)


def test_a_restart_takes_its_leases_back_and_sends_what_was_left(play: Callable[..., World]) -> None:
    async def scene(world: World) -> None:
        world.say(world.regression())
        stuck = asyncio.Event()

        async def hang() -> None:
            stuck.set()
            await asyncio.Event().wait()

        world.slack.on_request = hang
        world.clock.advance(6)
        task = asyncio.create_task(world.dispatcher.step(world.clock.now_ns))
        await stuck.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await world.dispatcher.close()
        world.slack.on_request = None
        # The lease would last for 45 s; a restarted dispatcher knows it as its own.
        world.dispatcher = Dispatcher(world.db, world.alerts, world.rollback, traffic=world.traffic)
        await world.steps(2)
        assert len(world.slack.messages) >= 1

    play(scene)


def test_a_channel_that_was_removed_leaves_dead_letters(play: Callable[..., World]) -> None:
    async def scene(world: World) -> None:
        world.say(world.regression())
        world.alert_changes = {"channels": []}
        world.db.close()
        world.start()
        await world.steps(3)
        assert {item["error"] for item in world.db.list_dead()} == {"not configured any more"}
        assert set(world.db.backlog()) <= {"rollback/gateway"}

    play(scene)


def test_run_works_until_it_is_stopped(play: Callable[..., World]) -> None:
    async def scene(world: World) -> None:
        stop = asyncio.Event()
        seen = asyncio.Event()

        async def arrived() -> None:
            seen.set()

        world.webhook.on_request = arrived
        world.say(world.regression())
        world.clock.advance(6)
        task = asyncio.create_task(world.dispatcher.run(stop, world.clock))
        await asyncio.wait_for(seen.wait(), PATIENCE_S)
        stop.set()
        await asyncio.wait_for(task, 30)

    world = play(scene)
    assert world.webhook.messages


def test_a_missing_or_impossible_secret_is_said_at_start(tmp_path: Path, secrets: pytest.MonkeyPatch) -> None:
    secrets.setenv("SHORT", "abc")
    db = IncidentStore(tmp_path / "i.db")
    channels = [
        ({"type": "slack", "url": "${env:NOT_SET_ANYWHERE}"}, "NOT_SET_ANYWHERE"),
        ({"type": "pagerduty", "routing_key": "${env:SHORT}"}, "32 characters"),
        ({"type": "webhook", "url": "https://h.example", "secrets": ["${env:SHORT}"]}, "signing secret"),
    ]
    for channel, message in channels:
        with pytest.raises(ConfigError, match=message):
            Dispatcher(db, AlertSettings.model_validate({"channels": [channel]}), RollbackSettings())
    target = {"name": "g", "url": "https://g.example", "token": "${env:NOT_SET_ANYWHERE}"}
    with pytest.raises(ConfigError, match="NOT_SET_ANYWHERE"):
        Dispatcher(db, AlertSettings(), RollbackSettings.model_validate({"targets": [target]}))
    db.close()


class WatchedGateway(GatewayEndpoint):
    """A gateway that lets something happen while its state is being read."""

    def __init__(self, token: str) -> None:
        super().__init__(token)
        self.on_read: Callable[[], Coroutine[Any, Any, None]] | None = None

    async def _state(self, request: Any) -> Any:
        answer = await super()._state(request)
        hook, self.on_read = self.on_read, None
        if hook is not None:
            await hook()
        return answer


@pytest.mark.parametrize("act", ["resolve", "kill switch"])
def test_what_a_person_stops_while_the_state_is_read_is_not_called(
    tmp_path: Path, play: Callable[..., World], act: str
) -> None:
    world = World(tmp_path / "stopped.db")
    world.gateway = gateway = WatchedGateway(TOKEN)

    async def scene(world: World) -> None:
        async def stop() -> None:
            if act == "resolve":
                world.operator.resolve(world.incident["incident_id"], "ada", world.clock.now_ns)
            else:
                world.operator.set_kill_switch(True, "ada", world.clock.now_ns)

        gateway.on_read = stop
        world.say(world.regression())
        await world.steps(30)
        assert gateway.on_read is None
        assert world.only_rollback["state"] == ("cancelled" if act == "resolve" else "blocked")
        assert world.only_rollback["sent"] == 0
        assert world.db.backlog() == {}

    assert play(scene, world).gateway.requests == []


def test_a_read_that_outlives_its_lease_is_not_followed_by_a_second_call(
    tmp_path: Path, play: Callable[..., World]
) -> None:
    world = World(tmp_path / "lease.db")
    world.gateway = gateway = WatchedGateway(TOKEN)

    async def scene(world: World) -> None:
        async def other_takes_over() -> None:
            other = Dispatcher(
                world.db, world.alerts, world.rollback, traffic=world.traffic, owner="another process"
            )
            world.clock.advance(120)
            await other.step(world.clock.now_ns)
            await other.close()

        gateway.on_read = other_takes_over
        world.say(world.regression())
        await world.steps(2)
        assert world.only_rollback["state"] == "verifying"

    assert len(play(scene, world).gateway.requests) == 1


@pytest.mark.parametrize("status", [429, 412])
def test_an_answer_without_effect_does_not_hide_an_earlier_try_that_had_one(
    tmp_path: Path, play: Callable[..., World], status: int
) -> None:
    world = World(tmp_path / "earlier.db")

    async def scene(world: World) -> None:
        world.target_changes = {
            "read": {"url": world.gateway.state_url, "pointer": "/weights/{{candidate}}", "expect": 20}
        }
        world.start()
        world.gateway.after_effect = _lose_connection
        world.say(world.regression())
        await world.steps(1)
        world.gateway.after_effect = None
        world.gateway.fail(status, times=1)
        await world.steps(40)
        assert world.only_rollback["previous_state"] == 20
        assert world.only_rollback["state"] in ("verifying", "unverified")

    world = play(scene, world)
    assert len(world.gateway.effects) == 1
    assert len({headers["idempotency-key"] for headers, _ in world.gateway.requests}) == 1


def test_a_call_that_was_stopped_after_it_was_sent_goes_on_as_the_same_decision(
    tmp_path: Path, play: Callable[..., World]
) -> None:
    world = World(tmp_path / "stopped-late.db")

    async def scene(world: World) -> None:
        world.target_changes = {"read": {"url": world.gateway.state_url, "pointer": "/weights/{{candidate}}"}}
        world.start()
        world.gateway.after_effect = _lose_connection
        world.say(world.regression())
        await world.steps(1)
        world.gateway.after_effect = None
        world.operator.set_kill_switch(True, "ada", world.clock.now_ns)
        await world.steps(5)
        assert world.only_rollback["state"] == "blocked"
        world.operator.set_kill_switch(False, "ada", world.clock.now_ns)
        world.say(world.regression(1))
        await world.steps(5)
        assert world.only_rollback["state"] == "verifying"
        assert world.only_rollback["previous_state"] == 20

    world = play(scene, world)
    assert len(world.gateway.effects) == 1


def test_a_silence_until_the_end_of_the_calendar_stops_nothing_else(
    tmp_path: Path, play: Callable[..., World]
) -> None:
    world = World(tmp_path / "far.db")
    world.alert_changes = {"silences": [{"ends": "9999-12-31T23:59:59Z"}]}

    async def scene(world: World) -> None:
        world.say(world.regression())
        await world.steps(8)
        assert world.only_rollback["state"] == "verifying"

    assert play(scene, world).slack.requests == []


def test_a_channel_whose_address_or_code_is_wrong_stops_no_other(
    tmp_path: Path, play: Callable[..., World], secrets: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "wrong.db")
    world.alert_changes = {"retry": {"attempts": 3, "first": 1, "longest": 1}}

    def broken(self: Any, notice: Any, now_ns: int) -> None:
        raise KeyError(notice.rollout)

    secrets.setattr("sinks.channels.pagerduty.PagerDutyChannel.build", broken)

    async def scene(world: World) -> None:
        secrets.setenv("SLACK", "https://hooks..example.org/services/x")
        world.say(world.regression(action="none"))
        await world.steps(12)
        dead = {item["lane"]: item for item in world.db.list_dead()}
        assert dead["notify/slack"]["attempts"] == 1  # such a name can never be resolved
        assert dead["notify/pagerduty"]["attempts"] == 3
        assert len(world.webhook.messages) == 1

    play(scene, world)


def test_an_adapter_that_fails_in_its_own_way_is_told_and_given_up(
    tmp_path: Path, play: Callable[..., World], secrets: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "adapter.db")
    world.target_changes = {"retries": {"attempts": 2, "first": 1, "longest": 1}}

    async def broken(self: Any, order: Any) -> None:
        raise KeyError(order.rollout)

    secrets.setattr("sinks.rollback.http.HttpRollback.read", broken)

    async def scene(world: World) -> None:
        world.say(world.regression())
        await world.steps(12)
        assert world.only_rollback["state"] == "failed"
        assert world.incident["severity"] == "critical"

    play(scene, world)


def test_a_message_that_ends_its_sender_every_time_is_given_up(
    tmp_path: Path, play: Callable[..., World]
) -> None:
    world = World(tmp_path / "ends.db")
    world.alert_changes = {"retry": {"attempts": 3, "first": 1, "longest": 1}}

    async def scene(world: World) -> None:
        world.say(world.regression(action="none"))
        tries = 0
        for _ in range(6):
            world.clock.advance(120)
            arrived = asyncio.Event()

            async def never(arrived: asyncio.Event = arrived) -> None:
                arrived.set()
                await asyncio.sleep(60)

            world.webhook.on_request = never
            step = asyncio.create_task(world.dispatcher.step(world.clock.now_ns))
            asked = asyncio.create_task(arrived.wait())
            await asyncio.wait((step, asked), return_when=asyncio.FIRST_COMPLETED)
            tries += arrived.is_set()
            for task in (step, asked):
                task.cancel()
            await asyncio.gather(step, asked, return_exceptions=True)
            await world.dispatcher.close()
            world.dispatcher = Dispatcher(world.db, world.alerts, world.rollback, traffic=world.traffic)
        assert tries == 3
        assert [item["lane"] for item in world.db.list_dead()] == ["notify/webhook"]

    play(scene, world)


def test_a_clock_that_is_put_back_does_not_hold_up_what_comes_next(play: Callable[..., World]) -> None:
    async def scene(world: World) -> None:
        world.clock.advance(7 * 86400)  # wrong
        world.say(world.regression(action="none"))
        await world.steps(8)
        assert len(world.pagerduty.events) == 1
        world.clock.advance(-7 * 86400)
        world.say(world.regression(1, rollout="another", action="none"))
        await world.steps(8)
        assert len(world.pagerduty.events) == 2
        assert len(world.slack.requests) == 2

    play(scene)


def test_what_is_sent_again_after_the_end_is_followed_by_the_end(play: Callable[..., World]) -> None:
    """PagerDuty opens an alert at every trigger; nobody would ever close it."""

    async def scene(world: World) -> None:
        world.pagerduty.fail(400, times=1)
        world.say(world.regression(action="none"))
        await world.steps(8)
        [dead] = world.db.list_dead()
        world.operator.resolve(world.incident["incident_id"], "ada", world.clock.now_ns)
        await world.steps(3)
        assert world.pagerduty.events == []
        world.operator.replay(dead["message_id"], world.clock.now_ns)
        await world.steps(5)
        assert [event["event_action"] for event in world.pagerduty.events] == ["trigger", "resolve"]
        assert world.pagerduty.open == {}

    play(scene)


def test_a_clock_that_is_put_back_after_the_call_does_not_hold_up_the_verification(
    play: Callable[..., World],
) -> None:
    async def scene(world: World) -> None:
        world.traffic.counts = {"v17": 100}
        world.clock.advance(7 * 86400)
        world.say(world.regression())
        await world.steps(2)
        assert world.only_rollback["state"] == "verifying"
        world.clock.advance(-7 * 86400)
        await world.steps(100)
        assert world.only_rollback["state"] == "verified"

    play(scene)
