"""Writing to Kafka: everything of one transaction or nothing, in the order it is given."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import structlog

from stream.errors import DriftgateError, Permanent
from stream.kafka.client import load, typed, writing
from stream.kafka.settings import KafkaSettings
from stream.log import OutOfStep
from stream.stage import Headers

_PER_RECORD = 256  # bytes a record takes beside its key, value and headers
_ABORT_S = 5.0


class Message(msgspec.Struct, frozen=True):
    """One record for the brokers. ``value=None`` deletes ``key`` from a compacted topic; ``partition=-1``: by key."""

    topic: str
    value: bytes | None
    key: bytes = b""
    headers: Headers = ()
    partition: int = -1

    @property
    def size_bytes(self) -> int:
        """Roughly what it takes on the wire, uncompressed."""
        headers = sum(len(name) + len(value) for name, value in self.headers)
        return len(self.value or b"") + len(self.key) + headers + _PER_RECORD


class Transactions:
    """One transactional producer, used by one thread.

    A write that fails leaves nothing behind that a reader of ours can see. Whether a write whose answer never came has
    taken effect cannot be known; then, and when another process has taken over, :class:`stream.log.OutOfStep` is raised
    and the next write starts on a new producer, which settles what the old one left.
    """

    def __init__(self, settings: KafkaSettings, transactional_id: str) -> None:
        self._settings = settings
        self._id = transactional_id
        self._producer: Any = None
        self._library = load()
        self._logger = structlog.get_logger(__name__)

    @property
    def connected(self) -> bool:
        """Whether there is a producer; without one the next write makes a new one, which shuts out all others."""
        return self._producer is not None

    def ready(self) -> None:
        """Connect, and settle what an earlier producer of this id left open.

        Raises
        ------
        Transient
            The brokers do not answer.
        """
        if self._producer is not None:
            return
        producer = self._library.Producer(writing(self._settings, self._id))
        try:
            producer.init_transactions(self._settings.timeout)
        except self._library.KafkaException as error:
            raise typed(error) from error
        self._producer = producer

    def write(
        self, messages: Sequence[Message], offsets: Mapping[tuple[str, int], int] = {}, group: Any = None
    ) -> None:
        """Write ``messages`` in order and commit ``offsets`` of consumer group ``group`` with them.

        Raises
        ------
        Transient
            The brokers cannot take it now; nothing was written.
        OutOfStep
            It may have been written, or the group has moved on.
        Permanent
            ``too_large``: a message is above the limit; nothing was written.
        """
        for message in messages:
            if message.size_bytes > self._settings.max_record:
                raise Permanent(
                    "too_large",
                    f"a record for {message.topic} has more than {self._settings.max_record} bytes",
                )
        self.ready()
        deadline = time.monotonic() + self._settings.timeout
        failures = (self._library.KafkaException, BufferError)
        try:
            self._producer.begin_transaction()
            for message in messages:
                self._produce(message, deadline)
            if offsets:
                places = [self._library.TopicPartition(t, p, at) for (t, p), at in offsets.items()]
                self._retrying(
                    lambda left: self._producer.send_offsets_to_transaction(places, group, left), deadline
                )
        except failures as error:
            raise self._given_up(error) from error
        try:
            self._retrying(lambda left: self._producer.commit_transaction(left), deadline)
        except failures as error:
            if _says(error, "txn_requires_abort"):
                raise self._given_up(error) from error
            self.drop()
            raise OutOfStep("unsettled", typed(error).detail) from error

    def _produce(self, message: Message, deadline: float) -> None:
        while True:
            try:
                self._producer.produce(
                    message.topic,
                    value=message.value,
                    key=message.key or None,
                    headers=list(message.headers) or None,
                    partition=message.partition,
                )
            except BufferError:
                if time.monotonic() >= deadline:
                    raise
                self._producer.poll(0.05)
            else:
                self._producer.poll(0)
                return

    def _retrying(self, call: Any, deadline: float) -> None:
        """Call until it neither fails with an error that may pass nor the time is up."""
        while True:
            left = max(0.5, deadline - time.monotonic())
            try:
                call(left)
            except self._library.KafkaException as error:
                if not _says(error, "retriable") or time.monotonic() >= deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def _given_up(self, error: Exception) -> DriftgateError:
        """Abort the transaction; return what to raise."""
        reason = typed(error)
        try:
            self._producer.abort_transaction(min(_ABORT_S, self._settings.timeout))
        except self._library.KafkaException:
            # Nobody reads what was never committed; the next producer of this id, or time, ends it.
            self.drop()
            return OutOfStep("unsettled", reason.detail) if _says(error, "fatal") else reason
        # The abort went through, so trying again is safe, unless the group no longer knows us.
        name = reason.reason
        if any(word in name for word in ("generation", "member", "fenced", "rebalance", "epoch", "instance")):
            return OutOfStep(name, reason.detail)
        return reason

    def drop(self) -> None:
        """Let go of the producer; the next write makes a new one. Idempotent."""
        if self._producer is None:
            return
        producer, self._producer = self._producer, None
        # A producer that the brokers have shut out for good raises that here once more.
        with contextlib.suppress(self._library.KafkaException):
            producer.purge(in_queue=True, in_flight=True, blocking=False)
            producer.poll(0)


def _says(error: Exception, what: str) -> bool:
    """Ask the ``KafkaError`` in ``error``: ``retriable``, ``fatal`` or ``txn_requires_abort``."""
    cause = error.args[0] if error.args else None
    return bool(hasattr(cause, what) and getattr(cause, what)())
