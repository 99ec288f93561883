"""What is listed of recorded verdicts: the latest by their own time, without garbage, and the digests of every tenant."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from harness import PATIENCE_S

from driftgate.cli import cli
from sinks.store import Store
from sinks.store_settings import StoreSettings
from sinks.store_stage import StoreStage
from stream.errors import StartError
from stream.records import TOPIC_VERDICTS, DigestEvidence, Evidence, Verdict
from stream.sqlite_log import SqliteLog
from stream.stage import Batch, Output, Record

SECOND = 10**9
START = 1_760_000_000 * SECOND
TENANTS = 1_200


def _verdict(number: int, second: int, **more: Any) -> bytes:
    kind = more.pop("kind", "canary")
    return msgspec.json.encode(
        Verdict(
            verdict_id=f"{number:032x}",
            kind=kind,
            time_unix_nano=START + second * SECOND,
            rollout="r",
            rubric="quality",
            state="ok",
            **more,
        )
    )


def test_without_a_store_the_latest_of_the_log_are_listed_and_what_is_no_verdict_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log = SqliteLog(tmp_path / "driftgate-data" / "log.db")
    records = [_verdict(1, 30), b"{", _verdict(2, 10), b"\xff", _verdict(3, 20)]
    log.append([Output(TOPIC_VERDICTS, raw) for raw in records], group="drift", counters={}).result(
        PATIENCE_S
    )
    log.close()
    result = CliRunner().invoke(cli, ["verdicts", "--json", "--limit", "2"], catch_exceptions=False)
    assert [json.loads(line)["verdict_id"][-1] for line in result.output.splitlines()] == ["1", "3"]


def test_where_neither_store_nor_log_can_be_read_both_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StartError, match=r"there is no store at .*; there is no log at "):
        CliRunner().invoke(cli, ["verdicts"], catch_exceptions=False)


def test_the_digests_of_more_tenants_than_fit_a_page_are_all_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    records = []
    for number in range(TENANTS):
        for period in (0, 3600):
            told = Evidence(
                digest=DigestEvidence(end_unix_nano=START + period * SECOND, streams=2, alpha=0.1)
            )
            raw = _verdict(
                2 * number + bool(period), period, kind="digest", tenant=f"t{number}", evidence=told
            )
            records.append(Record(TOPIC_VERDICTS, 0, len(records), raw, timestamp_ns=time.time_ns()))
    store = Store.open(StoreSettings(), tmp_path / "driftgate-data" / "store")
    store.migrate()
    stage = StoreStage(store, StoreSettings())
    stage.assign(0, {})
    stage.process(Batch(records, 1))
    store.close()
    result = CliRunner().invoke(cli, ["digest", "--json"], catch_exceptions=False)
    found = [json.loads(line) for line in result.output.splitlines()]
    assert {one["tenant"] for one in found} == {f"t{number}" for number in range(TENANTS)}
    assert {(one["end"], one["streams"]) for one in found} == {(START + 3600 * SECOND, 2)}
