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
@click.argument("stage", type=click.Choice(["sampler", "drift", "store", "alerter"]))
@config_option
def command(stage: Role, config_path: Path | None) -> None:
    """Run one STAGE; start more to share its partitions."""
    from driftgate import logs
    from driftgate.config import load
    from driftgate.runtime.signals import until_signal
    from driftgate.runtime.worker_process import WorkerProcess

    config = load(chosen(config_path))
    process = WorkerProcess(config, stage)
    logs.configure(config.logging.level, config.logging.format)
    asyncio.run(until_signal(process.run))
