"""The alerter stage: verdicts in, incidents and outbox rows out.

Delivery guarantee: a verdict takes effect once, however often the log delivers it. Its effects, the outbox rows and
the offset it stood at are written in one transaction of the incident database, before the log commits the offset; after
a crash between the two the verdict comes again and is recognised by its id. Its counters are totals kept in that same
transaction; the stage hands the log the difference to what the log has seen, so the ledger counts once too.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from sinks.alerts_settings import AlertSettings, RollbackSettings
from sinks.incidents.engine import IncidentEngine
from sinks.incidents.store import IncidentStore, Ledger
from stream.records import TOPIC_VERDICTS, Verdict
from stream.stage import Batch, Record, Reject, Result

_REPORTED = "reported"  # state key: totals the log's ledger has seen
_LARGEST = 1 << 20  # bytes; a verdict is a few kilobytes


class AlerterStage:
    """See the module. Raises :class:`stream.errors.Transient` when the incident database cannot be written now."""

    def __init__(
        self,
        db: IncidentStore,
        alerts: AlertSettings | None = None,
        rollback: RollbackSettings | None = None,
    ) -> None:
        self._db = db
        self._engine = IncidentEngine(alerts or AlertSettings(), rollback or RollbackSettings())
        self._decoder = msgspec.json.Decoder(Verdict)
        self._reported: dict[int, dict[str, int]] = {}

    @property
    def name(self) -> str:
        """Also the consumer group."""
        return "alerter"

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics it reads."""
        return (TOPIC_VERDICTS,)

    def assign(self, partition: int, state: Mapping[str, bytes]) -> None:
        """Take over ``partition``; its state says which counts the log has seen."""
        saved = state.get(_REPORTED)
        self._reported[partition] = msgspec.json.decode(saved, type=dict[str, int]) if saved else {}

    def revoke(self, partition: int) -> None:
        """Forget ``partition``."""
        self._reported.pop(partition, None)

    def process(self, batch: Batch) -> Result:
        """Apply a batch of verdicts and what the time brings; an empty batch is a tick."""
        result = Result()
        with self._db.transaction() as ledger:
            for record in batch.records:
                self._take(ledger, record, batch.now_ns, result)
            self._engine.advance(ledger, batch.now_ns)
        for partition, reported in self._reported.items():
            totals = self._db.totals(partition)
            if totals != reported:
                for name, value in totals.items():
                    if by := value - reported.get(name, 0):
                        result.count(name, by)
                self._reported[partition] = totals
                result.state[partition, _REPORTED] = msgspec.json.encode(totals)
        return result

    def _take(self, ledger: Ledger, record: Record, now_ns: int, result: Result) -> None:
        row = ledger.rows(
            "SELECT next_offset FROM offsets WHERE topic = ? AND partition = ?",
            (record.topic, record.partition),
        )
        fresh = not row or record.offset >= row[0]["next_offset"]
        verdict, reject = self._decode(record)
        if reject is not None:
            result.rejects.append(reject)
            if fresh:
                ledger.count(record.partition, "verdicts_in")
                ledger.count(record.partition, "verdicts_rejected")
        if verdict is not None:
            known = ledger.rows(
                'SELECT topic, partition, "offset" FROM applied WHERE verdict_id = ?', (verdict.verdict_id,)
            )
            if not known:
                # Also where an offset seems old: a log that was started anew counts from zero again.
                ledger.execute(
                    "INSERT INTO applied VALUES (?, ?, ?, ?, ?)",
                    (verdict.verdict_id, record.topic, record.partition, record.offset, now_ns),
                )
                ledger.count(record.partition, "verdicts_in")
                self._engine.apply(ledger, verdict, record.partition, now_ns)
                fresh = True
            elif fresh:
                ledger.count(record.partition, "verdicts_in")
                ledger.count(record.partition, "verdicts_duplicate")
        if fresh:
            ledger.execute(
                "INSERT INTO offsets VALUES (?, ?, ?) "
                "ON CONFLICT (topic, partition) DO UPDATE SET next_offset = excluded.next_offset",
                (record.topic, record.partition, record.offset + 1),
            )

    def _decode(self, record: Record) -> tuple[Verdict | None, Reject | None]:
        if len(record.value) > _LARGEST:
            return None, Reject(record, "too_large", f"a verdict has at most {_LARGEST} bytes")
        try:
            verdict = self._decoder.decode(record.value)
        except msgspec.ValidationError:
            return None, Reject(record, "not_a_verdict", "the JSON does not have the fields of a verdict")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None, Reject(record, "undecodable", "the value is not JSON")
        if not verdict.verdict_id:
            return None, Reject(record, "not_a_verdict", "the verdict has no id")
        return verdict, None
