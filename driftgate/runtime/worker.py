"""One stage as a member of a consumer group, one of as many as there are partitions.

The loop, over and over:

1. **poll** records; nothing else happens between a poll and the commit of what it brought, so when partitions are taken
   away (which is told by the poll) everything polled before is committed: draining is finishing the batch in hand;
2. **changes**: forget the partitions that were lost, and restore those that were got from their saved state, before any
   of their records is handed to the stage;
3. **process** the batch, or an empty one (a tick) when everything written has been read;
4. **commit** in one transaction: outputs and dead letters, state and ledger, offsets.

A stage that waits for something keeps its place in the group with its partitions paused and commits nothing. When the
group moves on meanwhile, or it cannot be known whether a commit took effect, the worker drops what it has in hand,
restores every partition and reads again from the committed offsets. A record that makes the stage raise is found by
taking batches apart and becomes a dead letter.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import msgspec
import structlog

from driftgate.runtime.runner import RunnerState, RunnerStatus
from stream.errors import DriftgateError, Permanent, StartError, Transient
from stream.log import Changes, Consumer, Log, OutOfStep
from stream.stage import Batch, Record, Reject, Result, Stage

_TICK_S = 0.25
_MAX_BACKOFF_S = 30.0


class Worker:
    """Runs ``stage`` on its own thread until stopped.

    Parameters
    ----------
    linger
        Seconds between two polls that bring records. A sink lingers so that it writes few large inserts.
    max_records
        Records per batch at most.
    clock
        Returns Unix nanoseconds.
    """

    def __init__(
        self,
        log: Log,
        stage: Stage,
        *,
        max_records: int = 500,
        linger: float = 0.0,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.stage = stage
        self.status = RunnerStatus(since_ns=clock())
        self.error: DriftgateError | None = None
        self.partitions: tuple[int, ...] = ()
        self._log = log
        self._max_records = max_records
        self._linger = linger
        self._clock = clock
        self._lag = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"driftgate-{stage.name}", daemon=True)
        self._logger = structlog.get_logger(__name__).bind(stage=stage.name)
        self._poison: set[tuple[str, int, int]] = set()
        self._ours: set[int] = set()  # partitions the stage holds

    def lag(self) -> int:
        """Return how many records of its partitions had not been polled after the last batch."""
        return self._lag

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end after the batch in hand; idempotent."""
        self._stop.set()

    def join(self, timeout: float) -> bool:
        """Wait for the thread; return whether it ended. What ended it, if it was not asked to, is in ``error``."""
        if self._thread.ident is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            consumer = self._log.consumer(self.stage.name, self.stage.topics)
            try:
                self._loop(consumer)
            finally:
                consumer.close()
        except DriftgateError as error:
            # A state that cannot be read, a secret that is missing: going on would be wrong, so the process ends.
            self.error = error
            self._logger.error("worker_failed", error=str(error))
        except Exception as error:
            # Outside a batch there is no record to blame: the process ends and its supervisor starts it anew.
            self.error = StartError(f"the {self.stage.name} worker failed: {error.__class__.__name__}")
            self._logger.error("worker_failed", error=error.__class__.__name__, exc_info=True)
        finally:
            self._set("stopped", str(self.error or ""))

    def _loop(self, consumer: Consumer) -> None:
        limit = self._max_records
        healthy = 0
        while not self._stop.is_set():
            polled = time.monotonic()
            try:
                records = consumer.poll(limit, _TICK_S)
                if changes := consumer.changes():
                    self._take(consumer, changes)
                    continue
                self._lag = consumer.lag()
                if self._poison:
                    records = [r for r in records if (r.topic, r.partition, r.offset) not in self._poison]
                if not records and not (self._ours and consumer.at_end()):
                    if not self._ours and self.status.state == "starting":
                        self._set(
                            "running", "no partitions"
                        )  # a spare: there are more members than partitions
                    continue  # an empty batch says that there is nothing left to read
                if not self._handle(consumer, records):
                    limit, healthy = 1, 0  # find the record at fault
                    continue
            except OutOfStep as error:
                self._logger.warning("worker_restores", reason=error.reason, detail=error.detail)
                self._restore(consumer)
                continue
            except Transient as error:
                self._say_waiting(error, 1)
                self._stop.wait(error.retry_after)
                self._restore(consumer)
                continue
            healthy += 1
            if limit == 1 and healthy > self._max_records:
                limit = self._max_records
            self._progress(len(records))
            if records and self._linger:
                self._stop.wait(max(0.0, self._linger - (time.monotonic() - polled)))

    # Partitions ----------------------------------------------------------------------------------------------------

    def _take(self, consumer: Consumer, changes: Changes) -> None:
        for number in changes.revoked:
            self._forget(number)
        self._adopt(consumer, changes.assigned)
        self._logger.info("partitions", revoked=changes.revoked, assigned=changes.assigned)

    def _forget(self, number: int) -> None:
        if number in self._ours:
            self._ours.discard(number)
            self.stage.revoke(number)
        self.partitions = tuple(sorted(self._ours))

    def _adopt(self, consumer: Consumer, numbers: Sequence[int]) -> None:
        """Restore ``numbers``, waiting for the log as long as it takes."""
        for number in numbers:
            tries = 0
            while number in consumer.partitions() and not self._stop.is_set():
                try:
                    state = consumer.saved_state(number)
                except Transient as error:
                    tries += 1
                    self._say_waiting(error, tries)
                    self._stop.wait(error.retry_after)
                    continue
                self.stage.assign(number, state)
                self._ours.add(number)
                break
        self.partitions = tuple(sorted(self._ours))

    def _restore(self, consumer: Consumer) -> None:
        """Start over from what is committed, with the partitions that are ours now."""
        for number in list(self._ours):
            self._forget(number)
        while not self._stop.is_set():
            try:
                consumer.changes()
                consumer.rewind()
            except Transient as error:
                self._say_waiting(error, 1)
                self._stop.wait(error.retry_after)
            else:
                break
        self._adopt(consumer, consumer.partitions())

    # A batch -------------------------------------------------------------------------------------------------------

    def _handle(self, consumer: Consumer, records: Sequence[Record]) -> bool:
        """Process and commit; return False when the batch made the stage fail and must be taken apart."""
        try:
            result = self._process(consumer, records)
            if result is not None:
                self._commit(consumer, records, result)
        except Transient:
            raise
        except Exception as error:
            # Also Permanent from the log: what the stage made of the batch can never be written.
            name = error.reason if isinstance(error, Permanent) else error.__class__.__name__
            self._set("failing", name)
            self._logger.error("stage_failed", error=name, records=len(records), exc_info=True)
            self._reject(consumer, records, name)
            self._restore(consumer)
            return False
        return True

    def _process(self, consumer: Consumer, records: Sequence[Record]) -> Result | None:
        tries = 0
        while not self._stop.is_set():
            try:
                return self.stage.process(Batch(records, self._clock()))
            except Transient as error:
                tries += 1
                self._wait(consumer, error, tries)
        return None

    def _commit(self, consumer: Consumer, records: Sequence[Record], result: Result) -> None:
        if not records and not (result.outputs or result.state or result.counters or result.commit):
            return
        tries = 0
        while True:
            try:
                consumer.commit(records, result)
            except OutOfStep:
                raise
            except Transient as error:
                if self._stop.is_set():
                    return
                tries += 1
                self._wait(consumer, error, tries)
            else:
                return

    def _reject(self, consumer: Consumer, records: Sequence[Record], name: str) -> None:
        """Write a record that failed alone to the dead letters; its offset stays, the stage may need earlier ones."""
        if len(records) != 1:
            if not records:
                self._stop.wait(1.0)
            return
        (record,) = records
        self._commit(
            consumer, [], Result(rejects=[Reject(record, "stage_error", name)], counters={"poisoned": 1})
        )
        self._poison.add((record.topic, record.partition, record.offset))

    def _wait(self, consumer: Consumer, error: Transient, tries: int) -> None:
        """Wait as long as ``error`` asks for, as a member of the group.

        Raises
        ------
        OutOfStep
            The group gave or took partitions meanwhile: what is in hand may belong to somebody else now.
        """
        self._say_waiting(error, tries)
        end = time.monotonic() + min(_MAX_BACKOFF_S, error.retry_after * 2 ** min(tries - 1, 5))
        while not self._stop.is_set() and (left := end - time.monotonic()) > 0:
            before = set(consumer.partitions())
            consumer.idle(min(left, 1.0))
            if set(consumer.partitions()) != before:
                raise OutOfStep("rebalanced", "partitions moved while the stage was waiting")

    def _say_waiting(self, error: Transient, tries: int) -> None:
        self._set("waiting", error.reason)
        self._logger.warning("stage_waits", reason=error.reason, detail=error.detail, tries=tries)

    def _progress(self, count: int) -> None:
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
