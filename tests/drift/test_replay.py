"""Replay gives what the stage gave."""

from __future__ import annotations

from typing import Any

import msgspec

from drift.replay import Replay, replay
from stream.records import Heartbeat


def test_replay_of_a_file_gives_the_verdicts_of_the_stage(streams: Any) -> None:
    items = [
        *streams.canary(1, 150, drop=0.4, bad_from=10),
        Heartbeat(time_unix_nano=streams.T0 + 200 * 10**9),
    ]
    feed = streams.Feed(streams.demo_settings())
    feed.feed(streams.to_records(items))
    lines = [msgspec.json.encode(item) + b"\n" for item in items]
    assert len(lines) > 5000
    assert list(replay(lines, streams.demo_settings())) == feed.verdicts
    assert "regressed" in feed.transitions()


def test_bad_and_empty_lines_are_counted_not_fatal(streams: Any) -> None:
    good = msgspec.json.encode(streams.score(1.0))
    run = Replay(streams.demo_settings())
    assert list(run.run([b"\n", good, b"nonsense\n", b"  \n", good])) == []
    assert run.counters["scores_rejected.undecodable"] == 1
    assert run.counters["scores_excluded.duplicate"] == 1
    assert run.counters["scores_used"] == 1
