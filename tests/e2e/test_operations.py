"""All traffic, sampled or not, through a running ``driftgate up``: error rate, budget, anchors, and the books."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from harness import Client, Process, wait_until
from traces import attribute, request, trace

from scorers.testing import ScriptedJudge
from sinks.store import Store
from sinks.store_settings import StoreSettings
from sinks.store_stage import StoreStage
from stream.interaction import Interaction, Message, Part
from stream.records import (
    TOPIC_VERDICTS,
    DigestEntry,
    DigestEvidence,
    Evidence,
    Verdict,
)
from stream.stage import Batch, Record

TRACES = 400


def anchors(folder: Path) -> Path:
    path = folder / "anchors.jsonl"
    shown = Interaction(
        input_messages=[Message("user", [Part("text", "How long?")])],
        output_messages=[Message("assistant", [Part("text", "Five days.")])],
    )
    path.write_text(
        "".join(
            json.dumps(
                {
                    "id": f"a{i}",
                    "interaction": msgspec.to_builtins(shown),
                    "labels": {"answer_relevance": 1.0},
                }
            )
            + "\n"
            for i in range(4)
        )
    )
    return path


def test_all_traffic_is_watched_before_sampling(make_process: Callable[..., Process], tmp_path: Path) -> None:
    with ScriptedJudge() as model:
        process = make_process(
            {
                "sampling": {
                    "completion": {"after_root": "300ms", "idle": "1s"}, "uniform": {"ratio": 0.2}, "policies": [],
                },
                "scorers": {
                    "rubrics": ["refusal"],
                    "judges": [
                        {"rubric": "answer_relevance", "model": "openai/scripted", "api_base": model.url,
                         "api_key": "${env:SCRIPTED_KEY}", "budget_usd_per_day": None}
                    ],
                    "anchors": {"file": str(anchors(tmp_path))},
                },
                "drift": {
                    "bucket": "1s", "lateness": "5s", "units": {"idle": "1s", "trace_idle": "1s"},
                    "rollouts": [{"rubrics": ["refusal"], "incumbent": "v1"}],
                    "budgets": [{"name": "spend", "usd": 1.0}],
                },
                "alerts": {"group_wait": "0s"},
            },
            {"SCRIPTED_KEY": "k" * 8},
        )  # fmt: skip
        process.start()
        client = Client(process.ports["grpc"])
        failed = 0
        for number in range(TRACES):
            version = "v2" if number % 5 == 0 else "v1"
            spans = trace(number, version=version)
            spans[2].attributes.append(attribute("gen_ai.usage.cost", 0.01))
            if version == "v2" and number % 4:
                spans[2].status.code = 2
                failed += 1
            assert client.send(request(spans), threading.Event())
            time.sleep(0.05)  # a gate needs minutes of traffic; with buckets of a second, seconds
        client.close()
        wait_until(process.drained, "every stage to take everything")
        wait_until(
            lambda: process.sql(
                "SELECT action FROM verdicts WHERE rubric = 'error_rate' AND state = 'regressed' AND action = 'rollback'"
            ),
            "the error rate to be called regressed",
        )
        wait_until(
            lambda: (
                process.sql(
                    "SELECT n FROM cohort_means WHERE view = 'route' AND cohort = 'route=support' "
                    "AND rubric = 'error_rate' AND window_seconds = 900"
                )
                == [(TRACES,)]
            ),
            "the window to hold all traffic",
        )
        wait_until(
            lambda: process.sql(
                "SELECT 1 FROM incidents WHERE rollout = 'spend' AND summary LIKE '%is used up%'"
            ),
            "the budget's incident",
        )
        wait_until(process.drained, "every stage to take everything")
        ((mean,),) = process.sql(
            "SELECT mean FROM cohort_means WHERE view = 'route' AND rubric = 'error_rate' AND window_seconds = 900"
        )
        assert abs(mean - failed / TRACES) < 1e-9
        assert process.sql(
            "SELECT count(), countIf(has(flags, 'error')), round(sum(cost_usd), 2) FROM operations"
        ) == [(TRACES, failed, TRACES / 100)]
        ((scored, anchored, human),) = process.sql(
            "SELECT countIf(rubric = 'refusal'), countIf(anchor != ''), avgIf(reference, anchor != '') FROM scores"
        )
        assert 0 < scored < TRACES / 2
        assert anchored == scored  # one anchor per judged trace
        assert human == 1.0
        assert process.sql("SELECT count() FROM scores_latest WHERE anchor != ''") == [(0,)]
        ((attribution, prompt),) = process.sql(
            "SELECT attribution, prompt_name FROM verdicts WHERE rubric = 'error_rate' AND action = 'rollback'"
        )
        assert (attribution, prompt) == ("system", "support")
        assert "no digest yet" in process.run("digest").stdout
        assert process.run("doctor").returncode == 0
        assert process.stop() == 0


def test_the_digest_is_shown_from_the_store(make_process: Callable[..., Process]) -> None:
    process = make_process({})
    evidence = Evidence(
        digest=DigestEvidence(
            start_unix_nano=0, end_unix_nano=86_400 * 10**9, streams=3, alpha=0.1, found=1,
            entries=[
                DigestEntry(cohort="route=a", rubric="quality", e_value=500.0, worse=True, units=9, mean=0.5, expected=0.8),
                DigestEntry(cohort="route=b", rubric="quality", e_value=0.5),
            ],
        )
    )  # fmt: skip
    verdict = Verdict(
        verdict_id="d1", kind="digest", time_unix_nano=time.time_ns(), rollout="cohorts", rubric="digest",
        state="warn", evidence=evidence,
    )  # fmt: skip
    process.data.mkdir(mode=0o700)
    store = Store.open(StoreSettings(), process.data / "store")
    store.migrate()
    record = Record(TOPIC_VERDICTS, 0, 0, msgspec.json.encode(verdict), timestamp_ns=verdict.time_unix_nano)
    StoreStage(store, StoreSettings()).process(Batch([record], record.timestamp_ns))
    store.close()
    said = process.run("digest").stdout
    assert "1 of 3 streams got worse" in said
    assert "route=a" in said
    assert "route=b" not in said
    assert "route=b" in process.run("digest", "--all").stdout
    told: dict[str, Any] = json.loads(process.run("digest", "--json", "--alpha", "0.001").stdout)
    assert (told["found"], told["streams"]) == (0, 3)
