"""``driftgate pseudonym``: what a text is called in the data, under the key in use and under those of before."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from driftgate.cli import chosen, config_option
from stream.errors import ConfigError


@click.command("pseudonym")
@click.argument("entity")
@click.option("--tenant", default="default", show_default=True, help="The tenant the data belongs to.")
@config_option
def command(entity: str, tenant: str, config_path: Path | None) -> None:
    """Read a text from standard input and print its pseudonyms as ENTITY (EMAIL, PHONE...), one per key.

    The key in use comes first. Search the data for all of them: what came before a rotation has the name of its time.
    """
    from collector.redaction.engine import Engine
    from driftgate.config import load

    engine = Engine(load(chosen(config_path)).collector.redaction)
    treatment = engine.operators.of(tenant)
    if treatment.pseudonyms is None:
        raise ConfigError(
            f"there are no pseudonyms for tenant {tenant}: set collector.redaction.pseudonym.key"
        )
    rules = [rule for rule in engine.rules if rule.name == entity.upper()]
    if not rules:
        raise ConfigError(
            f"no rule finds {entity.upper()}; known are {sorted({r.name for r in engine.rules})}"
        )
    # The text comes from standard input, because arguments stay in the shell's history.
    text = sys.stdin.read().strip()
    if not text:
        raise click.UsageError("there is no text on standard input")
    for key_id in treatment.pseudonyms.key_ids:
        click.echo(treatment.pseudonyms.of(rules[0], text, tenant, key_id))
