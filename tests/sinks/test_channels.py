"""What channels send: within the documented limits whatever the text, and the same for the same notice."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook

from sinks.alerts_settings import AlertSettings
from sinks.channels.alertmanager import AlertmanagerChannel
from sinks.channels.channel import Action, Channel, Finding, Notice, judge_status
from sinks.channels.pagerduty import PagerDutyChannel, payload
from sinks.channels.slack import SlackChannel, message
from sinks.channels.webhook import WebhookChannel, encode, sign
from sinks.outgoing import Reply
from sinks.testing import slack_problem
from stream.errors import Permanent, Transient
from stream.plugins import subclasses_in

NOW = 1_700_000_000 * 10**9
TEXT = st.text(max_size=600)


def notice(**changes: Any) -> Notice:
    fields: dict[str, Any] = {
        "message_id": "ab" * 16,
        "event": "trigger",
        "severity": "page",
        "at": NOW,
        "link": "https://driftgate.example/incidents/1",
        "incident_id": "cd" * 16,
        "tenant": "default",
        "kind": "canary",
        "rollout": "support",
        "route": "/chat",
        "arm": "prompt_version",
        "incumbent": "v17",
        "candidate": "v18",
        "state": "firing",
        "incident_severity": "page",
        "summary": "support: v18 against v17 regressed on groundedness",
        "opened_at": NOW,
        "conditions": [
            Finding(rubric="groundedness", state="regressed", severity="page", e_value=58, e_threshold=40)
        ],
        "rollbacks": [Action(target="gateway", mode="enforce", state="queued")],
    }
    return Notice(**{**fields, **changes})


NOTICES = st.builds(
    notice,
    event=st.sampled_from(["trigger", "update", "repeat", "resolve"]),
    severity=st.sampled_from(["warn", "page", "critical"]),
    note=TEXT,
    rollout=TEXT,
    candidate=TEXT,
    incumbent=TEXT,
    route=TEXT,
    tenant=TEXT,
    summary=TEXT,
    resolution=TEXT,
    link=st.sampled_from(["", "https://driftgate.example/incidents/1"]),
    conditions=st.lists(
        st.builds(
            Finding, rubric=TEXT, state=st.just("regressed"), severity=st.sampled_from(["page", "warn", "none"]),
            reason=TEXT, difference=st.none() | st.floats(-1, 1), e_threshold=st.sampled_from([0.0, 40.0]),
            worst_trace_ids=st.lists(TEXT, max_size=5),
        ),
        max_size=20,
    ),
    rollbacks=st.lists(st.builds(Action, target=TEXT, mode=TEXT, state=TEXT, detail=TEXT), max_size=20),
)  # fmt: skip


@settings(max_examples=40)
@given(NOTICES)
def test_every_slack_message_is_one_slack_accepts(item: Notice) -> None:
    sent = message(item)
    assert slack_problem(json.loads(msgspec.json.encode(sent))) == ""


@settings(max_examples=40)
@given(NOTICES)
def test_every_pagerduty_payload_is_within_its_limits(item: Notice) -> None:
    made = payload(item)
    assert 0 < len(made["summary"]) <= 1024
    assert len(made["source"]) <= 255
    assert made["severity"] in ("critical", "error", "warning", "info")
    assert datetime.fromisoformat(made["timestamp"]).timestamp() == NOW / 1e9
    assert len(msgspec.json.encode(made)) < 500_000


@settings(max_examples=40)
@given(NOTICES)
def test_every_webhook_body_is_below_20_kb(item: Notice) -> None:
    body = encode(item)
    assert len(body) < 20_000
    data = json.loads(body)["data"]
    assert len(data["conditions"]) + data["findings_left_out"] == len(item.conditions)


@given(st.binary(max_size=200), st.binary(min_size=24, max_size=64), st.integers(1, 4_000_000_000))
def test_signatures_equal_those_of_the_reference_library(body: bytes, key: bytes, timestamp: int) -> None:
    text = body.hex()
    wanted = Webhook(base64.b64encode(key).decode()).sign(
        "msg_1", datetime.fromtimestamp(timestamp).astimezone(), text
    )
    assert sign([key], "msg_1", timestamp, text.encode()) == wanted


def test_a_signed_example() -> None:
    """Worked out by hand with openssl: HMAC-SHA256 over id.timestamp.body."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    made = sign([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def channels(monkeypatch: pytest.MonkeyPatch, *settings: dict[str, Any]) -> list[Channel]:
    monkeypatch.setenv("SLACK", "https://hooks.slack.example/services/x")
    monkeypatch.setenv("PD", "r" * 32)
    monkeypatch.setenv("WH", "whsec_" + base64.b64encode(b"k" * 32).decode())
    monkeypatch.setenv("AM", "am-token")
    kinds: dict[str, Any] = subclasses_in("sinks.channels", Channel)
    made = AlertSettings.model_validate({"channels": settings}).channels
    return [kinds[item.type](item) for item in made]


def test_every_kind_of_channel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    found = channels(
        monkeypatch,
        {"type": "slack", "url": "${env:SLACK}"},
        {"type": "pagerduty", "routing_key": "${env:PD}"},
        {"type": "webhook", "url": "https://h.example", "secrets": ["${env:WH}"]},
        {"type": "alertmanager", "url": "https://am.example"},
    )
    assert [type(item) for item in found] == [
        SlackChannel, PagerDutyChannel, WebhookChannel, AlertmanagerChannel,
    ]  # fmt: skip


def test_pagerduty_keeps_one_alert_per_incident(monkeypatch: pytest.MonkeyPatch) -> None:
    [channel] = channels(monkeypatch, {"type": "pagerduty", "routing_key": "${env:PD}"})
    actions = []
    for event in ("trigger", "update", "repeat", "acknowledge", "resolve"):
        request = channel.build(notice(event=event), NOW)
        assert request is not None
        sent = json.loads(request.body)
        assert sent["dedup_key"] == "cd" * 16
        assert ("payload" in sent) == (sent["event_action"] == "trigger")
        actions.append(sent["event_action"])
    assert actions == ["trigger", "trigger", "trigger", "acknowledge", "resolve"]


def test_alertmanager_gets_labels_an_end_and_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    [channel] = channels(
        monkeypatch,
        {
            "type": "alertmanager",
            "url": "https://am.example/",
            "token": "${env:AM}",
            "labels": {"team": "ml"},
            "resend": "1m",
        },
    )
    request = channel.build(notice(), NOW)
    assert request is not None
    assert request.url == "https://am.example/api/v2/alerts"
    assert request.headers["Authorization"] == "Bearer am-token"
    [alert] = json.loads(request.body)
    assert alert["labels"] == {
        "alertname": "DriftgateRegression", "incident": "cd" * 16, "severity": "page", "tenant": "default",
        "rollout": "support", "route": "/chat", "candidate": "v18", "team": "ml",
    }  # fmt: skip
    assert alert["startsAt"] == "2023-11-14T22:13:20.000Z"
    assert alert["endsAt"] == "2023-11-14T22:17:20.000Z"
    resolved = channel.build(notice(event="resolve", resolved_at=NOW + 10**9), NOW + 5 * 10**9)
    assert resolved is not None
    [ended] = json.loads(resolved.body)
    assert ended["labels"] == alert["labels"]
    assert ended["endsAt"] == "2023-11-14T22:13:21.000Z"
    assert channel.build(notice(event="acknowledge"), NOW) is None


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_success(status: int) -> None:
    judge_status(Reply(status, {}, b""))


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_later(status: int) -> None:
    with pytest.raises(Transient) as caught:
        judge_status(Reply(status, {"retry-after": "7"}, b""))
    assert caught.value.retry_after == 7


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 403, 404, 410, 413, 422])
def test_never(status: int) -> None:
    with pytest.raises(Permanent):
        judge_status(Reply(status, {}, b""))


def test_slack_means_ok_only_when_it_says_ok(monkeypatch: pytest.MonkeyPatch) -> None:
    [channel] = channels(monkeypatch, {"type": "slack", "url": "${env:SLACK}"})
    channel.judge(Reply(200, {}, b"ok"))
    with pytest.raises(Permanent):
        channel.judge(Reply(200, {}, b"<html>login</html>"))
