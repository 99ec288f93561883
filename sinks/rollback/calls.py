"""Carry out one queued rollback: guard, read, record, write, record.

Order of what is durable, so that a kill at any point leaves a state to go on from: the try is counted; what the gateway
said before is stored; that a write may have left is stored; the write is sent with the decision's idempotency key; its
answer is stored. A repeated try therefore never overwrites the previous state with what its own write brought about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec
import structlog

from sinks.alerts_settings import HttpTarget, RollbackSettings
from sinks.incidents.engine import IncidentEngine
from sinks.incidents.incident import Incident, Rollback, clip
from sinks.incidents.outbox import (
    ROLLBACK,
    Message,
    backoff_ns,
    cancel,
    claim,
    delivered,
    give_up,
    held,
    retry,
)
from sinks.incidents.store import IncidentStore, Ledger
from sinks.rollback.adapter import Called, Order, Reading, RollbackAdapter
from sinks.rollback.verification import Watch
from stream.errors import ConfigError, Permanent, Transient

_SECOND = 1_000_000_000
_NOT_DONE = ("changed_meanwhile", "http_429")  # answers that say the write had no effect
_LEASE_SLACK = 30.0  # seconds beyond the two requests of one try


class _Intent(msgspec.Struct, frozen=True):
    """What follows the reading: a write, nothing because of ``note``, or an end of this try because it was ``stopped``."""

    note: str = ""
    stopped: str = ""


class RollbackCalls:
    """Calls the targets of one configuration; at most one try per target at a time."""

    def __init__(
        self, db: IncidentStore, engine: IncidentEngine, settings: RollbackSettings,
        adapters: Mapping[str, RollbackAdapter],
    ) -> None:  # fmt: skip
        self._db = db
        self._engine = engine
        self._settings = settings
        self._adapters = adapters
        self._log = structlog.get_logger(__name__)

    async def step(self, target: HttpTarget, owner: str, now_ns: int) -> str:
        """Try the next due call of ``target``; return its outcome, one word, empty if none was due."""
        taken = await asyncio.to_thread(self._take, target, owner, now_ns)
        if taken is None:
            return ""
        message, rollback = taken
        if rollback is None:
            return "blocked"
        started = asyncio.get_running_loop().time()
        order = Order(
            idempotency_key=rollback.idempotency_key,
            repeated=bool(rollback.sent),
            **{
                name: getattr(rollback, name)
                for name in Order.__struct_fields__
                if name not in ("idempotency_key", "repeated")
            },
        )
        adapter = self._adapters[target.name]
        try:
            reading = await adapter.read(order)
            intent = await asyncio.to_thread(self._intend, adapter, target, message, order, reading, now_ns)
            if intent.stopped:
                return intent.stopped
            called = None if intent.note else await adapter.call(order, reading)
        except (Transient, Permanent, ConfigError) as error:
            return await asyncio.to_thread(self._failed, target, message, rollback, error, now_ns)
        except Exception as error:  # noqa: BLE001 - see below
            # An adapter is a plug-in: whatever it raises concerns its own target and nothing else.
            self._log.exception("rollback adapter failed", target=target.name)
            known = Transient("adapter_failed", error.__class__.__name__)
            return await asyncio.to_thread(self._failed, target, message, rollback, known, now_ns)
        # Spans may start on the candidate until the answer came, however long that took.
        ended_ns = now_ns + int((asyncio.get_running_loop().time() - started) * _SECOND)
        return await asyncio.to_thread(
            self._called, target, message, rollback, reading, called, intent.note, ended_ns
        )

    def _take(self, target: HttpTarget, owner: str, now_ns: int) -> tuple[Message, Rollback | None] | None:
        lease = int((2 * target.timeout + _LEASE_SLACK) * _SECOND)
        with self._db.transaction() as ledger:
            message = claim(ledger, ROLLBACK + target.name, owner, now_ns, lease, 0)
            if message is None:
                return None
            rollback = _load(ledger, message.note)
            incident = ledger.one(
                Incident, "SELECT * FROM incidents WHERE incident_id = ?", (message.incident_id,)
            )
            if rollback is None or incident is None or rollback.state != "queued":
                cancel(ledger, message, "not queued any more", now_ns, 0)
                return message, None
            if why := self._why_not(ledger, rollback, incident):
                self._block(ledger, target, message, rollback, incident, why, now_ns)
                return message, None
            if message.attempts > target.retries.attempts:
                # The last try ended with its process; nobody was there to say so.
                rollback.detail = "the last try was cut off"
                self._give_up(ledger, target, message, rollback, incident, now_ns)
                return message, None
            rollback.attempts += 1
            ledger.save(rollback, now_ns)
            return message, rollback

    def _block(
        self, ledger: Ledger, target: HttpTarget, message: Message, rollback: Rollback, incident: Incident, why: str,
        now_ns: int,
    ) -> None:  # fmt: skip
        cancel(ledger, message, why, now_ns, incident.partition)
        awaiting = why == "approval"
        rollback.state = "awaiting_approval" if awaiting else "blocked"
        rollback.detail = "" if awaiting else why
        rollback.decided_at = 0
        ledger.save(rollback, now_ns)
        ledger.count(
            incident.partition,
            "rollbacks_awaiting_approval" if awaiting else f"rollbacks_blocked.{why}",
        )
        said = "waits for approval" if awaiting else f"blocked ({why})"
        self._engine.notify(ledger, incident, f"Rollback at {target.name}: {said}", now_ns)

    def _why_not(self, ledger: Ledger, rollback: Rollback, incident: Incident) -> str:
        if self._settings.mode == "observe":
            return "mode_observe"
        if self._settings.kill_switch or ledger.rows(
            "SELECT 1 FROM meta WHERE key = 'kill_switch' AND value <> ''"
        ):
            return "kill_switch"
        # Asked for while the mode was enforce, and the configuration has become more careful since.
        if self._settings.mode == "approve" and rollback.automatic:
            return "approval"
        verified = ledger.rows(
            "SELECT 1 FROM rollbacks WHERE incident_id = ? AND state = 'verified'", (incident.incident_id,)
        )
        return "resolved" if incident.state == "resolved" and not verified else ""

    def _intend(
        self, adapter: RollbackAdapter, target: HttpTarget, message: Message, order: Order, reading: Reading,
        now_ns: int,
    ) -> _Intent:  # fmt: skip
        """Record what was read and that a write follows, unless it must not any more: reading may have taken long."""
        plan = adapter.plan(order, reading)
        undo = adapter.undo(order, reading)
        with self._db.transaction() as ledger:
            rollback = _load(ledger, order.rollback_id)
            incident = ledger.one(
                Incident, "SELECT * FROM incidents WHERE incident_id = ?", (message.incident_id,)
            )
            if rollback is None or incident is None:
                raise Permanent("unknown_rollback", "the rollback was removed meanwhile")
            if rollback.state != "queued" or not held(ledger, message):
                return _Intent(stopped="superseded")
            if why := self._why_not(ledger, rollback, incident):
                self._block(ledger, target, message, rollback, incident, why, now_ns)
                return _Intent(stopped="blocked")
            if not rollback.sent:
                rollback.previous_state = msgspec.json.encode(reading.previous)
                rollback.undo = msgspec.json.encode(undo) if undo is not None else b""
            if reading.done:
                note = "the gateway had it off already"
            elif target.dry_run:
                note = clip(f"dry run: {msgspec.json.encode(plan).decode()}", 1000)
            else:
                note = ""
                rollback.sent = 1
            ledger.save(rollback, now_ns)
        return _Intent(note=note)

    def _called(
        self, target: HttpTarget, message: Message, rollback: Rollback, reading: Reading, called: Called | None,
        note: str, now_ns: int,
    ) -> str:  # fmt: skip
        with self._db.transaction() as ledger:
            fresh = _load(ledger, rollback.rollback_id)
            incident = ledger.one(
                Incident, "SELECT * FROM incidents WHERE incident_id = ?", (rollback.incident_id,)
            )
            if (
                fresh is None
                or incident is None
                or not delivered(
                    ledger,
                    message,
                    called.status_code if called is not None else 0,
                    now_ns,
                    rollback.partition,
                )
            ):
                return "superseded"
            fresh.detail = note
            if called is None and not reading.done:
                fresh.state = "dry_run"
                ledger.count(incident.partition, "rollbacks_dry_run")
                said = "dry run, nothing was called"
            else:
                fresh.state = "verifying"
                fresh.called_at = now_ns
                fresh.status_code = called.status_code if called is not None else 0
                fresh.verification = msgspec.json.encode(Watch.start(now_ns, self._settings.verify))
                fresh.next_check_at = now_ns + int(self._settings.verify.interval * _SECOND)
                ledger.count(
                    incident.partition, "rollbacks_called" if called is not None else "rollbacks_done_before"
                )
                said = note or "called, watching the candidate's traffic"
            ledger.save(fresh, now_ns)
            self._engine.notify(ledger, incident, f"Rollback at {target.name}: {said}", now_ns)
        self._log.info(
            "rollback called", target=target.name, state=fresh.state, rollback_id=fresh.rollback_id
        )
        return fresh.state

    def _failed(
        self, target: HttpTarget, message: Message, rollback: Rollback, error: Transient | Permanent | ConfigError,
        now_ns: int,
    ) -> str:  # fmt: skip
        # A secret that is missing now may be there for the next try; a refusal stays one.
        final = isinstance(error, Permanent) or message.attempts >= target.retries.attempts
        reason = error.reason if isinstance(error, Transient | Permanent) else "no_secret"
        status = int(reason[-3:]) if "http_" in reason and reason[-3:].isdigit() else 0
        asked = error.retry_after if isinstance(error, Transient) else 0.0
        with self._db.transaction() as ledger:
            fresh = _load(ledger, rollback.rollback_id)
            incident = ledger.one(
                Incident, "SELECT * FROM incidents WHERE incident_id = ?", (rollback.incident_id,)
            )
            if fresh is None or incident is None or fresh.state != "queued" or not held(ledger, message):
                return "superseded"
            fresh.status_code = status
            fresh.detail = clip(str(error), 500)
            # Says nothing about an earlier try that may have arrived.
            if reason in _NOT_DONE and not rollback.sent:
                fresh.sent = 0
            if final:
                self._give_up(ledger, target, message, fresh, incident, now_ns)
            else:
                retry(
                    ledger, message, status, str(error), now_ns + backoff_ns(target.retries, message, asked)
                )
                ledger.count(incident.partition, "rollback_calls_failed")
                ledger.save(fresh, now_ns)
                # Somebody else's change between read and write is looked at again at once and is no failure yet.
                if message.attempts == 1 and reason != "changed_meanwhile" and incident.state != "resolved":
                    note = f"Rollback at {target.name} failed, trying again: {fresh.detail}"
                    self._engine.escalate(ledger, incident, note, now_ns)
        self._log.warning("rollback call failed", target=target.name, reason=reason, final=final)
        return "failed" if final else "retry"

    def _give_up(
        self, ledger: Ledger, target: HttpTarget, message: Message, rollback: Rollback, incident: Incident,
        now_ns: int,
    ) -> None:  # fmt: skip
        give_up(ledger, message, rollback.status_code, rollback.detail, now_ns, incident.partition)
        rollback.state = "failed"
        ledger.save(rollback, now_ns)
        ledger.count(incident.partition, "rollbacks_failed")
        if incident.state != "resolved":
            note = f"Rollback at {target.name} given up: {rollback.detail}"
            self._engine.escalate(ledger, incident, note, now_ns)


def _load(ledger: Ledger, rollback_id: str) -> Rollback | None:
    return ledger.one(Rollback, "SELECT * FROM rollbacks WHERE rollback_id = ?", (rollback_id,))
