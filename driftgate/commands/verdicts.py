"""``driftgate verdicts``: the decisions of the drift stage, latest first."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from driftgate.cli import chosen, config_option
from driftgate.terminal import say
from stream.records import VerdictState

if TYPE_CHECKING:
    from stream.records import Verdict


@click.command("verdicts")
@click.option("--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="Rows at most.")
@click.option(
    "--state",
    type=click.Choice(get_args(VerdictState)),
    metavar="STATE",
    help="Only verdicts of this state, for example regressed.",
)
@click.option("--rollout", help="Only those of this rollout or watch.")
@click.option("--all", "everything", is_flag=True, help="Progress reports too, not only changes of state.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the records as they were published, one per line."
)
@config_option
def command(
    limit: int,
    state: str | None,
    rollout: str | None,
    everything: bool,
    as_json: bool,
    config_path: Path | None,
) -> None:
    """List verdicts with their ids, for `driftgate explain` and `driftgate replay --verdict`."""
    from driftgate.config import load
    from driftgate.recorded_verdicts import latest
    from driftgate.verdict_text import stamp

    def wanted(verdict: Verdict) -> bool:
        return (
            (state is None or verdict.state == state)
            and (rollout is None or verdict.rollout == rollout)
            and (everything or verdict.state != verdict.previous_state)
        )

    found = latest(load(chosen(config_path)), limit, wanted)
    if as_json:
        for item in found:
            sys.stdout.buffer.write(item.raw + b"\n")
        sys.stdout.buffer.flush()
        return
    for item in found:
        one = item.verdict
        arms = f"{one.candidate} / {one.incumbent}"
        action = f" [{one.action}]" if one.action != "none" else ""
        say(
            f"{one.verdict_id}  {stamp(one.time_unix_nano)}  {one.state + action:24} {one.rollout}  {one.rubric}  {arms}"
        )
    if not found:
        say("no verdicts")
