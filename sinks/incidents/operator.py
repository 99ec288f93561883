"""What a person may do with incidents and rollbacks: the functions behind the command line and the web page.

Every act is written into the incident's history with the name of who did it. An act that is not possible raises
:class:`stream.errors.Permanent` with a sentence that says why.
"""

from __future__ import annotations

from typing import Any

from sinks.alerts_settings import AlertSettings, RollbackSettings
from sinks.incidents.engine import IncidentEngine
from sinks.incidents.incident import Incident, Rollback
from sinks.incidents.outbox import queue_call, queue_end, queue_notice, replay
from sinks.incidents.store import IncidentStore, Ledger
from stream.errors import Permanent

_APPROVABLE = ("observed", "awaiting_approval", "blocked", "failed")


class Operator:
    """Acts on one incident database. Times are Unix nanoseconds; ``who`` is a person's name for the record."""

    def __init__(self, db: IncidentStore, alerts: AlertSettings, rollback: RollbackSettings) -> None:
        self._db = db
        self._alerts = alerts
        self._rollback = rollback
        self._engine = IncidentEngine(alerts, rollback)

    def list_incidents(self, *, state: str = "", tenant: str = "", limit: int = 100) -> list[dict[str, Any]]:
        """See :meth:`IncidentStore.list_incidents`."""
        return self._db.list_incidents(state=state, tenant=tenant, limit=limit)

    def list_rollbacks(self, *, state: str = "", tenant: str = "", limit: int = 100) -> list[dict[str, Any]]:
        """See :meth:`IncidentStore.list_rollbacks`."""
        return self._db.list_rollbacks(state=state, tenant=tenant, limit=limit)

    def show(self, incident_id: str) -> dict[str, Any]:
        """See :meth:`IncidentStore.show`."""
        return self._db.show(incident_id)

    def acknowledge(self, incident_id: str, who: str, now_ns: int) -> dict[str, Any]:
        """Somebody looks at it: repeats stop. Escalations and the end are still told. Idempotent."""
        with self._db.transaction() as ledger:
            incident = _open(ledger, incident_id)
            if not incident.acknowledged_at:
                incident.acknowledged_at = now_ns
                incident.acknowledged_by = who[:200]
                ledger.save(incident, now_ns)
                ledger.remember(incident, now_ns, "acknowledged", "", who)
                if incident.state == "firing":
                    queue_notice(ledger, self._alerts, incident, "acknowledge", now_ns, now_ns)
        return self._db.show(incident_id)

    def silence(
        self, incident_id: str, until_ns: int, who: str, now_ns: int, comment: str = ""
    ) -> dict[str, Any]:
        """Hold all messages of an incident but its end until ``until_ns``; a time in the past lifts the silence."""
        with self._db.transaction() as ledger:
            incident = _open(ledger, incident_id)
            incident.silenced_until = until_ns
            incident.silenced_by = who[:200]
            ledger.save(incident, now_ns)
            ledger.remember(incident, now_ns, "silenced" if until_ns > now_ns else "unsilenced", comment, who)
            if until_ns <= now_ns:
                ledger.execute(
                    "UPDATE outbox SET due_at = ? WHERE incident_id = ? AND state = 'queued' AND attempts = 0 "
                    "AND event <> 'call'",
                    (now_ns, incident_id),
                )
        return self._db.show(incident_id)

    def resolve(self, incident_id: str, who: str, now_ns: int, comment: str = "") -> dict[str, Any]:
        """Close an incident by hand; calls not yet made are cancelled."""
        with self._db.transaction() as ledger:
            incident = _open(ledger, incident_id)
            why = f"closed by {who[:200]}" + (f": {comment[:300]}" if comment else "")
            self._engine.resolve(ledger, incident, why, now_ns, who=who)
        return self._db.show(incident_id)

    def approve(self, incident_id: str, who: str, now_ns: int) -> list[dict[str, Any]]:
        """Call the rollbacks of an incident that wait, were blocked by a safety rule, or failed; return them.

        Those that were observed may go, too, now that the mode is another one.

        A person overrides cooldown and budget, but neither the kill switch nor mode ``observe``.

        Raises
        ------
        Permanent
            Nothing to approve, the incident is over, the mode is observe, or the kill switch is on.
        """
        if self._rollback.mode == "observe":
            raise Permanent(
                "mode_observe", "rollback.mode is observe; set it to approve or enforce to allow calls"
            )
        with self._db.transaction() as ledger:
            incident = _open(ledger, incident_id)
            if self._rollback.kill_switch or _kill_switch(ledger):
                raise Permanent("kill_switch", "the rollback kill switch is on; switch it off first")
            known = {target.name for target in self._rollback.targets}
            found = [
                rollback
                for rollback in ledger.all(
                    Rollback, "SELECT * FROM rollbacks WHERE incident_id = ? ORDER BY target", (incident_id,)
                )
                if rollback.state in _APPROVABLE and rollback.target in known
            ]
            if not found:
                raise Permanent(
                    "nothing_to_approve", "no rollback of this incident waits, is blocked or has failed"
                )
            for rollback in found:
                rollback.state = "queued"
                rollback.automatic = 0
                rollback.mode = self._rollback.mode
                rollback.decided_at = now_ns
                rollback.decided_by = who[:200]
                rollback.detail = ""
                ledger.save(rollback, now_ns)
                ledger.count(incident.partition, "rollbacks_approved")
                ledger.remember(incident, now_ns, "approved", rollback.target, who)
                queue_call(
                    ledger, incident, rollback.target, rollback.rollback_id, rollback.decision_id, now_ns
                )
        return [item for item in self.show(incident_id)["rollbacks"] if item["state"] == "queued"]

    def set_kill_switch(self, on: bool, who: str, now_ns: int) -> None:
        """Stop all rollback calls from now on, those that are being retried included; or allow them again."""
        with self._db.transaction() as ledger:
            ledger.execute(
                "UPDATE meta SET value = ? WHERE key = 'kill_switch'", (who[:200] or "someone" if on else "",)
            )
            for incident in ledger.all(Incident, "SELECT * FROM incidents WHERE state <> 'resolved'"):
                ledger.remember(incident, now_ns, "kill_switch", "on" if on else "off", who)

    def list_dead(self, limit: int = 100) -> list[dict[str, Any]]:
        """See :meth:`IncidentStore.list_dead`."""
        return self._db.list_dead(limit)

    def replay(self, message_id: str, now_ns: int) -> None:
        """Send a dead notification again; raises ``Permanent`` if there is none by that id. Rollbacks are approved again.

        If its incident is over meanwhile, the end is told after it.
        """
        with self._db.transaction() as ledger:
            if not replay(ledger, message_id, now_ns):
                raise Permanent("unknown_message", f"there is no dead notification {message_id[:64]}")
            message = ledger.rows(
                "SELECT lane, event, incident_id FROM outbox WHERE message_id = ?", (message_id,)
            )[0]
            incident = ledger.one(
                Incident, "SELECT * FROM incidents WHERE incident_id = ?", (message["incident_id"],)
            )
            if incident is not None and incident.state == "resolved" and message["event"] != "resolve":
                queue_end(ledger, incident, message["lane"], now_ns)


def _open(ledger: Ledger, incident_id: str) -> Incident:
    incident = ledger.one(Incident, "SELECT * FROM incidents WHERE incident_id = ?", (incident_id,))
    if incident is None:
        raise Permanent("unknown_incident", f"there is no incident {incident_id[:64]}")
    if incident.state == "resolved":
        raise Permanent("resolved", f"incident {incident_id} is resolved: {incident.resolution}")
    return incident


def _kill_switch(ledger: Ledger) -> bool:
    return bool(ledger.rows("SELECT 1 FROM meta WHERE key = 'kill_switch' AND value <> ''"))
