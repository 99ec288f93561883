"""What a group has saved, in its compacted topic ``<group>.state``: one partition of it for each partition it reads.

Keys are ``state/<key>`` for the stage's own values and ``ledger`` or ``ledger/<writer>`` for totals. A total is stored
with the offsets it includes, in the transaction that commits these, so a batch that is processed again counts once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from stream.errors import Unavailable
from stream.kafka.client import load, load_admin, reading, shared, typed
from stream.kafka.scan import ends, scan
from stream.kafka.settings import KafkaSettings
from stream.kafka.transactions import Message

_STATE = b"state/"
_LEDGER = b"ledger"


class Totals(msgspec.Struct):
    """Ledger counters, and what belongs to the same batches.

    ``offsets`` are those of the batches (``topic/partition`` -> next), ``written`` the records they wrote per topic:
    offsets on Kafka count markers too, so records must be counted where they are written.
    """

    counters: dict[str, int] = {}
    offsets: dict[str, int] = {}
    written: dict[str, int] = {}

    def after(self, counters: Mapping[str, int], topics: Iterable[str]) -> Totals:
        """Return new totals that count one more batch, which wrote one record to each of ``topics``."""
        sums, written = dict(self.counters), dict(self.written)
        for name, by in counters.items():
            if by:
                sums[name] = sums.get(name, 0) + by
        for topic in topics:
            written[topic] = written.get(topic, 0) + 1
        return Totals(sums, self.offsets, written)


class Books(msgspec.Struct):
    """The ledger of all groups: group -> counter -> value, and topic -> records ever written to it by us."""

    counters: dict[str, dict[str, int]] = {}
    written: dict[str, int] = {}


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


def read_books(settings: KafkaSettings, partitions: Mapping[str, int]) -> Books:
    """Add up what stands in the state topics of ``partitions`` (group -> number of partitions).

    Raises
    ------
    Unavailable
        The brokers do not answer, or an open transaction does not end.
    """
    groups = {settings.state_topic(group): group for group in partitions}
    places = [
        (settings.state_topic(group), number)
        for group, count in partitions.items()
        for number in range(count)
    ]
    latest: dict[tuple[str, int, bytes], bytes | None] = {}
    for message in scan(settings, places, settled=True):
        key = message.key() or b""
        if key.startswith(_LEDGER):
            latest[message.topic(), message.partition(), key] = message.value()
    books = Books()
    for (topic, _, _), value in latest.items():
        if value is None:
            continue
        totals = msgspec.json.decode(value, type=Totals)
        sums = books.counters.setdefault(groups[topic], {})
        for name, by in totals.counters.items():
            sums[name] = sums.get(name, 0) + by
        for name, by in totals.written.items():
            books.written[name] = books.written.get(name, 0) + by
    return books


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
                    # Where others write without a pause, the end of the partition is never told.
                    position = message.offset() + 1
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
        place = (topic, partition)
        return ends(self._settings, [place], settled=True, admin=self._admin)[place]

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
