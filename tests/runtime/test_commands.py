"""The filters of the command line: redact and replay, as a shell uses them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

EMAIL = "jane.doe" + "@" + "customers.example.com"
CARD = "4111 1111" + " 1111 1111"


def _driftgate(*arguments: str, given: str = "", code: int = 0, cwd: Path | None = None) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "driftgate", *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
    )
    assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def test_redact_filters_text_and_reports_counts_only() -> None:
    out, err = _driftgate("redact", "--report", given=f"mail {EMAIL}, card {CARD}\nnothing here\n")
    assert EMAIL not in out
    assert CARD not in out
    assert out.splitlines() == ["mail [EMAIL], card [CARD]", "nothing here"]
    assert sorted(err.split()) == ["1", "1", "CARD", "EMAIL"]


def test_redact_keeps_json_lines_json() -> None:
    inner = json.dumps({"contact": EMAIL, "note": f"line\n{CARD}"})
    out, _ = _driftgate("redact", "--format", "jsonl", given=json.dumps({"n": 1, "arguments": inner}) + "\n")
    found = json.loads(out)
    assert found["n"] == 1
    assert json.loads(found["arguments"]) == {"contact": "[EMAIL]", "note": "line\n[CARD]"}


def _scores(bad: bool) -> str:
    lines = []
    for index in range(1200):
        candidate = index % 4 == 0
        number = int.from_bytes(hashlib.blake2b(str(index).encode(), digest_size=2).digest(), "big") / 65536
        good = number < (0.4 if candidate and bad else 0.9)
        record = {
            "type": "score",
            "score_id": f"{index:032x}",
            "time_unix_nano": 1_760_000_000_000_000_000 + index * 1_000_000_000,
            "trace_id": f"{index:032x}",
            "span_id": f"{index:016x}",
            "unit_id": f"{index:032x}",
            "rubric": "refusal",
            "evaluator": {"id": "refusal"},
            "value": float(good),
            "cohort": {"route": "ask", "prompt_version": "v2" if candidate else "v1"},
        }
        lines.append(json.dumps(record))
    lines.append(
        json.dumps({"type": "heartbeat", "time_unix_nano": 1_760_000_000_000_000_000 + 3_000 * 1_000_000_000})
    )
    return "\n".join(lines) + "\n"


def test_replay_finds_a_regression_and_says_the_same_every_time(tmp_path: Path) -> None:
    (tmp_path / "driftgate.yaml").write_text(
        "drift:\n  rollouts:\n    - {name: r, incumbent: v1, candidate: v2, rubrics: [refusal]}\n"
    )
    (tmp_path / "bad.jsonl").write_text(_scores(bad=True))
    first, _ = _driftgate("replay", "bad.jsonl", "-c", "driftgate.yaml", cwd=tmp_path)
    second, _ = _driftgate("replay", "-", given=_scores(bad=True), cwd=tmp_path)
    assert first == second
    verdicts = [json.loads(line) for line in first.splitlines()]
    assert [v["action"] for v in verdicts if v.get("action", "none") != "none"] == ["rollback"]
    assert verdicts[-1]["state"] == "regressed"
    changes, _ = _driftgate("replay", "bad.jsonl", "--changes-only", cwd=tmp_path)
    assert 1 <= len(changes.splitlines()) < len(verdicts)


def test_replay_of_a_healthy_release_never_rolls_back(tmp_path: Path) -> None:
    out, _ = _driftgate("replay", "-", given=_scores(bad=False), cwd=tmp_path)
    verdicts = [json.loads(line) for line in out.splitlines()]
    assert verdicts
    assert {v["state"] for v in verdicts} <= {
        "warming_up",
        "insufficient_data",
        "ok",
        "non_inferior",
        "no_data",
    }


def test_config_check_names_missing_secrets_and_passes_sound_files(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "alerts:\n  channels:\n    - {type: pagerduty, routing_key: '${env:NO_SUCH_VARIABLE}'}\n"
    )
    out, err = _driftgate("config", "check", "a.yaml", cwd=tmp_path)
    assert out == "a.yaml: ok\n"
    assert "NO_SUCH_VARIABLE is not set" in err
    (tmp_path / "b.yaml").write_text(
        "log: 'kafka://broker.example:9092/?security=sasl_ssl&user=u&password=${env:NO_SUCH_VARIABLE}'\n"
    )
    out, err = _driftgate("config", "check", "b.yaml", cwd=tmp_path)
    assert out == "b.yaml: ok\n"
    assert "`log.url.password`: environment variable NO_SUCH_VARIABLE is not set" in err


def test_a_plug_in_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("scorers:\n  rubrics: [mine.py:Missing]\n")
    _, err = _driftgate("config", "check", "a.yaml", code=2, cwd=tmp_path)
    assert "mine.py" in err
    (tmp_path / "mine.py").write_text(
        "from driftgate import Score, Scorer\n"
        "class Missing(Scorer):\n    name = 'mine'\n    def score(self, interaction):\n        return Score(1.0)\n"
    )
    _driftgate("config", "check", "a.yaml", cwd=tmp_path)


def test_the_schema_is_printed_as_json() -> None:
    out, _ = _driftgate("config", "schema")
    assert json.loads(out)["additionalProperties"] is False


def test_there_is_nothing_to_see_without_a_process(tmp_path: Path) -> None:
    for command in (["doctor"], ["query", "SELECT 1"], ["incidents", "list"]):
        _, err = _driftgate(*command, code=1, cwd=tmp_path)
        assert "driftgate up" in err
