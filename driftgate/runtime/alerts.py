"""Incidents inside a running process: the alerter stage, the dispatcher behind it, and their copy in the store."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import structlog

from drift.settings import RolloutSettings
from driftgate.config import Config
from sinks.alerter import AlerterStage
from sinks.dispatcher import Dispatcher
from sinks.incidents.operator import Operator
from sinks.incidents.store import IncidentStore
from sinks.rollback.traffic import SqlTraffic
from sinks.store import Store
from stream.errors import Permanent, Transient

_EXPORT_EVERY_S = 0.5
_RECENT = 50
_RESTART_AFTER_S = 2.0


class Alerts:
    """The incident database, and what this process does with it.

    Parameters
    ----------
    owner
        Who holds the messages that are being sent, where several processes share the database.

    Raises
    ------
    StartError, ConfigError
        The database cannot be used, or a channel or target misses its secret.
    """

    def __init__(self, config: Config, store: Store, owner: str = "dispatcher") -> None:
        self._config = config
        self._owner = owner
        self._store = store
        self._db = IncidentStore(config.data / "incidents.db")
        self.stage = AlerterStage(self._db, config.alerts, config.rollback)
        self._operator = Operator(self._db, config.alerts, config.rollback)
        self._exported = 0
        self.failures = 0
        # Fails at the start, not at the first incident, when a channel or target misses its secret.
        Dispatcher(self._db, config.alerts, config.rollback)
        self._logger = structlog.get_logger(__name__)

    def close(self) -> None:
        """Close the database; idempotent."""
        self._db.close()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send, call, verify and copy to the store while the context is open."""
        stop = asyncio.Event()
        tasks = [asyncio.create_task(self._dispatch(stop)), asyncio.create_task(self._export(stop))]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    async def _dispatch(self, stop: asyncio.Event) -> None:
        """Run the dispatcher; should it ever fail, say so and start it again: alerting must not end silently."""
        traffic = SqlTraffic(self._rows)
        matches = {rollout.name: rollout.match for rollout in self._config.drift.rollouts}
        while not stop.is_set():
            dispatcher = Dispatcher(
                self._db,
                self._config.alerts,
                self._config.rollback,
                traffic=traffic,
                matches=matches,
                owner=self._owner,
            )
            try:
                await dispatcher.run(stop, time.time_ns)
            except Exception:
                self.failures += 1
                self._logger.exception("dispatcher_failed", failures=self.failures)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _RESTART_AFTER_S)

    def _rows(self, sql: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        return [list(row.values()) for row in self._store.query(sql, parameters)]

    async def _export(self, stop: asyncio.Event) -> None:
        """Copy what changed to the store; from the beginning after a start, which the engine collapses by version."""
        while True:
            last = stop.is_set()
            try:
                while await asyncio.to_thread(self._export_some):
                    pass
            except (Transient, Permanent) as error:
                self._logger.warning("incident_copy_waits", reason=error.reason)
            if last:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _EXPORT_EVERY_S)

    def _export_some(self) -> bool:
        changes = self._db.changed_since(self._exported)
        if not (changes.incidents or changes.rollbacks):
            return False
        self._store.upsert_rows("incidents", changes.incidents)
        self._store.upsert_rows("rollbacks", changes.rollbacks)
        self._exported = changes.version
        return True

    # What the administration port asks for --------------------------------------------------------------------------

    def incidents(self) -> list[dict[str, Any]]:
        """Return open and recent incidents, the newest first."""
        return self._operator.list_incidents(limit=_RECENT)

    def rollbacks(self) -> list[dict[str, Any]]:
        """Return recent rollbacks, the newest first."""
        return self._operator.list_rollbacks(limit=_RECENT)

    def acknowledge(self, incident_id: str, who: str) -> None:
        """Say that somebody has it."""
        self._operator.acknowledge(incident_id, who, time.time_ns())

    def approve(self, incident_id: str, who: str) -> None:
        """Let the rollback of an incident go."""
        self._operator.approve(incident_id, who, time.time_ns())

    def incident(self, incident_id: str) -> dict[str, Any]:
        """Return one incident with its messages."""
        return self._operator.show(incident_id)

    def silence(self, incident_id: str, seconds: float, who: str, comment: str) -> None:
        """Hold all messages of an incident but its end for so long; 0 lifts the silence."""
        now_ns = time.time_ns()
        self._operator.silence(incident_id, now_ns + int(seconds * 1e9), who, now_ns, comment)

    def resolve(self, incident_id: str, who: str, comment: str) -> None:
        """Close an incident by hand."""
        self._operator.resolve(incident_id, who, time.time_ns(), comment)

    def kill_switch(self) -> dict[str, Any]:
        """Return whether rollbacks are stopped: by the configuration, or by somebody while it ran."""
        by, configured = self._db.kill_switch(), self._config.rollback.kill_switch
        return {"on": bool(by) or configured, "by": by, "configured": configured}

    def set_kill_switch(self, on: bool, who: str) -> None:
        """Stop all rollback calls from now on, those that are being retried included; or allow them again."""
        self._operator.set_kill_switch(on, who, time.time_ns())

    def given_up(self) -> list[dict[str, Any]]:
        """Return messages that were given up, the newest first."""
        return self._operator.list_dead()

    def send_again(self, message_id: str) -> None:
        """Send a message that was given up again."""
        self._operator.replay(message_id, time.time_ns())

    def gate(self, rollout: str) -> dict[str, Any]:
        """Return pass, fail or inconclusive for ``rollout`` from its latest verdicts.

        ``fail``: a rubric is regressed, or a rollback was called. ``pass``: every rubric is non-inferior. Anything
        else, and above all too little data, is ``inconclusive``. A candidate that is gone (no score for
        ``no_data_after`` while a later one has some) has no say: it is not the one that is being rolled out.

        Raises
        ------
        Permanent
            There is no rollout of that name in the configuration.
        """
        settings = next((known for known in self._config.drift.rollouts if known.name == rollout), None)
        if settings is None:
            raise Permanent("unknown_rollout", f"no rollout is called {rollout[:128]!r}")
        found = self._store.query(
            "SELECT tenant, prompt_name, rubric, route, candidate, state, e_value, candidate_units AS n "
            "FROM verdicts_latest WHERE kind = 'canary' AND rollout = {rollout:String} ORDER BY time DESC LIMIT 1000",
            {"rollout": rollout},
        )
        shown = ("rubric", "route", "candidate", "state", "e_value", "n")
        rows = [{name: row[name] for name in shown} for row in self._present(found, settings)]
        states = {row["state"] for row in rows}
        verdict = "inconclusive"
        if "regressed" in states:
            verdict = "fail"
        elif states == {"non_inferior"}:
            verdict = "pass"
        return {
            "verdict": verdict,
            "e_value": max((row["e_value"] for row in rows), default=1.0),
            "n": min((row["n"] for row in rows), default=0),
            "rubrics": rows,
        }

    def _present(self, rows: Sequence[dict[str, Any]], settings: RolloutSettings) -> list[dict[str, Any]]:
        """Return those of ``rows`` (the newest first) whose candidate has traffic, or has no successor that has some."""
        newest: dict[tuple[str, ...], str] = {}
        for row in rows:
            newest.setdefault(_scope(row), row["candidate"])
        if all(row["candidate"] == newest[_scope(row)] for row in rows):
            return list(rows)
        # By the log's clock: a span's own may be years ahead, and nobody would be seen beside it.
        seen = self._store.query(
            "SELECT DISTINCT tenant, route, prompt_name, cohort[{arm:String}] AS candidate FROM scores "
            "WHERE ingested_at >= fromUnixTimestamp64Nano({since:Int64}) SETTINGS final = 0",
            {"arm": settings.arm, "since": time.time_ns() - int(settings.no_data_after * 1e9)},
        )

        def alive(scope: tuple[str, ...], candidate: str) -> bool:
            return any(
                score["candidate"] == candidate
                and all(not want or want == have for want, have in zip(scope, _scope(score), strict=True))
                for score in seen
            )

        return [
            row
            for row in rows
            if row["candidate"] == newest[_scope(row)]
            or alive(_scope(row), row["candidate"])
            or not alive(_scope(row), newest[_scope(row)])
        ]


def _scope(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (str(row["tenant"]), str(row["route"]), str(row["prompt_name"]))
