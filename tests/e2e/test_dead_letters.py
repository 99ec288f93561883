"""Dead letters on the command line: seen safely, sent back once, and never round and round unnoticed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from harness import Process, wait_until

from stream.sqlite_log import SqliteLog
from stream.sqlite_reading import inspect, read_topic
from stream.stage import Output

EMAIL = "jane.doe" + "@" + "customers.example.com"
BAD = b'{"type": "score", "mail": "' + EMAIL.encode() + b'", "\x1b[31m": \xff'


def test_letters_are_listed_shown_safely_and_replayed_once(make_process: Callable[..., Process]) -> None:
    process = make_process()
    log = SqliteLog(process.data / "log.db")
    log.append(
        [Output("scores", BAD, b"t/r", (("tenant", b"t"), ("stage", b"theirs")))], group="other", counters={}
    ).result(10)
    log.close()

    def letters() -> list[dict[str, Any]]:
        return [
            json.loads(line) for line in process.run("dead-letters", "list", "--json").stdout.splitlines()
        ]

    process.start()
    wait_until(lambda: len(letters()) == 2, "drift and store to refuse it")
    first = {letter["stage"]: letter for letter in letters()}
    assert set(first) == {"drift", "store"}
    assert all(
        (one["reason"], one["topic"], one["offset"], one["bytes"], one["replays"])
        == ("undecodable", "scores", 0, len(BAD), 0)
        for one in first.values()
    )
    drift = first["drift"]["id"]
    shown = process.run("dead-letters", "show", drift).stdout
    assert EMAIL not in shown
    assert "[EMAIL]" in shown
    assert "\x1b" not in shown
    assert "header     stage = theirs" in shown
    raw = process.run_bytes("dead-letters", "show", drift, "--raw")
    assert raw == BAD

    # Through the process that owns the log.
    assert process.run("dead-letters", "replay", drift, "--dry-run").stdout.startswith(f"{drift}: would be")
    assert process.run("dead-letters", "replay", drift).stdout == f"{drift}: replayed\n1 of 1\n"
    refused = process.run("dead-letters", "replay", drift, "0:99", check=False)
    assert refused.returncode == 1
    assert f"{drift}: not replayed: it was replayed already" in refused.stdout
    assert "0:99: not replayed: there is no such letter" in refused.stdout
    wait_until(lambda: len(letters()) == 4, "the new letters")
    with inspect(process.data / "log.db") as reader:
        original, again = (one for one in read_topic(reader, "scores") if one.value == BAD)
    assert (again.value, again.key) == (original.value, original.key)
    assert again.headers == (*original.headers, ("replayed-letter", drift.encode()), ("replays", b"1"))

    # Round and round is noticed.
    for turn in (1, 2):
        process.run(
            "dead-letters",
            "replay",
            *[one["id"] for one in letters() if one["stage"] == "drift" and one["replays"] == turn],
        )
        wait_until(
            lambda turn=turn: any(one["replays"] == turn + 1 for one in letters()), "it to come back", 30
        )
    process.stop()
    # And by the command itself, when no process runs.
    worn = process.run("dead-letters", "replay", "--stage", "drift", check=False)
    assert worn.returncode == 1
    assert "it came back 3 times" in worn.stdout
    assert "0 of 1" in worn.stdout
    forced = process.run("dead-letters", "replay", "--stage", "drift", "--reason", "undecodable", "--again")
    assert "4 of 4" in forced.stdout
    assert process.run("dead-letters", "list", "--limit", "1").stdout.endswith(
        "8 dead letters, the newest 1 shown\n"
    )
