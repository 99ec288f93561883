"""``driftgate worker STAGE``: one stage on Kafka."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from driftgate.cli import chosen, config_option

if TYPE_CHECKING:
    from driftgate.runtime.worker_process import Role


@click.command("worker")
@click.argument("stage", type=click.Choice(["intake", "sampler", "scorer", "drift", "store", "alerter"]))
@config_option
def command(stage: Role, config_path: Path | None) -> None:
    """Run one STAGE; start more to share its partitions."""
    from driftgate import logs
    from driftgate.config import load
    from driftgate.runtime.signals import until_signal
    from driftgate.runtime.worker_process import WorkerProcess

    path = chosen(config_path)
    config = load(path)
    logs.configure(config.logging.level, config.logging.format)
    process = WorkerProcess(config, stage, path.resolve().parent if path else Path.cwd())
    asyncio.run(until_signal(process.run, config.shutdown_grace))
