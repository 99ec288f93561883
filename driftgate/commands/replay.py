"""``driftgate replay``: the drift stage over recorded scores, in event time only."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from driftgate.cli import chosen, config_option


@click.command("replay")
@click.argument("scores", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--changes-only", is_flag=True, help="Leave out progress reports: print verdicts whose state changed."
)
@config_option
def command(scores: Path, changes_only: bool, config_path: Path | None) -> None:
    """Run the drift stage over SCORES (a JSONL file of score records, or -) and print one verdict per line.

    The record format is described in docs/records.md. The same file gives the same verdicts.
    """
    from drift.replay import replay
    from driftgate.config import load

    config = load(chosen(config_path))
    encoder = msgspec.json.Encoder()
    stream = sys.stdin.buffer if str(scores) == "-" else scores.open("rb")
    with stream:
        for verdict in replay(stream, config.drift):
            if not changes_only or verdict.state != verdict.previous_state:
                sys.stdout.buffer.write(encoder.encode(verdict) + b"\n")
    sys.stdout.buffer.flush()
