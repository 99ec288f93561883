"""``driftgate doctor``: do the books balance?"""

from __future__ import annotations

import json
from pathlib import Path

import click

from driftgate.cli import chosen, config_option
from driftgate.terminal import printable

_MARKS = {"ok": ("ok", "green"), "warning": ("look", "yellow"), "failed": ("FAILED", "red")}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@config_option
def command(as_json: bool, config_path: Path | None) -> None:
    """Check the ledger, lags, store and disk. The exit code is 1 when anything failed."""
    import msgspec

    from driftgate.config import load
    from driftgate.doctor import examine

    findings = examine(load(chosen(config_path)))
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(findings), indent=2))
    else:
        width = max(len(finding.what) for finding in findings)
        for finding in findings:
            mark, colour = _MARKS[finding.outcome]
            text = printable(f"{finding.what:{width}}  {finding.detail}")
            click.echo(f"{click.style(f'{mark:6}', fg=colour)}  {text}")
    if any(finding.outcome == "failed" for finding in findings):
        raise click.exceptions.Exit(1)
