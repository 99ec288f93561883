"""Watch the telemetry after a rollback until it is verified, and tell what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec
import structlog

from sinks.alerts_settings import VerifySettings
from sinks.incidents.engine import IncidentEngine
from sinks.incidents.incident import Incident, Rollback
from sinks.incidents.store import IncidentStore
from sinks.rollback.verification import TrafficReader, Watch
from stream.errors import Permanent, Transient

_SECOND = 1_000_000_000
_JUMP = 60 * _SECOND  # a start so far ahead of the clock means that the clock was put back
_STATES = {
    "verifying": "verifying",
    "verified": "verified",
    "failed": "verify_failed",
    "unknown": "unverified",
}


class Watcher:
    """Looks at every rollback that was called and is not verified yet.

    Parameters
    ----------
    traffic
        Where counts come from; ``None`` means nothing can be verified, which is said at the deadline.
    matches
        Rollout -> cohort attributes its traces have, beside the route that the verdict names.
    """

    def __init__(
        self, db: IncidentStore, engine: IncidentEngine, settings: VerifySettings, traffic: TrafficReader | None,
        matches: Mapping[str, Mapping[str, str]],
    ) -> None:  # fmt: skip
        self._db = db
        self._engine = engine
        self._settings = settings
        self._traffic = traffic
        self._matches = matches
        self._log = structlog.get_logger(__name__)

    async def step(self, now_ns: int) -> list[str]:
        """Look at what is due; return the states reached, one per rollback whose state changed."""
        return await asyncio.to_thread(self._step, now_ns)

    def _step(self, now_ns: int) -> list[str]:
        # A look that is further away than any is planned was planned before the clock was put back.
        furthest = now_ns + int(self._settings.interval * _SECOND)
        due = self._db.read_as(
            Rollback,
            "SELECT * FROM rollbacks WHERE next_check_at > 0 AND (next_check_at <= ? OR next_check_at > ?)",
            (now_ns, furthest),
        )
        return [state for rollback in due if (state := self._look(rollback, now_ns))]

    def _look(self, rollback: Rollback, now_ns: int) -> str:
        before = msgspec.json.decode(rollback.verification, type=Watch)
        anew = Watch.start(now_ns, self._settings)
        if max(before.settled_at, before.clean_since) > anew.settled_at + _JUMP:
            before = anew
        candidate, incumbent = self._count(rollback, before, now_ns)
        after = before.look(now_ns, candidate, incumbent, self._settings)
        state = _STATES[after.state]
        finished = after.finished(now_ns, self._settings)
        next_check = 0 if finished else now_ns + int(self._settings.interval * _SECOND)
        with self._db.transaction() as ledger:
            if state == rollback.state:
                # Not a change worth a new version: the store would get a row with every look.
                ledger.execute(
                    "UPDATE rollbacks SET verification = ?, next_check_at = ? WHERE rollback_id = ? AND state = ?",
                    (msgspec.json.encode(after), next_check, rollback.rollback_id, state),
                )
                return ""
            fresh = ledger.one(
                Rollback, "SELECT * FROM rollbacks WHERE rollback_id = ?", (rollback.rollback_id,)
            )
            incident = ledger.one(
                Incident, "SELECT * FROM incidents WHERE incident_id = ?", (rollback.incident_id,)
            )
            if fresh is None or incident is None or fresh.state != rollback.state:
                return ""
            fresh.state = state  # type: ignore[assignment]  # one of RollbackState, by the table above
            fresh.verification = msgspec.json.encode(after)
            fresh.next_check_at = next_check
            fresh.detail = after.describe()
            if state == "verified":
                fresh.verified_at = now_ns
            ledger.save(fresh, now_ns)
            ledger.count(incident.partition, f"rollbacks_{state}")
            said = f"Rollback at {fresh.target}: {fresh.detail}"
            if incident.state == "resolved":
                ledger.remember(incident, now_ns, "rollback", said)
            elif state == "verified":
                ledger.remember(incident, now_ns, "rollback", said)
                self._engine.resolve(
                    ledger, incident, f"rolled back and verified: {fresh.detail}", now_ns, cancel_calls=False
                )
            elif state == "verify_failed":
                self._engine.escalate(ledger, incident, said, now_ns)
            else:
                self._engine.notify(ledger, incident, said, now_ns, severity="warn")
        return state

    def _count(self, rollback: Rollback, watch: Watch, now_ns: int) -> tuple[int | None, int]:
        since, until = watch.window(now_ns, self._settings)
        if until <= since:
            return 0, 0
        if self._traffic is None:
            return None, 0
        match = dict(self._matches.get(rollback.rollout, {}))
        if rollback.route:
            match["route"] = rollback.route
        if rollback.prompt_name:
            match["prompt_name"] = rollback.prompt_name
        try:
            counts = self._traffic.traffic(rollback.tenant, match, rollback.arm, since, until)
        except (Transient, Permanent) as error:
            self._log.warning("traffic cannot be read", reason=error.reason)
            return None, 0
        candidate = counts.get(rollback.candidate, 0)
        if rollback.incumbent:
            return candidate, counts.get(rollback.incumbent, 0)
        return candidate, sum(counts.values()) - candidate
