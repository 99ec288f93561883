"""The scoring stage on Faust and a real broker: every trace is scored once, whatever happens to its workers."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient
from harness import PATIENCE_S, wait_until
from kafka_fleet import Fleet, Tail
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
from traces import request, trace

from driftgate.runtime.scorer_worker import ScorerWorker
from scorers.settings import ScorersSettings
from scorers.stage import ScorerStage
from stream.errors import Transient
from stream.kafka.log import KafkaLog
from stream.kafka.partition_writer import PartitionWriter
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import Topics, wanted
from stream.log import OutOfStep
from stream.records import TOPIC_SAMPLED, TOPIC_SCORES, ScoreRecord
from stream.stage import Batch, Output, Record, Result


@pytest.fixture
def url(make_url: Callable[..., str]) -> str:
    """Return the URL of a log whose topics exist."""
    made = make_url(transaction_timeout="5s")
    settings = KafkaSettings.from_url(made)
    Topics(settings).create(wanted(settings))
    return made


@pytest.fixture
def settings(url: str) -> KafkaSettings:
    """Return what the URL says."""
    return KafkaSettings.from_url(url)


@pytest.fixture
def log(settings: KafkaSettings) -> Iterator[KafkaLog]:
    """Return the log."""
    made = KafkaLog(settings)
    yield made
    made.close()


@pytest.fixture
def scores(settings: KafkaSettings) -> Iterator[Tail]:
    """Return a plain client on the topic of scores."""
    made = Tail(settings, TOPIC_SCORES)
    yield made
    made.close()


def kept(number: object) -> Output:
    """Return one whole trace as the sampler sends it."""
    spans = trace(number)
    value = TracesData(resource_spans=request(spans).resource_spans).SerializeToString()
    return Output(TOPIC_SAMPLED, value, spans[0].trace_id)


def put(log: KafkaLog, numbers: Sequence[object]) -> list[str]:
    """Append one kept trace per number; return the trace ids."""
    outputs = [kept(number) for number in numbers]
    log.append(outputs, group="collector", counters={"put": len(outputs)}).result(PATIENCE_S)
    return [output.key.hex() for output in outputs]


def scored(tail: Tail) -> Counter[tuple[str, str]]:
    """Return how often each trace has each rubric."""
    found = [msgspec.json.decode(message.value(), type=ScoreRecord) for message in tail.read()]
    return Counter((score.trace_id, score.rubric) for score in found)


def lagging(log: KafkaLog) -> int:
    """Return the lag as Kafka's own tools would show it."""
    committed = log.committed().get("scorer", {})
    return sum(
        stats.end - committed.get((stats.topic, stats.partition), 0)
        for stats in log.stats()
        if stats.topic == TOPIC_SAMPLED
    )


class Chosen(ScorerStage):
    """The real stage; does what a test says before it scores a batch."""

    def __init__(self, before: Callable[[Batch], None]) -> None:
        super().__init__(ScorersSettings())
        self._before = before

    async def process_async(self, batch: Batch) -> Result:
        self._before(batch)
        return await super().process_async(batch)


@pytest.fixture
def run() -> Iterator[Callable[..., ScorerWorker]]:
    """Return a starter of workers in this process."""
    workers: list[ScorerWorker] = []

    def start(settings: KafkaSettings, before: Callable[[Batch], None] = lambda _: None) -> ScorerWorker:
        worker = ScorerWorker(settings, Chosen(before))
        workers.append(worker)
        worker.start()
        return worker

    yield start
    for worker in workers:
        worker.stop()
    for worker in workers:
        assert worker.join(PATIENCE_S)


def test_kills_joins_and_leaves_under_load_score_every_trace_once(
    url: str, log: KafkaLog, scores: Tail, tmp_path: Path
) -> None:
    fleet = Fleet(tmp_path, url)
    done = threading.Event()
    sent: list[str] = []

    def load() -> None:
        number = 0
        while not done.is_set():
            sent.extend(put(log, range(number, number + 5)))
            number += 5
            time.sleep(0.03)

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    try:
        first = fleet.start("worker", "scorer")
        wait_until(lambda: len(scores.read()) > 100, f"scores; {fleet.said()}")
        second = fleet.start("worker", "scorer")
        wait_until(lambda: len(scores.read()) > 400, f"scores of two; {fleet.said()}")
        first.send_signal(signal.SIGKILL)
        first.wait()
        before = len(scores.read())
        wait_until(lambda: len(scores.read()) > before + 400, f"scores after a kill; {fleet.said()}")
        third = fleet.start("worker", "scorer")
        before = len(scores.read())
        wait_until(lambda: len(scores.read()) > before + 200, f"scores of two; {fleet.said()}")
        second.terminate()
        assert second.wait(PATIENCE_S) == 0, fleet.said()
        before = len(scores.read())
        wait_until(lambda: len(scores.read()) > before + 200, f"scores of the third; {fleet.said()}")
        done.set()
        thread.join(30)
        wait_until(lambda: {t for t, _ in scored(scores)} == set(sent), f"the last; {fleet.said()}")
        wait_until(lambda: lagging(log) == 0, "lag zero")
        assert third.poll() is None, fleet.said()
    finally:
        done.set()
        fleet.stop()
    counts = scored(scores)
    rubrics = {rubric for _, rubric in counts}
    assert len(rubrics) > 1
    assert max(counts.values()) == 1, "a score was written twice"
    assert len(counts) == len(sent) * len(rubrics), "a score is missing"
    ledger = log.counters()["scorer"]
    assert ledger["traces_in"] == ledger["traces_scored"] == len(sent)
    assert ledger["scores_expected"] == len(counts)


def test_only_who_opened_a_partition_last_can_write_to_it(settings: KafkaSettings, log: KafkaLog) -> None:
    def write(writer: PartitionWriter, offset: int) -> None:
        record = Record(TOPIC_SAMPLED, 1, offset, b"")
        writer.commit([record], Result([Output(TOPIC_SCORES, b"x")], counters={"traces_in": 1}))

    def made() -> PartitionWriter:
        return PartitionWriter(settings, "scorer", TOPIC_SAMPLED, 1)

    zombie, heir = made(), made()
    with pytest.raises(OutOfStep):
        write(zombie, 0)  # never opened
    zombie.open()
    assert zombie.applied is None
    write(zombie, 0)
    heir.open()
    assert heir.applied == 1
    write(heir, 1)
    with pytest.raises(OutOfStep):
        write(zombie, 1)  # has not seen what its heir wrote
    with pytest.raises(OutOfStep):
        write(zombie, 2)  # a second try must not sneak in on a new producer
    write(heir, 2)
    zombie.open()
    assert zombie.applied == 3
    assert log.counters()["scorer"] == {"traces_in": 3}
    zombie.close()
    heir.close()


def test_a_record_that_makes_the_stage_fail_becomes_a_dead_letter_alone(
    settings: KafkaSettings, log: KafkaLog, scores: Tail, run: Callable[..., ScorerWorker]
) -> None:
    sent = put(log, range(20))
    bad = sent[7]

    def before(batch: Batch) -> None:
        if any(record.key.hex() == bad for record in batch.records):
            raise KeyError("bug")

    worker = run(settings, before)
    expected = set(sent) - {bad}
    wait_until(lambda: {t for t, _ in scored(scores)} == expected, "all but one")
    letters = Tail(settings, "dead_letters")
    wait_until(letters.read, "the dead letter")
    letters.close()
    assert [m.key().hex() for m in letters.messages] == [bad]
    assert dict(letters.messages[0].headers())["reason"] == b"stage_error"
    wait_until(lambda: worker.lag() == 0 and lagging(log) == 0, "lag zero")
    assert max(scored(scores).values()) == 1
    ledger = log.counters()["scorer"]
    assert (ledger["poisoned"], ledger["rejects"], ledger["traces_in"]) == (1, 1, 19)


def test_a_worker_that_waits_stays_a_member_and_commits_nothing(
    settings: KafkaSettings, log: KafkaLog, scores: Tail, run: Callable[..., ScorerWorker]
) -> None:
    """Waits for longer than the session lasts, with more in front of it than its buffers hold."""
    away = threading.Event()
    away.set()
    sent = put(log, range(1500))

    def before(batch: Batch) -> None:
        if away.is_set():
            raise Transient("judge_away", retry_after=0.2)

    worker = run(settings, before)
    wait_until(lambda: worker.status.state == "waiting", "it to wait")
    generation = worker.generation
    begun = time.monotonic()
    wait_until(lambda: time.monotonic() - begun > settings.session_timeout + 2, "the session to pass")
    assert (worker.status.state, worker.status.reason) == ("waiting", "judge_away")
    assert worker.generation == generation
    assert not any(log.committed().get("scorer", {}).values())
    assert not scores.read()
    away.clear()
    wait_until(lambda: {t for t, _ in scored(scores)} == set(sent), "all scores")
    assert worker.generation == generation
    assert max(scored(scores).values()) == 1


def test_a_worker_that_waits_gives_its_partitions_away(
    settings: KafkaSettings, log: KafkaLog, scores: Tail, run: Callable[..., ScorerWorker]
) -> None:
    def never(batch: Batch) -> None:
        raise Transient("judge_away", retry_after=30)

    sent = put(log, range(100))
    stuck = run(settings, never)
    wait_until(lambda: stuck.status.state == "waiting", "it to wait")
    healthy = run(settings)
    wait_until(lambda: len(healthy.partitions) == 1, "a fair share")
    stuck.stop()
    assert stuck.join(PATIENCE_S)
    assert stuck.error is None
    wait_until(lambda: {t for t, _ in scored(scores)} == set(sent), "all scores")
    assert max(scored(scores).values()) == 1
    wait_until(lambda: lagging(log) == 0, "lag zero")


def test_what_is_applied_counts_and_not_what_the_group_has_committed(
    settings: KafkaSettings, log: KafkaLog, scores: Tail, run: Callable[..., ScorerWorker]
) -> None:
    """As if Faust had committed past records that were never scored, and before records that were."""
    sent = put(log, range(60))
    first = run(settings)
    wait_until(lambda: {t for t, _ in scored(scores)} == set(sent), "the first scores")
    first.stop()
    assert first.join(PATIENCE_S)
    sent += put(log, range(60, 120))
    ends = {stats.partition: stats.end for stats in log.stats() if stats.topic == TOPIC_SAMPLED}
    topic = settings.topic(TOPIC_SAMPLED)
    places = [TopicPartition(topic, 0, ends[0]), TopicPartition(topic, 1, 0)]
    admin = AdminClient({"bootstrap.servers": settings.brokers})
    asked = [ConsumerGroupTopicPartitions(settings.group("scorer"), places)]
    for future in admin.alter_consumer_group_offsets(asked).values():
        future.result(20)
    run(settings)
    wait_until(lambda: {t for t, _ in scored(scores)} == set(sent), "all scores")
    wait_until(lambda: lagging(log) == 0, "lag zero")
    assert max(scored(scores).values()) == 1
    assert log.counters()["scorer"]["traces_in"] == 120


def test_a_restart_under_the_same_instance_finds_its_partitions_again(
    make_url: Callable[..., str], settings: KafkaSettings, log: KafkaLog, scores: Tail, run: Any
) -> None:
    named = KafkaSettings.from_url(make_url(transaction_timeout="5s", instance="scorer-0"))
    sent = put(log, range(20))
    first = run(named)
    wait_until(lambda: {t for t, _ in scored(scores)} == set(sent), "the first scores")
    generation = first.generation
    first.stop()
    assert first.join(PATIENCE_S)
    sent += put(log, range(20, 40))
    second = run(named)
    wait_until(lambda: {t for t, _ in scored(scores)} == set(sent), "all scores")
    assert second.generation == generation, "a restart must not make the group assign anew"
    assert max(scored(scores).values()) == 1


def test_what_faust_drops_on_its_way_is_read_again(
    settings: KafkaSettings, log: KafkaLog, scores: Tail, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faust clears buffers in rebalances and loses what an agent held when it fails; here it loses records at random."""
    from faust.transport.consumer import Consumer

    chance = random.Random(7)
    lost: list[tuple[int, int]] = []
    whole = Consumer.getmany

    async def leaky(self: Any, **options: Any) -> AsyncIterator[tuple[Any, Any]]:
        async for place, message in whole(self, **options):
            last = message.offset + 2 >= self.highwater(place)
            if (chance.random() < 0.05 or last) and len(lost) < 30:
                lost.append((message.partition, message.offset))
            else:
                yield place, message

    monkeypatch.setattr(Consumer, "getmany", leaky)
    sent = put(log, range(300))
    run(settings)
    wait_until(lambda: {t for t, _ in scored(scores)} == set(sent), "all scores")
    assert len(lost) > 10
    assert max(scored(scores).values()) == 1
    wait_until(lambda: lagging(log) == 0, "lag zero")
    assert log.counters()["scorer"]["traces_in"] == 300


def test_a_worker_that_is_stopped_at_any_moment_ends(
    settings: KafkaSettings, log: KafkaLog, run: Callable[..., ScorerWorker]
) -> None:
    rng = random.Random(20)
    for number in range(6):
        put(log, [number])
        worker = run(settings)
        wait_until(lambda worker=worker: worker.generation, "the assignment")  # type: ignore[misc]
        time.sleep(rng.uniform(0.0, 0.3))
        worker.stop()
        assert worker.join(PATIENCE_S), f"it hangs at the {number + 1}. moment"
        assert worker.error is None
