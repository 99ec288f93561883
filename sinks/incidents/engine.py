"""The incident state machine: what a verdict changes, and what time alone changes.

``pending`` (bad, but not for long enough to tell anybody) → ``firing`` (people are told) → ``resolved``. There is one
open incident per cause; all rubrics of a candidate belong to it as conditions. It is resolved when every condition has
been well again for ``keep_firing``, when a rollback was verified, when a person says so, or when no verdict came for
``resolve_after``. Grouping, repeats, silences and "no end without a beginning" follow Prometheus Alertmanager
(notify/dedup_stage.go).
"""

from __future__ import annotations

import msgspec

from sinks.alerts_settings import AlertSettings, RollbackSettings
from sinks.incidents.incident import RANK, WELL, Condition, Incident, cause_of, severity_of, summary_of
from sinks.incidents.notices import silenced_until
from sinks.incidents.outbox import NOTIFY, queue_notice, wants
from sinks.incidents.requests import (
    called,
    cancel_requests,
    candidate_is_gone,
    recently_rolled_back,
    request_rollback,
)
from sinks.incidents.store import Ledger
from stream.records import Verdict, stable_id

_SECOND = 1_000_000_000
_CONDITIONS = 64  # rubrics per incident; what comes beyond is counted
_DAY = 86400 * _SECOND
_APPLIED_DAYS = 30
_FORGET_EVERY = 3600 * _SECOND


class IncidentEngine:
    """The rules, without a database of their own: every method works inside one transaction."""

    def __init__(self, alerts: AlertSettings, rollback: RollbackSettings) -> None:
        self.alerts = alerts
        self.rollback = rollback

    def apply(self, ledger: Ledger, verdict: Verdict, partition: int, now_ns: int) -> None:
        """Apply one verdict."""
        severity = severity_of(verdict, self.alerts.warn_states)
        incident = ledger.one(
            Incident,
            "SELECT * FROM incidents WHERE cause = ? AND state <> 'resolved'",
            (cause_of(verdict),),
        )
        wants_rollback = verdict.action == "rollback" and verdict.kind == "canary" and verdict.candidate
        if severity == "none" and not wants_rollback:
            if incident is None or verdict.state not in WELL:
                ledger.count(partition, "verdicts_no_change")
                return
            self._well(ledger, incident, verdict, now_ns)
            return
        if not wants_rollback and verdict.state in ("regressed", "warn") and candidate_is_gone(verdict):
            ledger.count(partition, "verdicts_candidate_gone")
            return
        if incident is None:
            if recently_rolled_back(ledger, self.rollback, verdict):
                ledger.count(partition, "verdicts_after_rollback")
                return
            incident = self._open(ledger, verdict, partition, now_ns)
        elif verdict.state == "no_data" and called(ledger, incident):
            # A candidate that was taken back sends no data: that is what was wanted.
            ledger.count(partition, "verdicts_after_rollback")
            return
        # A verdict that asks for a rollback is a page, whatever its severity says.
        self._bad(ledger, incident, verdict, "page" if wants_rollback else severity, now_ns)
        if wants_rollback:
            said = request_rollback(ledger, self.rollback, incident, verdict, now_ns)
            if incident.state == "firing":
                queue_notice(
                    ledger, self.alerts, incident, "update", self._joined_at(ledger, incident, now_ns), now_ns,
                    note=f"Rollback: {said}",
                )  # fmt: skip

    def _open(self, ledger: Ledger, verdict: Verdict, partition: int, now_ns: int) -> Incident:
        cause = cause_of(verdict)
        incident = Incident(
            incident_id=stable_id("incident", cause, verdict.verdict_id),
            tenant=verdict.tenant,
            cause=cause,
            kind=verdict.kind,
            rollout=verdict.rollout,
            route=verdict.route,
            arm=verdict.arm,
            incumbent=verdict.incumbent,
            candidate=verdict.candidate,
            prompt_name=verdict.prompt_name,
            state="pending",
            severity="none",
            opened_at=now_ns,
            summary=summary_of(verdict),
            verdict_id=verdict.verdict_id,
            partition=partition,
        )
        ledger.count(partition, "incidents_opened")
        ledger.save(incident, now_ns)
        ledger.remember(incident, now_ns, "opened", incident.summary)
        return incident

    def _bad(self, ledger: Ledger, incident: Incident, verdict: Verdict, severity: str, now_ns: int) -> None:
        condition = ledger.one(
            Condition,
            "SELECT * FROM conditions WHERE incident_id = ? AND rubric = ?",
            (incident.incident_id, verdict.rubric),
        )
        if condition is None:
            count = ledger.rows(
                "SELECT count(*) AS n FROM conditions WHERE incident_id = ?", (incident.incident_id,)
            )[0]["n"]
            if count >= _CONDITIONS:
                ledger.count(incident.partition, "conditions_dropped")
                if not self._make_room(ledger, incident, severity):
                    return
        was_bad = condition is not None and condition.severity != "none"
        since = condition.since if condition is not None and condition.severity == severity else now_ns
        ledger.save(
            Condition(
                incident_id=incident.incident_id,
                rubric=verdict.rubric,
                state=verdict.state,
                severity=severity,
                since=since,
                updated_at=now_ns,
                verdict_id=verdict.verdict_id,
                reason=verdict.reason[:500],
                verdict=msgspec.json.encode(verdict),
            ),
            now_ns,
        )
        incident.clear_since = 0
        incident.last_verdict_at = now_ns
        incident.incumbent = verdict.incumbent or incident.incumbent
        raised = RANK[severity] > RANK[incident.severity]
        if raised:
            incident.severity = severity
            incident.summary = summary_of(verdict)
            incident.verdict_id = verdict.verdict_id
        ledger.save(incident, now_ns)
        if incident.state == "firing":
            if raised:
                ledger.remember(incident, now_ns, "escalated", incident.summary)
                queue_notice(ledger, self.alerts, incident, "update", now_ns, now_ns)
            elif not was_bad:
                ledger.remember(incident, now_ns, "joined", f"{verdict.rubric}: {verdict.state}")
                queue_notice(
                    ledger, self.alerts, incident, "update", self._joined_at(ledger, incident, now_ns), now_ns
                )
        else:
            self._fire_if_due(ledger, incident, now_ns)

    def _make_room(self, ledger: Ledger, incident: Incident, severity: str) -> bool:
        """Drop the oldest of the conditions that are less severe; return whether there was one. A page must not be lost."""
        dropped = ledger.execute(
            "DELETE FROM conditions WHERE incident_id = ?1 AND rubric = (SELECT rubric FROM conditions "
            "WHERE incident_id = ?1 AND severity IN ('none', ?2) ORDER BY severity, updated_at, rubric LIMIT 1)",
            (incident.incident_id, "warn" if severity == "page" else "none"),
        )
        return dropped == 1

    def _well(self, ledger: Ledger, incident: Incident, verdict: Verdict, now_ns: int) -> None:
        incident.last_verdict_at = now_ns
        condition = ledger.one(
            Condition,
            "SELECT * FROM conditions WHERE incident_id = ? AND rubric = ?",
            (incident.incident_id, verdict.rubric),
        )
        if condition is not None and condition.severity != "none":
            condition.state = verdict.state
            condition.severity = "none"
            condition.since = now_ns
            condition.verdict_id = verdict.verdict_id
            condition.reason = verdict.reason[:500]
            condition.verdict = msgspec.json.encode(verdict)
            ledger.save(condition, now_ns)
            ledger.remember(incident, now_ns, "recovered", verdict.rubric)
            left = ledger.rows(
                "SELECT 1 FROM conditions WHERE incident_id = ? AND severity <> 'none'",
                (incident.incident_id,),
            )
            if not left:
                incident.clear_since = now_ns
        ledger.save(incident, now_ns)

    def _joined_at(self, ledger: Ledger, incident: Incident, now_ns: int) -> int:
        last = ledger.rows(
            "SELECT max(done_at) AS at FROM outbox WHERE incident_id = ? AND state = 'delivered' "
            "AND event <> 'call'",
            (incident.incident_id,),
        )[0]["at"]
        return max(now_ns, (last or 0) + int(self.alerts.group_interval * _SECOND)) if last else now_ns

    def _fire_if_due(self, ledger: Ledger, incident: Incident, now_ns: int) -> bool:
        """Tell people if some condition has stood long enough."""
        for condition in ledger.all(
            Condition,
            "SELECT * FROM conditions WHERE incident_id = ? AND severity <> 'none'",
            (incident.incident_id,),
        ):
            if condition.since > now_ns:  # the clock was put back: count from here
                condition.since = now_ns
                ledger.save(condition, now_ns)
            wait = self.alerts.pending.warn if condition.severity == "warn" else self.alerts.pending.page
            if now_ns - condition.since >= wait * _SECOND:
                incident.state = "firing"
                incident.firing_at = now_ns
                ledger.save(incident, now_ns)
                ledger.count(incident.partition, "incidents_fired")
                ledger.remember(incident, now_ns, "firing", incident.severity)
                due = now_ns + int(self.alerts.group_wait * _SECOND)
                queue_notice(ledger, self.alerts, incident, "trigger", due, now_ns)
                return True
        return False

    def escalate(self, ledger: Ledger, incident: Incident, note: str, now_ns: int) -> None:
        """Page as critical now: something went wrong with a rollback."""
        incident.severity = "critical"
        if incident.state == "pending":
            incident.state = "firing"
            incident.firing_at = now_ns
            ledger.count(incident.partition, "incidents_fired")
        ledger.save(incident, now_ns)
        ledger.remember(incident, now_ns, "escalated", note)
        queue_notice(ledger, self.alerts, incident, "update", now_ns, now_ns, note=note)

    def notify(self, ledger: Ledger, incident: Incident, note: str, now_ns: int, severity: str = "") -> None:
        """Tell people something about a firing incident now; ``severity`` is the message's own."""
        ledger.remember(incident, now_ns, "note", note)
        if incident.state == "firing":
            queue_notice(
                ledger, self.alerts, incident, "update", now_ns, now_ns, note=note, severity=severity
            )

    def resolve(
        self,
        ledger: Ledger,
        incident: Incident,
        why: str,
        now_ns: int,
        *,
        who: str = "",
        cancel_calls: bool = True,
    ) -> None:
        """End an incident; those who heard of it hear that it is over. Calls not yet made are cancelled unless told not to."""
        if incident.state == "resolved":
            return
        incident.state = "resolved"
        incident.resolved_at = now_ns
        incident.resolution = why
        ledger.save(incident, now_ns)
        ledger.count(incident.partition, "incidents_resolved")
        ledger.remember(incident, now_ns, "resolved", why, who)
        if cancel_calls:
            cancel_requests(ledger, incident, f"incident resolved: {why}", now_ns)
        # A gateway that was changed is news even when it is over before a slow channel came to tell of it.
        changed = called(ledger, incident) and not silenced_until(self.alerts, incident, now_ns)
        queue_notice(ledger, self.alerts, incident, "resolve", now_ns, now_ns, note=why, even_untold=changed)

    def advance(self, ledger: Ledger, now_ns: int) -> None:
        """Do what time alone brings: fire, resolve, expire, repeat, forget."""
        for incident in ledger.all(Incident, "SELECT * FROM incidents WHERE state <> 'resolved'"):
            if max(incident.clear_since, incident.last_verdict_at) > now_ns:  # the clock was put back
                incident.clear_since = min(incident.clear_since, now_ns)
                incident.last_verdict_at = min(incident.last_verdict_at, now_ns)
                ledger.save(incident, now_ns)
            clear_for = now_ns - incident.clear_since if incident.clear_since else 0
            # What a rollback in progress comes to must be told under the incident it belongs to.
            busy = ledger.rows(
                "SELECT 1 FROM rollbacks WHERE incident_id = ? AND state IN ('queued', 'verifying') LIMIT 1",
                (incident.incident_id,),
            )
            if (
                incident.clear_since
                and not busy
                and (incident.state == "pending" or clear_for >= self.alerts.keep_firing * _SECOND)
            ):
                self.resolve(ledger, incident, "all rubrics are well again", now_ns)
            elif now_ns - incident.last_verdict_at >= self.alerts.resolve_after * _SECOND and not busy:
                self.resolve(ledger, incident, "expired: no verdict for long", now_ns)
            elif incident.state == "firing":
                self._repeat(ledger, incident, now_ns)
            elif not incident.clear_since:
                self._fire_if_due(ledger, incident, now_ns)
        self._forget(ledger, now_ns)

    def _repeat(self, ledger: Ledger, incident: Incident, now_ns: int) -> None:
        for channel in self.alerts.channels:
            if not wants(channel, incident):
                continue
            # An Alertmanager forgets an alert that is not sent again; acknowledging is then its own business.
            resend = channel.resend if channel.type == "alertmanager" else None
            if incident.acknowledged_at and resend is None:
                continue
            row = ledger.rows(
                "SELECT count(*) AS n, max(done_at) AS last, sum(state = 'queued') AS queued FROM outbox "
                "WHERE incident_id = ? AND lane = ?",
                (incident.incident_id, NOTIFY + channel.name),
            )[0]
            interval = int((self.alerts.repeat_interval if resend is None else resend) * _SECOND)
            # No message at all: the channel is new in the configuration.
            if not row["n"] or (not row["queued"] and now_ns - row["last"] >= interval):
                queue_notice(ledger, self.alerts, incident, "repeat", now_ns, now_ns, only=channel.name)

    def _forget(self, ledger: Ledger, now_ns: int) -> None:
        last = ledger.rows("SELECT value FROM meta WHERE key = 'forgot_at'")
        if last and now_ns - last[0]["value"] < _FORGET_EVERY:
            return
        ledger.execute("INSERT OR REPLACE INTO meta VALUES ('forgot_at', ?)", (now_ns,))
        kept = now_ns - int(self.alerts.retention * _SECOND)
        ledger.execute("DELETE FROM incidents WHERE state = 'resolved' AND resolved_at < ?", (kept,))
        ledger.execute("DELETE FROM applied WHERE at < ?", (now_ns - _APPLIED_DAYS * _DAY,))
        ledger.execute("DELETE FROM attempts WHERE started_at < ?", (kept,))
        # An Alertmanager gets one a minute; only the newest says anything.
        ledger.execute(
            "DELETE FROM outbox WHERE event = 'repeat' AND state <> 'queued' AND done_at < ?",
            (now_ns - _DAY,),
        )
