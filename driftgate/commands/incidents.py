"""``driftgate incidents``: what is wrong, who has it, who is told, and the rollbacks that wait for a person."""

from __future__ import annotations

import contextlib
import getpass
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from driftgate.cli import chosen, config_option
from driftgate.terminal import say

_DAY_S = 86400.0


@click.group("incidents")
def command() -> None:
    """List, acknowledge, silence and close incidents; approve and stop rollbacks; send messages again."""


def _where(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which process to ask."""
    function = click.option(
        "--url",
        default="",
        envvar="DRIFTGATE_URL",
        help="Administration port to ask, for example http://127.0.0.1:8080 of `driftgate worker alerter`"
        " [default: that of the process that owns the data folder].",
    )(function)
    return config_option(function)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_where
def list_incidents(as_json: bool, url: str, config_path: Path | None) -> None:
    """List open and recent incidents of the running process."""
    found = _ask(config_path, url, "/v1/incidents", list)
    _print_list(found, as_json, _print_incident, nothing="no incidents")


@command.command("show")
@click.argument("incident")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_where
def show(incident: str, as_json: bool, url: str, config_path: Path | None) -> None:
    """Show INCIDENT: its rubrics, rollbacks, messages and history."""
    found = _ask(config_path, url, f"/v1/incidents/{_id(incident)}", dict)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    say(f"{found['incident_id']}  {found['state']} {found['severity']}  {found['summary']}")
    if found["acknowledged_at"]:
        say(f"acknowledged by {found['acknowledged_by']}, {_when(found['acknowledged_at'])}")
    if found["silenced_until"]:
        say(f"silenced by {found['silenced_by']} until {_when(found['silenced_until'])}")
    for condition in found["conditions"]:
        say(f"  {condition['rubric']}: {condition['state']}. {condition['reason']}")
    _print_rollbacks(found["rollbacks"])
    for message in reversed(found["messages"]):
        say(
            f"    {message['event']} to {_receiver(message)}: {message['state']}, tries: {message['attempts']} "
            f"{message['error']}".rstrip()
        )
    for line in found["history"]:
        who = f" by {line['who']}" if line["who"] else ""
        say(f"  {_when(line['at'])}  {line['what']}{who}  {line['detail']}".rstrip())


@command.command("ack")
@click.argument("incident")
@_where
def acknowledge(incident: str, url: str, config_path: Path | None) -> None:
    """Say that somebody has INCIDENT; it is not repeated any more."""
    _act(config_path, url, f"/v1/incidents/{_id(incident)}/ack")
    say("acknowledged")


@command.command("approve")
@click.argument("incident")
@_where
def approve(incident: str, url: str, config_path: Path | None) -> None:
    """Let the rollback of INCIDENT go: one that waits, was blocked, or failed."""
    _act(config_path, url, f"/v1/incidents/{_id(incident)}/approve")
    say("approved")


@command.command("silence")
@click.argument("incident")
@click.option("--for", "length", default="1h", show_default=True, help="How long, for example 30m, 4h, 1d.")
@click.option("--lift", is_flag=True, help="End the silence now.")
@click.option("--comment", default="", help="Why.")
@_where
def silence(incident: str, length: str, lift: bool, comment: str, url: str, config_path: Path | None) -> None:
    """Hold all messages of INCIDENT but its end. Rollbacks are not affected."""
    seconds = 0.0 if lift else _seconds(length)
    _act(config_path, url, f"/v1/incidents/{_id(incident)}/silence", seconds=seconds, comment=comment)
    say("the silence is lifted" if lift else f"silenced for {length}")


@command.command("resolve")
@click.argument("incident")
@click.option("--comment", default="", help="Why.")
@_where
def resolve(incident: str, comment: str, url: str, config_path: Path | None) -> None:
    """Close INCIDENT; rollback calls that were not made yet are cancelled."""
    _act(config_path, url, f"/v1/incidents/{_id(incident)}/resolve", comment=comment)
    say("resolved")


@command.command("kill-switch")
@click.argument("state", type=click.Choice(["on", "off", "show"]), default="show")
@_where
def kill_switch(state: str, url: str, config_path: Path | None) -> None:
    """Stop all rollback calls from now on (on), those that are being retried included; or allow them again (off)."""
    if state == "show":
        found = _ask(config_path, url, "/v1/kill-switch", dict)
    else:
        found = _act(config_path, url, "/v1/kill-switch", on=state == "on")
    why = [f"set by {found['by']}"] if found["by"] else []
    why += ["rollback.kill_switch in the configuration"] if found["configured"] else []
    say(
        f"the kill switch is on ({', '.join(why)}): no rollback is called"
        if found["on"]
        else "the kill switch is off"
    )


@command.command("undelivered")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_where
def undelivered(as_json: bool, url: str, config_path: Path | None) -> None:
    """List messages that were given up, for `driftgate incidents resend`."""
    found = _ask(config_path, url, "/v1/notifications", list)
    _print_list(found, as_json, _print_message, nothing="every message was delivered or still waits")


@command.command("resend")
@click.argument("messages", nargs=-1, required=True)
@_where
def resend(messages: tuple[str, ...], url: str, config_path: Path | None) -> None:
    """Send MESSAGES that were given up again, with all their tries. A rollback is approved again instead."""
    for message in messages:
        _act(config_path, url, f"/v1/notifications/{_id(message)}/replay")
        say(f"{message}: queued")


def _receiver(message: dict[str, Any]) -> str:
    return str(message["lane"]).partition("/")[2]


def _print_list(
    found: list[dict[str, Any]], as_json: bool, show: Callable[[dict[str, Any]], None], *, nothing: str
) -> None:
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for each in found:
        show(each)
    if not found:
        say(nothing)


def _print_incident(incident: dict[str, Any]) -> None:
    say(f"{incident['incident_id']}  {incident['state']:9} {incident['severity']:8} {incident['summary']}")
    _print_rollbacks(incident.get("rollbacks", []))


def _print_message(message: dict[str, Any]) -> None:
    say(
        f"{message['message_id']}  {_when(message['done_at'])}  {message['event']} to {_receiver(message)}, "
        f"tries: {message['attempts']}, {message['error']}"
    )


def _print_rollbacks(rollbacks: list[dict[str, Any]]) -> None:
    for rollback in rollbacks:
        say(f"    rollback to {rollback['target']}: {rollback['state']} {rollback['detail']}".rstrip())


def _act(config_path: Path | None, url: str, path: str, **what: Any) -> Any:
    return _ask(config_path, url, path, dict, {"who": _who(), **what})


def _ask(
    config_path: Path | None, url: str, path: str, kind: type, body: dict[str, Any] | None = None
) -> Any:
    """Return the answer of the process, which is a ``kind``; what another program answers may be anything."""
    from driftgate.config import load
    from driftgate.running import endpoints_of, request
    from stream.errors import StartError

    config = load(chosen(config_path))
    endpoints = {"web": url.rstrip("/")} if url else endpoints_of(config.data)
    if not endpoints or "web" not in endpoints:
        raise StartError(
            f"no process with an administration port owns {config.data}: start `driftgate up`, name its data folder, "
            "or give --url"
        )
    if not endpoints["web"].startswith(("http://", "https://")):
        raise click.UsageError("--url is http://host:port or https://host:port")
    token = config.web.token.reveal() if config.web.token else ""
    answer = request(
        endpoints["web"], path, body=json.dumps(body).encode() if body is not None else None, token=token
    )
    found = None
    with contextlib.suppress(ValueError):
        found = json.loads(answer)
    if not isinstance(found, kind):
        raise StartError(f"what answers at {endpoints['web']} is no administration port of driftgate")
    return found


def _seconds(text: str) -> float:
    from pydantic import TypeAdapter, ValidationError

    from stream.settings import Seconds

    try:
        seconds = float(TypeAdapter(Seconds).validate_python(text))
    except ValidationError as error:
        raise click.UsageError(f"--for takes a length such as 30m, 4h or 1d, not {text!r}") from error
    if not 0 < seconds <= 366 * _DAY_S:
        raise click.UsageError("--for is longer than nothing and at most 366d; --lift ends a silence")
    return seconds


def _id(text: str) -> str:
    return quote(text, safe="")


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return ""


def _when(unix_nano: int) -> str:
    return datetime.fromtimestamp(unix_nano / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
