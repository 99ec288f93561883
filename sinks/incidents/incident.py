"""What an incident, its conditions and its rollbacks are, and what a verdict means for them. Pure."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from stream.records import Verdict, stable_id

IncidentState = Literal["pending", "firing", "resolved"]
RollbackState = Literal[
    "observed",  # mode observe: would have been called
    "awaiting_approval",  # mode approve: a person decides
    "blocked",  # a safety rule said no; ``detail`` names it
    "queued",  # will be called, or is being retried
    "dry_run",  # the target is a rehearsal: read and rendered, not called
    "verifying",  # called; telemetry is being watched
    "verified",  # the candidate's traffic fell to zero
    "verify_failed",  # it did not, in time
    "unverified",  # nothing to tell by: no traffic, or no telemetry
    "failed",  # the gateway refused, or all tries were used up
    "cancelled",  # the incident ended before anybody approved
]

RANK = {"none": 0, "warn": 1, "page": 2, "critical": 3}
# States that prove a rubric is well again. Others (warming up, too little data) prove nothing and leave it as it is.
WELL = frozenset({"ok", "non_inferior"})


class Incident(msgspec.Struct, kw_only=True):
    """One cause, from the first bad verdict until it is over. Times are Unix nanoseconds, 0 for "not yet"."""

    incident_id: str
    tenant: str
    cause: str
    kind: str
    rollout: str
    route: str
    arm: str
    incumbent: str
    candidate: str
    prompt_name: str = ""
    state: IncidentState
    severity: str  # the worst it has been
    opened_at: int
    firing_at: int = 0
    updated_at: int = 0
    resolved_at: int = 0
    clear_since: int = 0
    last_verdict_at: int = 0
    acknowledged_at: int = 0
    acknowledged_by: str = ""
    silenced_until: int = 0
    silenced_by: str = ""
    summary: str = ""
    resolution: str = ""
    verdict_id: str
    partition: int = 0
    version: int = 0


class Condition(msgspec.Struct, kw_only=True):
    """What one rubric says within an incident."""

    incident_id: str
    rubric: str
    state: str
    severity: str  # "none" once it is well again
    since: int
    updated_at: int
    verdict_id: str
    reason: str = ""
    verdict: bytes = b""  # JSON of the last verdict, evidence included


class Rollback(msgspec.Struct, kw_only=True):
    """One decision to take a candidate back at one target."""

    rollback_id: str
    incident_id: str
    tenant: str
    rollout: str
    route: str
    arm: str
    incumbent: str
    candidate: str
    prompt_name: str = ""
    target: str
    mode: str
    state: RollbackState
    automatic: int
    decision_id: str  # id of the verdict that asked for it
    reason: str = ""
    requested_at: int
    decided_at: int = 0
    decided_by: str = ""
    called_at: int = 0
    verified_at: int = 0
    attempts: int = 0
    status_code: int = 0
    previous_state: bytes = b""  # JSON as read before the first write
    undo: bytes = b""  # JSON of the request that would take it back
    sent: int = 0  # 1 once a write may have reached the gateway
    detail: str = ""
    verification: bytes = b""  # JSON of rollback.verification.Watch
    next_check_at: int = 0
    partition: int = 0
    version: int = 0

    @property
    def idempotency_key(self) -> str:
        """The same for every try of this decision at this target, and only there; 65 characters of hex."""
        subject = stable_id(self.tenant, self.rollout, self.route, self.prompt_name)
        return f"{subject}-{stable_id(self.decision_id, self.target)}"


def cause_of(verdict: Verdict) -> str:
    """Return what groups verdicts into one incident: tenant, kind, rollout, route, prompt and candidate; all rubrics together.

    Route and prompt belong to it because one rollout is judged for each of them on its own, and ``v18`` of one prompt
    has nothing to do with ``v18`` of another.
    """
    return stable_id(
        verdict.tenant, verdict.kind, verdict.rollout, verdict.route, verdict.prompt_name, verdict.candidate
    )


def severity_of(verdict: Verdict, warn_states: tuple[str, ...]) -> str:
    """Return ``none``, ``warn`` or ``page``; states named in ``warn_states`` are at least a warning."""
    if verdict.severity == "none" and verdict.state in warn_states:
        return "warn"
    return verdict.severity


def summary_of(verdict: Verdict) -> str:
    """Return one line for people, at most 500 characters."""
    subject = (
        " ".join(part for part in (verdict.rollout, verdict.route, verdict.prompt_name) if part) or "cohort"
    )
    if verdict.kind == "budget":
        words = {"warn": "is nearly used up", "over_budget": "is used up"}.get(verdict.state, verdict.state)
        of = f" of {verdict.candidate}" if verdict.candidate else ""
        return clip(f"budget {verdict.rollout}{of} {words}: {verdict.reason}", 500)
    if verdict.kind == "digest":
        return clip(f"digest of {verdict.rollout}: {verdict.reason}", 500)
    arm = (
        f" {verdict.candidate} against {verdict.incumbent}" if verdict.incumbent else f" {verdict.candidate}"
    )
    words = {
        "regressed": "regressed",
        "warn": "is getting worse",
        "no_data": "sends no data",
        "judge_changed": "has a changed judge",
        "sample_ratio_mismatch": "has a sample ratio mismatch",
    }.get(verdict.state, verdict.state)
    text = f"{subject}:{arm if verdict.candidate else ''} {words} on {verdict.rubric}"
    return clip(f"{text}: {verdict.reason}" if verdict.reason else text, 500)


def clip(text: str, limit: int) -> str:
    """Return ``text`` cut to ``limit`` characters, with an ellipsis where it was cut."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def public(record: Incident | Condition | Rollback) -> dict[str, Any]:
    """Return the record as plain JSON types; JSON columns are decoded."""
    fields: dict[str, Any] = msgspec.structs.asdict(record)
    for name, value in fields.items():
        if isinstance(value, bytes):
            fields[name] = msgspec.json.decode(value) if value else None
    return fields
