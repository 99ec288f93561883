"""``driftgate dead-letters``: what no stage could use, and back with it once the cause is gone."""

from __future__ import annotations

import contextlib
import heapq
import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from driftgate.cli import chosen, config_option
from driftgate.terminal import printable, say

if TYPE_CHECKING:
    from driftgate.config import Config
    from driftgate.dead_letters import Letter

_MOST = 1_000_000


@click.group("dead-letters")
def command() -> None:
    """List, show and replay records no stage could use."""


def _filters(function: Callable[..., Any]) -> Callable[..., Any]:
    for name, text in (
        ("--topic", "Only from this topic."),
        ("--reason", "Only for this reason."),
        ("--stage", "Only of this stage."),
    ):
        function = click.option(name, default="", help=text)(function)
    return function


@command.command("list")
@_filters
@click.option(
    "--limit", type=click.IntRange(1, _MOST), default=50, show_default=True, help="The newest so many."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
@config_option
def list_letters(
    stage: str, reason: str, topic: str, limit: int, as_json: bool, config_path: Path | None
) -> None:
    """List dead letters: which, when, stage and reason, and where the record stood."""
    from driftgate.config import load

    config = load(chosen(config_path))
    # Partitions are read one after the other, so the last letters need not be the newest; and values may be large.
    newest: list[tuple[int, int, dict[str, Any]]] = []
    total = 0
    for total, letter in enumerate(_matching(config, stage, reason, topic), 1):
        heapq.heappush(newest, (letter.time_unix_nano, total, _summary(letter)))
        if total > limit:
            heapq.heappop(newest)
    for _, _, one in sorted(newest):
        if as_json:
            click.echo(json.dumps(one))
            continue
        marks = ("  replayed" if one["replayed"] else "") + (
            f"  came back {one['replays']}x" if one["replays"] else ""
        )
        say(
            f"{one['id']:>10}  {one['time']}  {one['stage']:8}  {one['reason']:16}  "
            f"{one['topic']}/{one['partition']}@{one['offset']}  {one['bytes']:,} B{marks}"
        )
    if not as_json:
        say(f"{total:,} dead letters" + (f", the newest {limit:,} shown" if total > limit else ""))


@command.command("show")
@click.argument("letter_id", metavar="ID")
@click.option(
    "--bytes", "most", type=click.IntRange(0, _MOST), default=4096, show_default=True, help="Of the value."
)
@click.option("--raw", is_flag=True, help="Write the original bytes as they are; not to a terminal.")
@config_option
def show(letter_id: str, most: int, raw: bool, config_path: Path | None) -> None:
    """Show one dead letter: its headers and its bytes, redacted and safe to print."""
    from driftgate.config import load

    config = load(chosen(config_path))
    letter = next((one for one in _matching(config) if one.id == letter_id), None)
    if letter is None:
        raise click.ClickException(f"there is no dead letter {letter_id[:64]!r}")
    if raw:
        if sys.stdout.isatty():
            raise click.UsageError("--raw writes bytes that a terminal may obey: send them to a file")
        sys.stdout.buffer.write(letter.value)
        sys.stdout.buffer.flush()
        return
    clean = _redactor(config)
    for name, value in (
        ("id", letter.id),
        ("time", _when(letter)),
        ("stage", letter.stage),
        ("reason", letter.reason),
        ("error", letter.error),
        ("from", f"{letter.topic}/{letter.partition}@{letter.offset}"),
        ("replayed", "yes" if letter.replayed else "no"),
        ("came back", str(letter.replays)),
        ("key", clean(letter.key)),
    ):
        say(f"{name:10} {value}")
    for header, content in letter.headers:
        say(f"header     {header} = {clean(content)}")
    shown = letter.value[:most]
    say(
        f"value      {len(letter.value):,} bytes"
        + (f", the first {most:,}:" if len(shown) < len(letter.value) else ":")
    )
    click.echo(printable(clean(shown), lines=True))


@command.command("replay")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@_filters
@click.option("--all", "everything", is_flag=True, help="All that match and were not replayed yet.")
@click.option("--again", is_flag=True, help="Also what was replayed already, or came back too often.")
@click.option("--dry-run", is_flag=True, help="Say what would be done.")
@config_option
def replay_letters(
    ids: tuple[str, ...],
    stage: str,
    reason: str,
    topic: str,
    everything: bool,
    again: bool,
    dry_run: bool,
    config_path: Path | None,
) -> None:
    """Send dead letters back to the topic and partition they came from, with their original bytes and key.

    The exit code is 1 when a letter was refused.
    """
    from driftgate.config import load
    from driftgate.dead_letters import MISSING, refusal
    from driftgate.mailboxes import replay_where_it_runs

    if bool(ids) == (everything or bool(stage or reason or topic)):
        raise click.UsageError("name letters by ID, or say which with --stage, --reason, --topic or --all")
    config = load(chosen(config_path))
    named = set(ids)
    wanted = (
        letter
        for letter in _matching(config, stage, reason, topic)
        if (letter.id in named if ids else not letter.replayed or again)
    )
    if dry_run:
        outcome = dict.fromkeys(ids, MISSING)
        outcome.update((letter.id, refusal(letter, again=again)) for letter in wanted)
    else:
        outcome = replay_where_it_runs(config, ids or [letter.id for letter in wanted], again=again)
    refused = 0
    for letter_id, why in outcome.items():
        refused += bool(why)
        say(
            f"{letter_id}: {f'not replayed: {why}' if why else 'would be replayed' if dry_run else 'replayed'}"
        )
    say(f"{len(outcome) - refused:,} of {len(outcome):,}")
    if refused:
        raise click.exceptions.Exit(1)


def _matching(config: Config, stage: str = "", reason: str = "", topic: str = "") -> Iterator[Letter]:
    from driftgate.dead_letters import read_letters
    from driftgate.mailboxes import open_mailbox

    with contextlib.closing(open_mailbox(config)) as mailbox:
        for letter in read_letters(mailbox):
            if stage in ("", letter.stage) and reason in ("", letter.reason) and topic in ("", letter.topic):
                yield letter


def _redactor(config: Config) -> Callable[[bytes], str]:
    """Return what makes bytes text that may be shown: spans of other producers have not been through redaction."""
    from collector.redaction.engine import Engine
    from collector.redaction.rule import Unscannable

    engine = Engine(config.collector.redaction)

    def clean(value: bytes) -> str:
        try:
            return engine.redact(value.decode("utf-8", "backslashreplace"))[0]
        except Unscannable:
            return f"[{len(value)} bytes that cannot be scanned for personal data; see --raw]"

    return clean


def _when(letter: Letter) -> str:
    return datetime.fromtimestamp(letter.time_unix_nano / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _summary(letter: Letter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "time": _when(letter),
        "stage": letter.stage,
        "reason": letter.reason,
        "error": letter.error,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "bytes": len(letter.value),
        "replayed": letter.replayed,
        "replays": letter.replays,
    }
