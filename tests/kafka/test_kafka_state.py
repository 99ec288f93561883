"""Saved state is never older than the committed offsets, whatever a killed process left open."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

import pytest
from confluent_kafka import Producer
from harness import wait_until

from stream.errors import Transient
from stream.kafka.client import writing
from stream.kafka.scan import ends
from stream.kafka.settings import KafkaSettings
from stream.kafka.state import StateReader, Totals, state_message, totals_message
from stream.kafka.topics import Topics, wanted
from stream.kafka.transactions import Message, Transactions


def test_an_open_transaction_of_a_killed_process_does_not_hide_what_came_after_it(
    make_url: Callable[..., str],
) -> None:
    settings = KafkaSettings.from_url(make_url(transaction_timeout="5s"))
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


def test_state_is_read_while_others_write_without_a_pause(make_url: Callable[..., str]) -> None:
    """One more collector among busy ones: the end of the partition never stands still, so it is never told."""
    settings = KafkaSettings.from_url(make_url(transaction_timeout="5s"))
    Topics(settings).create(wanted(settings, (), ("drift",)))
    topic = settings.state_topic("drift")
    first = Transactions(settings, settings.writer("first"))
    first.write([state_message(topic, 0, "k", b"v")])
    done = threading.Event()

    def busy(name: str) -> None:
        writer = Transactions(settings, settings.writer(name))
        while not done.is_set():
            writer.write([totals_message(topic, 0, name, Totals({"n": 1}, {}))])

    threads = [threading.Thread(target=busy, args=(f"busy{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    reader = StateReader(settings)
    try:
        wait_until(lambda: len(reader.read(topic, 0).totals) == len(threads), "all write")
        for _ in range(10):
            assert reader.read(topic, 0).values == {"k": b"v"}
    finally:
        done.set()
        for thread in threads:
            thread.join(30)
        reader.close()


def test_of_a_transaction_that_was_given_up_nothing_is_seen(make_url: Callable[..., str]) -> None:
    settings = KafkaSettings.from_url(make_url())
    Topics(settings).create(wanted(settings, (), ("drift",)))
    topic = settings.state_topic("drift")
    unknown = Message(settings.topic("no-such-topic"), b"x")
    hasty = KafkaSettings.from_url(make_url(timeout=2))
    with pytest.raises(Transient):
        Transactions(hasty, settings.writer("w")).write([state_message(topic, 0, "k", b"half"), unknown])
    writer = Transactions(settings, settings.writer("w"))
    writer.write([state_message(topic, 0, "other", b"whole")])
    reader = StateReader(settings)
    assert reader.read(topic, 0).values == {"other": b"whole"}
    reader.close()


class Slow(list[Message]):
    """Messages of which the last comes only when the brokers have given up the transaction of the others."""

    passes = 0

    def __init__(self, settings: KafkaSettings, messages: Iterable[Message]) -> None:
        super().__init__(messages)
        self._settings = settings

    def __iter__(self) -> Iterator[Message]:
        self.passes += 1
        for number in range(len(self)):
            if self.passes == 2 and number == len(self) - 1:  # the first pass looks at sizes
                wait_until(self._given_up, "the brokers to end the transaction")
            yield self[number]

    def _given_up(self) -> bool:
        place = (self[0].topic, 0)
        written = ends(self._settings, [place], settled=True)[place]
        return 0 < written == ends(self._settings, [place], settled=False)[place]


def test_a_producer_that_was_too_slow_is_given_up_and_the_next_write_goes_through(
    make_url: Callable[..., str],
) -> None:
    settings = KafkaSettings.from_url(make_url(transaction_timeout="4s"))
    Topics(settings).create(wanted(settings, (), ("drift",)))
    topic = settings.state_topic("drift")
    writer = Transactions(settings, settings.writer("slow"))
    lost = [state_message(topic, 0, f"k{number}", b"lost") for number in range(2)]
    with pytest.raises(Transient):
        writer.write(Slow(settings, lost))
    writer.write([state_message(topic, 0, "k", b"v")])
    reader = StateReader(settings)
    assert reader.read(topic, 0).values == {"k": b"v"}
    reader.close()
