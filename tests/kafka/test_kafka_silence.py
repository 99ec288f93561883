"""Silence and partitions that stand still, noticed from what the brokers know."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from harness import PATIENCE_S, free_port, wait_until
from hypothesis import given
from hypothesis import strategies as st
from kafka_fleet import Fleet, Tail
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
from traces import request, trace

from driftgate.runtime.stalls import Stalls, StallWatch
from driftgate.runtime.watermark import Watermark
from stream.kafka.log import KafkaLog
from stream.kafka.progress import Progress, ProgressReader
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import Topics, wanted
from stream.records import TOPIC_LOGS, TOPIC_SAMPLED, TOPIC_SCORES, TOPIC_SPANS
from stream.stage import Output

_UP = {TOPIC_SPANS: "sampler", TOPIC_LOGS: "sampler", TOPIC_SAMPLED: "scorer"}


class Pipe:
    """Two stages on two partitions. A record is the moment when it was sent in."""

    def __init__(self) -> None:
        self.now = 0
        self.topics: dict[tuple[str, int], list[int]] = {(t, p): [] for t in _UP for p in (0, 1)}
        self.done: dict[tuple[str, int], int] = dict.fromkeys(self.topics, 0)
        self.scored: list[int] = []

    def ends(self, topics: Sequence[str]) -> Mapping[tuple[str, int], int]:
        return {place: len(records) for place, records in self.topics.items() if place[0] in topics}

    def committed(self, group: str) -> Mapping[tuple[str, int], int]:
        return {place: at for place, at in self.done.items() if _UP[place[0]] == group and at}

    def take(self, place: tuple[str, int]) -> None:
        """The stage behind ``place`` takes one record."""
        if self.done[place] < len(self.topics[place]):
            moment = self.topics[place][self.done[place]]
            if place[0] == TOPIC_SAMPLED:
                self.scored.append(moment)
            else:
                self.topics[TOPIC_SAMPLED, place[1]].append(moment)
            self.done[place] += 1


@given(st.lists(st.tuples(st.sampled_from(["send", "take", "look", "look"]), st.integers(0, 5)), max_size=60))
def test_no_score_from_before_a_moment_comes_after_it_was_reached(steps: list[tuple[str, int]]) -> None:
    pipe = Pipe()
    mark = Watermark(pipe, lambda: pipe.now)
    places = sorted(pipe.topics)
    reached = -1
    for step, choice in steps:
        pipe.now += 1
        place = places[choice]
        if step == "send" and place[0] != TOPIC_SAMPLED:
            pipe.topics[place].append(pipe.now)
        elif step == "take":
            before = len(pipe.scored)
            pipe.take(place)
            assert all(moment > reached for moment in pipe.scored[before:])
        elif step == "look" and (moment := mark.reached()) is not None:
            assert moment >= reached
            reached = moment
    for place in places:  # the sampler's topics come first
        while pipe.done[place] < len(pipe.topics[place]):
            pipe.take(place)
    for place in places:
        while pipe.done[place] < len(pipe.topics[place]):
            pipe.take(place)
    begun = pipe.now
    assert mark.reached() is not None  # what it was waiting for
    moment = mark.reached()
    assert moment is not None
    assert moment >= begun


def test_a_partition_stalls_when_its_offset_stands_while_records_wait() -> None:
    stalls = Stalls(after=10.0)

    def at(now: float, committed: int, end: int) -> list[tuple[str, int, int, float]]:
        found = stalls.update([Progress("scorer", TOPIC_SAMPLED, 3, committed, end)], now)
        return [(item.stage, item.partition, item.lag, item.seconds) for item in found]

    assert at(0, 5, 5) == []
    assert at(100, 5, 5) == []  # stands, but nothing waits
    assert at(101, 5, 7) == []
    assert at(110, 5, 9) == []
    assert at(111, 5, 9) == [("scorer", 3, 4, 10.0)]
    assert at(112, 6, 9) == []  # moves again
    assert at(121, 6, 9) == []
    assert at(122, 6, 9) == [("scorer", 3, 3, 10.0)]
    assert at(123, 9, 9) == []
    assert at(124, 9, 10) == []


@pytest.fixture
def url(make_url: Callable[..., str]) -> str:
    """Return the URL of a log whose topics exist."""
    made = make_url(transaction_timeout="5s", stalled_after="2s")
    settings = KafkaSettings.from_url(made)
    Topics(settings).create(wanted(settings))
    return made


@pytest.fixture
def progress(url: str) -> Iterator[ProgressReader]:
    """Return what asks the brokers how far the groups are."""
    reader = ProgressReader(KafkaSettings.from_url(url))
    yield reader
    reader.close()


def send(log: KafkaLog, number: object, spans: slice = slice(None)) -> str:
    """Write spans of a trace to ``otlp_spans``; return the trace id."""
    found = trace(number)
    value = TracesData(resource_spans=request(found[spans]).resource_spans).SerializeToString()
    headers = (("policy", b"test"),)
    log.append(
        [Output(TOPIC_SPANS, value, found[0].trace_id, headers)], group="collector", counters={}
    ).result(30)
    return found[0].trace_id.hex()


def test_heartbeats_come_once_per_partition_and_never_before_a_score(
    url: str, tmp_path: Path, progress: ProgressReader
) -> None:
    """Two drift workers; the scorer is killed while traces come, and comes back."""
    fleet = Fleet(tmp_path, url)
    log = KafkaLog(fleet.settings)
    scores = Tail(fleet.settings, TOPIC_SCORES)
    hold_back = 2 * 10**9  # sampling.completion.idle of the fleet
    sent: dict[str, int] = {}

    def beats() -> list[tuple[int, int]]:
        found = [(m.partition(), json.loads(m.value())) for m in scores.read()]
        return [(p, item["time_unix_nano"]) for p, item in found if item.get("type") == "heartbeat"]

    def put(numbers: range) -> None:
        for number in numbers:
            trace_id = send(log, number)
            sent[trace_id] = time.time_ns()

    try:
        fleet.start("worker", "sampler")
        scorer = fleet.start("worker", "scorer")
        fleet.start("worker", "drift")
        fleet.start("worker", "drift")
        put(range(5))
        wait_until(lambda: {p for p, _ in beats()} == {0, 1}, f"beats on both; {fleet.said()}")
        scorer.send_signal(signal.SIGKILL)
        scorer.wait()
        put(range(5, 10))
        silent = time.time_ns()

        def kept() -> bool:
            return any(item.lag for item in progress.progress(["scorer"]))

        wait_until(kept, f"the sampler to send what the scorer must take; {fleet.said()}")
        fleet.start("worker", "scorer")

        def spoken() -> bool:
            return all(any(p == n and at > silent for p, at in beats()) for n in (0, 1))

        wait_until(spoken, f"beats after the scorer came back; {fleet.said()}")
        messages = scores.read()
    finally:
        fleet.stop()
        scores.close()
        log.close()
    latest = {0: 0, 1: 0}
    overall = 0
    traces = set()
    for message in sorted(messages, key=lambda m: (m.partition(), m.offset())):
        item = json.loads(message.value())
        if item.get("type") == "heartbeat":
            moment = item["time_unix_nano"] + hold_back
            assert moment > latest[message.partition()], "a beat was sent twice"
            latest[message.partition()] = moment
            overall = max(overall, moment)
        elif "type" not in item:  # facts of traces have a clock of their own
            traces.add(item["trace_id"])
            assert sent[item["trace_id"]] > latest[message.partition()], "a score came after a beat beyond it"
    assert traces == set(sent)


def test_a_stage_without_a_worker_is_named_until_somebody_takes_its_records(
    url: str, tmp_path: Path, progress: ProgressReader
) -> None:
    fleet = Fleet(tmp_path, url)
    log = KafkaLog(fleet.settings)
    value = TracesData(resource_spans=request(trace("one")).resource_spans).SerializeToString()
    log.append([Output(TOPIC_SAMPLED, value, partition=1)], group="collector", counters={}).result(PATIENCE_S)
    watch = StallWatch(progress, ("sampler", "scorer"), fleet.settings.stalled_after)

    async def play() -> None:
        async with watch.running():
            await asyncio.to_thread(wait_until, lambda: watch.stalled, "the stall")
            (stall,) = watch.stalled
            assert (stall.stage, stall.topic, stall.partition) == ("scorer", TOPIC_SAMPLED, 1)
            fleet.start("worker", "scorer")
            await asyncio.to_thread(wait_until, lambda: not watch.stalled, f"it to move; {fleet.said()}")

    try:
        asyncio.run(play())
    finally:
        fleet.stop()
        log.close()


def test_a_worker_whose_partition_stands_still_is_not_ready_and_says_which(url: str, tmp_path: Path) -> None:
    port = free_port()
    sampling = {"completion": {"after_root": "300s", "idle": "300s"}}
    fleet = Fleet(tmp_path, url, web={"port": port}, sampling=sampling)
    log = KafkaLog(fleet.settings)

    def get(path: str) -> str:
        try:
            with urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
                return str(answer.read().decode())
        except HTTPError as error:
            return f"{error.code} {error.read().decode()}"
        except OSError:
            return ""

    try:
        fleet.start("worker", "sampler")
        wait_until(lambda: get("/readyz") == "ok\n", f"readiness; {fleet.said()}")
        send(log, "undecided")  # the sampler holds its offset for as long as the trace may go on
        answer = wait_until(lambda: (a := get("/readyz")).startswith("503") and a, f"it; {fleet.said()}")
        assert "sampler: otlp_spans/" in answer
        assert "stands still" in answer
        (stall,) = json.loads(get("/v1/status"))["stalled"]
        assert stall["lag"] > 0
        labels = f'partition="{stall["partition"]}",stage="sampler",topic="otlp_spans"'
        assert f"driftgate_partition_stalled_seconds{{{labels}}}" in get("/metrics")
    finally:
        fleet.stop()
        log.close()
    assert "partition_stalled" in fleet.said()
