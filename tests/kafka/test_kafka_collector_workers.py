"""Several collector processes on one port, and who looks after them, on a real broker."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pytest
from harness import PATIENCE_S, Client, free_port, wait_until
from kafka_fleet import Fleet, Tail, span_ids
from traces import request, trace

from stream.kafka.log import KafkaLog
from stream.kafka.topics import Topics, wanted


@pytest.fixture
def fleet(make_url: Callable[..., str], tmp_path: Path) -> Iterator[Fleet]:
    """Return an installation whose topics exist."""
    web = free_port()
    made = Fleet(
        tmp_path,
        make_url(transaction_timeout="5s"),
        web={"port": web},
        shutdown_grace="15s",
    )
    made.web = web
    Topics(made.settings).create(wanted(made.settings))
    yield made
    for child in made.children:
        for process in family(child.pid):
            process.kill()
    made.stop()


def family(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def status(fleet: Any) -> dict[str, Any]:
    try:
        with urlopen(f"http://127.0.0.1:{fleet.web}/v1/status", timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except OSError:
        return {}


def ready(fleet: Any, workers: int = 2) -> bool:
    return sum(worker["ready"] for worker in status(fleet).get("workers", [])) == workers


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_workers_share_the_port_and_a_killed_one_loses_nothing(fleet: Fleet) -> None:
    supervisor = fleet.start("collector", "--workers", "2")
    wait_until(lambda: ready(fleet), f"two workers; {fleet.said()}")
    first = {worker["number"]: worker["pid"] for worker in status(fleet)["workers"]}
    assert len(set(first.values())) == 2

    done, stop = threading.Event(), threading.Event()
    clients = [Client(fleet.port) for _ in range(8)]
    sent = [0] * len(clients)

    def load(index: int) -> None:
        while not done.is_set():
            if clients[index].send(request(trace(f"w{index}-{sent[index]}")), stop):
                sent[index] += 1
            done.wait(0.02)

    threads = [threading.Thread(target=load, args=(index,), daemon=True) for index in range(len(clients))]
    for thread in threads:
        thread.start()
    try:
        # The kernel deals connections out; eight of them all on one worker are one in 128, so more come if need be.
        def both_work() -> bool:
            extra = Client(fleet.port)
            extra.send(request(trace(f"extra-{len(clients)}")), stop)
            clients.append(extra)
            return all(w["receivers"].get("traces_requests", 0) > 0 for w in status(fleet)["workers"])

        wait_until(both_work, lambda: f"spans on both workers; {status(fleet)}; {fleet.said()}")
        os.kill(first[0], signal.SIGKILL)
        wait_until(lambda: sum(sent) > 100, "load while one is gone")
        wait_until(
            lambda: ready(fleet) and status(fleet)["workers"][0]["pid"] != first[0], "a new worker", 40
        )
        before = sum(sent)
        wait_until(lambda: sum(sent) > before + 100, "load on both again")
    finally:
        done.set()
        for thread in threads:
            thread.join(30)
    told = status(fleet)
    assert [worker["restarts"] for worker in told["workers"]] == [1, 0]
    assert told["workers"][1]["pid"] == first[1]
    assert told["ready"]

    # A second collector must not creep in on the shared port.
    other = fleet.start("collector", "--workers", "2")
    assert other.wait(PATIENCE_S) == 1
    assert "cannot listen for OTLP" in fleet.said()

    supervisor.terminate()
    assert supervisor.wait(PATIENCE_S) == 0, fleet.said()
    for worker in told["workers"]:
        assert gone(worker["pid"])
    stop.set()
    acknowledged: set[tuple[str, str]] = set().union(*(client.acknowledged for client in clients))
    for client in clients:
        client.close()
    tail = Tail(fleet.settings, "otlp_spans")

    def stored() -> set[tuple[str, str]]:
        return {span for message in tail.read() for span in span_ids(message.value())}

    wait_until(lambda: stored() >= acknowledged, "every acknowledged span on Kafka")
    tail.close()
    ledger = KafkaLog(fleet.settings).counters()["collector"]
    assert ledger["spans_received"] == ledger["spans_published"] >= len(acknowledged)


def test_workers_end_with_their_supervisor(fleet: Fleet) -> None:
    supervisor = fleet.start("collector", "--workers", "2")
    wait_until(lambda: ready(fleet), f"two workers; {fleet.said()}")
    pids = [worker["pid"] for worker in status(fleet)["workers"]]
    supervisor.send_signal(signal.SIGKILL)
    wait_until(lambda: all(map(gone, pids)), "workers without a supervisor stop")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", fleet.port))


def test_a_worker_that_cannot_start_ends_the_command(make_url: Callable[..., str], tmp_path: Path) -> None:
    """No topics were made."""
    made = Fleet(tmp_path, make_url())
    try:
        child = made.start("collector", "--workers", "2")
        assert child.wait(PATIENCE_S) == 1
        assert "did not start" in made.said()
        assert "topics create" in made.said()
        assert family(child.pid) == []
    finally:
        made.stop()
