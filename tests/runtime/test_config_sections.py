"""What two sections of the configuration must agree on, and the digest from a file of scores."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from driftgate.config import load
from stream.errors import ConfigError

HOUR = 3600 * 10**9
START = 1_700_000_000 * 10**9 // HOUR * HOUR


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "sampling: {operations: {enabled: false}}\ndrift: {budgets: [{usd: 1}]}",
            "sampling.operations.enabled: true",
        ),
        ("scorers: {rubrics: [{use: error, name: error_rate}]}", "name of an operational stream"),
        ("drift: {budgets: [{name: a}]}", "either usd or tokens"),
        ("drift: {rollouts: [{operations: [errors]}]}", "no operational stream"),
    ],
)
def test_sections_that_disagree_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "driftgate.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(path)


def test_a_replay_of_scores_gives_the_digest_of_every_hour(tmp_path: Path) -> None:
    config = tmp_path / "driftgate.yaml"
    config.write_text(
        "drift:\n  watches:\n    - {rubrics: [quality], operations: [], learn: 10m, min_units: 50, "
        "digest: {period: hour}}\n"
    )
    draw = random.Random(1)
    lines = []
    for number in range(800):
        at = START + number * 10 * 10**9
        arm = f"v{number % 2}"
        bad = arm == "v1" and at >= START + HOUR
        lines.append(
            json.dumps(
                {
                    "score_id": f"s{number}", "time_unix_nano": at, "trace_id": f"t{number}", "span_id": "1",
                    "unit_id": f"t{number}", "rubric": "quality", "evaluator": {"id": "code"},
                    "value": 0.0 if bad and draw.random() < 0.5 else draw.choice([0.5, 1.0]),
                    "cohort": {"route": "r", "prompt_version": arm},
                }
            )
        )  # fmt: skip
    lines.append(json.dumps({"type": "heartbeat", "time_unix_nano": START + 3 * HOUR}))
    scores = tmp_path / "scores.jsonl"
    scores.write_text("\n".join(lines))
    done = subprocess.run(
        [sys.executable, "-m", "driftgate", "replay", str(scores), "-c", str(config)],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    digests = [one for one in verdicts if one["kind"] == "digest"]
    assert [one["state"] for one in digests][:2] == ["ok", "warn"]
    found = digests[1]["evidence"]["digest"]
    worst = found["entries"][0]
    assert (worst["cohort"], worst["worse"]) == ("prompt_version=v1,route=r", True)
    assert not any(entry.get("worse") for entry in found["entries"][1:])
    pages = [one for one in verdicts if one["kind"] == "drift" and one["state"] == "regressed"]
    assert pages
    assert {one["attribution"] for one in pages} == {"system"}
