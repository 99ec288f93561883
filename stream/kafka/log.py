"""The log on Apache Kafka, for as many processes as are needed.

Delivery: ``append`` collects what waits (group commit) and writes it with its ledger totals in one transaction of an
idempotent producer with ``acks=all``; the future resolves when the transaction is committed, so an acknowledged append
is in ``min.insync.replicas`` copies, once, and one that failed is seen by nobody who reads committed records. A stage's
batch is one transaction too (:mod:`stream.kafka.consumer`), so between log and log every effect is exactly once.

Limits: a foreign consumer that reads uncommitted records sees what was taken back. When a process is killed in the
middle of a transaction, its partitions stand still until its successor of the same ``instance`` starts or
``transaction_timeout`` has passed. A sender whose answer got lost sends again, and its records are then there twice.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import msgspec
import structlog

from stream.errors import DriftgateError, Permanent, Transient, Unavailable
from stream.kafka.client import load, load_admin, reading, shared, typed
from stream.kafka.consumer import KafkaConsumer, to_message
from stream.kafka.settings import KafkaSettings
from stream.kafka.state import Books, StateReader, Totals, read_books, totals_message
from stream.kafka.topics import GROUP_TOPICS, GROUPS, TOPICS, Topics, require, wanted
from stream.kafka.transactions import Message, Transactions
from stream.log import TopicStats
from stream.stage import Output

_GROUP_COMMIT_JOBS = 512
_GROUP_COMMIT_BYTES = 16 << 20
_DOWN_S = 1.0
_COORDINATION = (
    "NOT_COORDINATOR",
    "COORDINATOR_NOT_AVAILABLE",
    "COORDINATOR_LOAD_IN_PROGRESS",
    "_WAIT_COORD",
)


class _Job(msgspec.Struct):
    group: str
    messages: list[Message]
    topics: list[str]  # of the messages, by our names
    counters: Mapping[str, int]
    size: int
    done: Future[None]


class KafkaLog:
    """Topics on Kafka; see the module's docstring for what it guarantees.

    Parameters
    ----------
    settings
        What the URL says.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        load()
        self.settings = settings
        self._jobs: deque[_Job] = deque()
        self._queued_bytes = 0
        self._wake = threading.Condition()
        self._closing = False
        self._down = ""
        self._thread: threading.Thread | None = None
        self._logger = structlog.get_logger(__name__)

    def check(self, topics: Sequence[str], groups: Sequence[str]) -> None:
        """Check ``topics`` and the state topics of ``groups``.

        Raises
        ------
        StartError
            The brokers do not answer, or a topic is missing or not as it should be.
        """
        require(Topics(self.settings), wanted(self.settings, topics, groups))

    # Appending -----------------------------------------------------------------------------------------------------

    def append(self, outputs: Sequence[Output], *, group: str, counters: Mapping[str, int]) -> Future[None]:
        """See :meth:`stream.log.Log.append`; while the brokers are down, appends are refused at once."""
        future: Future[None] = Future()
        messages = [to_message(self.settings, output) for output in outputs]
        size = sum(message.size_bytes for message in messages)
        if any(message.size_bytes > self.settings.max_record for message in messages):
            future.set_exception(
                Permanent("too_large", f"a record has more than {self.settings.max_record} bytes")
            )
            return future
        with self._wake:
            refusal = self._refusal(size)
            if refusal is not None:
                future.set_exception(refusal)
                return future
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_loop, name="driftgate-log", daemon=True)
                self._thread.start()
            self._jobs.append(
                _Job(group, messages, [output.topic for output in outputs], counters, size, future)
            )
            self._queued_bytes += size
            self._wake.notify()
        return future

    def _refusal(self, size: int) -> DriftgateError | None:
        if self._closing:
            return Unavailable("log_closed", "the log is shutting down")
        if self._down:
            return Unavailable("log_down", self._down, retry_after=_DOWN_S)
        if self._queued_bytes + size > max(self.settings.max_queued, size):
            return Transient("log_busy", "too many bytes wait for the brokers", retry_after=1.0)
        return None

    def _write_loop(self) -> None:
        appender = _Appender(self.settings)
        while True:
            with self._wake:
                while not self._jobs and not self._closing:
                    self._wake.wait()
                if not self._jobs:
                    break
                jobs = [self._jobs.popleft()]
                size = jobs[0].size
                while (
                    self._jobs
                    and len(jobs) < _GROUP_COMMIT_JOBS
                    and size + self._jobs[0].size <= _GROUP_COMMIT_BYTES
                ):
                    jobs.append(self._jobs.popleft())
                    size += jobs[-1].size
            error = appender.write(jobs)
            with self._wake:
                self._queued_bytes -= size
                # Before anybody is told, so that whoever is told is refused at once from then on.
                self._down = (error.detail or error.reason) if error else ""
            _finish(jobs, error)
            if error is not None:
                self._outage(appender, error)
        appender.close()

    def _outage(self, appender: _Appender, error: Transient) -> None:
        """Refuse what waits and what comes until the brokers answer again."""
        self._logger.warning("log_down", reason=error.reason, detail=error.detail)
        while True:
            with self._wake:
                jobs, self._jobs = list(self._jobs), deque()
                self._queued_bytes -= sum(job.size for job in jobs)
                closing = self._closing
            _finish(jobs, Unavailable("log_down", error.detail or error.reason, retry_after=_DOWN_S))
            if closing or appender.answers():
                break
            with self._wake:
                self._wake.wait(0.2)
        with self._wake:
            self._down = ""
        self._logger.info("log_up")

    # Reading -------------------------------------------------------------------------------------------------------

    def consumer(self, group: str, topics: Sequence[str]) -> KafkaConsumer:
        """See :meth:`stream.log.Log.consumer`."""
        return KafkaConsumer(self.settings, group, topics)

    def counters(self) -> dict[str, dict[str, int]]:
        """See :meth:`stream.log.Log.counters`; reads every state topic, so call it seldom."""
        return self.books().counters

    def books(self) -> Books:
        """Return the ledger of all groups; reads every state topic.

        Raises
        ------
        Unavailable
            The brokers do not answer, or a killed process left a transaction open that does not end.
        """
        there = Topics(self.settings).partitions()
        return read_books(
            self.settings, {group: len(there.get(self.settings.state_topic(group), ())) for group in GROUPS}
        )

    def stats(self) -> list[TopicStats]:
        """See :meth:`stream.log.Log.stats`; ``size_bytes`` is 0, which the brokers do not tell clients cheaply.

        Offsets count the markers that end transactions as well as records.
        """
        library, names = load(), load_admin()
        admin = names.AdminClient(shared(self.settings))
        there = Topics(self.settings).partitions()
        places = [
            library.TopicPartition(self.settings.topic(topic), number)
            for topic in TOPICS
            for number in range(len(there.get(self.settings.topic(topic), ())))
        ]
        if not places:
            return []
        timeout = self.settings.timeout
        try:
            first, end = (
                {
                    (place.topic, place.partition): int(future.result(timeout + 1).offset)
                    for place, future in admin.list_offsets(
                        dict.fromkeys(places, at), request_timeout=timeout
                    ).items()
                }
                for at in (names.OffsetSpec.earliest(), names.OffsetSpec.latest())
            )
        except library.KafkaException as error:
            raise typed(error) from error
        cut = len(self.settings.prefix)
        return [
            TopicStats(topic[cut:], number, first[topic, number], end[topic, number], 0)
            for topic, number in sorted(end)
        ]

    def committed(self) -> dict[str, dict[tuple[str, int], int]]:
        """See :meth:`stream.log.Log.committed`; waits for offsets of an open transaction."""
        library = load()
        there = Topics(self.settings).partitions()
        cut = len(self.settings.prefix)
        found: dict[str, dict[tuple[str, int], int]] = {}
        for group, topics in GROUP_TOPICS.items():
            places = [
                library.TopicPartition(name, number)
                for name in map(self.settings.topic, topics)
                for number in range(len(there.get(name, ())))
            ]
            if not places:
                continue
            # As a consumer that joins nothing: asked through its administrative client for offsets that a transaction
            # is about to change, librdkafka crashes (2.16).
            consumer = library.Consumer({**reading(self.settings), "group.id": self.settings.group(group)})
            try:
                for place in self._committed(consumer, places):
                    if place.offset >= 0:
                        found.setdefault(group, {})[place.topic[cut:], place.partition] = place.offset
            finally:
                consumer.close()
        return found

    def _committed(self, consumer: Any, places: Sequence[Any]) -> list[Any]:
        deadline = time.monotonic() + self.settings.timeout
        while True:
            try:
                found: list[Any] = consumer.committed(places, self.settings.timeout)
            except load().KafkaException as error:
                # Brokers that just started, or lost one of them, need a moment to know who keeps the group.
                if error.args[0].name() not in _COORDINATION or time.monotonic() >= deadline:
                    raise typed(error) from error
                time.sleep(0.1)
            else:
                return found

    def members(self) -> dict[str, int]:
        """Return how many members every group that reads has now.

        Raises
        ------
        Unavailable
            The brokers do not answer.
        """
        library, admin = load(), load_admin().AdminClient(shared(self.settings))
        names = {self.settings.group(group): group for group in GROUP_TOPICS}
        try:
            return {
                names[name]: len(future.result(self.settings.timeout + 1).members)
                for name, future in admin.describe_consumer_groups(
                    list(names), request_timeout=self.settings.timeout
                ).items()
                if _described(future, self.settings.timeout + 1)
            }
        except library.KafkaException as error:
            raise typed(error) from error

    def close(self) -> None:
        """Write what is queued, then close; idempotent."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join()


class _Appender:
    """Writes jobs with their ledger totals; used by the log's thread."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._id = settings.writer("append")
        self._writer = Transactions(settings, self._id)
        self._totals: dict[str, Totals] = {}

    def write(self, jobs: Sequence[_Job]) -> Transient | None:
        """Write all ``jobs`` or none; return why not."""
        try:
            self._writer.ready()
            totals: dict[str, Totals] = {}
            for job in jobs:
                known = totals.get(job.group) or self._known(job.group)
                totals[job.group] = known.after(job.counters, job.topics)
            messages = [message for job in jobs for message in job.messages]
            messages += [
                totals_message(self._settings.state_topic(group), 0, self._id, sums)
                for group, sums in totals.items()
            ]
            self._writer.write(messages)
        except Transient as error:
            # It may have been written; what is written counts, so ask the topic.
            self._totals = {}
            return error
        except Permanent as error:
            self._totals = {}
            return Transient(error.reason, error.detail)
        except Exception as error:  # noqa: BLE001 - if its thread ended, no request would ever be answered again
            self._totals = {}
            self._writer.drop()
            return Unavailable("log_failed", f"writing to the log failed ({error.__class__.__name__})")
        self._totals.update(totals)
        return None

    def _known(self, group: str) -> Totals:
        if group not in self._totals:
            reader = StateReader(self._settings)
            try:
                saved = reader.read(self._settings.state_topic(group), 0)
            finally:
                reader.close()
            self._totals[group] = saved.totals.get(self._id, Totals())
        return self._totals[group]

    def answers(self) -> bool:
        """Whether a transaction could be begun again."""
        try:
            self._writer.ready()
            Topics(self._settings).partitions()
        except Transient:
            return False
        return True

    def close(self) -> None:
        """Let go of the producer."""
        self._writer.drop()


def _described(future: Future[Any], timeout: float) -> bool:
    """Whether the group exists; one that never had a member does not."""
    error = future.exception(timeout)
    return error is None or error.args[0].name() not in ("GROUP_ID_NOT_FOUND", "_UNKNOWN_GROUP")


def _finish(jobs: Sequence[_Job], error: DriftgateError | None) -> None:
    for job in jobs:
        if not job.done.set_running_or_notify_cancel():
            continue
        if error is None:
            job.done.set_result(None)
        else:
            job.done.set_exception(error)
