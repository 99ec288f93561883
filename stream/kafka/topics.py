"""The topics driftgate needs on Kafka: created with settings that keep the promises, and checked before work starts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from stream.errors import StartError, Unavailable
from stream.kafka.client import Refusals, load, load_admin, shared, typed
from stream.kafka.settings import KafkaSettings
from stream.records import (
    TOPIC_DEAD_LETTERS,
    TOPIC_FOREIGN_LOGS,
    TOPIC_FOREIGN_SPANS,
    TOPIC_LOGS,
    TOPIC_QUARANTINE,
    TOPIC_SAMPLED,
    TOPIC_SCORES,
    TOPIC_SPANS,
    TOPIC_VERDICTS,
    TOPIC_WINDOWS,
)

TOPICS = (
    TOPIC_SPANS,
    TOPIC_LOGS,
    TOPIC_SAMPLED,
    TOPIC_SCORES,
    TOPIC_WINDOWS,
    TOPIC_VERDICTS,
    TOPIC_DEAD_LETTERS,
    TOPIC_QUARANTINE,
    TOPIC_FOREIGN_SPANS,
    TOPIC_FOREIGN_LOGS,
)
# What each group reads. The ledger of the others is kept like theirs.
GROUP_TOPICS = {
    "intake": (TOPIC_FOREIGN_SPANS, TOPIC_FOREIGN_LOGS),
    "sampler": (TOPIC_SPANS, TOPIC_LOGS),
    "scorer": (TOPIC_SAMPLED,),
    "drift": (TOPIC_SCORES,),
    "store": (TOPIC_SPANS, TOPIC_SAMPLED, TOPIC_SCORES, TOPIC_WINDOWS, TOPIC_VERDICTS, TOPIC_DEAD_LETTERS),
    "alerter": (TOPIC_VERDICTS,),
}
GROUPS = ("collector", "heartbeat", "replay", *GROUP_TOPICS)

_EXISTS = "TOPIC_ALREADY_EXISTS"


class Wanted(msgspec.Struct, frozen=True):
    """One topic as it should be; ``name`` is its name on the brokers."""

    name: str
    partitions: int
    replication: int
    config: dict[str, str]


def wanted(
    settings: KafkaSettings, topics: Iterable[str] = TOPICS, groups: Iterable[str] = GROUPS
) -> list[Wanted]:
    """Return ``topics`` and the state topics of ``groups`` as they should be."""
    common = {
        "min.insync.replicas": str(settings.min_insync),
        "max.message.bytes": str(settings.max_record),
        # The log's time orders the sampler's two topics and must not be a sender's.
        "message.timestamp.type": "LogAppendTime",
    }
    data = {**common, "cleanup.policy": "delete", "retention.ms": str(int(settings.retention * 1000))}
    # Small segments and an eager cleaner keep restoring short.
    state = {
        **common,
        "cleanup.policy": "compact",
        "min.cleanable.dirty.ratio": "0.1",
        "segment.ms": str(3_600_000),
        "segment.bytes": str(64 << 20),
    }
    return [
        Wanted(name, settings.partitions, settings.replication, config)
        for names, config in (
            ([settings.topic(topic) for topic in topics], data),
            ([settings.state_topic(group) for group in groups], state),
        )
        for name in names
    ]


class Topics:
    """Creates and checks topics."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._library = load()
        self._names = load_admin()
        self._refusals = Refusals(settings)
        self._admin = self._names.AdminClient({**shared(settings), "error_cb": self._refusals})

    def create(self, topics: Sequence[Wanted]) -> list[str]:
        """Create those of ``topics`` that are missing; return their names.

        Raises
        ------
        StartError
            The brokers refuse one, or us; the message says why.
        Unavailable
            The brokers do not answer.
        """
        self.partitions()  # says why, where the brokers let nobody in
        made = []
        futures = self._admin.create_topics(
            [
                self._names.NewTopic(
                    topic.name,
                    num_partitions=topic.partitions,
                    replication_factor=topic.replication,
                    config=topic.config,
                )
                for topic in topics
            ],
            operation_timeout=self._settings.timeout,
            request_timeout=self._settings.timeout,
        )
        for name, future in futures.items():
            try:
                future.result(self._settings.timeout + 1)
            except self._library.KafkaException as error:
                cause = error.args[0]
                if cause.name() == _EXISTS:
                    continue
                if cause.retriable() or cause.code() < 0:
                    raise typed(error) from error
                raise StartError(f"topic {name} cannot be created: {cause.str()}") from error
            else:
                made.append(name)
        # The controller answers before every partition has a leader that knows of it.
        deadline = time.monotonic() + self._settings.timeout
        while not self._led(topics):
            if time.monotonic() >= deadline:
                raise Unavailable("topics_pending", "not every new partition has a leader yet")
            time.sleep(0.05)
        return made

    def _led(self, topics: Sequence[Wanted]) -> bool:
        there = self.partitions()
        places = [
            self._library.TopicPartition(topic.name, number)
            for topic in topics
            for number in range(len(there.get(topic.name, ())))
        ]
        if len({place.topic for place in places}) < len(topics):
            return False
        futures = self._admin.list_offsets(
            dict.fromkeys(places, self._names.OffsetSpec.latest()), request_timeout=self._settings.timeout
        )
        return all(future.exception(self._settings.timeout + 1) is None for future in futures.values())

    def partitions(self) -> dict[str, list[int]]:
        """Return the replica count of every partition of every topic under our prefix.

        Raises
        ------
        StartError
            The brokers refuse the user or the connection; the message says what to set.
        Unavailable
            The brokers do not answer.
        """
        try:
            metadata = self._metadata()
        except self._library.KafkaException as error:
            cause = typed(error)
            if isinstance(cause, Unavailable):
                where = ", ".join(one.rpartition("@")[2] for one in self._settings.brokers.split(","))
                raise Unavailable(
                    cause.reason,
                    f"{cause.detail} (asked {where}; check `log`, and that they run)",
                    retry_after=cause.retry_after,
                ) from error
            raise cause from error
        return {
            name: [len(topic.partitions[number].replicas) for number in sorted(topic.partitions)]
            for name, topic in metadata.topics.items()
            if name.startswith(self._settings.prefix)
        }

    def _metadata(self) -> Any:
        deadline = time.monotonic() + self._settings.timeout
        while True:
            try:
                return self._admin.list_topics(timeout=min(1.0, self._settings.timeout))
            except self._library.KafkaException:
                self._admin.poll(0)  # serves what was noted why
                if reason := self._refusals.reason():
                    raise StartError(f"the Kafka brokers do not let us in: {reason}") from None
                if time.monotonic() >= deadline:
                    raise

    def check(self, topics: Sequence[Wanted]) -> list[str]:
        """Return one sentence for everything about ``topics`` that is not as it should be.

        Raises
        ------
        Unavailable
            The brokers do not answer.
        """
        there = self.partitions()
        problems = [
            f"topic {topic.name} is missing; run `driftgate topics create`"
            for topic in topics
            if topic.name not in there
        ]
        present = [topic for topic in topics if topic.name in there]
        configs = self._configs([topic.name for topic in present])
        for topic in present:
            replicas = there[topic.name]
            if len(replicas) != topic.partitions:
                problems.append(
                    f"topic {topic.name} has {len(replicas)} partitions, not {topic.partitions}: traces are placed by the "
                    "count, so it cannot change; set partitions=… in the log's URL, or start under another prefix"
                )
            if min(replicas, default=0) < topic.replication:
                problems.append(
                    f"topic {topic.name} has {min(replicas, default=0)} replicas, not {topic.replication}"
                )
            problems.extend(_differences(topic, configs[topic.name]))
        return problems

    def _configs(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        if not names:
            return {}
        futures = self._admin.describe_configs(
            [self._names.ConfigResource(self._names.ResourceType.TOPIC, name) for name in names],
            request_timeout=self._settings.timeout,
        )
        found = {}
        for resource, future in futures.items():
            try:
                entries: dict[str, Any] = future.result(self._settings.timeout + 1)
            except self._library.KafkaException as error:
                raise typed(error) from error
            found[resource.name] = {key: str(entry.value) for key, entry in entries.items()}
        return found


def _differences(topic: Wanted, found: dict[str, str]) -> list[str]:
    problems = [
        f"topic {topic.name}: {key} is {found.get(key)}, not {topic.config[key]}"
        for key in ("cleanup.policy", "message.timestamp.type")
        if found.get(key) != topic.config[key]
    ]
    problems += [
        f"topic {topic.name}: {key} is {found.get(key)}, less than {topic.config[key]}"
        for key in ("min.insync.replicas", "max.message.bytes")
        if int(found.get(key, "0")) < int(topic.config[key])
    ]
    if "retention.ms" in topic.config and 0 <= int(found.get("retention.ms", "-1")) < int(
        topic.config["retention.ms"]
    ):
        problems.append(
            f"topic {topic.name}: retention.ms is {found['retention.ms']}, less than {topic.config['retention.ms']}"
        )
    return problems


def require(topics: Topics, needed: Sequence[Wanted]) -> None:
    """Raise :class:`StartError` with everything that is wrong, the brokers' silence included."""
    try:
        problems = topics.check(needed)
    except Unavailable as error:
        raise StartError(f"the Kafka brokers do not answer: {error.detail or error.reason}") from error
    if problems:
        raise StartError("the topics are not as they should be:\n  " + "\n  ".join(problems))
