"""Two pages for people, written on the server: how the process is, and one incident (messages link to it).

They only show; acting takes the command line or the API. Everything on them is data from outside, so every text is
escaped, and the headers forbid scripts, frames and loading anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from driftgate.runtime.status import Status

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1a1a1a}"
    "table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}"
    "td,th{text-align:left;vertical-align:top;padding:.3rem .7rem;border-bottom:1px solid #ddd}"
    "h1{font-size:1.4rem;line-height:1.3}th{color:#666;font-weight:600}code{font-size:13px}h2{font-size:1.1rem;margin-top:2rem}"
)


def front(status: Status) -> str:
    """Return the page about the process: stages, judges that cannot be asked, incidents, rollbacks."""
    body = [
        f"<h1>driftgate {escape(status.version)}</h1>",
        f"<p>{'ready' if status.ready else 'not ready'}, {_when(status.time_unix_nano)}</p>",
        "<h2>Incidents</h2>",
        _table(
            ("incident", "state", "severity", "opened", "what"),
            (
                (
                    _Markup(_link(item["incident_id"])),
                    item["state"],
                    item["severity"],
                    _when(item["opened_at"]),
                    item["summary"],
                )
                for item in status.incidents
            ),
        ),
        "<h2>Rollbacks</h2>",
        _rollbacks(status.rollbacks),
        "<h2>Stages</h2>",
        _table(
            ("stage", "state", "why", "records to take"),
            ((stage.name, stage.state, stage.reason, f"{stage.lag:,}") for stage in status.stages),
        ),
    ]
    if judges := status.scorers.get("judges"):
        body += [
            "<h2>Judges</h2>",
            _table(
                ("rubric", "model", "state", "spent today, USD"),
                (
                    (
                        judge["rubric"],
                        judge["model"],
                        f"blocked: {judge['blocked']} {judge['detail']}" if judge["blocked"] else "asked",
                        f"{judge['spent_usd_today']:.2f}",
                    )
                    for judge in judges
                ),
            ),
        ]
    return _document("driftgate", body)


def incident(found: dict[str, Any]) -> str:
    """Return the page about one incident: what is bad, what was done, who was told, what happened when."""
    facts = [
        ("state", ": ".join(filter(None, (found["state"], found["resolution"])))),
        ("severity", found["severity"]),
        ("tenant", found["tenant"]),
        ("rollout", found["rollout"]),
        ("route", found["route"]),
        ("incumbent", found["incumbent"]),
        ("candidate", found["candidate"]),
        ("opened", _when(found["opened_at"])),
        ("resolved", _when(found["resolved_at"])),
        ("acknowledged", f"{_when(found['acknowledged_at'])} {found['acknowledged_by']}"),
        ("silenced until", f"{_when(found['silenced_until'])} {found['silenced_by']}"),
        ("verdict", found["verdict_id"]),
    ]
    body = [
        '<p><a href="../">all incidents</a></p>',
        f"<h1>{escape(found['summary'])}</h1>",
        _table(("", ""), ((name, value) for name, value in facts if value.strip())),
        "<h2>Rubrics</h2>",
        _table(
            ("rubric", "state", "severity", "since", "why"),
            (
                (item["rubric"], item["state"], item["severity"], _when(item["since"]), item["reason"])
                for item in found["conditions"]
            ),
        ),
        "<h2>Rollbacks</h2>",
        _rollbacks(found["rollbacks"]),
        "<h2>Messages</h2>",
        _table(
            ("message", "to", "event", "state", "tries", "error"),
            (
                (
                    item["message_id"],
                    item["lane"],
                    item["event"],
                    item["state"],
                    str(item["attempts"]),
                    item["error"],
                )
                for item in found["messages"]
            ),
        ),
        "<h2>History</h2>",
        _table(
            ("when", "what", "who", "detail"),
            ((_when(item["at"]), item["what"], item["who"], item["detail"]) for item in found["history"]),
        ),
        f"<p><code>driftgate explain {escape(found['verdict_id'])} --png why.png</code> shows what it rests on; "
        f"<code>driftgate incidents ack {escape(found['incident_id'])}</code> says that you have it.</p>",
    ]
    return _document(found["summary"], body)


class _Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def _link(incident_id: str) -> str:
    return f'<a href="incidents/{escape(incident_id)}"><code>{escape(incident_id[:12])}</code></a>'


def _rollbacks(found: Sequence[dict[str, Any]]) -> str:
    return _table(
        ("target", "candidate", "state", "requested", "called", "verified", "detail"),
        (
            (
                item["target"],
                item["candidate"],
                item["state"],
                _when(item["requested_at"]),
                _when(item["called_at"]),
                _when(item["verified_at"]),
                item["detail"],
            )
            for item in found
        ),
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [
        "<tr>"
        + "".join(f"<td>{cell if isinstance(cell, _Markup) else escape(cell)}</td>" for cell in row)
        + "</tr>"
        for row in rows
    ]
    if not lines:
        return "<p>none</p>"
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f"<table><tr>{names}</tr>{''.join(lines)}</table>"


def _document(title: str, body: Sequence[str]) -> str:
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>{''.join(body)}</html>"
    )


def _when(unix_nano: int) -> str:
    return datetime.fromtimestamp(unix_nano / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if unix_nano else ""
