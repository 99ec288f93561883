"""What Faust costs the scorer, on a real broker: the same stage on the Faust loop and on the loop of the other stages.

    PYTHONPATH=tests/support python -m bench.scorer_kafka [traces] [--kills N]

Needs Java 17 and Maven, as the tests with Kafka do. Both loops score the same traces with the built-in rubrics, and once
more with a model that answers after 50 ms; CPU is that of the whole process, brokers excluded. With kills, a worker
process on Faust is killed under load and started again, and the scores are counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from confluent_kafka import Consumer
from kafka_broker import Cluster
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
from traces import request, trace

from driftgate.runtime.scorer_worker import ScorerWorker
from driftgate.runtime.worker import Worker
from scorers.settings import ScorersSettings
from scorers.stage import ScorerStage
from stream.kafka.log import KafkaLog
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import Topics, wanted
from stream.records import TOPIC_SAMPLED, TOPIC_SCORES
from stream.stage import Batch, Output, Result

_ANSWER_S = 0.05


class Waiting(ScorerStage):
    """The real stage behind a model that takes its time; records of a batch are asked about together."""

    async def process_async(self, batch: Batch) -> Result:
        """Wait, then score."""
        await asyncio.sleep(_ANSWER_S)
        return await super().process_async(batch)

    def process(self, batch: Batch) -> Result:
        """Wait, then score."""
        if batch.records:
            time.sleep(_ANSWER_S)
        return super().process(batch)


def installation(cluster: Cluster) -> KafkaSettings:
    """Return a log with topics of its own."""
    settings = KafkaSettings.from_url(
        f"kafka://{cluster.bootstrap}/?prefix={uuid.uuid4().hex[:8]}.&partitions=4&replication=1&min_insync=1"
        "&session_timeout=6s&transaction_timeout=5s"
    )
    Topics(settings).create(wanted(settings))
    return settings


def fill(log: KafkaLog, count: int, first: int = 0) -> None:
    """Append kept traces."""
    for start in range(first, first + count, 250):
        outputs = []
        for number in range(start, min(start + 250, first + count)):
            spans = trace(number)
            value = TracesData(resource_spans=request(spans).resource_spans).SerializeToString()
            outputs.append(Output(TOPIC_SAMPLED, value, spans[0].trace_id))
        log.append(outputs, group="collector", counters={}).result(60)


def measure(
    cluster: Cluster, count: int, make: Callable[[KafkaSettings, KafkaLog], Any]
) -> tuple[float, float]:
    """Return seconds and CPU seconds from the first scored trace to the last."""
    settings = installation(cluster)
    log = KafkaLog(settings)
    fill(log, 1000)
    worker = make(settings, log)
    worker.start()
    while worker.status.records < 1000:
        time.sleep(0.01)
    fill(log, count, 1000)
    wall, cpu = time.monotonic(), time.process_time()
    before = worker.status.records
    while worker.status.records < 1000 + count:
        time.sleep(0.01)
    done = 1000 + count - before
    figures = (time.monotonic() - wall) / done * count, (time.process_time() - cpu) / done * count
    worker.stop()
    worker.join(30)
    assert worker.error is None, worker.error
    log.close()
    return figures


def kills(cluster: Cluster, count: int, folder: Path) -> None:
    """Kill a worker process on Faust ``count`` times under load and count what was scored."""
    settings = installation(cluster)
    log = KafkaLog(settings)
    url = f"kafka://{cluster.bootstrap}/?prefix={settings.prefix}&partitions=4&replication=1&min_insync=1&session_timeout=6s"
    path = folder / "driftgate.yaml"
    path.write_text(yaml.safe_dump({"data": str(folder), "log": url, "web": {"enabled": False}}))
    tail = Consumer(
        {"bootstrap.servers": settings.brokers, "group.id": "bench", "auto.offset.reset": "earliest"}
    )
    tail.subscribe([settings.topic(TOPIC_SCORES)])
    seen: Counter[tuple[str, str]] = Counter()

    def read(seconds: float) -> int:
        end, found = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            for message in tail.consume(1000, 0.1):
                if not message.error():
                    record = json.loads(message.value())
                    seen[record["trace_id"], record["rubric"]] += 1
                    found += 1
        return found

    sent = 0
    gaps = []
    for number in range(count + 1):
        with (folder / "worker.log").open("ab") as output:
            child = subprocess.Popen(
                [sys.executable, "-m", "driftgate", "worker", "scorer", "-c", str(path)],
                stdout=output,
                stderr=output,
            )
        begun = time.monotonic()
        fill(log, 500, sent)
        sent += 500
        while not read(0.2):
            pass
        gaps.append(time.monotonic() - begun)
        if number < count:
            child.send_signal(signal.SIGKILL)
            child.wait()
    while len({trace_id for trace_id, _ in seen}) < sent:
        read(0.5)
    read(1.0)
    child.terminate()
    child.wait()
    rubrics = {rubric for _, rubric in seen}
    print(
        f"{count} kills: {sent} traces, {len(rubrics)} rubrics, {sum(seen.values())} scores, "
        f"{sent * len(rubrics) - len(seen)} missing, {sum(seen.values()) - len(seen)} twice; "
        f"first scores {sorted(gaps)[len(gaps) // 2]:.1f} s after a start (median), {max(gaps):.1f} s at most"
    )
    tail.close()
    log.close()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", type=int, nargs="?", default=4000)
    parser.add_argument("--kills", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cluster = Cluster(folder / "kafka")
        cluster.start()
        try:
            for title, stage in (("rubrics alone", ScorerStage), ("a model of 50 ms", Waiting)):
                rows = {}
                for loop in ("confluent", "faust"):

                    def make(
                        settings: KafkaSettings, log: KafkaLog, kind: Any = stage, on: str = loop
                    ) -> Any:
                        made = kind(ScorersSettings())
                        if on == "faust":
                            return ScorerWorker(settings, made, max_records=64)
                        return Worker(log, made, max_records=64)

                    rows[loop] = measure(cluster, options.traces, make)
                    wall, cpu = rows[loop]
                    print(
                        f"{title:18} {loop:10} {options.traces / wall:7.0f} traces/s  "
                        f"{cpu / options.traces * 1e6:6.0f} us CPU per trace"
                    )
                (wall, cpu), (other, more) = rows["confluent"], rows["faust"]
                print(
                    f"{title:18} faust/confluent: {wall / other:.2f} of the rate, {more / cpu:.2f} of the CPU"
                )
            if options.kills:
                kills(cluster, options.kills, folder)
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
