"""Verdicts on Kafka are reproduced from its topics, around the markers of transactions and without joining a group."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from click.testing import CliRunner
from harness import PATIENCE_S, wait_until

from drift.stage import DriftStage
from driftgate.cli import cli
from driftgate.config import load
from stream.kafka.log import KafkaLog
from stream.kafka.topics import Topics, wanted
from stream.records import TOPIC_SCORES, Evaluator, Heartbeat, ScoreRecord
from stream.stage import Batch, Output

SECOND = 10**9
START = 1_760_000_040 * SECOND
SETTINGS = """
drift:
  bucket: 1
  lateness: 2
  max_skew: 31536000
  report_every: 5
  units: {idle: 2, trace_idle: 1, max: 30}
  rollouts: [{name: r, incumbent: v1, rubrics: [quality]}]
"""


def scores(route: int) -> list[bytes]:
    rng = np.random.default_rng(route)
    items: list[Any] = []
    for number in range(600):
        arm = "v2" if number % 4 == 0 else "v1"
        bad = route == 1 and arm == "v2" and rng.random() < 0.6
        name = f"{route}-{number}"
        items.append(
            ScoreRecord(
                score_id=name, trace_id=name, unit_id=name, span_id="1", rubric="quality",
                time_unix_nano=START + number * SECOND // 10, evaluator=Evaluator(id="judge"),
                value=0.0 if bad else float(rng.choice([0.5, 0.75, 1.0])),
                cohort={"route": f"route {route}", "prompt_version": arm},
            )
        )  # fmt: skip
    items.append(Heartbeat(time_unix_nano=START + 80 * SECOND))
    return [msgspec.json.encode(item) for item in items]


def run_drift(log: KafkaLog, stage: DriftStage, count: int) -> None:
    """Work as a worker does, in transactions of up to 150 records, until ``count`` were handled."""
    consumer = log.consumer("drift", [TOPIC_SCORES])
    done = 0

    def finished() -> bool:
        nonlocal done
        records = consumer.poll(150, 0.1)
        for number in consumer.changes().assigned:
            stage.assign(number, consumer.saved_state(number))
        if records:
            consumer.commit(records, stage.process(Batch(records, 1)))
        done += len(records)
        return done == count

    wait_until(finished, "the drift stage")
    consumer.close()


def test_every_verdict_is_reproduced_from_kafka(make_url: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "driftgate.yaml"
    path.write_text(f"data: {tmp_path / 'data'}\nlog: '{make_url()}'\n{SETTINGS}")
    config = load(path)
    log = KafkaLog(config.log.kafka)
    Topics(log.settings).create(wanted(log.settings))
    streams = [scores(0), scores(1)]
    for start in range(0, len(streams[0]), 50):
        outputs = [
            Output(TOPIC_SCORES, raw, partition=number)
            for number, stream in enumerate(streams)
            for raw in stream[start : start + 50]
        ]
        log.append(outputs, group="scorer", counters={}).result(PATIENCE_S)
    run_drift(log, DriftStage(config.drift), sum(map(len, streams)))
    log.close()

    def run(*arguments: str) -> Any:
        result = CliRunner().invoke(cli, [*arguments, "-c", str(path)], standalone_mode=False)
        assert result.exception is None, result.exception
        return result

    listed = run("verdicts", "--all", "--json", "--limit", "1000").stdout.splitlines()
    recorded = [msgspec.json.decode(line) for line in listed]
    assert {one["route"] for one in recorded} == {"route 0", "route 1"}
    (rollback,) = (one for one in recorded if one.get("action") == "rollback")
    assert rollback["route"] == "route 1"
    checked = run("replay", "--all")
    assert not checked.return_value
    assert f"{len(recorded)} verdicts reproduced to the byte, 0 different, 0 not reached" in checked.stderr
    again = run("replay", "--verdict", rollback["verdict_id"][:12])
    assert not again.return_value
    assert msgspec.json.decode(again.stdout) == rollback
    # An export carries the offsets, which have gaps where transactions end.
    run("replay", "--export", str(tmp_path / "scores.jsonl"))
    lines = [msgspec.json.decode(line) for line in (tmp_path / "scores.jsonl").read_bytes().splitlines()]
    offsets = sorted(line["offset"] for line in lines if line["partition"] == 1)
    assert len(offsets) == len(streams[1]) < offsets[-1] + 1
