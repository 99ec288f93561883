"""``driftgate quarantine``: the key pair, what is kept encrypted, and its content for who holds the private key."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from driftgate.cli import chosen, config_option
from driftgate.terminal import say
from stream.errors import ConfigError, Permanent, StartError
from stream.records import HEADER_TENANT, TOPIC_QUARANTINE

if TYPE_CHECKING:
    from driftgate.config import Config
    from stream.stage import Record


@click.group("quarantine")
def command() -> None:
    """Keep what cannot be redacted, encrypted, and read it."""


@command.command("keygen")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def keygen(file: Path) -> None:
    """Write a new private key to FILE, readable by its owner only, and print what the collector needs.

    Do this where quarantined data may be read, not on the collector.
    """
    from collector.sealed import PrivateKey

    key, pem = PrivateKey.generate()
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
            target.write(pem)
    except OSError as error:
        raise StartError(
            f"cannot write {file}: {error.strerror}; an existing key is never overwritten"
        ) from error
    click.echo(f"collector:\n  quarantine:\n    public_key: {key.public}   # pair {key.id}")


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one item a line.")
@config_option
def list_items(as_json: bool, config_path: Path | None) -> None:
    """List the items: id, time, tenant, signal, how many spans or log records, reason, bytes, and the key they need."""
    from driftgate.config import load

    totals: Counter[str] = Counter()
    for record in _items(load(chosen(config_path))):
        item = _about(record)
        totals[str(item["reason"])] += int(str(item["count"]))
        if as_json:
            say(json.dumps(item))
        else:
            say("  ".join(str(value) for value in item.values()))
    if not as_json:
        say(
            ", ".join(f"{reason} {count}" for reason, count in sorted(totals.items()))
            or "nothing is quarantined"
        )


@command.command("decrypt")
@click.argument("ids", nargs=-1)
@click.option("--key", "reference", required=True, help="The private key: file:/path or ${env:NAME} (PEM).")
@config_option
def decrypt(ids: tuple[str, ...], reference: str, config_path: Path | None) -> None:
    """Print the items with these IDS (none: all) as OTLP/JSON, one request a line. It is not redacted.

    Items for another key, or that were changed, are named on standard error; the exit code is then 1.
    """
    from google.protobuf.json_format import MessageToDict

    from collector.quarantine import unseal
    from collector.sealed import PrivateKey
    from driftgate.config import load
    from stream.secret import Secret

    try:
        key = PrivateKey(Secret(reference).reveal().encode())
    except ValueError as error:
        raise ConfigError(f"--key: {error}") from error
    failed = 0
    missing = set(ids)
    for record in _items(load(chosen(config_path))):
        identity = _id(record)
        if ids and identity not in ids:
            continue
        missing.discard(identity)
        try:
            data = unseal(record.value, record.headers, key)
        except Permanent as error:
            failed += 1
            say(f"{identity}: {error}", err=True)
            continue
        click.echo(json.dumps(_hex_ids(MessageToDict(data, use_integers_for_enums=True))))
    for identity in sorted(missing):
        failed += 1
        say(f"{identity}: no such item; see `driftgate quarantine list`", err=True)
    if failed:
        raise click.exceptions.Exit(1)


def _items(config: Config) -> Iterator[Record]:
    if config.log.url.startswith("kafka://"):
        from stream.kafka.consumer import to_record
        from stream.kafka.scan import scan

        kafka = config.log.kafka
        places = [(kafka.topic(TOPIC_QUARANTINE), partition) for partition in range(kafka.partitions)]
        for message in scan(kafka, places, settled=False):
            yield to_record(message, TOPIC_QUARANTINE)
        return
    from stream.sqlite_reading import inspect, read_topic

    with inspect(config.log_path) as reader:
        yield from read_topic(reader, TOPIC_QUARANTINE)


def _id(record: Record) -> str:
    return f"{record.partition}:{record.offset}"


def _about(record: Record) -> dict[str, str | int]:
    from collector.quarantine import HEADER_COUNT, HEADER_KEY, HEADER_REASON, HEADER_SIGNAL

    return {
        "id": _id(record),
        "time": datetime.fromtimestamp(record.timestamp_ns // 10**9, UTC).isoformat(),
        "tenant": record.header(HEADER_TENANT),
        "signal": record.header(HEADER_SIGNAL),
        "count": int(record.header(HEADER_COUNT) or 0),
        "reason": record.header(HEADER_REASON),
        "bytes": len(record.value),
        "key": record.header(HEADER_KEY),
    }


def _hex_ids(value: object) -> object:
    """OTLP/JSON writes ids in hex; protobuf's own JSON in base64."""
    import base64

    if isinstance(value, list):
        return [_hex_ids(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: base64.b64decode(item).hex()
        if name in ("traceId", "spanId", "parentSpanId") and isinstance(item, str)
        else _hex_ids(item)
        for name, item in value.items()
    }
