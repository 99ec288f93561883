"""``driftgate replay``: the drift stage over recorded scores, in event time only."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from driftgate.cli import chosen, config_option
from driftgate.terminal import say

if TYPE_CHECKING:
    from driftgate.score_sources import ScoreSource

_SHOWN = 20  # differences printed


@click.command("replay")
@click.argument("scores", required=False, type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--from",
    "origin",
    type=click.Choice(["auto", "log", "store"]),
    default="auto",
    show_default=True,
    help="Where to read without SCORES. auto: the log, and the store where the log has lost its beginning.",
)
@click.option(
    "--verdict", "verdict_id", help="Reproduce this recorded verdict, and fail if it comes out differently."
)
@click.option(
    "--all", "everything", is_flag=True, help="Reproduce all recorded verdicts, and fail if one differs."
)
@click.option(
    "--expect",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSONL file of recorded verdicts, instead of those of log and store.",
)
@click.option(
    "--export",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the input read to this file, and stop.",
)
@click.option(
    "--changes-only", is_flag=True, help="Leave out progress reports: print verdicts whose state changed."
)
@config_option
def command(
    scores: Path | None,
    origin: str,
    verdict_id: str | None,
    everything: bool,
    expect: Path | None,
    export: Path | None,
    changes_only: bool,
    config_path: Path | None,
) -> int:
    """Run the drift stage again over what it read, and print one verdict per line.

    SCORES is a JSONL file of score records (docs/records.md), or - for standard input; without it the log or the store is
    read. The same input gives the same verdicts, to the byte. With --verdict or --all they are compared with what was
    recorded: the exit code is 1 if one is not reproduced.
    """
    from driftgate.config import load
    from driftgate.replaying import opened

    if sum((verdict_id is not None, everything, export is not None, changes_only)) > 1:
        raise click.UsageError("--verdict, --all, --export and --changes-only exclude each other")
    if expect is not None and verdict_id is None and not everything:
        raise click.UsageError("--expect says what to compare: give --verdict or --all with it")
    if export is not None and scores is not None and export.exists() and export.samefile(scores):
        raise click.UsageError("--export would overwrite the file that is read")
    config = load(chosen(config_path))
    with opened(config, origin, scores, sys.stdin.buffer, _say) as (archive, source_of):  # type: ignore[arg-type]
        if export is not None:
            return _export(source_of(None), export)
        if verdict_id is not None:
            return _one(config, archive, source_of, verdict_id, expect)
        if everything:
            return _all(config, archive, source_of, expect)
        return _print(config, source_of(None), changes_only)


def _say(text: str) -> None:
    say(text, err=True)


def _export(source: ScoreSource, path: Path) -> int:
    from drift.replay import write_line

    count = 0
    with path.open("wb") as out:
        for record in source.records():
            out.write(write_line(record))
            count += 1
    _say(f"{count} records of the {source.name} written to {path}")
    return 0


def _print(config: Any, source: ScoreSource, changes_only: bool) -> int:
    from drift.replay import Replay
    from driftgate.score_sources import FileScores

    replay = Replay(config.drift)
    for found in replay.records(source.records()):
        if not changes_only or found.verdict.state != found.verdict.previous_state:
            sys.stdout.buffer.write(found.raw + b"\n")
    sys.stdout.buffer.flush()
    if isinstance(source, FileScores) and source.out_of_order:
        _say(
            f"{source.out_of_order:,} lines stand behind a later offset of their partition and were passed over: give the records of "
            "one log, in its order"
        )
    bad = replay.counters.get("scores_rejected.undecodable", 0)
    if source.name == "file" and bad:
        taken = replay.counters["scores_in"]
        _say(
            f"{bad:,} of {taken:,} score lines could not be read as records; docs/records.md says what they look like"
        )
        return int(bad == taken)
    return 0


def _one(config: Any, archive: Any, source_of: Any, verdict_id: str, expect: Path | None) -> int:
    from drift.replay import Replay
    from driftgate.recorded_verdicts import one
    from driftgate.replaying import recorded_in, report, until
    from stream.errors import DriftgateError

    if expect is None:
        recorded = archive.verdict(verdict_id)
    else:
        found = one(recorded_in(expect), verdict_id)
        if found is None:
            raise DriftgateError(f"no verdict {verdict_id} in {expect}")
        recorded = found
    verdict = recorded.verdict
    source = source_of(recorded.log_time or None)
    replay = Replay(config.drift)
    result = until(replay, source, verdict.verdict_id)
    lines = report(recorded, result, config)
    if result is not None:
        sys.stdout.buffer.write(result.raw + b"\n")
        sys.stdout.buffer.flush()
    name = f"verdict {verdict.verdict_id} ({verdict.state}) from {replay.counters.get('scores_in', 0)} scores of the {source.name}"
    if not lines:
        _say(f"reproduced to the byte: {name}")
        return 0
    _say(f"NOT reproduced: {name}")
    for line in lines[:_SHOWN]:
        _say(f"  {line}")
    if len(lines) > _SHOWN:
        _say(f"  and {len(lines) - _SHOWN} more")
    return 1


def _all(config: Any, archive: Any, source_of: Any, expect: Path | None) -> int:
    from drift.partition import settings_id
    from drift.replay import Replay
    from driftgate.replaying import compare_all, recorded_in

    recorded = archive.verdicts() if expect is None else iter(recorded_in(expect))
    source = source_of(None)
    found = compare_all(recorded, Replay(config.drift).records(source.records()))
    _say(
        f"{found.same} verdicts reproduced to the byte, {len(found.different)} different, {len(found.missing)} not reached, "
        f"{found.extra} not recorded; input: the {source.name}"
    )
    for what, ids in (("different", found.different), ("not reached", found.missing)):
        for verdict_id in ids[:_SHOWN]:
            _say(f"  {what}: {verdict_id}")
    if found.different or found.missing:
        _say(
            f"  This configuration's drift settings are {settings_id(config.drift)}; see `settings` in the verdicts."
        )
        return 1
    if not found.same:
        _say("  No recorded verdict was found.")
        return 1
    return 0
