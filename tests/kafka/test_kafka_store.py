"""A ClickHouse server that dies under load: the store worker waits, the log keeps, and it catches up by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clickhouse_server import VARIABLE, WORD, ClickHouseServer
from harness import PATIENCE_S, Client, wait_until
from kafka_fleet import Fleet
from traces import request, trace

from driftgate.config import load
from driftgate.log_view import look
from stream.kafka.topics import Topics, wanted


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClickHouseServer]:
    monkeypatch.setenv(VARIABLE, WORD)
    made = ClickHouseServer(tmp_path / "clickhouse")
    made.start()
    yield made
    made.kill()


def test_a_server_that_dies_under_load_loses_nothing_and_is_caught_up_with(
    make_url: Callable[..., str], tmp_path: Path, server: ClickHouseServer
) -> None:
    fleet = Fleet(tmp_path, make_url(), store=server.settings)
    Topics(fleet.settings).create(wanted(fleet.settings))
    config = load(fleet.path, {})
    fleet.start("collector")
    worker = fleet.start("worker", "store")
    client = Client(fleet.port)
    stop, done = threading.Event(), threading.Event()

    def send() -> None:
        number = 0
        while not done.is_set():
            assert client.send(request([span for n in range(5) for span in trace(f"{number}-{n}")]), stop)
            number += 1
            done.wait(0.05)

    def stored() -> int:
        if not server.sql(
            "SELECT 1 FROM system.tables WHERE database = 'driftgate' AND name = 'otel_traces'"
        ):
            return 0  # the worker makes it when it starts
        ((count,),) = server.sql("SELECT count() FROM otel_traces")
        return int(count)

    def lag() -> int:
        return look(config).lags["store"]

    sender = threading.Thread(target=send, daemon=True)
    try:
        sender.start()
        wait_until(lambda: stored() > 100, f"the first rows; {fleet.said()}")
        for _ in range(2):
            server.kill()
            before = len(client.acknowledged)
            wait_until(lambda before=before: len(client.acknowledged) > before + 150, "load without a store")
            assert lag() > 5
            assert worker.poll() is None, fleet.said()
            server.start()
            wait_until(lambda before=before: stored() > before + 100, f"it to catch up; {fleet.said()}")
        done.set()
        sender.join(30)
        wait_until(lambda: lag() == 0, f"lag zero; {fleet.said()}")
        rows = server.sql("SELECT TraceId, SpanId FROM otel_traces")
        assert len(rows) == len(set(rows))
        assert set(rows) == client.acknowledged
        assert "stage_waits" in fleet.said(), "it says that it waits"
        worker.terminate()
        assert worker.wait(PATIENCE_S) == 0
    finally:
        stop.set()
        done.set()
        client.close()
        fleet.stop()
