"""Prometheus Alertmanager, by its API v2 (``POST /api/v2/alerts``): it groups, routes and silences by labels.

An alert's labels are its identity there, so only the severity, which routes need, may change through an incident; the
rest of what changes stands in annotations. After an escalation the alert of the lower severity ends by itself. A firing alert carries an end in the near future and is sent again before that, so that an Alertmanager that was
restarted learns of it and one that hears nothing more from us lets it go.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from sinks.alerts_settings import AlertmanagerSettings
from sinks.channels.channel import Channel, Notice, Request
from sinks.incidents.incident import clip

_RESENDS_MISSED = 4

_NAMES = {"canary": "DriftgateRegression", "budget": "DriftgateBudget", "digest": "DriftgateDigest"}


class AlertmanagerChannel(Channel):
    """See the module."""

    name = "alertmanager"
    settings: AlertmanagerSettings

    def check(self) -> None:
        """See :meth:`Channel.check`."""
        if self.settings.token is not None:
            self.settings.token.reveal()

    def build(self, notice: Notice, now_ns: int) -> Request | None:
        """See :meth:`Channel.build`."""
        if notice.event == "acknowledge":
            return None
        labels = {
            "alertname": _NAMES.get(notice.kind, "DriftgateDrift"),
            "incident": notice.incident_id,
            "severity": notice.incident_severity,
            "tenant": notice.tenant,
            "rollout": notice.rollout,
            "route": notice.route,
            "prompt_name": notice.prompt_name,
            "candidate": notice.candidate,
            **self.settings.labels,
        }
        annotations = {
            "summary": notice.summary,
            "description": notice.note or notice.resolution,
            "rubrics": ", ".join(item.rubric for item in notice.conditions if item.severity != "none"),
            "rollbacks": ", ".join(f"{item.target}: {item.state}" for item in notice.rollbacks),
        }
        ends = (
            notice.resolved_at
            if notice.event == "resolve"
            else now_ns + int(self.settings.resend * _RESENDS_MISSED * 1e9)
        )
        alert: dict[str, Any] = {
            "labels": {name: clip(value, 500) for name, value in labels.items() if value},
            "annotations": {name: clip(value, 2000) for name, value in annotations.items() if value},
            "startsAt": _moment(notice.opened_at),
            "endsAt": _moment(ends),
        }
        if notice.link:
            alert["generatorURL"] = notice.link
        headers = {"Content-Type": "application/json"}
        if self.settings.token is not None:
            headers["Authorization"] = f"Bearer {self.settings.token.reveal()}"
        return Request(
            self.settings.url.rstrip("/") + "/api/v2/alerts", msgspec.json.encode([alert]), headers
        )


def _moment(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
