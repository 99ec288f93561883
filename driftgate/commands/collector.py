"""``driftgate collector``: OTLP in, Kafka out."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from driftgate.cli import chosen, config_option


@click.command("collector")
@config_option
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    help="Processes that share the ports [default: collector.workers].",
)
@click.option("--worker", "instance", default="", hidden=True, help="Run one of them, under this name.")
def command(config_path: Path | None, workers: int | None, instance: str) -> None:
    """Receive and redact spans, and write them to Kafka."""
    from driftgate import logs
    from driftgate.config import load
    from driftgate.runtime.signals import until_signal

    path = chosen(config_path)
    config = load(path)
    logs.configure(config.logging.level, config.logging.format)
    count = workers or config.collector.workers
    if instance:
        from driftgate.runtime.collector_worker import run_worker

        asyncio.run(run_worker(config, instance))
    elif count > 1:
        from driftgate.runtime.collector_workers import CollectorWorkers

        asyncio.run(until_signal(CollectorWorkers(config, path, count).run, config.shutdown_grace))
    else:
        from driftgate.runtime.collector_process import CollectorProcess

        asyncio.run(until_signal(CollectorProcess(config).run, config.shutdown_grace))
