"""``driftgate redact``: the collector's redaction engine as a filter."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from driftgate.cli import chosen, config_option


@click.command("redact")
@click.option("--format", "form", type=click.Choice(["text", "jsonl"]), default="text", show_default=True)
@click.option("--report", is_flag=True, help="Print counts per entity to standard error.")
@config_option
def command(form: str, report: bool, config_path: Path | None) -> None:
    """Remove personal data and secrets from standard input and write the rest to standard output."""
    from collector.redact_stream import redact_stream
    from collector.redaction.engine import Engine
    from driftgate.config import load

    engine = Engine(load(chosen(config_path)).collector.redaction)
    counts = redact_stream(
        sys.stdin.buffer, sys.stdout.buffer, engine, "jsonl" if form == "jsonl" else "text"
    )
    sys.stdout.buffer.flush()
    if report:
        for entity, number in sorted(counts.entities.items()):
            click.echo(f"{entity}\t{number}", err=True)
