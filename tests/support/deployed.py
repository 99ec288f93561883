"""Command lines and configurations as they stand in ``deploy/``, given to the real command line and the real loader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from driftgate.cli import cli
from driftgate.config import Config
from stream.kafka.settings import KafkaSettings
from stream.secret import Secret

ROOT = Path(__file__).resolve().parents[2]

# Which sections' secrets a process needs, by the first word (for a worker the second) of its command line.
_SECTIONS = {
    "up": ("",),
    "topics": ("log",),
    "collector": ("log", "web", "collector"),
    "intake": ("log", "web", "collector"),
    "sampler": ("log", "web"),
    "scorer": ("log", "web", "scorers"),
    "drift": ("log", "web"),
    "store": ("log", "web", "store"),
    "alerter": ("log", "web", "store", "alerts", "rollback"),
}


def parse(arguments: Sequence[str]) -> str:
    """Parse a command line as ``driftgate`` does, without running it; return the full name of the command.

    Raises
    ------
    click.ClickException
        There is no such command, argument or option.
    """
    context = cli.make_context("driftgate", list(arguments))
    command: click.Command = cli
    while isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        assert name is not None
        command = found
        context = command.make_context(name, rest, parent=context)
    return context.command_path


def role(arguments: Sequence[str]) -> str:
    """Return what process a command line starts."""
    return arguments[1] if arguments[0] == "worker" else arguments[0]


def needed(config: Config, process: str) -> set[str]:
    """Return the environment variables that ``process`` reads secrets or its name from, by ``config``."""
    sections = _SECTIONS[process]
    found: list[str] = []
    for name in type(config).model_fields:
        if name in sections or "" in sections:
            found += [secret.reference for secret in _secrets(getattr(config, name))]
    if config.log.url.startswith("kafka://"):
        settings: KafkaSettings = config.log.kafka
        found += [secret.reference for secret in _secrets(settings)]
        if process != "topics":  # it opens no writer, so nobody asks for its name
            found.append(settings.instance)
    return {text.removeprefix("${env:").removesuffix("}") for text in found if text.startswith("${env:")}


def bytes_needed(config: Config, process: str) -> int:
    """Return the most memory that a collector, a sampler or ``up`` takes with ``config``, as docs/deploy.md estimates it.

    A collector's factor is measured (``tests/kafka/test_kafka_overload.py``). A sampler may come to own every partition.
    """
    idle = 160 << 20
    receiving = 6 * config.collector.max_in_flight_bytes
    pending = config.sampling.caps.max_bytes * 7 // 5 + config.sampling.caps.reorder_bytes
    if process == "up":
        asking = config.query.max_memory * config.query.max_concurrent
        return (600 << 20) + receiving + pending + asking
    kafka: KafkaSettings = config.log.kafka
    if process == "collector":
        return idle + receiving + kafka.max_queued
    assert process == "sampler"
    return idle + kafka.partitions * pending


def _secrets(value: Any) -> Iterator[Secret]:
    if isinstance(value, Secret):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secrets(getattr(value, name))
    elif isinstance(value, dict):
        for item in value.values():
            yield from _secrets(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _secrets(item)
