"""A member of a consumer group on Kafka.

Partition ``p`` of a group is partition ``p`` of all its topics: the group joins on the first topic only, and a member
takes the same partitions of the others with it, because no cooperative assignor keeps them together.

``commit`` is one transaction, in this order: outputs and dead letters, state and ledger, offsets. Readers of ours see
all of it or nothing. Partitions are given away in ``poll`` only, and a commit that touches one of those is refused here;
from a member that the group has put out meanwhile (a pause, a lost network) the brokers refuse it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from stream.errors import Unavailable
from stream.kafka.client import joining, load, typed
from stream.kafka.settings import KafkaSettings
from stream.kafka.state import StateReader, Totals, state_message, totals_message
from stream.kafka.transactions import Message, Transactions
from stream.log import Changes, OutOfStep, in_time
from stream.records import TOPIC_DEAD_LETTERS
from stream.stage import Output, Record, Result
from stream.transaction import of_result, shortened

# Brokers that were lost so recently may hold records that have not been seen.
_DOUBT_S = 5.0

Place = tuple[str, int]


def to_message(settings: KafkaSettings, output: Output) -> Message:
    """Return ``output`` as the brokers take it; a dead letter that is too large for them is cut."""
    partition = -1 if output.partition is None else output.partition
    message = Message(settings.topic(output.topic), output.value, output.key, output.headers, partition)
    if message.size_bytes > settings.max_record and output.topic == TOPIC_DEAD_LETTERS:
        return to_message(settings, shortened(output, settings.max_record - 1024))
    return message


def to_record(message: Any, topic: str) -> Record:
    """Return ``message`` as a record of our topic ``topic``."""
    kind, stamp = message.timestamp()
    return Record(
        topic,
        message.partition(),
        message.offset(),
        message.value() or b"",
        message.key() or b"",
        tuple((name, value or b"") for name, value in message.headers() or ()),
        stamp * 1_000_000 if kind else 0,
    )


class KafkaConsumer:
    """See the module. Used by one thread.

    Parameters
    ----------
    topics
        Our names, without the prefix; all have the same number of partitions.
    """

    def __init__(self, settings: KafkaSettings, group: str, topics: Sequence[str]) -> None:
        self._settings = settings
        self._group = group
        self._names = {settings.topic(topic): topic for topic in topics}
        self._leader = settings.topic(topics[0])
        self._state_topic = settings.state_topic(group)
        self._library = load()
        self._writer = Transactions(settings, settings.writer(group))
        self._reader = StateReader(settings)
        self._owned: set[int] = set()
        self._revoked: set[int] = set()
        self._assigned: set[int] = set()
        self._held: list[Record] = []  # arrived together with a change of the assignment
        self._totals: dict[int, Totals] = {}
        self._position: dict[Place, int] = {}
        self._committed: dict[Place, int] = {}
        self._ends: dict[Place, int] = {}  # where the end was reached; behind the last record stand markers
        self._markers: dict[Place, tuple[int, int]] = {}  # from, to: stepped over, holds no record
        self._trouble = float("-inf")
        self._closed = False
        self._consumer = self._library.Consumer({**joining(settings, group), "error_cb": self._on_error})
        self._consumer.subscribe(
            [self._leader], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
        )

    # Membership ----------------------------------------------------------------------------------------------------

    def _on_error(self, error: Any) -> None:
        # librdkafka reconnects by itself; what matters is that "nothing came" is not "nothing is there" meanwhile.
        del error
        self._trouble = time.monotonic()

    def _places(self, given: Sequence[Any]) -> list[Any]:
        return [
            self._library.TopicPartition(topic, item.partition) for item in given for topic in self._names
        ]

    def _on_assign(self, consumer: Any, given: Sequence[Any]) -> None:
        consumer.incremental_assign(self._places(given))
        for item in given:
            self._owned.add(item.partition)
            self._assigned.add(item.partition)

    def _on_revoke(self, consumer: Any, given: Sequence[Any]) -> None:
        for item in given:
            number = item.partition
            self._owned.discard(number)
            if number in self._assigned:
                self._assigned.discard(number)  # came and went before anybody asked
            else:
                self._revoked.add(number)
            self._totals.pop(number, None)
            self._forget(number)
        if given:
            consumer.incremental_unassign(self._places(given))

    def _forget(self, number: int) -> None:
        for known in (self._position, self._committed, self._ends, self._markers):
            for place in [place for place in known if place[1] == number]:
                del known[place]
        self._held = [record for record in self._held if record.partition != number]

    def partitions(self) -> Sequence[int]:
        """See :meth:`stream.log.Consumer.partitions`."""
        return sorted(self._owned)

    def changes(self) -> Changes:
        """See :meth:`stream.log.Consumer.changes`."""
        changes = Changes(tuple(sorted(self._revoked)), tuple(sorted(self._assigned)))
        self._revoked.clear()
        self._assigned.clear()
        return changes

    def saved_state(self, partition: int) -> Mapping[str, bytes]:
        """See :meth:`stream.log.Consumer.saved_state`; raises :class:`Unavailable` when it cannot be read now."""
        # Settles what an earlier process of this name left open, which would have to be waited for otherwise.
        self._writer.ready()
        saved = self._reader.read(self._state_topic, partition)
        places = [self._library.TopicPartition(name, partition) for name in self._names]
        try:
            # Waits for offsets of an open transaction, so these are not older than the state.
            for place in self._consumer.committed(places, self._settings.timeout):
                if place.offset >= 0:
                    self._committed.setdefault((self._names[place.topic], partition), place.offset)
        except self._library.KafkaException as error:
            raise typed(error) from error
        self._totals[partition] = saved.totals.get("", Totals())
        return saved.values

    # Reading -------------------------------------------------------------------------------------------------------

    def poll(self, max_records: int, timeout: float) -> list[Record]:
        """See :meth:`stream.log.Consumer.poll`."""
        if self._held:
            records, self._held = self._held, []
        else:
            records = self._consume(max_records, timeout)
        if self._revoked or self._assigned:
            self._held = [record for record in records if record.partition in self._owned]
            return []
        for record in records:
            self._position[record.topic, record.partition] = record.offset + 1
        if not records:
            self._step_over_markers()
        elif len(self._names) > 1:
            records = in_time(records)
        return records

    def _consume(self, max_records: int, timeout: float) -> list[Record]:
        try:
            # A batch call waits until it is full; what is there already must not wait for more.
            messages = self._consumer.consume(1, timeout)
            if messages and max_records > 1:
                messages += self._consumer.consume(max_records - 1, 0)
        except self._library.KafkaException as error:
            raise typed(error) from error
        records = []
        for message in messages:
            problem = message.error()
            topic = self._names.get(message.topic() or "", "")
            if problem is not None:
                if problem.code() == self._library.KafkaError._PARTITION_EOF:
                    self._ends[topic, message.partition()] = message.offset()
                else:
                    self._on_error(problem)
                continue
            records.append(to_record(message, topic))
            self._ends.pop((topic, message.partition()), None)
        # A revoke inside consume() may come after messages of that partition.
        return [record for record in records if record.partition in self._owned]

    def _step_over_markers(self) -> None:
        """Commit behind the markers that end a transaction, so that a group that has everything shows no lag."""
        # Where nothing was polled since the committed offset and the end is reached, nothing is there but markers.
        behind = {
            place: end
            for place, end in self._ends.items()
            if place not in self._position or self._position[place] == self._committed.get(place)
            if max(self._position.get(place, 0), self._committed.get(place, 0)) < end
        }
        if behind:
            places = [
                self._library.TopicPartition(self._settings.topic(topic), number, end)
                for (topic, number), end in behind.items()
            ]
            try:
                self._consumer.commit(offsets=places, asynchronous=True)
            except self._library.KafkaException:
                return  # cosmetic; the next commit says it too
            for place, end in behind.items():
                start = self._markers.get(place, (0, 0))
                at = max(self._position.get(place, 0), self._committed.get(place, 0))
                self._markers[place] = (start[0] if start[1] == at else at, end)
            self._position.update(behind)
            self._committed.update(behind)

    def idle(self, timeout: float) -> None:
        """See :meth:`stream.log.Consumer.idle`."""
        owned = [self._library.TopicPartition(topic, p) for topic in self._names for p in self._owned]
        end = time.monotonic() + timeout
        try:
            if owned:
                self._consumer.pause(owned)
            while (left := end - time.monotonic()) > 0:
                self._held.extend(self._consume(100, min(left, 0.2)))
                if self._revoked or self._assigned:
                    break
            still = [place for place in owned if place.partition in self._owned]
            if still:
                self._consumer.resume(still)
        except self._library.KafkaException as error:
            raise typed(error) from error

    def rewind(self) -> None:
        """See :meth:`stream.log.Consumer.rewind`."""
        self._held = []
        places = [self._library.TopicPartition(topic, p) for topic in self._names for p in self._owned]
        for number in self._owned:
            self._forget(number)
        if places:
            try:
                self._consumer.incremental_unassign(places)
                self._consumer.incremental_assign(places)  # starts at the committed offsets
            except self._library.KafkaException as error:
                raise typed(error) from error

    def at_end(self) -> bool:
        """See :meth:`stream.log.Consumer.at_end`; false for a while after connections broke."""
        if self._held or self._revoked or self._assigned or not self._owned:
            return False
        if time.monotonic() - self._trouble < _DOUBT_S:
            return False
        return all((topic, number) in self._ends for topic in self._names.values() for number in self._owned)

    def lag(self) -> int:
        """See :meth:`stream.log.Consumer.lag`; from what the last fetches said, so it costs nothing."""
        total = 0
        for name, topic in self._names.items():
            for number in self._owned:
                if (topic, number) in self._ends:
                    continue
                low, high = self._consumer.get_watermark_offsets(
                    self._library.TopicPartition(name, number), cached=True
                )
                if high >= 0:
                    total += max(0, high - self._position.get((topic, number), max(0, low)))
        return total + len(self._held)

    # Writing -------------------------------------------------------------------------------------------------------

    def commit(self, records: Sequence[Record], result: Result) -> None:
        """See :meth:`stream.log.Consumer.commit`; one transaction, in the order the module names.

        Raises
        ------
        Transient, OutOfStep, Permanent
            As :meth:`stream.kafka.transactions.Transactions.write`.
        """
        transaction = of_result(self._group, records, result)
        touched = {number for _, number in transaction.offsets} | {number for number, _ in transaction.state}
        if not touched <= self._owned or self._revoked:
            raise OutOfStep("revoked", "a partition was given to another member")
        messages = [to_message(self._settings, output) for output in transaction.outputs]
        state = [
            state_message(self._state_topic, number, key, value)
            for (number, key), value in transaction.state.items()
        ]
        home = min(touched or self._owned, default=None)
        totals: Totals | None = None
        if any(transaction.counters.values()) or transaction.outputs:
            if home is None or home not in self._totals:
                raise Unavailable(
                    "no_partition", "no partition is assigned that the ledger could be kept with"
                )
            totals = self._totals[home].after(
                transaction.counters, (output.topic for output in transaction.outputs)
            )
            totals.offsets = totals.offsets | {
                f"{topic}/{p}": at for (topic, p), at in transaction.offsets.items() if p == home
            }
            state.append(totals_message(self._state_topic, home, "", totals))
        moved = {
            place: at
            for place, at in ((place, self._over(place, at)) for place, at in transaction.offsets.items())
            if self._committed.get(place, -1) != at
        }
        if not (messages or state or moved):
            return
        self._write([*messages, *state], moved)
        if totals is not None and home is not None:
            self._totals[home] = totals
        self._committed.update(moved)

    def _over(self, place: Place, at: int) -> int:
        """Return ``at``, or where the markers end that it stands before: a stage counts records and never saw them."""
        start, end = self._markers.get(place, (0, 0))
        return end if start <= at < end else at

    def _write(self, messages: Sequence[Message], moved: Mapping[Place, int]) -> None:
        try:
            group = self._consumer.consumer_group_metadata()
        except (self._library.KafkaException, RuntimeError) as error:
            raise OutOfStep("no_membership", str(error)[:200]) from error
        offsets = {(self._settings.topic(topic), number): at for (topic, number), at in moved.items()}
        if not offsets:
            # The offsets of a transaction are what the brokers check the membership by; there must be one.
            offsets = self._standing_offset()
        self._writer.write(messages, offsets, group)

    def _standing_offset(self) -> dict[Place, int]:
        """Return one offset of ours as it is committed already; the beginning where nothing ever was."""
        for (topic, number), at in self._committed.items():
            return {(self._settings.topic(topic), number): at}
        return {(self._leader, number): 0 for number in list(self._owned)[:1]}

    def close(self) -> None:
        """See :meth:`stream.log.Consumer.close`."""
        if self._closed:
            return
        self._closed = True
        self._writer.drop()
        self._reader.close()
        self._consumer.close()
