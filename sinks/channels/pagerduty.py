"""PagerDuty, by Events API v2.

One alert per incident: the incident's id is the ``dedup_key`` of every event, so a repeated trigger updates the alert and
a resolve closes it. Limits (developer.pagerduty.com, Events API v2): summary 1,024 characters, ``dedup_key`` 255, routing
key 32, 512 KB. 202 is success; 400 is never tried again; 429 and 5xx are.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from sinks.alerts_settings import PagerDutySettings
from sinks.channels.channel import Channel, Notice, Request
from sinks.incidents.incident import clip
from stream.errors import ConfigError

_SUMMARY = 1024
_SEVERITY = {"warn": "warning", "page": "error", "critical": "critical"}
_ACTION = {"resolve": "resolve", "acknowledge": "acknowledge"}


class PagerDutyChannel(Channel):
    """See the module."""

    name = "pagerduty"
    settings: PagerDutySettings

    def check(self) -> None:
        """See :meth:`Channel.check`."""
        if len(self.settings.routing_key.reveal()) != 32:
            raise ConfigError(
                f"the routing key of channel {self.settings.name!r} ({self.settings.routing_key.reference}) "
                "must have 32 characters: copy the Integration Key of an Events API v2 integration"
            )

    def build(self, notice: Notice, now_ns: int) -> Request | None:
        """See :meth:`Channel.build`."""
        del now_ns
        event: dict[str, Any] = {
            "routing_key": self.settings.routing_key.reveal(),
            "event_action": _ACTION.get(notice.event, "trigger"),
            "dedup_key": notice.incident_id,
        }
        if event["event_action"] == "trigger":
            event["payload"] = payload(notice)
            event["client"] = "driftgate"
            if notice.link:
                event["client_url"] = notice.link
                event["links"] = [{"href": notice.link, "text": "Incident in driftgate"}]
        return Request(self.settings.url, msgspec.json.encode(event), {"Content-Type": "application/json"})


def payload(notice: Notice) -> dict[str, Any]:
    """Return the ``payload`` of a trigger event."""
    details = {
        "incident_id": notice.incident_id,
        "tenant": notice.tenant,
        "candidate": notice.candidate,
        "incumbent": notice.incumbent,
        "news": notice.note,
        "findings": [msgspec.to_builtins(finding) for finding in notice.conditions],
        "rollbacks": [msgspec.to_builtins(action) for action in notice.rollbacks],
    }
    text = " | ".join(part for part in (notice.note, notice.summary) if part)
    return {
        "summary": clip(text or f"driftgate incident {notice.incident_id}", _SUMMARY),
        "source": clip(f"driftgate/{notice.tenant}/{notice.rollout}", 255),
        "severity": _SEVERITY.get(notice.severity, "error"),
        "timestamp": datetime.fromtimestamp(notice.at / 1e9, UTC).isoformat(timespec="milliseconds"),
        "component": clip(notice.route or notice.rollout, 255),
        "group": clip(notice.rollout, 255),
        "class": notice.kind,
        "custom_details": {name: value for name, value in details.items() if value},
    }
