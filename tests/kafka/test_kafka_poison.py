"""Records that nobody should have written, on every topic: dead letters with the original bytes, and nothing stands still."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clickhouse_server import VARIABLE, WORD, ClickHouseServer
from confluent_kafka import Producer
from harness import wait_until
from kafka_fleet import Fleet, Tail
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
from traces import request, trace

from driftgate.config import load
from driftgate.log_view import look
from stream.kafka.topics import Topics, wanted

HUGE = b"\xff" * (500 << 10)
OVERSIZED = b"\xff" * (3 << 20)  # beyond max_record, where it is not compressed
GARBAGE = (
    (b"\xff\xfe garbage", []),
    (HUGE, [("tenant", b"t")]),
    (OVERSIZED, [("tenant", b"t")]),
    (b'{"type": "score", "score_id": 5, "verdict_id": []}', []),
    (b"[" * 20_000, []),
    (b"\x0a\xff\xff\xff\xff\x0f", [("tenant", b"\xff\xfe"), ("probability", None), ("stage", b"theirs")]),
)
# topic -> who reads it and must refuse garbage
READERS = {
    "otlp_spans": {"sampler", "store"},
    "otlp_logs": {"sampler"},
    "traces.sampled": {"scorer", "store"},
    "scores": {"drift", "store"},
    "cohort_windows": {"store"},
    "verdicts": {"alerter", "store"},
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClickHouseServer]:
    monkeypatch.setenv(VARIABLE, WORD)
    made = ClickHouseServer(tmp_path / "clickhouse")
    made.start()
    yield made
    made.kill()


@pytest.fixture
def fleet(make_url: Callable[..., str], tmp_path: Path, server: ClickHouseServer) -> Iterator[Fleet]:
    made = Fleet(tmp_path, make_url(transaction_timeout="5s", max_record="1MiB"), store=server.settings)
    Topics(made.settings).create(wanted(made.settings))
    yield made
    made.stop()


def test_garbage_on_every_topic_is_a_dead_letter_and_holds_nothing_up(
    fleet: Fleet, server: ClickHouseServer
) -> None:
    producer = Producer(
        {
            "bootstrap.servers": fleet.settings.brokers,
            "message.max.bytes": 8 << 20,
            "compression.type": "zstd",
        }
    )
    for topic in (*READERS, "dead_letters"):
        for partition in range(fleet.settings.partitions):
            for value, headers in GARBAGE:
                producer.produce(
                    fleet.settings.topic(topic), value, b"key", partition=partition, headers=headers
                )
    for value in (None, b""):  # an empty message is no record of JSON, and a message of OTLP without spans
        producer.produce(fleet.settings.topic("scores"), value, partition=0)
    assert producer.flush(30) == 0
    behind = [trace(f"behind-{number}") for number in range(8)]  # on every partition, after the garbage
    for spans in behind:
        data = TracesData(resource_spans=request(spans).resource_spans)
        producer.produce(fleet.settings.topic("otlp_spans"), data.SerializeToString(), spans[0].trace_id)
    assert producer.flush(30) == 0
    for stage in ("sampler", "scorer", "drift", "store", "alerter"):
        fleet.start("worker", stage)
    config = load(fleet.path, {})

    def done() -> bool:
        view = look(config)
        return not any(view.lags.values()) and view.counters.get("sampler", {}).get("spans_kept") == 24

    wait_until(done, f"every stage to get past the garbage; {fleet.said()}")
    assert server.sql("SELECT uniqExact(TraceId), count() FROM otel_traces") == [(8, 24)]
    assert server.sql("SELECT uniqExact(trace_id) FROM scores") == [(8,)]

    tail = Tail(fleet.settings, "dead_letters")
    partitions = fleet.settings.partitions
    written = partitions * len(GARBAGE) * sum(len(readers) for readers in READERS.values()) + 2 * 2
    wait_until(lambda: len(tail.read()) >= written + partitions * len(GARBAGE), "all dead letters")
    tail.close()
    found: dict[tuple[str, str, int, int], Any] = {}
    for message in tail.messages:
        headers = dict(message.headers() or ())
        if "original-topic" not in headers:
            continue  # the garbage on dead_letters itself
        place = (
            headers["stage"].decode(),
            headers["original-topic"].decode(),
            int(headers["original-partition"]),
            int(headers["original-offset"]),
        )
        assert place not in found, "one dead letter per stage and record"
        found[place] = message
        assert headers["reason"].decode() in ("undecodable", "not_a_verdict", "too_large"), headers
    assert len(found) == written
    for topic, readers in READERS.items():
        for stage in readers:
            for partition in range(partitions):
                for offset, (value, _) in enumerate(GARBAGE):
                    letter = found[stage, topic, partition, offset]
                    assert letter.key() == b"key"
                    if value is OVERSIZED:  # cut, and it says from what
                        assert dict(letter.headers())["cut-from"] == str(len(value)).encode()
                        assert len(letter.value()) > 1_000_000
                    else:
                        assert letter.value() == value
    query = "SELECT stage, topic, partition, offset FROM dead_letters WHERE topic != 'dead_letters'"
    wait_until(lambda: set(server.sql(query)) == set(found), f"the letters in the store; {fleet.said()}")

    # What others wrote into our own topics shows as books that do not balance; spans of others are counted.
    findings = {one["what"]: one for one in json.loads(_driftgate(fleet, "doctor", "--json", code=1))}
    failed = {what for what, one in findings.items() if one["outcome"] == "failed"}
    assert failed == {"kept traces taken", "scores taken", "verdicts taken"}, findings
    assert findings["spans in ClickHouse"]["detail"] == "24"
    assert findings["spans published = taken in by the sampler"]["outcome"] == "ok"
    assert findings["stage drift"]["detail"].startswith("1 workers")

    listed = _driftgate(fleet, "dead-letters", "list", "--json", "--stage", "drift", "--topic", "scores")
    letters = [json.loads(line) for line in listed.splitlines()]
    assert {(one["partition"], one["offset"]) for one in letters} >= {
        (partition, offset) for partition in range(partitions) for offset in range(len(GARBAGE))
    }
    # Sent back it fails again, on its partition, and says how often; a second time it is refused.
    first = next(one for one in letters if one["partition"] == 1 and one["offset"] == 0)
    assert _driftgate(fleet, "dead-letters", "replay", first["id"]) == f"{first['id']}: replayed\n1 of 1\n"
    cut = next(
        one
        for one in letters
        if one["partition"] == 1 and one["offset"] == GARBAGE.index((OVERSIZED, [("tenant", b"t")]))
    )
    assert "is cut; the original stood at scores/1@" in _driftgate(
        fleet, "dead-letters", "replay", cut["id"], code=1
    )
    assert "replayed already" in _driftgate(fleet, "dead-letters", "replay", first["id"], code=1)

    def back() -> list[dict[str, Any]]:
        lines = _driftgate(fleet, "dead-letters", "list", "--json", "--stage", "drift").splitlines()
        return [one for one in map(json.loads, lines) if one["replays"] == 1]

    (again,) = wait_until(back, "the replayed record to come back")
    assert (again["topic"], again["partition"], again["bytes"]) == ("scores", 1, len(GARBAGE[0][0]))


def _driftgate(fleet: Fleet, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "driftgate", *arguments, "-c", str(fleet.path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout
