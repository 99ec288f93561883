"""What can be seen of a log from outside while its processes run or not: books, offsets, lags."""

from __future__ import annotations

import msgspec

from driftgate.config import Config
from driftgate.ledger import TAKEN, taken
from stream.kafka.settings import SCHEME as KAFKA
from stream.records import TOPIC_SPANS

Counters = dict[str, dict[str, int]]


class LogView(msgspec.Struct, frozen=True):
    """One log at one moment.

    ``handled`` says how many records of a topic a group has done with, by what the log itself knows, and ``lags`` how
    many are left to each group. ``whole`` is true while retention has removed no spans. ``members`` is how many workers
    each group has, where the log knows.
    """

    counters: Counters
    handled: dict[tuple[str, str], int]
    lags: dict[str, int]
    whole: bool
    members: dict[str, int] | None = None


def look(config: Config) -> LogView:
    """Look at the configured log.

    Raises
    ------
    StartError
        There is no log, or it cannot be read.
    Unavailable
        The Kafka brokers do not answer.
    """
    return _kafka(config) if config.log.url.startswith(KAFKA) else _sqlite(config)


def _sqlite(config: Config) -> LogView:
    from stream.sqlite_reading import inspect, read_ledger, read_offsets, read_stats

    with inspect(config.log_path) as reader:
        reader.execute("BEGIN")  # one moment for all of it
        counters, offsets, topics = read_ledger(reader), read_offsets(reader), read_stats(reader)
        reader.execute("COMMIT")
    ends = {(item.topic, item.partition): item.end for item in topics}
    # A record is handled exactly when its offset is committed.
    handled = {
        (group, topic): sum(at for (name, _), at in offsets.get(group, {}).items() if name == topic)
        for group, topic in TAKEN
    }
    lags = {
        group: sum(max(0, ends.get(place, 0) - offset) for place, offset in places.items())
        for group, places in sorted(offsets.items())
    }
    return LogView(
        counters, handled, lags, all(item.first == 0 for item in topics if item.topic == TOPIC_SPANS)
    )


def _kafka(config: Config) -> LogView:
    """Look at Kafka, where nothing shows all of it at one moment.

    So the order matters: what was written before the ends were asked for must have been taken by a group that has
    committed up to them, and nothing can have been taken that was not written when that is asked afterwards.
    """
    from stream.kafka.log import KafkaLog
    from stream.kafka.topics import GROUP_TOPICS

    log = KafkaLog(config.log.kafka)
    try:
        before = log.books()
        topics = log.stats()
        committed = log.committed()
        counters = log.books().counters
        after = log.books()
        members = log.members()
    finally:
        log.close()
    lags = {
        group: sum(
            max(0, item.end - max(item.first, committed.get(group, {}).get((item.topic, item.partition), 0)))
            for item in topics
            if item.topic in names
        )
        for group, names in GROUP_TOPICS.items()
    }
    handled = {}
    for group, topic in TAKEN:
        least = 0 if lags[group] else before.written.get(topic, 0)
        handled[group, topic] = min(max(taken(counters, group, topic), least), after.written.get(topic, 0))
    spans = [item for item in topics if item.topic == TOPIC_SPANS]
    # The collectors' books last: what the sampler took in was published before.
    merged = {**counters, **{name: after.counters.get(name, {}) for name in ("collector", "intake")}}
    return LogView(merged, handled, lags, all(item.first == 0 for item in spans), members)
