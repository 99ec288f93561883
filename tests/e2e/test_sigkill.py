"""SIGKILL at random moments under load: nothing acknowledged is lost, and no effect happens twice."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest
from conversations import GATEWAY_TOKEN, RUBRICS, Load, sections
from harness import Client, CountingGateway, Process, wait_until

KILLS = 50


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fifty_kills_lose_nothing_and_repeat_nothing(
    make_process: Callable[..., Process], counting_gateway: CountingGateway
) -> None:
    seed = 20260
    rng = random.Random(seed)
    process = make_process(sections(counting_gateway), {"GATEWAY_TOKEN": GATEWAY_TOKEN})
    process.start()
    load = Load([Client(process.ports["grpc"]) for _ in range(2)], counting_gateway)
    load.start()
    for kill in range(KILLS):
        if kill % 5 == 4:  # also while it starts
            time.sleep(rng.uniform(0.0, 2.0))
        else:
            process.wait_ready()
            time.sleep(rng.uniform(0.0, 1.2))
        process.kill()
        assert not load.errors, load.errors
        process.launch()
    process.wait_ready()
    # Let it live long enough for a decision, however unlucky the kills were.
    wait_until(
        lambda: len(counting_gateway.effective) == 2, f"both rollbacks (seed {seed}); {process.said()}", 120
    )
    load.finish()
    assert not load.errors, load.errors
    wait_until(process.drained, "every stage to take everything")

    stored = process.sql("SELECT TraceId, SpanId FROM otel_traces")
    acknowledged = load.acknowledged
    assert len(acknowledged) > 1000
    assert set(stored) >= acknowledged
    assert len(stored) == len(set(stored)), "a span is there twice"

    scores = process.sql(
        "SELECT trace_id, count(), uniqExact(rubric), uniqExact(score_id) FROM scores GROUP BY trace_id"
    )
    assert {row[0] for row in scores} == load.traces
    assert {row[1:] for row in scores} == {(len(RUBRICS),) * 3}

    assert sorted(counting_gateway.effective.values()) == ["rollout-ask", "rollout-search"]
    decided = process.sql(
        "SELECT rollout, count() FROM verdicts WHERE action = 'rollback' GROUP BY rollout ORDER BY 1"
    )
    assert decided == [("rollout-ask", 1), ("rollout-search", 1)]

    doctor = process.run("doctor", check=False)
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert process.stop() == 0
