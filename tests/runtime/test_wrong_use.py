"""What a command is asked for and cannot mean is refused in one sentence, before anything is written or called."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from driftgate.cli import cli
from stream.errors import StartError


def _refused(*arguments: str, given: str = "") -> str:
    result = CliRunner().invoke(cli, arguments, input=given)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    return result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("--all", "--export", "out.jsonl"),
        ("--verdict", "abcd", "--export", "out.jsonl"),
        ("--all", "--changes-only"),
        ("--verdict", "abcd", "--all"),
        ("--expect", __file__),
    ],
)
def test_a_replay_does_not_leave_out_half_of_what_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scores.jsonl").write_text("")
    assert "--verdict" in _refused("replay", "scores.jsonl", *arguments)
    assert not (tmp_path / "out.jsonl").exists()


def test_an_export_does_not_empty_the_file_that_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scores.jsonl").write_text('{"type": "heartbeat", "time_unix_nano": 1}\n')
    (tmp_path / "link.jsonl").symlink_to("scores.jsonl")
    assert "overwrite" in _refused("replay", "scores.jsonl", "--export", "link.jsonl")
    assert (tmp_path / "scores.jsonl").read_text()


def test_nothing_has_no_pseudonym(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSEUDONYM_KEY", "0123456789" * 4)
    config = tmp_path / "driftgate.yaml"
    config.write_text(
        "collector: {redaction: {pseudonym: {key: '${env:PSEUDONYM_KEY}', key_id: k1}}}\n", encoding="utf-8"
    )
    assert "no text" in _refused("pseudonym", "EMAIL", "-c", str(config), given=" \n")


def test_a_demo_does_not_take_an_earlier_run_for_its_own(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert "is not empty" in _refused("demo", "--folder", str(tmp_path))
    for rate in ("0", "-5"):
        assert "--rate" in _refused("demo", "--rate", rate, "--folder", str(tmp_path))


@contextlib.contextmanager
def _another_program(body: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("body", [b"<html>Sign in</html>", b"{}", b"\xff"])
def test_another_program_is_not_taken_for_one_without_incidents(body: bytes) -> None:
    with _another_program(body) as url, pytest.raises(StartError, match="no administration port"):
        CliRunner().invoke(cli, ["incidents", "list", "--url", url], catch_exceptions=False)


def test_what_is_no_address_is_wrong_use() -> None:
    with pytest.raises(click.UsageError, match="--url is"):
        CliRunner().invoke(
            cli,
            ["incidents", "list", "--url", "127.0.0.1:8080"],
            catch_exceptions=False,
            standalone_mode=False,
        )
