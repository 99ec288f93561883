"""``driftgate up``: everything in one process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from driftgate.cli import chosen, config_option


@click.command("up")
@config_option
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Data folder; overrides the file. Other commands take it from DRIFTGATE__DATA.",
)
def command(config_path: Path | None, data: Path | None) -> None:
    """Receive, redact, sample, score, watch, alert and roll back, in one process without servers."""
    from driftgate import logs
    from driftgate.config import load
    from driftgate.runtime.embedded import Embedded
    from driftgate.runtime.signals import until_signal

    path = chosen(config_path)
    config = load(path)
    if data is not None:
        config = config.model_copy(update={"data": data})
    logs.configure(config.logging.level, config.logging.format)
    process = Embedded(config, path.resolve().parent if path else Path.cwd())
    asyncio.run(until_signal(process.run, config.shutdown_grace))
