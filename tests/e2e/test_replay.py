"""What a real process decided, killed in between, is reproduced from its log and its store, while it runs and after."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from harness import Process, wait_until

from stream.records import TOPIC_SCORES, Evaluator, ScoreRecord
from stream.sqlite_log import SqliteLog
from stream.stage import Output

DRIFT = {
    "bucket": 1,
    "lateness": 60,
    "report_every": 5,
    "units": {"idle": 2, "trace_idle": 1},
    "rollouts": [{"name": "r", "incumbent": "v1", "rubrics": ["quality"]}],
    "watches": [{"name": "w", "rubrics": ["quality"], "learn": 20, "min_units": 200, "report_every": 10}],
}


def scores(first: int, count: int, start: float) -> list[Output]:
    rng = np.random.default_rng(first)
    outputs = []
    for number in range(first, first + count):
        arm = "v2" if number % 4 == 0 else "v1"
        bad = arm == "v2" and rng.random() < 0.5
        record = ScoreRecord(
            score_id=f"{number:032x}", trace_id=f"{number:032x}", unit_id=f"{number:032x}", span_id="1", rubric="quality",
            time_unix_nano=round((start + 0.05 * number) * 1e9), evaluator=Evaluator(id="judge"),
            value=0.0 if bad else float(rng.choice([0.5, 0.75, 1.0])),
            cohort={"route": "support", "prompt_version": arm},
        )  # fmt: skip
        outputs.append(Output(TOPIC_SCORES, msgspec.json.encode(record)))
    return outputs


def put(process: Process, outputs: list[Output]) -> None:
    log = SqliteLog(process.data / "log.db")
    log.append(outputs, group="scorer", counters={}).result(30)
    log.close()


def test_a_killed_process_left_verdicts_that_are_reproduced(make_process: Callable[..., Process]) -> None:
    process = make_process({"drift": DRIFT})
    process.data.mkdir()
    start = time.time() - 50.0
    put(process, scores(0, 500, start))
    process.start()
    wait_until(lambda: process.sql("SELECT count() FROM verdicts")[0][0] > 0, "first verdicts")
    process.kill()
    put(process, scores(500, 500, start))
    process.start()

    def rollbacks() -> list[dict[str, Any]]:
        shown = process.run("verdicts", "--state", "regressed", "--rollout", "r", "--json").stdout
        return [json.loads(line) for line in shown.splitlines()]

    (found,) = wait_until(rollbacks, "the rollback")
    assert found["action"] == "rollback"
    again = process.run("replay", "--verdict", found["verdict_id"][:12], "--from", "store")
    assert json.loads(again.stdout) == found
    assert "scores of the store" in again.stderr
    assert (
        "run again, it gives the same verdict to the byte"
        in process.run("explain", found["verdict_id"]).stdout
    )

    wait_until(process.drained, "everything to be stored")
    process.stop()
    for origin in ("log", "store"):
        checked = process.run("replay", "--all", "--from", origin).stderr
        assert " 0 different, 0 not reached" in checked, checked
        assert int(checked.split()[0]) >= 3  # how many reports there are depends on the moment of the kill
