"""``driftgate up``: everything in one process."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from driftgate.cli import chosen, config_option

if TYPE_CHECKING:
    from driftgate.runtime.embedded import Embedded


@click.command("up")
@config_option
@click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), help="Data folder; overrides the file."
)
def command(config_path: Path | None, data: Path | None) -> None:
    """Receive, redact, sample, score, watch, alert and roll back, in one process without servers."""
    from driftgate import logs
    from driftgate.config import load
    from driftgate.runtime.embedded import Embedded

    path = chosen(config_path)
    config = load(path)
    if data is not None:
        config = config.model_copy(update={"data": data})
    logs.configure(config.logging.level, config.logging.format)
    asyncio.run(_run(Embedded(config, path.resolve().parent if path else Path.cwd())))


async def _run(process: Embedded) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await process.run(stop)
