"""``driftgate explain``: how a verdict came about."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from driftgate.cli import chosen, config_option
from driftgate.terminal import say


@click.command("explain")
@click.argument("verdict_id")
@click.option(
    "--png",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw it into this file (needs driftgate[plot]).",
)
@click.option(
    "--scores",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSONL file with the input, instead of log or store.",
)
@click.option(
    "--expect",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSONL file of recorded verdicts, instead of those of log and store.",
)
@click.option(
    "--from", "origin", type=click.Choice(["auto", "log", "store"]), default="auto", show_default=True
)
@config_option
def command(
    verdict_id: str,
    png: Path | None,
    scores: Path | None,
    expect: Path | None,
    origin: str,
    config_path: Path | None,
) -> int:
    """Print what VERDICT_ID rests on: evidence, windows, settings, what was left out, worst traces, and its history.

    VERDICT_ID is what `driftgate verdicts` shows; the first digits are enough. Its input is run again, and the exit code is
    1 if the verdict comes out differently.
    """
    from driftgate.config import load
    from driftgate.explaining import tell
    from driftgate.replaying import opened
    from driftgate.verdict_text import lines

    config = load(chosen(config_path))

    def remark(text: str) -> None:
        say(text, err=True)

    with opened(config, origin, scores, sys.stdin.buffer, remark) as (archive, source_of):  # type: ignore[arg-type]
        story = tell(config, archive, source_of, verdict_id, expect, remark)
    for line in lines(story, config):
        say(line)
    if png is not None:
        from driftgate.verdict_picture import draw

        draw(story, png)
        remark(f"drawn: {png}")
    return 1 if story.differences else 0
