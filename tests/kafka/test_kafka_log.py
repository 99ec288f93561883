"""The log on a real broker: appended once, consumed, committed with state and ledger at once, and resumed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import PATIENCE_S, wait_until
from hypothesis import given, settings, strategies
from kafka_broker import Cluster, libraries

from collector.partition import partition
from stream.errors import Permanent, Transient, Unavailable
from stream.kafka.consumer import KafkaConsumer
from stream.kafka.log import KafkaLog
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import Topics, wanted
from stream.log import OutOfStep
from stream.stage import Output, Record, Reject, Result

MakeUrl = Callable[..., str]
MakeLog = Callable[..., KafkaLog]


@pytest.fixture
def make_log(make_url: MakeUrl) -> Iterator[MakeLog]:
    """Return a maker of logs on topics of this test."""
    made: list[KafkaLog] = []

    def make(**options: Any) -> KafkaLog:
        log = KafkaLog(KafkaSettings.from_url(make_url(**options)))
        if not made:
            Topics(log.settings).create(wanted(log.settings))
        made.append(log)
        return log

    yield make
    for log in made:
        log.close()


def restore(consumer: KafkaConsumer) -> dict[int, dict[str, bytes]]:
    """Take changes as a runtime does; return the state of what was assigned."""
    return {number: dict(consumer.saved_state(number)) for number in consumer.changes().assigned}


def take(consumer: KafkaConsumer, count: int) -> list[Record]:
    """Poll until ``count`` records came."""
    found: list[Record] = []

    def enough() -> bool:
        found.extend(consumer.poll(100, 0.1))
        restore(consumer)
        return len(found) >= count

    wait_until(enough, f"{count} records")
    assert len(found) == count
    return found


def join(consumer: KafkaConsumer, partitions: int = 2) -> dict[int, dict[str, bytes]]:
    """Poll until ``partitions`` are assigned; return their state. No record may come before."""
    state: dict[int, dict[str, bytes]] = {}

    def joined() -> bool:
        assert consumer.poll(100, 0.1) == [] or len(state) == partitions
        state.update(restore(consumer))
        return len(state) == partitions

    wait_until(joined, "the assignment")
    return state


def put(log: KafkaLog, *outputs: Output, **counters: int) -> None:
    log.append(outputs, group="collector", counters=counters).result(PATIENCE_S)


def test_what_is_committed_is_there_once_and_the_next_member_resumes(make_log: MakeLog) -> None:
    log = make_log()
    put(log, *(Output("otlp_spans", b"v%d" % n, bytes([n]) * 16, (("tenant", b"t"),)) for n in range(8)), n=8)
    before = time.time_ns()
    first = log.consumer("sampler", ["otlp_spans", "otlp_logs"])
    assert join(first) == {0: {}, 1: {}}
    records = take(first, 8)
    assert {record.value for record in records} == {b"v%d" % n for n in range(8)}
    for record in records:
        assert record.header("tenant") == "t"
        assert record.partition == partition(record.key, 2)
        assert abs(record.timestamp_ns - before) < 60e9
    first.commit(
        records,
        Result(
            outputs=[Output("traces.sampled", b"out", bytes(16))],
            rejects=[Reject(records[0], "bad", "why")],
            state={(0, "a"): b"1", (0, "gone"): b"x", (1, "a"): b"2"},
            counters={"spans_in": 8},
        ),
    )
    first.commit([], Result(state={(0, "gone"): None}))
    first.poll(10, 0.1)
    wait_until(lambda: not first.poll(10, 0.1) and first.at_end(), "the end")
    assert first.lag() == 0
    first.close()

    put(log, Output("otlp_spans", b"late", bytes(16)))
    second = log.consumer("sampler", ["otlp_spans", "otlp_logs"])
    assert join(second) == {0: {"a": b"1"}, 1: {"a": b"2"}}
    (late,) = take(second, 1)
    assert late.value == b"late"
    second.commit([late], Result(counters={"spans_in": 1}))
    second.close()
    assert log.counters() == {"collector": {"n": 8}, "sampler": {"spans_in": 9, "rejects": 1}}

    other = log.consumer("store", ["traces.sampled", "dead_letters"])
    join(other)
    by_topic = {record.topic: record for record in take(other, 2)}
    other.close()
    assert by_topic["traces.sampled"].value == b"out"
    letter = by_topic["dead_letters"]
    assert (letter.value, letter.key) == (records[0].value, records[0].key)
    assert letter.header("original-offset") == str(records[0].offset)
    assert letter.header("reason") == "bad"


def test_rewind_reads_again_from_what_is_committed(make_log: MakeLog) -> None:
    log = make_log()
    put(log, *(Output("scores", b"%d" % n, b"same key") for n in range(6)))
    consumer = log.consumer("drift", ["scores"])
    join(consumer)
    records = take(consumer, 6)
    place = (records[0].topic, records[0].partition)
    # A stage that holds records back names the oldest it still needs.
    consumer.commit(records, Result(commit={place: records[2].offset}))
    consumer.rewind()
    assert [record.value for record in take(consumer, 4)] == [b"2", b"3", b"4", b"5"]
    consumer.close()


def test_a_stage_that_names_its_offset_again_does_not_step_back_before_markers(make_log: MakeLog) -> None:
    log = make_log(partitions=1)
    put(log, Output("otlp_spans", b"v", bytes(16)))
    consumer = log.consumer("sampler", ["otlp_spans"])
    join(consumer, 1)
    (record,) = take(consumer, 1)
    done = {("otlp_spans", 0): record.offset + 1}
    consumer.commit([record], Result(commit=done))
    end = next(item.end for item in log.stats() if item.topic == "otlp_spans")
    assert end > record.offset + 1, "the transaction left a marker"

    def committed() -> int:
        return log.committed()["sampler"]["otlp_spans", 0]

    wait_until(lambda: not consumer.poll(10, 0.1) and committed() == end, "the step over it")
    for _ in range(3):  # ticks: the stage knows of records only
        consumer.commit([], Result(commit=done))
        consumer.poll(10, 0.1)
    assert committed() == end
    put(log, Output("otlp_spans", b"w", bytes(16)))
    (second,) = take(consumer, 1)
    consumer.commit([second], Result(commit={("otlp_spans", 0): second.offset}))  # it still needs the second
    assert committed() == second.offset
    consumer.close()


def test_idle_keeps_the_place_and_the_records(make_log: MakeLog) -> None:
    log = make_log()
    consumer = log.consumer("drift", ["scores"])
    join(consumer)
    put(log, *(Output("scores", b"%d" % n, b"key") for n in range(5)))
    consumer.idle(1.0)
    assert [record.value for record in take(consumer, 5)] == [b"0", b"1", b"2", b"3", b"4"]
    assert consumer.partitions() == [0, 1]
    consumer.close()


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_member_whose_partitions_moved_cannot_commit_and_nothing_of_it_is_seen(
    make_log: MakeLog, protocol: str
) -> None:
    log = make_log(protocol=protocol)
    put(log, *(Output("scores", b"%d" % n, bytes([n])) for n in range(8)))
    first = log.consumer("drift", ["scores"])
    join(first)
    held = take(first, 8)
    second = log.consumer("drift", ["scores"])
    state: dict[int, dict[str, bytes]] = {}
    got: list[Record] = []

    def moved() -> bool:
        got.extend(second.poll(100, 0.1))
        state.update(restore(second))
        assert first.poll(100, 0.1) == []  # one member's poll gives the partition away
        return len(state) == 1 and bool(got)

    wait_until(moved, "one partition to move")
    with pytest.raises(OutOfStep):
        first.commit(
            held,
            Result(
                outputs=[Output("verdicts", b"twice")],
                state={(0, "s"): b"x", (1, "s"): b"x"},
                counters={"scores_in": 8},
            ),
        )
    second.commit(got, Result(outputs=[Output("verdicts", b"once")], counters={"scores_in": len(got)}))
    assert {record.partition for record in got} == set(state) == set(second.partitions())
    (lost,) = first.changes().revoked
    assert lost in state
    mine = [record for record in held if record.partition != lost]
    assert sorted(r.value for r in [*mine, *got]) == [b"%d" % n for n in range(8)]
    first.commit(mine, Result(counters={"scores_in": len(mine)}))
    first.close()
    second.close()
    assert log.counters()["drift"] == {"scores_in": 8}
    reader = log.consumer("alerter", ["verdicts"])
    join(reader)
    assert [record.value for record in take(reader, 1)] == [b"once"]
    reader.close()


def test_records_that_are_too_large_are_refused_and_harm_nobody(make_log: MakeLog) -> None:
    log = make_log(max_record="128KiB")
    with pytest.raises(Permanent) as caught:
        put(log, Output("scores", bytes(130 << 10)))
    assert caught.value.reason == "too_large"
    put(log, Output("scores", bytes(100 << 10), b"k"))
    consumer = log.consumer("drift", ["scores"])
    join(consumer)
    records = take(consumer, 1)
    with pytest.raises(Permanent):
        consumer.commit(records, Result(outputs=[Output("verdicts", bytes(130 << 10))]))
    consumer.commit(records, Result())
    consumer.close()


def test_a_full_queue_refuses_with_a_delay(make_log: MakeLog) -> None:
    log = make_log(max_queued="1MiB")
    futures = [
        log.append([Output("otlp_spans", bytes(400 << 10))], group="collector", counters={"n": 1})
        for _ in range(40)
    ]
    refused = []
    for future in futures:
        error = future.exception(30)
        if error is not None:
            assert isinstance(error, Transient)
            assert (error.reason, error.retry_after > 0) == ("log_busy", True)
            refused.append(error)
    assert refused
    assert log.counters()["collector"] == {"n": 40 - len(refused)}


def test_the_totals_of_a_named_process_go_on_after_its_restart(make_log: MakeLog) -> None:
    for _ in range(2):
        log = make_log(instance="pod-0")
        put(log, Output("otlp_spans", b"x"), n=2)
        log.close()
    put(make_log(instance="pod-1"), Output("otlp_spans", b"x"), n=1)
    assert make_log().counters() == {"collector": {"n": 5}}


def test_partitions_are_the_java_clients(tmp_path: Path, kafka: Cluster) -> None:
    """The Java client itself is asked, for keys of every length from 1 to 24 and for trace ids."""
    source = tmp_path / "Ask.java"
    source.write_text(
        "import org.apache.kafka.clients.producer.internals.BuiltInPartitioner;\n"
        "public class Ask { public static void main(String[] keys) { for (String key : keys)\n"
        " System.out.println(BuiltInPartitioner.partitionForKey(java.util.HexFormat.of().parseHex(key), 7)); } }\n"
    )
    keys = [bytes(range(200, 200 + length)) for length in range(1, 25)]
    keys += [number.to_bytes(16, "big") * 1 for number in range(0, 1 << 64, 1 << 59)]
    done = subprocess.run(
        ["java", "-cp", f"{libraries()}/*", str(source), *(key.hex() for key in keys)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert [int(line) for line in done.stdout.split()] == [partition(key, 7) for key in keys]


@settings(max_examples=300, deadline=None)
@given(strategies.binary(max_size=40), strategies.integers(1, 500))
def test_partitions_are_in_range(key: bytes, count: int) -> None:
    assert 0 <= partition(key, count) < count


def test_broker_down_is_refused_at_once_and_comes_back_by_itself(tmp_path: Path, kafka: Cluster) -> None:
    own = Cluster(tmp_path / "own")
    try:
        own.start()
        log = KafkaLog(
            KafkaSettings.from_url(
                f"kafka://{own.bootstrap}/?partitions=1&replication=1&min_insync=1&timeout=4"
                "&transaction_timeout=4&session_timeout=6"
            )
        )
        Topics(log.settings).create(wanted(log.settings))
        put(log, Output("scores", b"before"), n=1)
        consumer = log.consumer("drift", ["scores"])
        join(consumer, 1)
        (record,) = take(consumer, 1)
        own.brokers[0].kill()
        future = log.append([Output("scores", b"lost")], group="collector", counters={"n": 1})
        with pytest.raises(Transient):
            future.result(PATIENCE_S)
        refused = log.append([Output("scores", b"lost")], group="collector", counters={"n": 1})
        assert refused.done()
        with pytest.raises(Unavailable) as caught:
            refused.result()
        assert caught.value.retry_after > 0
        with pytest.raises(Transient):
            consumer.commit([record], Result(outputs=[Output("verdicts", b"v")], counters={"scores_in": 1}))
        assert consumer.poll(10, 0.1) == []
        assert not consumer.at_end()

        own.start()

        def appended() -> bool:
            done = log.append([Output("scores", b"after")], group="collector", counters={"n": 1})
            return done.exception(20) is None

        wait_until(appended, "the log to come back")

        def restored() -> bool:
            try:
                consumer.poll(10, 0.1)
                consumer.changes()
                return bool(consumer.partitions()) and not consumer.saved_state(0)
            except Transient:
                return False

        wait_until(restored, "the consumer to come back")
        consumer.rewind()
        again = take(consumer, 2)
        assert [record.value for record in again] == [b"before", b"after"]
        consumer.commit(again, Result(outputs=[Output("verdicts", b"v")], counters={"scores_in": 2}))
        consumer.close()
        assert log.counters() == {"collector": {"n": 2}, "drift": {"scores_in": 2}}
        log.close()
    finally:
        own.stop()
