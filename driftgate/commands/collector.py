"""``driftgate collector``: OTLP in, Kafka out."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from driftgate.cli import chosen, config_option


@click.command("collector")
@config_option
def command(config_path: Path | None) -> None:
    """Receive and redact spans, and write them to Kafka."""
    from driftgate import logs
    from driftgate.config import load
    from driftgate.runtime.collector_process import CollectorProcess
    from driftgate.runtime.signals import until_signal

    config = load(chosen(config_path))
    process = CollectorProcess(config)
    logs.configure(config.logging.level, config.logging.format)
    asyncio.run(until_signal(process.run))
