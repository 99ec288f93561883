"""Slack, by incoming webhook and Block Kit.

Limits (docs.slack.dev, Block Kit reference): 50 blocks, header 150 characters, section text 3,000, ten fields of 2,000,
context ten elements; a whole message is refused near 13,200 characters. Success is the text ``ok``. A webhook cannot
change a message it has sent, so an incident's end is a message of its own. One message a second.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from sinks.alerts_settings import SlackSettings
from sinks.channels.channel import Action, Channel, Finding, Notice, Request, judge_status
from sinks.incidents.incident import clip
from sinks.outgoing import Reply
from stream.errors import Permanent

_HEADER, _TEXT, _FIELD, _FINDINGS = 150, 2900, 1900, 8
_MARKS = {"warn": ":warning:", "page": ":rotating_light:", "critical": ":fire:"}

_MOVED = {"judge": "the judge", "both": "system and judge", "unknown": "nobody yet"}
_SUBJECTS = {"canary": "Rollout", "drift": "Watch", "budget": "Budget", "digest": "Digest of"}


class SlackChannel(Channel):
    """See the module."""

    name = "slack"
    settings: SlackSettings

    def check(self) -> None:
        """See :meth:`Channel.check`."""
        self.settings.url.reveal()

    def build(self, notice: Notice, now_ns: int) -> Request | None:
        """See :meth:`Channel.build`."""
        del now_ns
        if notice.event == "acknowledge":
            return None
        body = msgspec.json.encode(message(notice))
        return Request(self.settings.url.reveal(), body, {"Content-Type": "application/json"})

    def judge(self, reply: Reply) -> None:
        """See :meth:`Channel.judge`; anything but ``ok`` is a refusal, even with status 200."""
        judge_status(reply)
        if reply.body.strip() != b"ok":
            raise Permanent("slack_refused", "Slack did not answer ok")


def message(notice: Notice) -> dict[str, Any]:
    """Return the payload: fallback text and blocks, within Slack's limits."""
    resolved = notice.event == "resolve"
    mark = ":white_check_mark:" if resolved else _MARKS.get(notice.severity, ":warning:")
    word = (
        "Resolved" if resolved else {"repeat": "Still firing"}.get(notice.event, notice.severity.capitalize())
    )
    title = f"{word}: {notice.rollout or notice.route}"
    if notice.candidate:
        title += f" {notice.candidate}"
    facts = [
        (_SUBJECTS.get(notice.kind, "View"), notice.rollout),
        ("Candidate", notice.candidate),
        ("Incumbent", notice.incumbent),
        ("Route", notice.route),
        ("Prompt", notice.prompt_name),
        ("Tenant", notice.tenant),
        ("Since", _moment(notice.opened_at)),
    ]
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": clip(title, _HEADER), "emoji": True}},
        _section(f"{mark} {escape(notice.resolution if resolved else notice.summary)}"),
        {
            "type": "section",
            "fields": [
                {"type": "mrkdwn", "text": clip(f"*{label}*\n{escape(clip(value, 300))}", _FIELD)}
                for label, value in facts
                if value
            ],
        },
    ]
    if notice.note and not resolved:
        blocks.append(_section(f"*New:* {escape(notice.note)}"))
    shown = [finding for finding in notice.conditions if finding.severity != "none"][:_FINDINGS]
    if shown and not resolved:
        blocks.append(_section("\n".join(_finding(finding) for finding in shown)))
    if notice.rollbacks:
        blocks.append(_section("\n".join(_action(action) for action in notice.rollbacks[:_FINDINGS])))
    traces = [trace for finding in shown for trace in finding.worst_trace_ids[:2]][:4]
    footer = [f"incident `{notice.incident_id}`"]
    if traces and not resolved:
        footer.append("worst traces " + " ".join(f"`{escape(clip(trace, 64))}`" for trace in traces))
    if notice.link:
        footer.append(f"<{escape(notice.link)}|open>")
    blocks.append(
        {"type": "context", "elements": [{"type": "mrkdwn", "text": clip(item, _FIELD)} for item in footer]}
    )
    return {"text": clip(f"{mark} {escape(title)}: {escape(notice.summary)}", 1000), "blocks": blocks}


def escape(text: str) -> str:
    """Escape what Slack reads as markup, so that no text of ours makes a link or a mention."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": clip(text, _TEXT)}}


def _finding(finding: Finding) -> str:
    parts = [f"• *{escape(clip(finding.rubric, 80))}* {finding.state}"]
    if finding.candidate_mean is not None and finding.incumbent_mean is not None:
        parts.append(
            f"{finding.candidate_mean:.3f} (n={finding.candidate_n}) against "
            f"{finding.incumbent_mean:.3f} (n={finding.incumbent_n})"
        )
    elif finding.difference is not None:
        parts.append(f"difference {finding.difference:+.3f}")
    if finding.e_threshold:
        parts.append(f"evidence {finding.e_value:.3g} of {finding.e_threshold:.3g}")
    if finding.attribution in ("judge", "both", "unknown"):
        parts.append(f"attributed to {_MOVED[finding.attribution]}")
    return ", ".join(parts)


def _action(action: Action) -> str:
    text = f"• rollback at *{escape(action.target)}*: {action.state.replace('_', ' ')}"
    return f"{text} ({escape(clip(action.detail, 200))})" if action.detail else text


def _moment(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
