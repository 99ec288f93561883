"""The process that is killed: verdicts from a file through the stage and the dispatcher, as the embedded runtime does.

The log is played by a file of verdicts and an SQLite file for what the log would commit: offset, state and ledger, in
one transaction after the stage has processed. A kill between the two delivers verdicts again.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import threading
import time
from pathlib import Path

import msgspec

from sinks.alerter import AlerterStage
from sinks.alerts_settings import AlertSettings, RollbackSettings
from sinks.dispatcher import Dispatcher
from sinks.incidents.store import IncidentStore
from sinks.rollback.verification import TrafficReader
from stream.records import TOPIC_VERDICTS
from stream.stage import Batch, Record


class IncumbentOnly(TrafficReader):
    """Telemetry after a rollback that worked."""

    def traffic(self, tenant, match, arm, since_ns, until_ns):  # type: ignore[no-untyped-def]
        return {"v17": 1000}


class CommittedLog:
    """What a log keeps for a consumer group."""

    def __init__(self, folder: Path) -> None:
        self.verdicts = (folder / "verdicts.jsonl").read_bytes().splitlines()
        self.db = sqlite3.connect(folder / "log.db", isolation_level=None, check_same_thread=False)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute(
            "CREATE TABLE IF NOT EXISTS committed (id INTEGER PRIMARY KEY, next INTEGER, state TEXT, ledger TEXT)"
        )
        self.db.execute("INSERT OR IGNORE INTO committed VALUES (1, 0, '{}', '{}')")

    def load(self) -> tuple[int, dict[str, bytes], dict[str, int]]:
        row = self.db.execute("SELECT next, state, ledger FROM committed").fetchone()
        return row[0], {key: value.encode() for key, value in json.loads(row[1]).items()}, json.loads(row[2])

    def save(self, offset: int, state: dict[str, bytes], ledger: dict[str, int]) -> None:
        texts = {key: value.decode() for key, value in state.items()}
        self.db.execute(
            "UPDATE committed SET next = ?, state = ?, ledger = ?",
            (offset, json.dumps(texts), json.dumps(ledger)),
        )


def consume(stage: AlerterStage, log: CommittedLog, stop: threading.Event) -> None:
    """Feed the stage in small batches for ever; a tick when there is nothing."""
    offset, state, ledger = log.load()
    stage.assign(0, state)
    while not stop.is_set():
        records = [
            Record(TOPIC_VERDICTS, 0, offset + n, value)
            for n, value in enumerate(log.verdicts[offset : offset + 3])
        ]
        result = stage.process(Batch(records, time.time_ns()))
        time.sleep(0.02)  # a window in which a kill finds applied and not committed
        for name, by in result.counters.items():
            ledger[name] = ledger.get(name, 0) + by
        state.update({key: value for (_, key), value in result.state.items() if value is not None})
        offset += len(records)
        log.save(offset, state, ledger)
        if not records:
            stop.wait(0.1)


async def main(folder: Path) -> None:
    """Run until killed, or until everything is done and ``drain`` exists."""
    config = json.loads((folder / "config.json").read_text())
    alerts = AlertSettings.model_validate(config["alerts"])
    rollback = RollbackSettings.model_validate(config["rollback"])
    db = IncidentStore(folder / "incidents.db")
    log = CommittedLog(folder)
    stop_stage = threading.Event()
    thread = threading.Thread(
        target=consume, args=(AlerterStage(db, alerts, rollback), log, stop_stage), daemon=True
    )
    thread.start()
    stop = asyncio.Event()
    dispatcher = Dispatcher(db, alerts, rollback, traffic=IncumbentOnly())

    async def finish() -> None:
        while not ((folder / "drain").exists() and _done(db, log)):  # noqa: ASYNC110 - it stands in files
            await asyncio.sleep(0.1)
        stop.set()

    await asyncio.gather(dispatcher.run(stop, time.time_ns), finish())
    stop_stage.set()
    thread.join(10)
    (folder / "drained").write_bytes(msgspec.json.encode(log.load()[2]))


def _done(db: IncidentStore, log: CommittedLog) -> bool:
    offset, state, _ = log.load()
    reported = json.loads(state["reported"]) if "reported" in state else {}
    return (
        offset == len(log.verdicts)
        and not db.backlog()
        and not db.list_incidents(state="open")
        and reported == db.totals(0)
    )


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
