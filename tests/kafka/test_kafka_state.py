"""Saved state is never older than the committed offsets, whatever a killed process left open."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka import Producer

from stream.errors import Transient
from stream.kafka.client import writing
from stream.kafka.settings import KafkaSettings
from stream.kafka.state import StateReader, Totals, state_message, totals_message
from stream.kafka.topics import Topics, wanted
from stream.kafka.transactions import Message, Transactions


def test_an_open_transaction_of_a_killed_process_does_not_hide_what_came_after_it(
    make_url: Callable[..., str],
) -> None:
    settings = KafkaSettings.from_url(make_url(transaction_timeout="2s"))
    Topics(settings).create(wanted(settings, (), ("drift",)))
    topic = settings.state_topic("drift")
    first = Transactions(settings, settings.writer("first"))
    first.write([state_message(topic, 0, "k", b"old"), state_message(topic, 0, "gone", b"x")])
    killed = Producer(writing(settings, settings.writer("killed")))
    killed.init_transactions(10)
    killed.begin_transaction()
    killed.produce(topic, value=b"of the killed", key=b"state/k", partition=0)
    assert killed.flush(10) == 0
    second = Transactions(settings, settings.writer("second"))
    second.write(
        [
            state_message(topic, 0, "k", b"new"),
            state_message(topic, 0, "gone", None),
            totals_message(topic, 0, "", Totals({"n": 3}, {"scores/0": 7})),
        ]
    )
    reader = StateReader(settings)
    saved = reader.read(topic, 0)
    assert saved.values == {"k": b"new"}
    assert saved.totals == {"": Totals({"n": 3}, {"scores/0": 7})}
    assert reader.read(topic, 1).values == {}
    reader.close()


def test_of_a_transaction_that_was_given_up_nothing_is_seen(make_url: Callable[..., str]) -> None:
    settings = KafkaSettings.from_url(make_url(timeout=2))
    Topics(settings).create(wanted(settings, (), ("drift",)))
    topic = settings.state_topic("drift")
    writer = Transactions(settings, settings.writer("w"))
    unknown = Message(settings.topic("no-such-topic"), b"x")
    with pytest.raises(Transient):
        writer.write([state_message(topic, 0, "k", b"half"), unknown])
    writer.write([state_message(topic, 0, "other", b"whole")])
    reader = StateReader(settings)
    assert reader.read(topic, 0).values == {"other": b"whole"}
    reader.close()
