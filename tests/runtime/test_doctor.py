"""The doctor compares the store with the log only as far as both can be expected to agree."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import PATIENCE_S

import driftgate.doctor
from driftgate.config import Config, LogSettings
from driftgate.doctor import examine
from driftgate.running import tell_endpoints
from sinks.store_settings import StoreRetention, StoreSettings
from stream.records import TOPIC_SPANS
from stream.sqlite_log import SqliteLog
from stream.stage import Output

DAY = 86400.0


@contextmanager
def _published(folder: Path, spans: int) -> Iterator[Callable[[int], None]]:
    """A log into which so many spans were published and taken; gives what publishes more."""
    log = SqliteLog(folder / "log.db")

    def publish(count: int) -> None:
        counters = {"spans_received": count, "spans_published": count}
        output = Output(TOPIC_SPANS, b"spans")
        log.append([output], group="collector", counters=counters).result(PATIENCE_S)
        taken = {"spans_in": count, "spans_kept": count}
        log.append([], group="sampler", counters=taken).result(PATIENCE_S)

    publish(spans)
    try:
        yield publish
    finally:
        log.close()


def _outcomes(config: Config) -> dict[str, str]:
    return {finding.what: finding.outcome for finding in examine(config)}


def _store_holds(
    monkeypatch: pytest.MonkeyPatch, spans: int, meanwhile: Callable[[], None] = lambda: None
) -> None:
    def answer(config: Config, sql: str, form: str) -> bytes:
        meanwhile()
        return json.dumps({"data": [[str(spans), "0", "0"]]}).encode()

    monkeypatch.setattr(driftgate.doctor, "run_query", answer)


def test_spans_that_came_while_the_doctor_looked_are_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(data=tmp_path)
    with _published(tmp_path, 3) as publish:
        _store_holds(monkeypatch, 5, lambda: publish(2))
        assert _outcomes(config)["spans in ClickHouse"] == "ok"
        for wrong in (4, 6):  # five were there before, and no more came
            _store_holds(monkeypatch, wrong)
            assert _outcomes(config)["spans in ClickHouse"] == "failed"


def test_a_store_that_the_running_process_keeps_to_itself_is_not_called_broken(tmp_path: Path) -> None:
    with _published(tmp_path, 3):
        take_away = tell_endpoints(tmp_path, {"otlp_grpc": "http://127.0.0.1:1"})
        try:
            assert _outcomes(Config(data=tmp_path))["store"] == "warning"
        finally:
            take_away()


def test_a_table_that_forgets_before_the_log_does_is_not_compared_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeps = StoreRetention(otel_traces=2 * DAY, scores=0)
    config = Config(data=tmp_path, log=LogSettings(max_age=7 * DAY), store=StoreSettings(retention=keeps))
    with _published(tmp_path, 3):
        _store_holds(monkeypatch, 1)
        found = _outcomes(config)
    assert "spans in ClickHouse" not in found
    assert found["scores in ClickHouse"] == "ok"
