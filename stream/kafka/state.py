"""What a group has saved, in its compacted topic ``<group>.state``: one partition of it for each partition it reads.

Keys are ``state/<key>`` for the stage's own values and ``ledger`` or ``ledger/<writer>`` for totals. A total is stored
with the offsets it includes, in the transaction that commits these, so a batch that is processed again counts once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from stream.errors import Unavailable
from stream.kafka.client import load, load_admin, reading, shared, typed
from stream.kafka.settings import KafkaSettings
from stream.kafka.transactions import Message

_STATE = b"state/"
_LEDGER = b"ledger"


class Totals(msgspec.Struct):
    """Ledger counters and the offsets (``topic/partition`` -> next) of the batches that they count."""

    counters: dict[str, int] = {}
    offsets: dict[str, int] = {}


class Saved(msgspec.Struct):
    """Everything saved for one partition."""

    values: dict[str, bytes] = {}
    totals: dict[str, Totals] = {}  # by writer; "" is the partition's owner


def state_message(topic: str, partition: int, key: str, value: bytes | None) -> Message:
    """Return the record that saves ``value`` under ``key``, or deletes it."""
    return Message(topic, value, _STATE + key.encode(), partition=partition)


def totals_message(topic: str, partition: int, writer: str, totals: Totals) -> Message:
    """Return the record that saves the ledger of one partition or writer; ``partition=-1`` places it by the writer."""
    key = _LEDGER + b"/" + writer.encode() if writer else _LEDGER
    return Message(topic, msgspec.json.encode(totals), key, partition=partition)


class StateReader:
    """Reads state topics; used by one thread at a time."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._library = load()
        self._names = load_admin()
        self._consumer: Any = None
        self._admin: Any = None

    def read(self, topic: str, partition: int) -> Saved:
        """Return what is saved in ``partition`` of ``topic``, waiting for a transaction that is still open there.

        Waiting matters: what a killed owner left open hides what its successors wrote after it until the brokers end
        it, and state older than the committed offsets must never be used.

        Raises
        ------
        Unavailable
            The brokers do not answer, or the open transaction does not end.
        """
        try:
            return self._read(topic, partition)
        except self._library.KafkaException as error:
            # What a client knows of the leaders may be why it failed, and the administrative one never asks again.
            self.close()
            raise typed(error) from error

    def _read(self, topic: str, partition: int) -> Saved:
        if self._consumer is None:
            configuration = {**reading(self._settings), "group.id": f"{self._settings.prefix}state-reader"}
            self._consumer = self._library.Consumer(configuration)
        end = self._end(topic, partition)
        # Twice the time after which the brokers end an open transaction; they look for these every ten seconds.
        deadline = time.monotonic() + self._settings.transaction_timeout * 2 + 20
        found: dict[bytes, bytes | None] = {}
        position = 0
        self._consumer.assign(
            [self._library.TopicPartition(topic, partition, self._library.OFFSET_BEGINNING)]
        )
        try:
            while position < end:
                for message in self._consumer.consume(1_000, 0.05):
                    error = message.error()
                    if error is not None:
                        if error.code() != self._library.KafkaError._PARTITION_EOF:
                            raise self._library.KafkaException(error)
                        position = message.offset()
                        continue
                    found[message.key() or b""] = message.value()
                if position < end and time.monotonic() >= deadline:
                    raise Unavailable(
                        "state_unsettled", f"an open transaction hides the end of {topic}/{partition}"
                    )
        finally:
            self._consumer.unassign()
        return _decode(found)

    def _end(self, topic: str, partition: int) -> int:
        """Return the offset after the last record, open transactions included."""
        if self._admin is None:
            self._admin = self._names.AdminClient(shared(self._settings))
        place = self._library.TopicPartition(topic, partition)
        futures = self._admin.list_offsets(
            {place: self._names.OffsetSpec.latest()},
            isolation_level=self._library.IsolationLevel.READ_UNCOMMITTED,
            request_timeout=self._settings.timeout,
        )
        return int(futures[place].result(self._settings.timeout + 1).offset)

    def close(self) -> None:
        """Close the connections; idempotent."""
        consumer, self._consumer, self._admin = self._consumer, None, None
        if consumer is not None:
            consumer.close()


def _decode(found: Mapping[bytes, bytes | None]) -> Saved:
    saved = Saved()
    for key, value in found.items():
        if value is None:
            continue
        if key.startswith(_STATE):
            saved.values[key.removeprefix(_STATE).decode()] = value
        elif key.startswith(_LEDGER):
            writer = key.removeprefix(_LEDGER).removeprefix(b"/").decode()
            saved.totals[writer] = msgspec.json.decode(value, type=Totals)
    return saved
