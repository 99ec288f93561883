"""``driftgate topics``: what Kafka must have before the processes start."""

from __future__ import annotations

from pathlib import Path

import click

from driftgate.cli import chosen, config_option


@click.group("topics")
def command() -> None:
    """Create and check the topics on Kafka."""


@command.command("create")
@config_option
def create(config_path: Path | None) -> None:
    """Create the topics that are missing, with the settings of the log's URL; those that are there stay as they are."""
    from driftgate.config import load
    from stream.kafka.topics import Topics, require, wanted

    settings = load(chosen(config_path)).log.kafka
    topics = Topics(settings)
    for name in topics.create(wanted(settings)):
        click.echo(f"created {name}")
    require(topics, wanted(settings))
    click.echo(f"{len(wanted(settings))} topics: ok")


@command.command("check")
@config_option
def check(config_path: Path | None) -> None:
    """Compare the topics with the settings of the log's URL; fails with what differs."""
    from driftgate.config import load
    from stream.kafka.topics import Topics, require, wanted

    settings = load(chosen(config_path)).log.kafka
    require(Topics(settings), wanted(settings))
    click.echo(f"{len(wanted(settings))} topics: ok")
