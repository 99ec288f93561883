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

from driftgate.runtime.poison import Place, Poison
from driftgate.runtime.stage_thread import StageThread
from stream.errors import Permanent, Transient
from stream.log import Changes, Consumer, Log, OutOfStep
from stream.stage import Batch, Record, Result, Stage

_TICK_S = 0.25


class Worker(StageThread):
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
        super().__init__(stage.name, clock)
        self.stage = stage
        self._log = log
        self._max_records = max_records
        self._linger = linger
        self._stop = threading.Event()
        self._hurry = threading.Event()
        self._poison = Poison()
        self._ours: set[int] = set()  # partitions the stage holds
        self._suspects: dict[Place, int] = {}  # last offset of a batch that failed, by topic and partition

    def overdue(self) -> bool:
        """Whether one batch takes too long; here the consumer leaves the group by itself then."""
        return False

    def stop(self) -> None:
        """Ask the thread to end after the batch in hand; idempotent."""
        self._stop.set()
        self._hurry.set()

    def _run(self) -> None:
        try:
            self._join_group()
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends the worker and is told
            self._failed(error)
        finally:
            self._set("stopped", str(self.error or ""))

    def _join_group(self) -> None:
        """Work as a member of the group until stopped."""
        for number in list(self._ours):  # from a membership that failed
            self._forget(number)
        consumer = self._log.consumer(self.stage.name, self.stage.topics)
        try:
            self._loop(consumer)
        finally:
            consumer.close()

    def _loop(self, consumer: Consumer) -> None:
        self._suspects.clear()
        while not self._stop.is_set():
            polled = time.monotonic()
            limit = 1 if self._suspects else self._max_records
            try:
                if changes := consumer.changes():
                    self._take(consumer, changes)
                    continue
                records = consumer.poll(limit, _TICK_S)
                self._lag = consumer.lag()
                records = self._poison.without(records)
                if not records and not (self._ours and consumer.at_end()):
                    if not consumer.partitions() and self.status.state == "starting":
                        # A spare: there are more members than partitions.
                        self._set("running", "no partitions")
                    continue  # an empty batch says that there is nothing left to read
                if not self._handle(consumer, records):
                    self._suspect(records)  # find the record at fault
                    continue
            except OutOfStep as error:
                self._logger.warning("worker_restores", reason=error.reason, detail=error.detail)
                self._restore(consumer)
                continue
            except Transient as error:
                self._stop.wait(self._waits_for(error, 1))
                self._restore(consumer)
                continue
            self._clear(records)
            self._handled(consumer, len(records))
            if records and self._linger and limit > 1:
                self._hurry.wait(max(0.0, self._linger - (time.monotonic() - polled)))

    def _suspect(self, records: Sequence[Record]) -> None:
        """Take records one by one up to the end of a batch that failed.

        Not so many records, but up to that place: the stage reads again from the oldest record that it still needs, which
        may be far before it. A batch of one is the record at fault itself, and done with.
        """
        if len(records) == 1:
            self._clear(records)
            return
        for record in records:
            place = (record.topic, record.partition)
            self._suspects[place] = max(self._suspects.get(place, 0), record.offset)

    def _clear(self, records: Sequence[Record]) -> None:
        """Go back to whole batches where ``records`` have passed the end of the batch that failed."""
        if not self._suspects:
            return
        for record in records:
            place = (record.topic, record.partition)
            if record.offset >= self._suspects.get(place, record.offset + 1):
                del self._suspects[place]
        for place in [place for place in self._suspects if place[1] not in self._ours]:
            del self._suspects[place]
        if not records:
            self._suspects.clear()  # all is read: what was suspected is behind us

    def _handled(self, consumer: Consumer, count: int) -> None:
        """Say that a batch of ``count`` records, the last that ``consumer`` polled, is done."""
        del consumer
        self._progress(count)

    # Partitions ----------------------------------------------------------------------------------------------------

    def _take(self, consumer: Consumer, changes: Changes) -> None:
        for number in changes.revoked:
            self._forget(number)
        self._adopt(consumer, changes.assigned)
        self._logger.info("partitions", revoked=changes.revoked, assigned=changes.assigned)

    def _forget(self, number: int) -> None:
        if number in self._ours:
            self._ours.discard(number)
            self._poison.forget(number)
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
                    self._stop.wait(self._waits_for(error, tries))
                    continue
                self.stage.assign(number, self._poison.restore(number, state))
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
                self._stop.wait(self._waits_for(error, 1))
            else:
                break
        self._adopt(consumer, consumer.partitions())

    # A batch -------------------------------------------------------------------------------------------------------

    def _handle(self, consumer: Consumer, records: Sequence[Record]) -> bool:
        """Process and commit; return False when the batch made the stage fail and must be taken apart."""
        try:
            result = self._process(consumer, records)
        except Transient:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a stage raises, the record at fault is a dead letter
            self._take_apart(consumer, records, error.__class__.__name__)
            return False
        if result is None:
            return True
        self._poison.settle(records, result)
        try:
            self._commit(consumer, records, result)
        except Permanent as error:  # what the stage made of the batch can never be written
            self._take_apart(consumer, records, error.reason)
            return False
        return True

    def _take_apart(self, consumer: Consumer, records: Sequence[Record], name: str) -> None:
        self._set("failing", name)
        self._logger.error("stage_failed", error=name, records=len(records), exc_info=True)
        self._reject(consumer, records, name)
        self._restore(consumer)

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
                self.counted.update(result.counters)
                return

    def _reject(self, consumer: Consumer, records: Sequence[Record], name: str) -> None:
        """Write a record that failed alone to the dead letters."""
        if len(records) == 1:
            self._commit(consumer, [], self._poison.note(records[0], name))
        elif not records:
            self._stop.wait(1.0)

    def _wait(self, consumer: Consumer, error: Transient, tries: int) -> None:
        """Wait as long as ``error`` asks for, as a member of the group.

        Raises
        ------
        OutOfStep
            The group gave or took partitions meanwhile: what is in hand may belong to somebody else now.
        """
        end = time.monotonic() + self._waits_for(error, tries)
        while not self._stop.is_set() and (left := end - time.monotonic()) > 0:
            before = set(consumer.partitions())
            consumer.idle(min(left, _TICK_S))
            if set(consumer.partitions()) != before:
                raise OutOfStep("rebalanced", "partitions moved while the stage was waiting")
