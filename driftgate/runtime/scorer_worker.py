"""The scoring stage on Kafka: batches from Faust, effects in our own transactions, one per partition.

For every batch that Faust hands out, and for all its partitions at once:

1. **open** a partition that is new here: shut out its earlier owner, restore the stage from what it wrote;
2. **due**: take the records that follow what is applied, skip those that are applied already (Faust delivers at least
   once), and read again from there when something in between is missing;
3. **process** them; judges of all partitions share the stage's limit;
4. **commit** outputs and dead letters, state, ledger and the applied offset in one transaction. Faust commits the
   group's offsets later and never beyond.

A stage that waits for something keeps its membership and its place, and nothing is committed; when the group moves on
meanwhile, the batch is left to whoever owns the partition then. A record that makes the stage raise is found by taking
batches apart and becomes a dead letter.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

from driftgate.runtime.stage_thread import StageThread
from scorers.stage import ScorerStage
from stream.errors import Permanent, Transient
from stream.kafka.faust_member import FaustMember, Received, Standing
from stream.kafka.partition_writer import PartitionWriter
from stream.kafka.settings import KafkaSettings
from stream.log import OutOfStep
from stream.stage import Batch, Record, Reject, Result

_TICK_S = 0.2
_PAUSE_S = 0.05
# What is in Faust's buffers is handed out at once when the handler is free; what is not by then is not there.
_IDLE_S = 3.0


class _Part:
    """One partition as long as it is ours."""

    def __init__(self, writer: PartitionWriter) -> None:
        self.writer = writer
        self.lock = asyncio.Lock()
        self.singly = 0  # records to take one by one, to find the one at fault
        self.seeking = False

    @property
    def number(self) -> int:
        return self.writer.partition


class ScorerWorker(StageThread):
    """Runs ``stage`` as a member of its group until stopped; see the module for the steps.

    Parameters
    ----------
    max_records
        Records per batch at most.
    clock
        Returns Unix nanoseconds.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        stage: ScorerStage,
        *,
        max_records: int = 64,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        super().__init__(stage.name, clock)
        self.stage = stage
        self._settings = settings
        self._topic = stage.topics[0]
        self._max_records = max_records
        self._parts: dict[int, _Part] = {}
        self._busy_since: float | None = None
        self._handling = False
        self._handled_at = time.monotonic()
        self._waits = 0
        self._stop_asked = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._member: FaustMember | None = None

    # What other threads call ---------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask the thread to end after the batch in hand; idempotent."""
        self._stop_asked.set()
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._stopping.set)

    @property
    def generation(self) -> int:
        """How often the group has assigned its partitions, as the brokers count it; 0 before the first time."""
        return self._member.generation if self._member is not None else 0

    def overdue(self) -> bool:
        """Whether one batch has been in hand for longer than ``max_poll_interval``, waiting not counted."""
        since = self._busy_since
        return since is not None and time.monotonic() - since > self._settings.max_poll_interval

    # The thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends the worker and is told
            self._failed(error)
        finally:
            for part in self._parts.values():
                part.writer.close()
            self._set("stopped", str(self.error or ""))

    def _failed(self, error: Exception) -> None:
        super()._failed(error)
        self._stopping.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._stop_asked.is_set():
            self._stopping.set()
        self._member = FaustMember(
            self._settings,
            self.stage.name,
            self._topic,
            self._handle,
            self._applied,
            batch=self._max_records,
        )
        keeper = asyncio.create_task(self._keep(self._member))
        try:
            await self._member.run(self._stopping)
        finally:
            self._stopping.set()
            await keeper

    def _applied(self, partition: int) -> int | None:
        part = self._parts.get(partition)
        return part.writer.applied if part is not None and part.writer.is_open else None

    async def _keep(self, member: FaustMember) -> None:
        """Open what is assigned, close what is gone, and look how far it is, until the end."""
        while not self._stopping.is_set():
            try:
                if member.settled:
                    await self._look(member)
            except Exception as error:  # noqa: BLE001 - whatever it is, it ends the worker and not only this task
                self._failed(error)
            await self._pause(_TICK_S)

    async def _look(self, member: FaustMember) -> None:
        mine = member.partitions()
        for part in list(self._parts.values()):
            if part.number not in mine and part.writer.is_open:
                async with part.lock:
                    self.stage.revoke(part.number)
                    await asyncio.to_thread(part.writer.close)
        ready = await asyncio.gather(*(self._opened(number) for number in sorted(mine)))
        partitions = tuple(sorted(mine))
        if partitions != self.partitions:
            self._logger.info("partitions", partitions=partitions)
            self.partitions = partitions
        if not all(ready):
            return
        lag = 0
        for number, standing in (await member.standings()).items():
            applied = self._applied(number)
            if self._missing(number, standing, applied):
                self._logger.warning("reads_again", partition=number, offset=applied)
                await member.seek(number, applied or 0)
            at = standing.position if applied is None or standing.handed <= applied else applied
            lag += max(0, (standing.end or 0) - at)
        self._lag = lag
        if self.status.state == "starting" or (self.status.state == "waiting" and not self._waits):
            self._set("running", "" if mine else "no partitions")

    def _missing(self, number: int, standing: Standing, applied: int | None) -> bool:
        """Whether records of ``number`` were lost on the way here, and no later one may come to show it."""
        assert self._member is not None
        if applied is None:
            applied = self._member.start(number)
        elif self._member.start(number) > applied:
            return True  # the group's offset stands further on than what was done
        idle = not self._handling and time.monotonic() - self._handled_at > _IDLE_S
        return idle and standing.handed > applied

    # A batch -------------------------------------------------------------------------------------------------------

    async def _handle(self, received: Sequence[Received]) -> None:
        self._handling = True
        by_partition: dict[int, list[Received]] = {}
        for item in received:
            by_partition.setdefault(item.record.partition, []).append(item)
        try:
            await asyncio.gather(*(self._work(number, items) for number, items in by_partition.items()))
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends the worker and is told
            self._failed(error)
        finally:
            self._busy_since = None
            self._handling = False
            self._handled_at = time.monotonic()

    async def _work(self, number: int, items: Sequence[Received]) -> None:
        """Apply ``items`` or leave them to whoever gets the partition next."""
        tries = 0
        while not self._gone(number):
            if not await self._opened(number):
                continue
            part = self._parts[number]
            try:
                async with part.lock:
                    if not part.writer.is_open:
                        continue
                    due = await self._due(part, items)
                    if not due:
                        return
                    self._busy_since = self._busy_since or time.monotonic()
                    done = await self._apply(part, due[:1] if part.singly else due)
            except OutOfStep as error:
                self._logger.warning(
                    "worker_restores", partition=number, reason=error.reason, detail=error.detail
                )
                await self._wait(number, error, 1)
            except Transient as error:
                self._restore(part)
                tries += 1
                await self._wait(number, error, tries)
            else:
                tries = 0
                part.singly = max(0, part.singly - done)
                self._progress(done)

    async def _due(self, part: _Part, items: Sequence[Received]) -> list[Record]:
        """Return those of ``items`` that are next; start reading again where one is missing."""
        assert self._member is not None
        end = part.writer.applied
        if end is None:
            end = self._member.start(part.number)
        due = []
        for item in items:
            if item.follows is None or item.record.offset < end:
                continue
            if item.follows > end:
                if not part.seeking:
                    self._logger.warning("reads_again", partition=part.number, offset=end)
                    part.seeking = True
                    await self._member.seek(part.number, end)
                break
            part.seeking = False
            due.append(item.record)
            end = item.record.offset + 1
        return due

    async def _apply(self, part: _Part, records: list[Record]) -> int:
        """Process and write ``records``; return how many are done, none if they must be taken one by one."""
        try:
            result = await self.stage.process_async(Batch(records, self._clock()))
            await asyncio.to_thread(part.writer.commit, records, result)
            self.counted.update(result.counters)
        except Transient:
            raise
        except Exception as error:
            # Also Permanent from the log: what the stage made of the batch can never be written.
            name = error.reason if isinstance(error, Permanent) else error.__class__.__name__
            self._set("failing", name)
            self._logger.error("stage_failed", error=name, records=len(records), exc_info=True)
            self._restore(part)
            if len(records) > 1:
                part.singly = len(records)
                return 0
            reject = Result(rejects=[Reject(records[0], "stage_error", name)], counters={"poisoned": 1})
            await asyncio.to_thread(part.writer.commit, records, reject)
            self.counted.update(reject.counters)
        return len(records)

    def _restore(self, part: _Part) -> None:
        """Take back what the stage has counted and not written."""
        self.stage.assign(part.number, part.writer.state)

    async def _opened(self, number: int) -> bool:
        """Open ``number`` if it is not; return whether it is, after a pause if the brokers did not let us."""
        part = self._parts.get(number)
        if part is None:
            part = self._parts[number] = _Part(
                PartitionWriter(self._settings, self.stage.name, self._topic, number)
            )
        opened = part.writer.is_open
        if opened:
            return True
        async with part.lock:
            if part.writer.is_open:
                return True
            try:
                await asyncio.to_thread(part.writer.open)
            except Transient as error:
                await self._wait(number, error, 1)
                return False
            self._restore(part)
            part.seeking = False
            return True

    def _gone(self, number: int) -> bool:
        assert self._member is not None
        return self._stopping.is_set() or not self._member.settled or number not in self._member.partitions()

    async def _wait(self, number: int, error: Transient, tries: int) -> None:
        """Wait as long as ``error`` asks for, or until the partition is somebody else's."""
        end = time.monotonic() + self._waits_for(error, tries)
        self._busy_since = None
        self._waits += 1
        while not self._gone(number) and (left := end - time.monotonic()) > 0:
            await self._pause(min(left, _PAUSE_S))
        self._waits -= 1

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return
