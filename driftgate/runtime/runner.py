"""One stage on one thread of the embedded runtime: consume -> process -> commit, over and over.

Delivery: a batch's outputs, dead letters, state, counters and offsets are one transaction of the log. A batch that
fails for a passing reason is tried again and nothing is committed meanwhile; a batch that makes the stage raise is
taken apart until the record at fault is alone, which then becomes a dead letter.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
import structlog

from stream.errors import Transient
from stream.sqlite_consumer import SqliteConsumer
from stream.sqlite_log import SqliteLog
from stream.stage import Batch, Record, Reject, Result, Stage

RunnerState = Literal["starting", "running", "waiting", "failing", "stopped"]

_TICK_S = 0.25
_MAX_BACKOFF_S = 30.0
_RESTART_AFTER_S = 1.0


class RunnerStatus(msgspec.Struct):
    """What a runner is doing; replaced as a whole, so that other threads may read it."""

    state: RunnerState = "starting"
    reason: str = ""
    since_ns: int = 0
    batches: int = 0
    records: int = 0
    last_progress_ns: int = 0


class StageRunner:
    """Runs ``stage`` on its own thread.

    Parameters
    ----------
    linger
        Seconds between two polls. A sink lingers so that it writes few large inserts; zero takes records at once.
    max_records
        Records per batch at most.
    clock
        Returns Unix nanoseconds.
    """

    def __init__(
        self,
        log: SqliteLog,
        stage: Stage,
        *,
        max_records: int = 500,
        linger: float = 0.0,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.stage = stage
        self.status = RunnerStatus(since_ns=clock())
        self._log = log
        self._max_records = max_records
        self._linger = linger
        self._clock = clock
        self._stop = threading.Event()
        self._drain = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"driftgate-{stage.name}", daemon=True)
        self._logger = structlog.get_logger(__name__).bind(stage=stage.name)
        self._poison: set[tuple[str, int, int]] = set()
        self._done: dict[str, int] = {}

    def lag(self) -> int:
        """Return how many records of its topics the stage has not handled yet."""
        ends = self._log.ends()
        return sum(max(0, ends.get(topic, 0) - self._done.get(topic, 0)) for topic in self.stage.topics)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def hurry(self) -> None:
        """Stop lingering: the process is draining."""
        self._drain.set()

    def stop(self) -> None:
        """Ask the thread to end after the batch in hand; idempotent."""
        self._stop.set()
        self._drain.set()

    def join(self, timeout: float) -> bool:
        """Wait for the thread; return whether it ended."""
        if self._thread.ident is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        """Work until stopped. Whatever fails outside a batch is said, and the stage starts anew from its saved state."""
        while not self._stop.is_set():
            try:
                consumer = self._log.consumer(self.stage.name, self.stage.topics)
                try:
                    self._assign(consumer)
                    self._work(consumer)
                finally:
                    consumer.close()
            except Exception as error:
                self._set("failing", error.__class__.__name__)
                self._logger.error("stage_starts_anew", error=error.__class__.__name__, exc_info=True)
                self._stop.wait(_RESTART_AFTER_S)
        self._set("stopped", "")

    def _work(self, consumer: SqliteConsumer) -> None:
        limit = self._max_records
        healthy = 0
        while not self._stop.is_set():
            polled = time.monotonic()
            records = consumer.poll(limit, _TICK_S)
            if self._stop.is_set():
                return
            if self._poison and records:
                records = [r for r in records if (r.topic, r.partition, r.offset) not in self._poison]
                if not records:
                    continue  # an empty batch would be a tick
            result = self._process(consumer, records)
            if result is None:
                limit = 1  # find the record at fault
                healthy = 0
                continue
            if not self._commit(consumer, records, result):
                return
            healthy += 1
            if limit == 1 and healthy > self._max_records:
                limit = self._max_records
            self._progress(consumer, len(records))
            if records and self._linger:
                self._drain.wait(max(0.0, self._linger - (time.monotonic() - polled)))

    def _assign(self, consumer: SqliteConsumer) -> None:
        for partition in consumer.partitions():
            self.stage.assign(partition, consumer.saved_state(partition))

    def _process(self, consumer: SqliteConsumer, records: Sequence[Record]) -> Result | None:
        """Return the stage's result; ``None`` when the batch must be taken apart or the process is stopping."""
        tries = 0
        while not self._stop.is_set():
            try:
                return self.stage.process(Batch(records, self._clock()))
            except Transient as error:
                tries += 1
                self._set("waiting", error.reason)
                self._logger.warning("stage_waits", reason=error.reason, detail=error.detail, tries=tries)
                self._stop.wait(min(_MAX_BACKOFF_S, error.retry_after * 2 ** min(tries - 1, 5)))
            except Exception as error:
                self._set("failing", error.__class__.__name__)
                self._logger.error(
                    "stage_failed", error=error.__class__.__name__, records=len(records), exc_info=True
                )
                self._recover(consumer, records, error)
                return None
        return None

    def _recover(self, consumer: SqliteConsumer, records: Sequence[Record], error: Exception) -> None:
        """Bring the stage back to its saved state; a record that fails alone becomes a dead letter."""
        if len(records) == 1:
            record = records[0]
            self._poison.add((record.topic, record.partition, record.offset))
            committed = self._log.committed().get(self.stage.name, {})
            # The offset stays: the stage may still hold earlier records that it rebuilds by replay.
            held = {(record.topic, record.partition): committed.get((record.topic, record.partition), 0)}
            reject = Reject(record, "stage_error", error.__class__.__name__)
            self._commit(consumer, records, Result(rejects=[reject], counters={"poisoned": 1}, commit=held))
        elif not records:
            self._stop.wait(1.0)
        for partition in consumer.partitions():
            self.stage.revoke(partition)
        consumer.rewind()
        self._assign(consumer)

    def _commit(self, consumer: SqliteConsumer, records: Sequence[Record], result: Result) -> bool:
        """Commit, waiting for the disk as long as it takes; return False when the process stopped first."""
        if not records and not (result.outputs or result.state or result.counters or result.commit):
            return True
        while True:
            try:
                consumer.commit(records, result)
            except Transient as error:
                if self._stop.is_set():
                    return False
                self._wait(error)
            else:
                return True

    def _wait(self, error: Transient) -> None:
        self._set("waiting", error.reason)
        self._logger.warning("commit_waits", reason=error.reason, detail=error.detail)
        self._stop.wait(error.retry_after)

    def _progress(self, consumer: SqliteConsumer, count: int) -> None:
        self._done = consumer.position
        now = self._clock()
        old = self.status
        self.status = RunnerStatus(
            state="running",
            since_ns=old.since_ns if old.state == "running" else now,
            batches=old.batches + (count > 0),
            records=old.records + count,
            last_progress_ns=now,
        )

    def _set(self, state: RunnerState, reason: str) -> None:
        self.status = msgspec.structs.replace(self.status, state=state, reason=reason, since_ns=self._clock())
