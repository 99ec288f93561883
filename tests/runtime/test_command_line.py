"""The command line between other programs: pipes that close, disks that are full, streams that are not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import msgspec
import pytest
from harness import PATIENCE_S

from driftgate.cli import cli
from stream.records import TOPIC_VERDICTS, Verdict
from stream.sqlite_log import SqliteLog
from stream.stage import Output

DRIFTGATE = [sys.executable, "-m", "driftgate"]


def _run(*arguments: str, out: int | IO[bytes], folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        [*DRIFTGATE, *arguments], stdout=out, stderr=subprocess.PIPE, cwd=folder, timeout=PATIENCE_S
    )
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize("command", [("config", "reference"), ("verdicts", "--json")])
def test_a_reader_that_went_away_is_no_failure_and_no_traceback(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    _write_verdict(tmp_path)
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert _run(*command, out=writing, folder=tmp_path) == (141, "")
    finally:
        os.close(writing)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
def test_output_that_cannot_be_written_is_one_sentence_and_a_failure(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        code, said = _run("config", "show", out=full, folder=tmp_path)
    assert code == 1
    assert said.startswith("driftgate: no space left")
    assert said.count("\n") == 1


def test_commands_run_without_standard_streams(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -m driftgate redact <&- >&-', sys.executable],
        stderr=subprocess.PIPE,
        timeout=PATIENCE_S,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_argument_that_is_not_text_is_one_sentence(tmp_path: Path) -> None:
    code, said = _run(
        "incidents", "show", "--url=http://127.0.0.1:1", os.fsdecode(b"\xff"), out=1, folder=tmp_path
    )
    assert code == 1
    assert said.startswith("driftgate: this is not UTF-8")
    assert "Traceback" not in said


def test_names_from_spans_cannot_speak_to_the_terminal(tmp_path: Path) -> None:
    _write_verdict(tmp_path)
    done = subprocess.run(
        [*DRIFTGATE, "verdicts"], capture_output=True, cwd=tmp_path, timeout=PATIENCE_S, check=True
    )
    assert done.stdout.count(b"\n") == 1
    assert b"\x1b" not in done.stdout
    assert rb"v2\x1b]0;title\x07\nforged / v1" in done.stdout


def test_what_a_query_finds_cannot_speak_to_the_terminal_and_is_left_as_it_is_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = "┌─x─┐\n\x1b]0;title\x07\n"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("driftgate.store_access.run_query", lambda config, sql, form: answer.encode())
    for terminal, shown in ((False, answer), (True, "┌─x─┐\n\\x1b]0;title\\x07\n")):
        monkeypatch.setattr(sys.stdout, "isatty", lambda told=terminal: told)
        cli(["query", "SELECT 1"], standalone_mode=False)
        assert capsys.readouterr().out == shown


def _write_verdict(folder: Path) -> None:
    """Record a verdict about a prompt version that an application named badly."""
    verdict = Verdict(
        verdict_id="ab" * 16,
        kind="canary",
        time_unix_nano=1_760_000_000 * 10**9,
        rollout="r",
        rubric="quality",
        state="ok",
        candidate="v2\x1b]0;title\x07\nforged",
        incumbent="v1",
    )
    (folder / "driftgate-data").mkdir()
    log = SqliteLog(folder / "driftgate-data" / "log.db")
    log.append([Output(TOPIC_VERDICTS, msgspec.json.encode(verdict))], group="drift", counters={}).result(
        PATIENCE_S
    )
    log.close()
