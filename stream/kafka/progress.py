"""How far the groups are, as the brokers know it: committed offsets against the ends of topics."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import msgspec

from stream.errors import Unavailable
from stream.kafka.client import load, load_admin, reading, shared, typed
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import GROUP_TOPICS

Place = tuple[str, int]  # our name of a topic, and a partition


class Progress(msgspec.Struct, frozen=True):
    """One partition for one group. Offsets count markers as well as records."""

    group: str
    topic: str
    partition: int
    committed: int
    end: int

    @property
    def lag(self) -> int:
        """Offsets between what is committed and the end."""
        return max(0, self.end - self.committed)


class ProgressReader:
    """Asks the brokers. Every method raises ``Unavailable`` when they do not answer."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._library, self._names = load(), load_admin()
        self._admin = self._names.AdminClient(shared(settings))
        self._consumers: dict[str, Any] = {}  # by group
        self._lock = threading.Lock()
        self._closed = False

    def ends(self, topics: Sequence[str]) -> dict[Place, int]:
        """Return where every partition of ``topics`` ends now, open transactions included."""
        return self._offsets(topics, self._names.OffsetSpec.latest())

    def committed(self, group: str) -> dict[Place, int]:
        """Return what ``group`` has committed; nothing for a partition where it never did."""
        cut = len(self._settings.prefix)
        try:
            with self._lock:  # nobody may close what is being asked
                places = self._consumer(group).committed(
                    self._places(GROUP_TOPICS[group]), self._settings.timeout
                )
        except self._library.KafkaException as error:
            raise typed(error) from error
        return {(place.topic[cut:], place.partition): place.offset for place in places if place.offset >= 0}

    def _consumer(self, group: str) -> Any:
        if self._closed:
            raise Unavailable("closed", "the process is stopping")
        if group not in self._consumers:
            # A consumer that joins nothing: librdkafka 2.16 crashes when its administrative client is asked for offsets
            # that a transaction is about to change.
            configuration = {**reading(self._settings), "group.id": self._settings.group(group)}
            self._consumers[group] = self._library.Consumer(configuration)
        return self._consumers[group]

    def close(self) -> None:
        """Close the connections; idempotent."""
        with self._lock:
            self._closed = True
            consumers, self._consumers = self._consumers, {}
            for consumer in consumers.values():
                consumer.close()

    def progress(self, groups: Sequence[str]) -> list[Progress]:
        """Return every partition that ``groups`` read."""
        found = []
        for group in groups:
            # What retention has removed is nobody's to take any more.
            first = self._offsets(GROUP_TOPICS[group], self._names.OffsetSpec.earliest())
            committed = self.committed(group)
            found += [
                Progress(
                    group, topic, number, max(committed.get((topic, number), 0), first[topic, number]), end
                )
                for (topic, number), end in sorted(self.ends(GROUP_TOPICS[group]).items())
            ]
        return found

    def _offsets(self, topics: Sequence[str], at: object) -> dict[Place, int]:
        cut = len(self._settings.prefix)
        try:
            futures = self._admin.list_offsets(
                dict.fromkeys(self._places(topics), at), request_timeout=self._settings.timeout
            )
            return {
                (place.topic[cut:], place.partition): int(future.result(self._settings.timeout + 1).offset)
                for place, future in futures.items()
            }
        except self._library.KafkaException as error:
            raise typed(error) from error

    def _places(self, topics: Sequence[str]) -> list[Any]:
        return [
            self._library.TopicPartition(self._settings.topic(topic), number)
            for topic in topics
            for number in range(self._settings.partitions)
        ]
