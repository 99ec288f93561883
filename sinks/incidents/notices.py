"""What a message says, taken from the database when it is first sent; and whether it may be said at all."""

from __future__ import annotations

import msgspec

from sinks.alerts_settings import AlertSettings
from sinks.channels.channel import Action, Finding, Notice
from sinks.incidents.incident import Condition, Incident, Rollback, clip
from sinks.incidents.outbox import Message
from sinks.incidents.store import Ledger
from stream.records import Verdict

_FINDINGS = 20
_TRACES = 5
_SECOND = 1_000_000_000
_RECHECK = 3600 * _SECOND  # a silence without an end is looked at again
_LONGEST = 365 * 24 * _RECHECK


def notice_of(
    ledger: Ledger, message: Message, incident: Incident, settings: AlertSettings, now_ns: int
) -> Notice:
    """Return what ``message`` says about ``incident`` now; texts are bounded."""
    conditions = ledger.all(
        Condition,
        "SELECT * FROM conditions WHERE incident_id = ? "
        "ORDER BY CASE severity WHEN 'page' THEN 0 WHEN 'warn' THEN 1 ELSE 2 END, rubric LIMIT ?",
        (incident.incident_id, _FINDINGS),
    )
    rollbacks = ledger.all(
        Rollback, "SELECT * FROM rollbacks WHERE incident_id = ? ORDER BY target LIMIT ?",
        (incident.incident_id, _FINDINGS),
    )  # fmt: skip
    link = f"{settings.external_url}/incidents/{incident.incident_id}" if settings.external_url else ""
    return Notice(
        message_id=message.message_id,
        event=message.event,
        severity=message.severity,
        note=message.note,
        at=now_ns,
        link=link,
        incident_id=incident.incident_id,
        tenant=clip(incident.tenant, 200),
        kind=incident.kind,
        rollout=clip(incident.rollout, 200),
        route=clip(incident.route, 200),
        prompt_name=clip(incident.prompt_name, 200),
        arm=clip(incident.arm, 200),
        incumbent=clip(incident.incumbent, 200),
        candidate=clip(incident.candidate, 200),
        state=incident.state,
        incident_severity=incident.severity,
        summary=clip(incident.summary, 500),
        resolution=clip(incident.resolution, 500),
        opened_at=incident.opened_at,
        resolved_at=incident.resolved_at,
        acknowledged_by=incident.acknowledged_by,
        conditions=[_finding(condition) for condition in conditions],
        rollbacks=[
            Action(target=item.target, mode=item.mode, state=item.state, detail=clip(item.detail, 300))
            for item in rollbacks
        ],
    )


def _finding(condition: Condition) -> Finding:
    verdict = msgspec.json.decode(condition.verdict, type=Verdict)
    evidence = verdict.evidence
    window = max(evidence.windows, key=lambda item: item.seconds, default=None)
    return Finding(
        rubric=clip(condition.rubric, 200),
        state=condition.state,
        severity=condition.severity,
        reason=clip(condition.reason, 300),
        attribution=verdict.attribution,
        e_value=evidence.e_value,
        e_threshold=evidence.e_threshold,
        sr_value=evidence.sr_value,
        sr_threshold=evidence.sr_threshold,
        difference=window.difference if window is not None else evidence.mean_difference,
        candidate_mean=window.candidate_mean if window is not None else None,
        incumbent_mean=window.incumbent_mean if window is not None else None,
        candidate_n=window.candidate_n if window is not None else evidence.candidate_units,
        incumbent_n=window.incumbent_n if window is not None else evidence.incumbent_units,
        worst_trace_ids=[clip(trace, 64) for trace in evidence.worst_trace_ids[:_TRACES]],
    )


def silenced_until(settings: AlertSettings, incident: Incident, now_ns: int) -> int:
    """Return until when nothing may be said about ``incident``; 0 if it may be said now.

    A silence without an end, or a far one, returns a time at which to ask again.
    """
    until = incident.silenced_until if incident.silenced_until > now_ns else 0
    for silence in settings.silences:
        starts = int(silence.starts.timestamp() * _SECOND) if silence.starts is not None else 0
        ends = int(silence.ends.timestamp() * _SECOND) if silence.ends is not None else now_ns + _RECHECK
        # The end of the calendar is more nanoseconds than the database can hold.
        ends = min(ends, now_ns + _LONGEST)
        wanted = (silence.tenant, silence.rollout, silence.route, silence.candidate)
        given = (incident.tenant, incident.rollout, incident.route, incident.candidate)
        if (
            starts <= now_ns < ends
            and incident.severity in silence.severities
            and all(not want or want == have for want, have in zip(wanted, given, strict=True))
        ):
            until = max(until, ends)
    return until
