"""``driftgate incidents``: what is wrong, who has it, and the rollbacks that wait for a person."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import Any

import click

from driftgate.cli import chosen, config_option


@click.group("incidents")
def command() -> None:
    """List incidents, acknowledge them, and approve rollbacks that wait for a person."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@config_option
def list_incidents(as_json: bool, config_path: Path | None) -> None:
    """List open and recent incidents of the running process."""
    found = json.loads(_call(config_path, "/v1/incidents"))
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for incident in found:
        click.echo(
            f"{incident['incident_id']}  {incident['state']:9} {incident['severity']:8} {incident['summary']}"
        )
        for rollback in incident.get("rollbacks", []):
            click.echo(
                f"    rollback to {rollback['target']}: {rollback['state']} {rollback['detail']}".rstrip()
            )
    if not found:
        click.echo("no incidents")


@command.command("ack")
@click.argument("incident")
@config_option
def acknowledge(incident: str, config_path: Path | None) -> None:
    """Say that somebody has INCIDENT; it is not repeated any more."""
    _call(config_path, f"/v1/incidents/{incident}/ack", {"who": getpass.getuser()})
    click.echo("acknowledged")


@command.command("approve")
@click.argument("incident")
@config_option
def approve(incident: str, config_path: Path | None) -> None:
    """Let the rollback of INCIDENT go (mode `approve`)."""
    _call(config_path, f"/v1/incidents/{incident}/approve", {"who": getpass.getuser()})
    click.echo("approved")


def _call(config_path: Path | None, path: str, body: dict[str, Any] | None = None) -> bytes:
    from driftgate.config import load
    from driftgate.running import endpoints_of, request
    from stream.errors import StartError

    config = load(chosen(config_path))
    endpoints = endpoints_of(config.data)
    if not endpoints or "web" not in endpoints:
        raise StartError(f"no process with an administration port owns {config.data}; start `driftgate up`")
    token = config.web.token.reveal() if config.web.token else ""
    return request(
        endpoints["web"], path, body=json.dumps(body).encode() if body is not None else None, token=token
    )
