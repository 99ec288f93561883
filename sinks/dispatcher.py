"""The dispatcher: sends what the outbox holds, calls gateways, and watches what comes of it.

Delivery guarantee: every queued message is sent at least once, with the same id at every try, until the receiver takes
it, refuses it for good, or the tries are used up (a dead letter, which can be replayed). Each channel and each target
is a lane of its own, so that a slow one delays no other; within a lane the messages of one incident keep their order.
A message is leased while it is sent. A dispatcher that was killed takes its own leases back when it starts again, so
one owner name must not run twice on one database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog

from sinks.alerts_settings import AlertSettings, AnyChannel, HttpTarget, OutgoingSettings, RollbackSettings
from sinks.channels.channel import Channel, Notice
from sinks.incidents.engine import IncidentEngine
from sinks.incidents.incident import Incident, Rollback
from sinks.incidents.notices import notice_of, silenced_until
from sinks.incidents.outbox import (
    NOTIFY,
    ROLLBACK,
    Message,
    backoff_ns,
    cancel,
    claim,
    delivered,
    give_up,
    hold_lane,
    postpone,
    release,
    retry,
    warnings_full_until,
)
from sinks.incidents.store import IncidentStore, Ledger
from sinks.outgoing import Outgoing
from sinks.rollback.adapter import RollbackAdapter
from sinks.rollback.calls import RollbackCalls
from sinks.rollback.verification import TrafficReader
from sinks.rollback.watcher import Watcher
from stream.errors import ConfigError, Permanent, Transient
from stream.plugins import subclasses_in

_SECOND = 1_000_000_000
_LEASE_SLACK = 30.0
_POLL = 0.5  # seconds between looks at an empty lane


class StepReport(msgspec.Struct):
    """What one step did: outcomes by word, for example ``{"delivered": 2, "retry": 1, "verified": 1}``."""

    outcomes: dict[str, int] = {}

    def add(self, outcome: str) -> None:
        """Count one outcome; nothing if it is empty."""
        if outcome:
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1


class Dispatcher:
    """See the module.

    Parameters
    ----------
    db, alerts, rollback
        The database and the two sections of the configuration.
    traffic
        Counts spans for the verification; without it no rollback is ever verified, and that is said.
    client
        Makes the HTTP client of a section; replaced where requests must go another way.
    matches
        Rollout -> cohort attributes its traces have, as configured for the drift stage.
    owner
        Name of this dispatcher's leases; one per database.

    Raises
    ------
    ConfigError
        A channel or target misses a secret, or the secret cannot be one.
    """

    def __init__(
        self,
        db: IncidentStore,
        alerts: AlertSettings,
        rollback: RollbackSettings,
        *,
        traffic: TrafficReader | None = None,
        client: Callable[[OutgoingSettings], Outgoing] = Outgoing,
        matches: Mapping[str, Mapping[str, str]] | None = None,
        owner: str = "dispatcher",
    ) -> None:
        self._db = db
        self._alerts = alerts
        self._rollback = rollback
        self._owner = owner
        self._engine = IncidentEngine(alerts, rollback)
        self._http = client(alerts)
        self._gateway_http = client(rollback)
        kinds: dict[str, Any] = subclasses_in("sinks.channels", Channel)
        self._channels: dict[str, Channel] = {
            settings.name: kinds[settings.type](settings) for settings in alerts.channels
        }
        adapter_kinds: dict[str, Any] = subclasses_in("sinks.rollback", RollbackAdapter)
        adapters: dict[str, RollbackAdapter] = {
            target.name: adapter_kinds[target.type](target, self._gateway_http) for target in rollback.targets
        }
        for channel in self._channels.values():
            channel.check()
        for adapter in adapters.values():
            adapter.check()
        self._calls = RollbackCalls(db, self._engine, rollback, adapters)
        self._watcher = Watcher(db, self._engine, rollback.verify, traffic, matches or {})
        self._log = structlog.get_logger(__name__)
        self._started = False

    async def step(self, now_ns: int) -> StepReport:
        """Do once what is due at ``now_ns``: at most one message of every lane, and every rollback to be looked at.

        Raises
        ------
        Transient
            The incident database cannot be read or written now.
        """
        report = StepReport()
        await asyncio.to_thread(self._advance, now_ns)
        found = await asyncio.gather(
            *(self._notify(channel, now_ns) for channel in self._alerts.channels),
            *(self._calls.step(target, self._owner, now_ns) for target in self._rollback.targets),
        )
        for outcome in (*found, *await self._watcher.step(now_ns)):
            report.add(outcome)
        return report

    async def run(self, stop: asyncio.Event, clock: Callable[[], int]) -> None:
        """Work until ``stop`` is set; ``clock`` returns Unix nanoseconds. What is being sent then is finished first."""

        async def time_passes(now_ns: int) -> str:
            await asyncio.to_thread(self._advance, now_ns)
            await self._watcher.step(now_ns)
            return ""

        def sender(channel: AnyChannel) -> Callable[[int], Any]:
            return lambda now_ns: self._notify(channel, now_ns)

        def caller(target: HttpTarget) -> Callable[[int], Any]:
            return lambda now_ns: self._calls.step(target, self._owner, now_ns)

        try:
            async with asyncio.TaskGroup() as lanes:
                lanes.create_task(self._loop(time_passes, _POLL, stop, clock))
                for channel in self._alerts.channels:
                    lanes.create_task(self._loop(sender(channel), 60 / channel.per_minute, stop, clock))
                for target in self._rollback.targets:
                    lanes.create_task(self._loop(caller(target), 0.0, stop, clock))
        finally:
            await self.close()

    async def close(self) -> None:
        """Close the HTTP clients; idempotent."""
        await self._http.close()
        await self._gateway_http.close()

    async def _loop(
        self, work: Callable[[int], Any], spacing: float, stop: asyncio.Event, clock: Callable[[], int]
    ) -> None:
        while not stop.is_set():
            wait = _POLL
            try:
                if await work(clock()):
                    wait = spacing
            except Transient as error:
                self._log.warning("incident database not available", reason=error.reason)
                wait = error.retry_after
            try:
                async with asyncio.timeout(wait):
                    await stop.wait()
            except TimeoutError:
                continue

    def _advance(self, now_ns: int) -> None:
        with self._db.transaction() as ledger:
            if not self._started:
                release(ledger, self._owner)
                self._drop_removed(ledger, now_ns)
            self._engine.advance(ledger, now_ns)
        self._started = True

    def _drop_removed(self, ledger: Ledger, now_ns: int) -> None:
        """Give up messages for channels and targets that are not configured any more; nobody would ever send them."""
        lanes = {NOTIFY + channel.name for channel in self._alerts.channels}
        lanes |= {ROLLBACK + target.name for target in self._rollback.targets}
        for message in ledger.all(Message, "SELECT * FROM outbox WHERE state = 'queued' ORDER BY seq"):
            if message.lane in lanes:
                continue
            incident = _incident(ledger, message)
            give_up(ledger, message, 0, "not configured any more", now_ns, incident.partition)
            if message.event != "call":
                continue
            rollback = ledger.one(Rollback, "SELECT * FROM rollbacks WHERE rollback_id = ?", (message.note,))
            if rollback is not None and rollback.state == "queued":
                rollback.state = "failed"
                rollback.detail = "the target is not configured any more"
                ledger.save(rollback, now_ns)
                ledger.count(incident.partition, "rollbacks_failed")
                if incident.state != "resolved":
                    note = f"Rollback at {rollback.target} given up: {rollback.detail}"
                    self._engine.escalate(ledger, incident, note, now_ns)

    async def _notify(self, channel: AnyChannel, now_ns: int) -> str:
        """Send the next due message of ``channel``; return its outcome, empty if none was due."""
        taken = await asyncio.to_thread(self._take, channel, now_ns)
        if taken is None:
            return ""
        message, notice, partition = taken
        if notice is None:
            return "dead" if message.state == "dead" else "postponed"
        sender = self._channels[channel.name]
        status = 0
        try:
            request = sender.build(notice, now_ns)
            if request is None:
                await asyncio.to_thread(self._nothing_to_say, message, now_ns, partition)
                return "cancelled"
            reply = await self._http.request(
                "POST", request.url, headers=request.headers, body=request.body, timeout=channel.timeout
            )
            status = reply.status
            sender.judge(reply)
        except (Transient, Permanent, ConfigError) as error:
            return await asyncio.to_thread(self._failed, channel, message, status, error, now_ns, partition)
        except Exception as error:  # noqa: BLE001 - see below
            # A channel is a plug-in: whatever it raises concerns its own messages and nothing else.
            self._log.exception("channel failed", channel=channel.name)
            known = Transient("channel_failed", error.__class__.__name__)
            return await asyncio.to_thread(self._failed, channel, message, status, known, now_ns, partition)
        await asyncio.to_thread(self._delivered, message, status, now_ns, partition)
        return "delivered"

    def _take(self, channel: AnyChannel, now_ns: int) -> tuple[Message, Notice | None, int] | None:
        lane = NOTIFY + channel.name
        lease = int((channel.timeout + _LEASE_SLACK) * _SECOND)
        with self._db.transaction() as ledger:
            message = claim(ledger, lane, self._owner, now_ns, lease, 60 * _SECOND // channel.per_minute)
            if message is None:
                return None
            incident = _incident(ledger, message)
            if message.attempts > self._alerts.retry.attempts:
                # The last try ended with its process; nobody was there to say so.
                give_up(ledger, message, 0, "the last try was cut off", now_ns, incident.partition)
                message.state = "dead"
                return message, None, incident.partition
            until = 0
            if message.event != "resolve" and message.attempts == 1:
                until = silenced_until(self._alerts, incident, now_ns)
                if not until and message.severity == "warn":
                    until = warnings_full_until(ledger, lane, self._alerts.warnings_per_hour, now_ns)
            if until:
                postpone(ledger, message, until)
                ledger.count(incident.partition, "notifications_postponed")
                return message, None, incident.partition
            if not message.payload:
                # Frozen with the first try, so that all tries say the same.
                notice = notice_of(ledger, message, incident, self._alerts, now_ns)
                message.payload = msgspec.json.encode(notice)
                ledger.execute("UPDATE outbox SET payload = ? WHERE seq = ?", (message.payload, message.seq))
            return message, msgspec.json.decode(message.payload, type=Notice), incident.partition

    def _nothing_to_say(self, message: Message, now_ns: int, partition: int) -> None:
        with self._db.transaction() as ledger:
            cancel(ledger, message, "the channel has no such message", now_ns, partition)

    def _delivered(self, message: Message, status: int, now_ns: int, partition: int) -> None:
        with self._db.transaction() as ledger:
            delivered(ledger, message, status, now_ns, partition)

    def _failed(
        self, channel: AnyChannel, message: Message, status: int, error: Transient | Permanent | ConfigError,
        now_ns: int, partition: int,
    ) -> str:  # fmt: skip
        settings = self._alerts.retry
        final = isinstance(error, Permanent) or message.attempts >= settings.attempts
        reason = error.reason if isinstance(error, Transient | Permanent) else "no_secret"
        with self._db.transaction() as ledger:
            if final:
                give_up(ledger, message, status, str(error), now_ns, partition)
            else:
                asked = error.retry_after if isinstance(error, Transient) else 0.0
                due = now_ns + backoff_ns(settings, message, asked)
                retry(ledger, message, status, str(error), due)
                ledger.count(partition, "notifications_retried")
                if status == 429:
                    # The receiver means everything we send there, not this one message.
                    hold_lane(ledger, NOTIFY + channel.name, due)
        self._log.warning("notification failed", channel=channel.name, reason=reason, final=final)
        return "dead" if final else "retry"


def _incident(ledger: Ledger, message: Message) -> Incident:
    incident = ledger.one(Incident, "SELECT * FROM incidents WHERE incident_id = ?", (message.incident_id,))
    if incident is None:  # the schema forbids it
        raise Permanent("unknown_incident", f"message {message.message_id} has no incident")
    return incident
