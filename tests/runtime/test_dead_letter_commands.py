"""Dead letters by the hundred thousand, of several partitions, and by ids that are wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

import driftgate.mailboxes
from driftgate.cli import cli
from driftgate.config import Config, WebSettings
from driftgate.mailboxes import replay_where_it_runs
from driftgate.running import tell_endpoints
from driftgate.runtime.operations import NoOperations
from driftgate.runtime.status import Status
from driftgate.web import Web
from stream.errors import StartError
from stream.records import TOPIC_DEAD_LETTERS, TOPIC_SCORES
from stream.stage import Record
from stream.transaction import LETTER_HEADERS

HEADERS = {"stage": "drift", "original-topic": TOPIC_SCORES, "original-partition": "0"}


class Partitions:
    """A mailbox whose first partition holds what came last."""

    def letters(self) -> Iterator[Record]:
        headers = tuple((name, HEADERS.get(name, "1").encode()) for name in LETTER_HEADERS)
        for partition, second in ((0, 30), (0, 40), (1, 10), (1, 20)):
            yield Record(
                TOPIC_DEAD_LETTERS, partition, second, b"{", headers=headers, timestamp_ns=second * 10**9
            )

    def replayed(self) -> set[str]:
        return set()

    def close(self) -> None:
        pass


@pytest.fixture
def partitions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driftgate.mailboxes, "open_mailbox", lambda config: Partitions())


@pytest.mark.usefixtures("partitions")
def test_the_newest_letters_are_listed_whatever_partition_they_are_in() -> None:
    result = CliRunner().invoke(cli, ["dead-letters", "list", "--limit", "2"])
    assert [line.split()[0] for line in result.output.splitlines()] == ["0:30", "0:40", "4"]


@pytest.mark.usefixtures("partitions")
def test_a_dry_run_refuses_the_ids_that_a_replay_refuses() -> None:
    result = CliRunner().invoke(cli, ["dead-letters", "replay", "--dry-run", "1:10", "7:7"])
    assert result.exit_code == 1
    assert sorted(result.output.splitlines()) == [
        "1 of 2",
        "1:10: would be replayed",
        "7:7: not replayed: there is no such letter (any more)",
    ]


def test_a_replay_makes_no_log_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StartError, match="there is no log"):
        CliRunner().invoke(cli, ["dead-letters", "replay", "0:0"], catch_exceptions=False)
    assert not list(tmp_path.iterdir())


def test_a_running_process_is_given_any_number_of_ids(tmp_path: Path) -> None:
    ids = [f"0:{number}" for number in range(100_000)]
    taken: list[str] = []

    def replay(asked: Sequence[str], again: bool) -> dict[str, str]:
        taken.extend(asked)
        return dict.fromkeys(asked, "")

    async def run() -> dict[str, str]:
        web = Web(
            WebSettings(port=0),
            lambda: Status(version="", ready=True, time_unix_nano=0),
            NoOperations(),
            replay,
        )
        await web.start()
        take_away = tell_endpoints(tmp_path, {"web": f"http://127.0.0.1:{web.port}"})
        try:
            return await asyncio.to_thread(replay_where_it_runs, Config(data=tmp_path), ids, again=False)
        finally:
            take_away()
            await web.stop()

    assert asyncio.run(run()) == dict.fromkeys(ids, "")
    assert taken == ids
