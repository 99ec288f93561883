"""The same spans give the same verdicts in one process and on Kafka with two workers per stage."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from harness import Client, Process, wait_until
from kafka_broker import Cluster, require_kafka
from kafka_fleet import Fleet, Tail
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from traces import BAD, GOOD, request, trace

from stream.errors import Unavailable
from stream.kafka.log import KafkaLog
from stream.kafka.topics import Topics, wanted
from stream.records import TOPIC_SAMPLED, TOPIC_VERDICTS, Evidence, Verdict
from stream.sqlite_reading import read_topic

_TRACES = 600
_ROUTES = ("ask", "chat", "search")
_SECTIONS: dict[str, Any] = {
    "sampling": {
        "completion": {"after_root": "300ms", "idle": "1s"},
        "uniform": {"ratio": 1.0},
        "operations": {"max_clock_skew": "2h"},
    },
    "scorers": {
        "rubrics": ["refusal", "groundedness_lexical", "error", "latency"],
        "max_clock_skew": "2h",
    },
    "drift": {
        "bucket": "1s",
        # Longer than all that is recorded lasts: nothing is decided before everything is there.
        "lateness": "45s",
        "max_skew": "2h",
        "units": {"idle": "1s", "trace_idle": "1s"},
        "rollouts": [
            {"name": f"rollout-{route}", "match": {"route": route}, "incumbent": "v1", "candidate": "v2"}
            for route in _ROUTES
        ],
    },
}


def recorded() -> Iterator[list[ExportTraceServiceRequest]]:
    """Yield phases: what starts the comparisons, half a minute of traffic, and what lets its time pass.

    A comparison starts with the first scores that arrive, so these must be the same. All of it lies ahead of the clock, so that heartbeats, which speak of the clock, decide nothing.
    """
    chance = random.Random(11)
    start = time.time_ns() + 600 * 10**9

    def one_each(at: float, *versions: str) -> list[ExportTraceServiceRequest]:
        return [
            request(trace(f"{at}-{route}-{v}", route=route, version=v, start_ns=start + int(at * 10**9)))
            for route in _ROUTES
            for v in versions
        ]

    yield one_each(-5, "v1", "v2")
    yield one_each(-2, "v1")
    traffic = []
    for number in range(_TRACES):
        route = chance.choice(_ROUTES)
        version = "v2" if chance.random() < 0.4 else "v1"
        bad = version == "v2" and route == "ask" and chance.random() < 0.7
        at = start + number * 30 * 10**9 // _TRACES
        made = request(
            trace(
                number,
                route=route,
                version=version,
                answer=BAD if bad else GOOD,
                start_ns=at,
                seconds=0.1 + chance.random(),
            )
        )
        traffic.append(made)
    yield traffic
    yield one_each(77, "v1")


def send(
    port: int,
    phases: list[list[ExportTraceServiceRequest]],
    scored: Callable[[], int],
    said: Callable[[], str],
) -> None:
    """Send every phase when the one before it is scored."""
    client = Client(port)
    stop = threading.Event()
    timer = threading.Timer(120, stop.set)
    timer.start()
    try:
        sent = 0
        for phase in phases:
            for one in phase:
                assert client.send(one, stop)
            sent += len(phase)
            wait_until(lambda n=sent: scored() == n, f"{sent} traces to be scored; {said()}")
    finally:
        timer.cancel()
        client.close()


def comparable(verdicts: list[Verdict]) -> list[bytes]:
    """Return what verdicts say, without the offsets that they were found at."""
    plain = [
        msgspec.structs.replace(
            verdict,
            verdict_id="",
            evidence=msgspec.structs.replace(verdict.evidence, first_offset=0, last_offset=0),
        )
        for verdict in verdicts
    ]
    return sorted(msgspec.json.encode(verdict) for verdict in plain)


def embedded(folder: Path, phases: list[list[ExportTraceServiceRequest]]) -> list[Verdict]:
    """Return the verdicts of ``driftgate up``."""
    process = Process(folder, _SECTIONS)
    process.start()

    def count(counter: str, stage: str) -> int:
        found: int = process.status()["ledger"].get(stage, {}).get(counter, 0)
        return found

    try:
        send(process.ports["grpc"], phases, lambda: count("traces_scored", "scorer"), process.said)
        wait_until(process.drained, "the drift stage")
    finally:
        process.stop()
    with sqlite3.connect(process.data / "log.db") as reader:
        records = list(read_topic(reader, TOPIC_VERDICTS))
    return [msgspec.json.decode(record.value, type=Verdict) for record in records]


def joined(log: KafkaLog) -> bool:
    """Whether every group has two members."""
    try:
        members = log.members()
    except Unavailable:
        return False  # groups move between coordinators while they are new
    return all(members.get(group) == 2 for group in ("sampler", "scorer", "drift"))


def on_kafka(folder: Path, phases: list[list[ExportTraceServiceRequest]]) -> list[Verdict]:
    """Return the verdicts of two workers of every stage."""
    cluster = Cluster(folder / "kafka")
    fleet = log = verdicts = None
    try:
        cluster.start()
        url = f"kafka://{cluster.bootstrap}/?partitions=4&replication=1&min_insync=1"
        fleet = Fleet(folder, url, **_SECTIONS)
        Topics(fleet.settings).create(wanted(fleet.settings))
        log = KafkaLog(fleet.settings)
        for arguments in (["collector"], *(["worker", s] for s in ("sampler", "scorer", "drift") * 2)):
            fleet.start(*arguments)
        wait_until(lambda: joined(log), f"two members of every group; {fleet.said()}")

        def scored() -> int:
            found: int = log.counters().get("scorer", {}).get("traces_scored", 0)
            return found

        send(fleet.port, phases, scored, fleet.said)
        verdicts = Tail(fleet.settings, TOPIC_VERDICTS)
        taken = log.counters

        def done() -> bool:
            drift = taken().get("drift", {})
            written = log.books().written
            taken_in = sum(drift.get(name, 0) for name in ("scores_in", "operation_records", "heartbeats"))
            return taken_in == written.get("scores", -1)

        wait_until(done, f"the drift stage; {fleet.said()}")
        expected = log.books().written[TOPIC_VERDICTS]
        wait_until(lambda: len(verdicts.read()) >= expected, "the verdicts")
        assert len({m.partition() for m in verdicts.messages}) > 1, (
            "routes must be spread for this to mean anything"
        )
        spread = {
            place for place, at in log.committed()["scorer"].items() if place[0] == TOPIC_SAMPLED and at
        }
        assert len(spread) == 4
        return [msgspec.json.decode(message.value(), type=Verdict) for message in verdicts.messages]
    finally:
        for thing in (verdicts, log):
            if thing is not None:
                thing.close()
        if fleet is not None:
            fleet.stop()
        cluster.stop()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_verdicts_are_the_same_in_one_process_and_on_kafka(tmp_path: Path) -> None:
    require_kafka()
    phases = list(recorded())
    for name in ("one", "many"):
        (tmp_path / name).mkdir()
    one = embedded(tmp_path / "one", phases)
    many = on_kafka(tmp_path / "many", phases)
    assert "regressed" in {verdict.state for verdict in one if verdict.route == "ask"}
    assert any(verdict.evidence != Evidence() for verdict in one)
    assert comparable(one) == comparable(many)
