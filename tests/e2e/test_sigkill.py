"""SIGKILL at random moments under load: nothing acknowledged is lost, and no effect happens twice."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import pytest
from harness import Client, CountingGateway, Process, wait_until
from traces import BAD, GOOD, extra_span, request, trace

KILLS = 50
RUBRICS = ["refusal", "groundedness_lexical", "error", "latency"]
ROUTES = {"ask": True, "search": True, "chat": False}  # route -> whether its v2 is bad


def _config(gateway: CountingGateway) -> dict[str, object]:
    base = f"http://127.0.0.1:{gateway.port}"
    return {
        "sampling": {"completion": {"after_root": "300ms", "idle": "1s"}},
        "scorers": {"rubrics": RUBRICS},
        "drift": {
            "bucket": "1s",
            "lateness": "10s",
            "units": {"idle": "1s", "trace_idle": "1s"},
            "rollouts": [
                {"name": f"rollout-{route}", "match": {"route": route}, "incumbent": "v1", "candidate": "v2"}
                for route in ROUTES
            ],
        },
        "rollback": {
            "mode": "enforce",
            "allow_hosts": [f"127.0.0.1:{gateway.port}"],
            "targets": [
                {
                    "name": "gateway",
                    "url": f"{base}/rollback",
                    "token": "${env:GATEWAY_TOKEN}",
                    "read": {"url": base + "/state/{{rollout}}", "pointer": "/active", "done": "v1"},
                }
            ],
            "verify": {"settle": "1s", "hold": "2s", "telemetry_lag": "3s", "interval": "1s"},
        },
    }


class _Load:
    """Applications that send conversations until told to stop, and go on after every refusal."""

    def __init__(self, process: Process, gateway: CountingGateway) -> None:
        self.clients = [Client(process.ports["grpc"]) for _ in range(2)]
        self.traces: set[str] = set()
        self.errors: list[BaseException] = []
        self._gateway = gateway
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=(index, client), daemon=True)
            for index, client in enumerate(self.clients)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Stop after what is being sent has been acknowledged; the process must be up."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a client never got its acknowledgement"

    def _guarded(self, index: int, client: Client) -> None:
        try:
            self._run(index, client)
        except BaseException as error:
            self.errors.append(error)
            raise

    def _run(self, index: int, client: Client) -> None:
        rng = random.Random(index)
        never = threading.Event()
        number = 0
        while not self._stop.is_set():
            spans, extras = [], []
            for _ in range(8):
                number += 1
                name = f"{index}-{number}"
                route = rng.choice(list(ROUTES))
                rolled_back = f"rollout-{route}" in self._gateway.effective.values()
                version = "v2" if rng.random() < 0.3 and not rolled_back else "v1"
                answer = BAD if version == "v2" and ROUTES[route] and rng.random() < 0.8 else GOOD
                made = trace(name, route=route, version=version, answer=answer)
                spans += made
                self.traces.add(made[0].trace_id.hex())
                if rng.random() < 0.3:
                    extras.append(extra_span(name, "cleanup"))
            client.send(request(spans), never)
            if extras:
                client.send(request(extras), never)
            self._stop.wait(0.02)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fifty_kills_lose_nothing_and_repeat_nothing(
    make_process: Callable[..., Process], counting_gateway: CountingGateway
) -> None:
    seed = 20260
    rng = random.Random(seed)
    process = make_process(_config(counting_gateway), {"GATEWAY_TOKEN": "gateway-" + "token"})
    process.start()
    load = _Load(process, counting_gateway)
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
    wait_until(process.drained, "every stage to take everything", 120)

    stored = process.sql("SELECT TraceId, SpanId FROM otel_traces")
    acknowledged = set().union(*(client.acknowledged for client in load.clients))
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
