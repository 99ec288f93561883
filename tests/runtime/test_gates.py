"""The pull gate of a rollout, asked over a real store: what progressive-delivery tools are told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from driftgate.config import Config
from driftgate.runtime.alerts import Alerts
from sinks.store import Store
from sinks.store_settings import StoreSettings
from sinks.store_stage import StoreStage
from stream.records import TOPIC_SCORES, TOPIC_VERDICTS, Evaluator, ScoreRecord, Verdict
from stream.stage import Batch, Record

MINUTE = 60 * 10**9
NOW = 200  # minute


class Gated:
    """A store, and what the alerter's process answers from it."""

    def __init__(self, folder: Path) -> None:
        self.store = Store.open(StoreSettings(), folder / "store")
        self.store.migrate()
        config = Config.model_validate({"data": str(folder), "drift": {"rollouts": [{"name": "r"}]}})
        self.alerts = Alerts(config, self.store)
        self.offset = 0
        self.begin = time.time_ns() - NOW * MINUTE  # a candidate is gone by the clock

    def say(self, minute: int, state: Any, candidate: str, **more: Any) -> None:
        self._store(
            TOPIC_VERDICTS,
            Verdict(
                verdict_id=f"{minute}-{candidate}-{state}",
                kind="canary",
                time_unix_nano=self.begin + minute * MINUTE,
                rollout="r",
                route="support",
                rubric="groundedness",
                arm="prompt_version",
                incumbent="v17",
                candidate=candidate,
                state=state,
                **more,
            ),
        )

    def score(self, minute: int, version: str) -> None:
        self._store(
            TOPIC_SCORES,
            ScoreRecord(
                score_id=f"{minute}-{version}",
                time_unix_nano=self.begin + minute * MINUTE,
                trace_id="0" * 32,
                span_id="0" * 16,
                unit_id="u",
                rubric="groundedness",
                evaluator=Evaluator(id="e"),
                value=0.5,
                cohort={"route": "support", "prompt_version": version},
            ),
        )

    def _store(self, topic: str, value: Verdict | ScoreRecord) -> None:
        self.offset += 1
        record = Record(topic, 0, self.offset, msgspec.json.encode(value), timestamp_ns=value.time_unix_nano)
        assert not StoreStage(self.store, StoreSettings()).process(Batch([record], self.begin)).rejects

    def answer(self) -> str:
        return str(self.alerts.gate("r")["verdict"])


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[Gated]:
    made = Gated(tmp_path)
    yield made
    made.alerts.close()
    made.store.close()


def test_a_candidate_that_is_gone_does_not_fail_the_next_one(gated: Gated) -> None:
    assert gated.answer() == "inconclusive"
    gated.score(0, "v18")
    gated.say(0, "regressed", "v18")
    assert gated.answer() == "fail"
    gated.say(NOW - 5, "insufficient_data", "v19")
    assert gated.answer() == "fail"  # no scores at all: the store may be behind
    gated.score(NOW - 5, "v19")
    assert gated.answer() == "inconclusive"
    gated.say(NOW - 2, "non_inferior", "v19")
    assert gated.answer() == "pass"
    gated.say(NOW - 1, "regressed", "v19")
    assert gated.answer() == "fail"


def test_a_stray_version_does_not_let_a_candidate_go_that_has_traffic(gated: Gated) -> None:
    gated.say(0, "regressed", "v18")
    gated.score(NOW - 5, "v18")
    gated.score(NOW - 1, "stray")
    gated.say(NOW - 1, "warming_up", "stray")
    assert gated.answer() == "fail"


def test_a_candidate_stays_failed_while_there_is_no_other(gated: Gated) -> None:
    gated.score(0, "v18")
    gated.say(0, "regressed", "v18")
    gated.score(NOW - 1, "v17")
    assert gated.answer() == "fail"
