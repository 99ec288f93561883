"""``driftgate config``: check, show and describe the configuration."""

from __future__ import annotations

import json
from pathlib import Path

import click
import yaml

from driftgate.cli import chosen, config_option


@click.group("config")
def command() -> None:
    """Check, show and describe the configuration."""


@command.command("check")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@config_option
def check(file: Path | None, config_path: Path | None) -> None:
    """Check FILE: every key, value, secret reference, plug-in and redaction rule."""
    from collector.ingest import Ingest
    from collector.tenants import Tenants
    from driftgate.config import load
    from driftgate.doubts import doubts
    from driftgate.runtime.stages import build_stages, reveal_all
    from stream.kafka.settings import SCHEME as KAFKA

    path = chosen(file or config_path)
    config = load(path)
    missing = reveal_all(config)
    if config.log.url.startswith(KAFKA):
        missing += reveal_all(config.log.kafka, "log.url")  # references stand in the URL
    for text in missing:
        click.echo(f"warning: {text}", err=True)
    Ingest(config.collector)
    if not missing:
        Tenants(config.collector.tenants)
    stages = build_stages(config, base=path.parent if path else Path.cwd())
    for text in doubts(config, stages.scorer.rubrics):
        click.echo(f"warning: {text}", err=True)
    click.echo(f"{path or 'defaults'}: ok")


@command.command("schema")
def schema() -> None:
    """Print the JSON Schema of the configuration file."""
    from driftgate.config import Config

    document = Config.model_json_schema()
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    document["title"] = "driftgate configuration"
    click.echo(json.dumps(document, indent=2))


@command.command("reference")
def reference() -> None:
    """Print the reference of every key as Markdown (docs/configuration.md)."""
    from driftgate.config import Config
    from driftgate.reference import reference as render

    click.echo(render(Config), nl=False)


@command.command("show")
@config_option
def show(config_path: Path | None) -> None:
    """Print the configuration in force, defaults included; secrets stay references."""
    from driftgate.config import load

    config = load(chosen(config_path))
    click.echo(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), nl=False)
