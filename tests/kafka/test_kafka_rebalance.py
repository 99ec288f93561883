"""Workers of the drift stage come, go and are killed under load: every score counts once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from harness import PATIENCE_S, wait_until
from kafka_fleet import Fleet

from stream.kafka.log import KafkaLog
from stream.kafka.topics import Topics, wanted
from stream.records import TOPIC_SCORES, Evaluator, ScoreRecord
from stream.stage import Output


def score(number: int) -> Output:
    """Return one score, of one of four routes."""
    route = f"route-{number % 4}"
    record = ScoreRecord(
        score_id=f"score-{number}",
        time_unix_nano=time.time_ns(),
        trace_id=f"{number:032x}",
        span_id="",
        unit_id=f"unit-{number}",
        rubric="refusal",
        evaluator=Evaluator(id="refusal"),
        status="scored",
        value=1.0,
        cohort={"route": route, "prompt_version": "v1"},
    )
    return Output(TOPIC_SCORES, msgspec.json.encode(record), f"default/{route}".encode())


def test_drift_workers_join_leave_and_are_killed_under_load_and_every_score_counts_once(
    make_url: Callable[..., str], tmp_path: Path
) -> None:
    fleet = Fleet(tmp_path, make_url(transaction_timeout="5s"))
    Topics(fleet.settings).create(wanted(fleet.settings))
    log = KafkaLog(fleet.settings)
    done = threading.Event()
    sent = 0

    def load() -> None:
        nonlocal sent
        while not done.is_set():
            outputs = [score(number) for number in range(sent, sent + 10)]
            log.append(outputs, group="collector", counters={}).result(PATIENCE_S)
            sent += 10
            time.sleep(0.03)

    def counted() -> int:
        return log.counters().get("drift", {}).get("scores_in", 0)

    def more(what: str) -> None:
        before = counted()
        wait_until(lambda: counted() > before + 200, f"{what}; {fleet.said()}")

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    try:
        first = fleet.start("worker", "drift")
        more("scores with one worker")
        second = fleet.start("worker", "drift")
        more("scores with two")
        first.terminate()
        assert first.wait(PATIENCE_S) == 0, fleet.said()
        more("scores after one left")
        third = fleet.start("worker", "drift")
        more("scores with two again")
        second.send_signal(signal.SIGKILL)
        second.wait()
        more("scores after one was killed")
        done.set()
        thread.join(30)
        wait_until(lambda: counted() >= sent, f"the last scores; {fleet.said()}")
        assert third.poll() is None, fleet.said()
        ledger = log.counters()["drift"]
        assert ledger["scores_in"] == ledger["scores_used"] == sent
        assert not any(name.startswith(("scores_excluded", "scores_rejected")) for name in ledger)
    finally:
        done.set()
        fleet.stop()
        log.close()
