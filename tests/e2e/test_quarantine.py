"""From a span that cannot be redacted to its content in the hands of who may read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner
from harness import Client, Process, wait_until
from traces import attribute, request, trace

from driftgate.cli import cli

SECRET = "what Jane said"


def test_quarantined_spans_are_listed_decrypted_and_in_the_books(
    make_process: Callable[..., Process], tmp_path: Path
) -> None:
    file = tmp_path / "quarantine.pem"
    made = CliRunner().invoke(cli, ["quarantine", "keygen", str(file)], catch_exceptions=False)
    assert file.stat().st_mode & 0o077 == 0
    public = made.output.split("public_key: ")[1].split()[0]
    process = make_process(
        {
            "collector": {"quarantine": {"public_key": public}, "max_string_bytes": 4000},
            "sampling": {"completion": {"after_root": "300ms", "idle": "1s"}},
        }
    )
    process.start()
    spans = trace("one")
    spans[1].attributes.append(attribute("blob", SECRET + "x" * 5000))
    client = Client(process.ports["grpc"])
    answer = client._export(request(spans), timeout=60)
    client.close()
    assert answer.partial_success.rejected_spans == 1
    assert "kept encrypted" in answer.partial_success.error_message
    wait_until(process.drained, "draining")

    listed = process.run("quarantine", "list").stdout
    assert "string_too_long" in listed
    assert SECRET not in listed
    (item,) = [json.loads(line) for line in process.run("quarantine", "list", "--json").stdout.splitlines()]
    assert (item["tenant"], item["signal"], item["count"]) == ("default", "traces", 1)

    opened = process.run("quarantine", "decrypt", "--key", f"file:{file}", item["id"]).stdout
    (line,) = opened.splitlines()
    (span,) = json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert span["traceId"] == spans[1].trace_id.hex()
    assert span["attributes"][-1]["value"]["stringValue"].startswith(SECRET)
    assert process.run("quarantine", "decrypt", "--key", f"file:{file}", "0:99", check=False).returncode == 1

    other = tmp_path / "other.pem"
    CliRunner().invoke(cli, ["quarantine", "keygen", str(other)], catch_exceptions=False)
    refused = process.run("quarantine", "decrypt", "--key", f"file:{other}", check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "sealed for another key" in refused.stderr

    books = process.run("doctor", check=False)
    assert books.returncode == 0, books.stdout
    assert "spans_quarantined 1" in books.stdout
    assert (process.data / "log.db").is_file()
    for stored in process.data.rglob("*"):
        if stored.is_file():
            assert SECRET.encode() not in stored.read_bytes(), stored


def test_a_private_key_is_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "quarantine.pem"
    file.write_text("precious")
    result = CliRunner().invoke(cli, ["quarantine", "keygen", str(file)])
    assert result.exit_code != 0
    assert file.read_text() == "precious"
