"""The outbox: messages that were decided on and not yet delivered. Every function works inside one transaction.

A message belongs to a lane (``notify/<channel>`` or ``rollback/<target>``). Within a lane the messages of one incident
leave in order, so a resolution never overtakes its alarm; incidents do not wait for each other. Whoever sends holds a
lease; a lease that ran out (the process was killed) lets the message be sent again, under the same id. An attempt is
counted when it starts, so a message that kills its sender is given up in the end as well.
"""

from __future__ import annotations

import msgspec

from sinks.alerts_settings import AlertSettings, AnyChannel, RetrySettings
from sinks.incidents.incident import Incident
from sinks.incidents.store import Ledger
from stream.records import stable_id

NOTIFY = "notify/"
ROLLBACK = "rollback/"
_SECOND = 1_000_000_000
_HOUR = 3600 * _SECOND
_ACKNOWLEDGED = ("pagerduty", "webhook")  # channels whose receiver keeps a state of its own


class Message(msgspec.Struct, kw_only=True):
    """One row of the outbox."""

    seq: int
    message_id: str
    lane: str
    incident_id: str
    event: str  # trigger, update, repeat, acknowledge, resolve; call
    severity: str
    note: str
    state: str  # queued, delivered, dead, cancelled
    created_at: int
    due_at: int
    lease_until: int
    lease_owner: str
    attempts: int
    payload: bytes
    error: str
    done_at: int


def wants(channel: AnyChannel, incident: Incident) -> bool:
    """Return whether ``channel`` hears about ``incident`` at its worst severity so far."""
    return (
        incident.severity in channel.severities
        and (not channel.tenants or incident.tenant in channel.tenants)
        and (not channel.rollouts or incident.rollout in channel.rollouts)
    )


def queue_notice(
    ledger: Ledger, settings: AlertSettings, incident: Incident, event: str, due_ns: int, now_ns: int,
    *, note: str = "", severity: str = "", only: str = "", even_untold: bool = False,
) -> None:  # fmt: skip
    """Queue one notification for every channel that hears about ``incident`` (or for the one called ``only``).

    A message that still waits to be sent for the first time already carries the newest state when it leaves; then
    nothing is added, and an urgent one makes it leave earlier. An end nobody heard the beginning of cancels what waits,
    unless it must be told ``even_untold``: then the beginning leaves late, and the end after it.
    """
    for channel in settings.channels:
        if only and channel.name != only:
            continue
        lane = NOTIFY + channel.name
        rows = ledger.rows(
            "SELECT seq, event, state, attempts, due_at FROM outbox WHERE incident_id = ? AND lane = ? ORDER BY seq",
            (incident.incident_id, lane),
        )
        # A channel for warnings only must hear the end of one that has become a page since.
        if not wants(channel, incident) and not (event == "resolve" and rows):
            continue
        unsent = [row for row in rows if row["state"] == "queued" and row["attempts"] == 0]
        told = any(row["state"] == "delivered" or row["attempts"] for row in rows)
        if event == "resolve":
            heard = any(
                row["state"] == "delivered" or (row["state"] == "queued" and row["attempts"]) for row in rows
            )
            # What waits says nothing that the end does not say, and would hold it up until its own time.
            beginning = unsent[:1] if even_untold and not heard else []
            for row in unsent[len(beginning) :]:
                _finish(
                    ledger, row["seq"], "cancelled", "resolved before it was sent", now_ns, incident.partition
                )
            for row in beginning:
                ledger.execute(
                    "UPDATE outbox SET due_at = min(due_at, ?) WHERE seq = ?", (now_ns, row["seq"])
                )
            # Nobody wants to hear the end of what they never heard of.
            if not (heard or beginning):
                continue
        elif unsent:
            ledger.execute(
                "UPDATE outbox SET note = CASE ?1 WHEN '' THEN note ELSE ?1 END, severity = ?2 WHERE seq = ?3",
                (note[:1000], severity or incident.severity, unsent[0]["seq"]),
            )
            if due_ns < unsent[0]["due_at"]:
                ledger.execute("UPDATE outbox SET due_at = ? WHERE seq = ?", (due_ns, unsent[0]["seq"]))
            continue
        elif event == "acknowledge" and not (told and channel.type in _ACKNOWLEDGED):
            continue
        _insert(
            ledger, incident, lane, "trigger" if not told and event != "resolve" else event, len(rows), due_ns,
            now_ns, note, severity or incident.severity,
        )  # fmt: skip
        ledger.count(incident.partition, "notifications_queued")


def queue_call(
    ledger: Ledger, incident: Incident, target: str, rollback_id: str, decision: str, now_ns: int
) -> None:
    """Queue the call of one rollback; the same decision is queued once."""
    ledger.execute(
        "INSERT INTO outbox (message_id, lane, incident_id, event, severity, note, state, created_at, due_at, "
        "lease_until, lease_owner, attempts, payload, error, done_at) "
        "VALUES (?, ?, ?, 'call', ?, ?, 'queued', ?, ?, 0, '', 0, x'', '', 0) ON CONFLICT (message_id) DO UPDATE "
        "SET state = 'queued', due_at = excluded.due_at, attempts = 0, lease_until = 0, error = '', done_at = 0 "
        "WHERE state <> 'queued'",
        (
            stable_id("call", rollback_id, decision), ROLLBACK + target, incident.incident_id,
            incident.severity, rollback_id, now_ns, now_ns,
        ),
    )  # fmt: skip


def _insert(
    ledger: Ledger, incident: Incident, lane: str, event: str, number: int, due_ns: int, now_ns: int, note: str,
    severity: str,
) -> None:  # fmt: skip
    ledger.execute(
        "INSERT INTO outbox (message_id, lane, incident_id, event, severity, note, state, created_at, due_at, "
        "lease_until, lease_owner, attempts, payload, error, done_at) "
        "VALUES (?, ?, ?, ?, ?, ?, 'queued', ?, ?, 0, '', 0, x'', '', 0)",
        (
            # The time belongs to it: old repeats are forgotten, and then numbers come again.
            stable_id("notice", incident.incident_id, lane, str(number), str(now_ns)), lane, incident.incident_id, event,
            severity, note[:1000], now_ns, due_ns,
        ),
    )  # fmt: skip


def claim(
    ledger: Ledger, lane: str, owner: str, now_ns: int, lease_ns: int, spacing_ns: int
) -> Message | None:
    """Take the next due message of ``lane``, or nothing if none is due or the lane is being held back."""
    hold = ledger.rows("SELECT next_at FROM lanes WHERE lane = ?", (lane,))
    if hold and hold[0]["next_at"] > now_ns:
        # Of a send that lies ahead of us the clock was wrong, or is: it holds nothing up.
        ahead = ledger.rows(
            "SELECT 1 FROM attempts WHERE lane = ? AND started_at > ? LIMIT 1", (lane, now_ns)
        )
        if not ahead:
            return None
        ledger.execute("DELETE FROM lanes WHERE lane = ?", (lane,))
        ledger.execute(
            "UPDATE attempts SET started_at = ?1 WHERE lane = ?2 AND started_at > ?1", (now_ns, lane)
        )
    message = ledger.one(
        Message,
        "SELECT * FROM outbox AS o WHERE lane = ? AND state = 'queued' AND due_at <= ? AND lease_until <= ? "
        "AND NOT EXISTS (SELECT 1 FROM outbox AS e WHERE e.incident_id = o.incident_id AND e.lane = o.lane "
        "AND e.seq < o.seq AND e.state = 'queued') ORDER BY severity = 'warn', due_at, seq LIMIT 1",
        (lane, now_ns, now_ns),
    )
    if message is None:
        return None
    message.attempts += 1
    message.lease_until = now_ns + lease_ns
    message.lease_owner = owner
    ledger.execute(
        "UPDATE outbox SET attempts = ?, lease_until = ?, lease_owner = ? WHERE seq = ?",
        (message.attempts, message.lease_until, owner, message.seq),
    )
    ledger.execute(
        "INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, ?, 0, 'started')",
        (message.message_id, message.attempts, lane, now_ns, message.severity),
    )
    if spacing_ns:
        hold_lane(ledger, lane, now_ns + spacing_ns)
    return message


def held(ledger: Ledger, message: Message) -> bool:
    """Return whether a claimed message is still its claimer's: not ended meanwhile, and not claimed again."""
    return bool(
        ledger.rows(
            "SELECT 1 FROM outbox WHERE seq = ? AND state = 'queued' AND lease_owner = ? AND attempts = ?",
            (message.seq, message.lease_owner, message.attempts),
        )
    )


def hold_lane(ledger: Ledger, lane: str, until_ns: int) -> None:
    """Send nothing on ``lane`` before ``until_ns``."""
    ledger.execute(
        "INSERT INTO lanes VALUES (?, ?) ON CONFLICT (lane) DO UPDATE SET next_at = max(next_at, excluded.next_at)",
        (lane, until_ns),
    )


def postpone(ledger: Ledger, message: Message, until_ns: int) -> None:
    """Give a claimed message back unsent: this attempt did not happen."""
    ledger.execute(
        "UPDATE outbox SET attempts = attempts - 1, lease_until = 0, lease_owner = '', due_at = ? WHERE seq = ?",
        (until_ns, message.seq),
    )
    ledger.execute(
        "DELETE FROM attempts WHERE message_id = ? AND number = ?", (message.message_id, message.attempts)
    )


def warnings_full_until(ledger: Ledger, lane: str, limit: int, now_ns: int) -> int:
    """Return until when a warning must wait because ``limit`` went out within the last hour; 0 if it need not."""
    rows = ledger.rows(
        "SELECT started_at FROM attempts WHERE lane = ? AND number = 1 AND severity = 'warn' AND started_at > ? "
        "AND outcome <> 'started' ORDER BY started_at DESC LIMIT 1 OFFSET ?",
        (lane, now_ns - _HOUR, limit - 1),
    )
    return int(rows[0]["started_at"]) + _HOUR if rows else 0


def delivered(ledger: Ledger, message: Message, status: int, now_ns: int, partition: int) -> bool:
    """Record that a message arrived; return ``False`` if somebody else finished it meanwhile."""
    _note_attempt(ledger, message, status, "delivered")
    return _finish(ledger, message.seq, "delivered", "", now_ns, partition)


def retry(ledger: Ledger, message: Message, status: int, error: str, due_ns: int) -> None:
    """Record a failure and try again at ``due_ns``; only the holder of the lease may."""
    _note_attempt(ledger, message, status, error)
    ledger.execute(
        "UPDATE outbox SET due_at = ?, lease_until = 0, lease_owner = '', error = ? "
        "WHERE seq = ? AND state = 'queued' AND attempts = ?",
        (due_ns, error[:500], message.seq, message.attempts),
    )


def give_up(ledger: Ledger, message: Message, status: int, error: str, now_ns: int, partition: int) -> bool:
    """Make a message a dead letter; return ``False`` if somebody else finished it meanwhile."""
    _note_attempt(ledger, message, status, error)
    return _finish(ledger, message.seq, "dead", error[:500], now_ns, partition)


def cancel(ledger: Ledger, message: Message, why: str, now_ns: int, partition: int) -> None:
    """End a claimed message that must not be sent any more."""
    _note_attempt(ledger, message, 0, why)
    _finish(ledger, message.seq, "cancelled", why, now_ns, partition)


def replay(ledger: Ledger, message_id: str, now_ns: int) -> bool:
    """Queue a dead notification again with a fresh set of tries; return whether there was one."""
    changed = ledger.execute(
        "UPDATE outbox SET state = 'queued', attempts = 0, due_at = ?, lease_until = 0, error = '', done_at = 0 "
        "WHERE message_id = ? AND state = 'dead' AND lane LIKE 'notify/%'",
        (now_ns, message_id),
    )
    return changed == 1


def queue_end(ledger: Ledger, incident: Incident, lane: str, now_ns: int) -> None:
    """Queue the end of a resolved incident once more, behind what was queued before on ``lane``."""
    number = ledger.rows(
        "SELECT count(*) AS n FROM outbox WHERE incident_id = ? AND lane = ?", (incident.incident_id, lane)
    )[0]["n"]
    _insert(ledger, incident, lane, "resolve", number, now_ns, now_ns, incident.resolution, incident.severity)
    ledger.count(incident.partition, "notifications_queued")


def release(ledger: Ledger, owner: str) -> int:
    """Give up the leases of ``owner``: it was killed and has come back. Returns how many there were."""
    return ledger.execute(
        "UPDATE outbox SET lease_until = 0, lease_owner = '' WHERE state = 'queued' AND lease_owner = ?",
        (owner,),
    )


def backoff_ns(settings: RetrySettings, message: Message, asked: float = 0.0) -> int:
    """Return how long to wait after ``message.attempts`` failures: the same for the same message and attempt.

    ``asked`` is what the receiver wants (``Retry-After``, seconds); it is followed up to ``settings.longest``.
    """
    grown = min(settings.first * 2.0 ** min(message.attempts - 1, 40), settings.longest)
    spread = int(stable_id(message.message_id, str(message.attempts))[:8], 16) / 0xFFFFFFFF
    return int(max(grown * (0.5 + spread / 2), min(asked, settings.longest)) * _SECOND)


def _note_attempt(ledger: Ledger, message: Message, status: int, outcome: str) -> None:
    ledger.execute(
        "UPDATE attempts SET status_code = ?, outcome = ? WHERE message_id = ? AND number = ?",
        (status, outcome[:200], message.message_id, message.attempts),
    )


def _finish(ledger: Ledger, seq: int, state: str, error: str, now_ns: int, partition: int) -> bool:
    changed = ledger.execute(
        "UPDATE outbox SET state = ?, error = ?, done_at = ?, lease_until = 0, lease_owner = '' "
        "WHERE seq = ? AND state = 'queued'",
        (state, error, now_ns, seq),
    )
    if changed:
        lane = ledger.rows("SELECT lane FROM outbox WHERE seq = ?", (seq,))[0]["lane"]
        if lane.startswith(NOTIFY):
            ledger.count(partition, f"notifications_{state}")
    return changed == 1
