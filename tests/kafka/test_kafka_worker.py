"""Processes on a real broker: nothing is lost or done twice when one is killed, joins or leaves."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from harness import PATIENCE_S, Client, wait_until
from kafka_fleet import Fleet, Tail, span_ids
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
from traces import request, trace

from driftgate.runtime.worker import Worker
from stream.kafka.log import KafkaLog
from stream.kafka.topics import Topics, wanted
from stream.stage import Batch, Output, Result


@pytest.fixture
def fleet(make_url: Callable[..., str], tmp_path: Path) -> Iterator[Fleet]:
    """Return an installation whose topics exist."""
    made = Fleet(tmp_path, make_url(transaction_timeout="5s"))
    Topics(made.settings).create(wanted(made.settings))
    yield made
    made.stop()


def test_kills_and_a_second_worker_lose_nothing_and_split_no_trace(fleet: Fleet) -> None:
    """Load over a collector; the sampler is killed and started, a second one joins, one leaves, all under load."""
    fleet.start("collector")
    first = fleet.start("worker", "sampler")
    client = Client(fleet.port)
    stop = threading.Event()
    sent: list[str] = []
    done = threading.Event()

    def load() -> None:
        number = 0
        while not done.is_set():
            spans = trace(f"load-{number}")
            # The root comes in a later request than the rest of its trace.
            if client.send(request(spans[1:]), stop) and client.send(request(spans[:1]), stop):
                sent.append(spans[0].trace_id.hex())
            number += 1
            time.sleep(0.01)

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    tail = Tail(fleet.settings, "traces.sampled")
    try:
        wait_until(lambda: len(tail.read()) > 20, f"sampled traces; {fleet.said()}")
        first.send_signal(signal.SIGKILL)
        second = fleet.start("worker", "sampler")
        wait_until(lambda: len(sent) > 250, "load during the restart")
        third = fleet.start("worker", "sampler")
        before = len(tail.read())
        wait_until(lambda: len(tail.read()) > before + 150, f"traces after the kill; {fleet.said()}")
        second.terminate()  # leaves the group; the third takes all
        assert second.wait(PATIENCE_S) == 0, fleet.said()
        before = len(tail.read())
        wait_until(lambda: len(tail.read()) > before + 50, f"traces after one left; {fleet.said()}")
        done.set()
        thread.join(30)
        wait_until(lambda: len(tail.read()) >= len(sent), f"the last traces; {fleet.said()}")
        assert third.poll() is None, fleet.said()
    finally:
        stop.set()
        done.set()
        tail.close()
        client.close()
    kept = Counter(span for message in tail.messages for span in span_ids(message.value()))
    assert set(kept) == client.acknowledged
    assert max(kept.values()) == 1
    traces = Counter(span_ids(message.value())[0][0] for message in tail.messages)
    assert set(traces) == set(sent)
    assert max(traces.values()) == 1, "a trace was decided in two parts"
    log = KafkaLog(fleet.settings)
    wait_until(lambda: log.counters()["sampler"].get("spans_pending", 0) == 0, "nothing pending")
    ledger = log.counters()
    assert ledger["collector"]["spans_published"] == 3 * len(sent) == ledger["sampler"]["spans_in"]
    assert ledger["sampler"]["spans_kept"] == 3 * len(sent)


def test_foreign_clients_read_what_we_write_and_we_read_what_they_write(fleet: Fleet) -> None:
    fleet.start("collector")
    client = Client(fleet.port)
    stop = threading.Event()
    ours = trace("ours")
    threading.Timer(40, stop.set).start()
    assert client.send(request(ours), stop)
    client.close()
    spans = Tail(fleet.settings, "otlp_spans")
    wait_until(spans.read, "our record")
    spans.close()
    (message,) = spans.messages
    assert {span for _, span in span_ids(message.value())} == {span.span_id.hex() for span in ours}
    assert message.key() == ours[0].trace_id
    assert dict(message.headers())["tenant"] == b"default"

    # What the OpenTelemetry Collector's exporter writes: otlp_proto, no headers, no key.
    foreign = trace("foreign")
    producer = Producer({"bootstrap.servers": fleet.settings.brokers})
    value = TracesData(resource_spans=request(foreign).resource_spans).SerializeToString()
    producer.produce(fleet.settings.topic("otlp_spans"), value=value)
    producer.produce(fleet.settings.topic("otlp_spans"), value=b"\xff not protobuf")
    assert producer.flush(10) == 0
    fleet.start("worker", "sampler")
    sampled = Tail(fleet.settings, "traces.sampled")
    wait_until(lambda: len(sampled.read()) == 2, f"both traces; {fleet.said()}")
    sampled.close()
    assert {span_ids(m.value())[0][0] for m in sampled.messages} == {
        ours[0].trace_id.hex(),
        foreign[0].trace_id.hex(),
    }
    letters = Tail(fleet.settings, "dead_letters")
    wait_until(letters.read, "the dead letter")
    letters.close()
    assert [m.value() for m in letters.messages] == [b"\xff not protobuf"]


class Counting:
    """Counts values per partition; fails on poison."""

    name = "drift"
    topics = ("scores",)

    def __init__(self) -> None:
        self.sums: dict[int, int] = {}

    def assign(self, partition: int, state: Any) -> None:
        self.sums[partition] = int(state.get("sum", b"0"))

    def revoke(self, partition: int) -> None:
        del self.sums[partition]

    def process(self, batch: Batch) -> Result:
        result = Result()
        for record in batch.records:
            self.sums[record.partition] += 1  # changed before the trouble: the worker must bring it back
            if record.value == b"poison":
                raise KeyError("bug")
            result.state[record.partition, "sum"] = str(self.sums[record.partition]).encode()
            result.outputs.append(Output("verdicts", record.value))
        result.count("scores_in", len(batch.records))
        return result


def test_poison_becomes_a_dead_letter_alone_and_the_state_is_brought_back(fleet: Fleet) -> None:
    log = KafkaLog(fleet.settings)
    values = [b"a", b"b", b"poison", b"c", b"d"]
    log.append([Output("scores", value, b"key") for value in values], group="collector", counters={}).result(
        20
    )
    stage = Counting()
    worker = Worker(log, stage)
    worker.start()
    verdicts = Tail(fleet.settings, "verdicts")
    wait_until(lambda: len(verdicts.read()) == 4, "four verdicts")
    wait_until(lambda: worker.lag() == 0 and worker.status.state == "running", "the worker to be done")
    worker.stop()
    assert worker.join(PATIENCE_S)
    assert worker.error is None
    verdicts.close()
    assert sorted(m.value() for m in verdicts.messages) == [b"a", b"b", b"c", b"d"]
    assert sorted(stage.sums.values()) == [0, 4]
    assert log.counters()["drift"] == {"scores_in": 4, "poisoned": 1, "rejects": 1}
    assert worker.counted == {"scores_in": 4, "poisoned": 1}
    letters = Tail(fleet.settings, "dead_letters")
    wait_until(letters.read, "the dead letter")
    letters.close()
    headers = dict(letters.messages[0].headers())
    assert (letters.messages[0].value(), headers["reason"], headers["error"]) == (
        b"poison",
        b"stage_error",
        b"KeyError",
    )
    log.close()
