"""From the wish to roll back to a call in the outbox: the safety rules, and what a person may decide.

The rules, in this order: a target serves the rollout; this candidate of this rollout and route was not acted on before; the
kill switch is off; the verdict is recent; and, for calls without a person, the cooldown of rollout and route has passed and
the budget of the hour is not used up. Each has a name that is counted (``rollbacks_blocked.<why>``) and shown.
"""

from __future__ import annotations

from sinks.alerts_settings import HttpTarget, RollbackSettings
from sinks.incidents.incident import Incident, Rollback
from sinks.incidents.outbox import queue_call
from sinks.incidents.store import Ledger
from stream.records import Verdict, WindowEvidence, stable_id

_SECOND = 1_000_000_000
_HOUR = 3600 * _SECOND
_CLOSING = 300.0  # seconds a session may take to close after its last span


def request_rollback(
    ledger: Ledger, settings: RollbackSettings, incident: Incident, verdict: Verdict, now_ns: int
) -> str:
    """Act on a verdict that asks for a rollback, and return one line that says what became of it."""
    ledger.count(incident.partition, "rollbacks_requested")
    targets = settings.targets_of(incident.rollout)
    if not targets and settings.mode != "observe":
        return _blocked(ledger, incident, "no_target", now_ns)
    said = []
    # In observe mode a target need not exist: the point is to see what would be decided.
    for target in targets or [HttpTarget(name="none", url="https://none.invalid/")]:
        found = ledger.one(
            Rollback,
            "SELECT * FROM rollbacks WHERE incident_id = ? AND target = ?",
            (incident.incident_id, target.name),
        )
        if found is not None and not _asked_anew(found, settings, target):
            ledger.count(incident.partition, "rollbacks_blocked.already_acted")
            said.append(f"{target.name}: already {found.state}")
            continue
        rollback = _rollback(settings, incident, verdict, target.name, now_ns)
        if found is not None:
            rollback.version = found.version
            if found.sent:
                # A write may have reached the gateway: it goes on as the same decision, under the same key.
                rollback.decision_id = found.decision_id
                rollback.previous_state, rollback.undo, rollback.sent = found.previous_state, found.undo, 1
        why = "" if settings.mode == "observe" else _why_not(ledger, settings, incident, verdict, now_ns)
        if settings.mode == "observe":
            rollback.state = "observed"
            rollback.detail = "mode is observe: nothing was called"
            ledger.count(incident.partition, "rollbacks_observed")
        elif why:
            rollback.state = "blocked"
            rollback.detail = why
            ledger.count(incident.partition, f"rollbacks_blocked.{why}")
        elif settings.mode == "approve":
            rollback.state = "awaiting_approval"
            ledger.count(incident.partition, "rollbacks_awaiting_approval")
        else:
            rollback.state = "queued"
            rollback.decided_at = now_ns
            ledger.count(incident.partition, "rollbacks_queued")
            queue_call(ledger, incident, target.name, rollback.rollback_id, rollback.decision_id, now_ns)
        ledger.save(rollback, now_ns)
        line = f"{target.name}: {rollback.state}{' (' + why + ')' if why else ''}"
        ledger.remember(incident, now_ns, "rollback", line)
        said.append(line)
    return "; ".join(said)


def _asked_anew(found: Rollback, settings: RollbackSettings, target: HttpTarget) -> bool:
    """Return whether a further verdict is judged again: nothing was called, and what stood in the way may be gone."""
    return (
        found.state == "blocked"
        or (found.state == "observed" and settings.mode != "observe")
        or (found.state == "dry_run" and not target.dry_run)
    )


def _rollback(
    settings: RollbackSettings, incident: Incident, verdict: Verdict, target: str, now_ns: int
) -> Rollback:
    return Rollback(
        rollback_id=stable_id("rollback", incident.incident_id, target),
        incident_id=incident.incident_id,
        tenant=incident.tenant,
        rollout=incident.rollout,
        route=incident.route,
        arm=incident.arm,
        incumbent=verdict.incumbent or incident.incumbent,
        candidate=incident.candidate,
        prompt_name=incident.prompt_name,
        target=target,
        mode=settings.mode,
        state="blocked",
        automatic=int(settings.mode == "enforce"),
        decision_id=verdict.verdict_id,
        reason=verdict.reason[:500],
        requested_at=now_ns,
        partition=incident.partition,
    )


def _blocked(ledger: Ledger, incident: Incident, why: str, now_ns: int) -> str:
    ledger.count(incident.partition, f"rollbacks_blocked.{why}")
    ledger.remember(incident, now_ns, "rollback", f"blocked ({why})")
    return f"blocked ({why})"


def _why_not(
    ledger: Ledger, settings: RollbackSettings, incident: Incident, verdict: Verdict, now_ns: int
) -> str:
    if settings.kill_switch or ledger.rows("SELECT 1 FROM meta WHERE key = 'kill_switch' AND value <> ''"):
        return "kill_switch"
    if now_ns - verdict.time_unix_nano > settings.max_verdict_age * _SECOND:
        return "stale"
    # Acted on means decided and not taken back since, whatever the gateway answered.
    if ledger.rows(
        "SELECT 1 FROM rollbacks WHERE tenant = ? AND rollout = ? AND route = ? AND prompt_name = ? AND candidate = ? "
        "AND incident_id <> ? AND decided_at > 0 AND state NOT IN ('blocked', 'cancelled') LIMIT 1",
        (
            incident.tenant,
            incident.rollout,
            incident.route,
            incident.prompt_name,
            incident.candidate,
            incident.incident_id,
        ),
    ):
        return "already_acted"
    if settings.mode == "approve":
        return ""  # a person stands between; the limits below are for machines
    if ledger.rows(
        "SELECT 1 FROM rollbacks WHERE tenant = ? AND rollout = ? AND route = ? AND prompt_name = ? AND incident_id <> ? "
        "AND automatic = 1 AND decided_at > ? AND state NOT IN ('blocked', 'cancelled') LIMIT 1",
        (
            incident.tenant, incident.rollout, incident.route, incident.prompt_name, incident.incident_id,
            now_ns - int(settings.cooldown * _SECOND),
        ),
    ):  # fmt: skip
        return "cooldown"
    # Several targets of one incident are one rollback.
    used = ledger.rows(
        "SELECT count(DISTINCT incident_id) AS n FROM rollbacks WHERE automatic = 1 AND decided_at > ? "
        "AND incident_id <> ? AND state NOT IN ('blocked', 'cancelled')",
        (now_ns - _HOUR, incident.incident_id),
    )[0]["n"]
    return "budget" if used >= settings.max_per_hour else ""


def called(ledger: Ledger, incident: Incident) -> bool:
    """Return whether a gateway has taken the candidate of ``incident`` back, verified or not."""
    return bool(
        ledger.rows(
            "SELECT 1 FROM rollbacks WHERE incident_id = ? AND called_at > 0 LIMIT 1", (incident.incident_id,)
        )
    )


def recently_rolled_back(ledger: Ledger, settings: RollbackSettings, verdict: Verdict) -> bool:
    """Return whether ``verdict`` is an echo of a candidate that was verified to be gone."""
    found = ledger.one(
        Rollback,
        "SELECT * FROM rollbacks WHERE tenant = ? AND rollout = ? AND route = ? AND prompt_name = ? AND candidate = ? "
        "AND state = 'verified' ORDER BY verified_at DESC LIMIT 1",
        (verdict.tenant, verdict.rollout, verdict.route, verdict.prompt_name, verdict.candidate),
    )
    if found is None:
        return False
    # A candidate without traffic sends no data: that is what was wanted. Its last sessions stay in the present window for
    # that window's length after they closed.
    window = present_window(verdict)
    quiet = max(settings.quiet_after, window.seconds + _CLOSING if window is not None else 0.0)
    return verdict.state == "no_data" or verdict.time_unix_nano <= found.verified_at + int(quiet * _SECOND)


def present_window(verdict: Verdict) -> WindowEvidence | None:
    """Return the shorter of the windows that say how bad it is now."""
    return min(verdict.evidence.windows, key=lambda window: window.seconds, default=None)


def candidate_is_gone(verdict: Verdict) -> bool:
    """Return whether a canary verdict repeats what was proven about a candidate that nobody is served any more.

    ``regressed`` stays for as long as the gate does, and is reported again while the incumbent has traffic.
    """
    window = present_window(verdict)
    return verdict.kind == "canary" and window is not None and not window.candidate_n


def cancel_requests(ledger: Ledger, incident: Incident, why: str, now_ns: int) -> None:
    """End the rollbacks of ``incident`` that no one has called yet."""
    for rollback in ledger.all(
        Rollback,
        "SELECT * FROM rollbacks WHERE incident_id = ? AND state IN ('awaiting_approval', 'queued') AND sent = 0",
        (incident.incident_id,),
    ):
        rollback.state = "cancelled"
        rollback.detail = why
        ledger.save(rollback, now_ns)
        ledger.count(incident.partition, "rollbacks_cancelled")
        ledger.execute(
            "UPDATE outbox SET state = 'cancelled', error = ?, done_at = ? WHERE incident_id = ? AND note = ? "
            "AND event = 'call' AND state = 'queued'",
            (why, now_ns, incident.incident_id, rollback.rollback_id),
        )
