"""Configuration of librdkafka's clients, and its errors as ours."""

from __future__ import annotations

import importlib
import logging
from typing import Any

from stream.errors import StartError, Transient, Unavailable
from stream.kafka.settings import KafkaSettings

Configuration = dict[str, Any]


def shared(settings: KafkaSettings) -> Configuration:
    """Return what every client needs: addresses and security.

    Raises
    ------
    stream.errors.ConfigError
        A secret cannot be read.
    """
    found: Configuration = {
        "bootstrap.servers": settings.brokers,
        "client.id": "driftgate",
        "security.protocol": settings.security,
        # Brokers on loopback and behind load balancers alike come back quickly.
        "reconnect.backoff.ms": 100,
        "reconnect.backoff.max.ms": 2_000,
        "socket.keepalive.enable": True,
        "topic.metadata.refresh.interval.ms": 60_000,
        # Lost connections are told by errors with a reason; librdkafka would also log each attempt to come back.
        "log_level": 2,
        "logger": logging.getLogger("driftgate.kafka"),
    }
    for option, value in (
        ("ssl.ca.location", settings.ca),
        ("ssl.certificate.location", settings.cert),
        ("ssl.key.location", settings.key),
    ):
        if value:
            found[option] = value
    if settings.key_password:
        found["ssl.key.password"] = settings.key_password.reveal()
    if settings.security.startswith("sasl"):
        assert settings.password is not None
        found["sasl.mechanism"] = settings.sasl
        found["sasl.username"] = settings.user
        found["sasl.password"] = settings.password.reveal()
    return found


def writing(settings: KafkaSettings, transactional_id: str) -> Configuration:
    """Return the configuration of a transactional producer."""
    return {
        **shared(settings),
        "transactional.id": transactional_id,
        "transaction.timeout.ms": int(settings.transaction_timeout * 1000),
        "enable.idempotence": True,  # implied; acks=all with it
        "compression.type": settings.compression,
        # What the Java client chooses for a key; other clients' defaults would scatter the traces.
        "partitioner": "murmur2_random",
        "linger.ms": 5,
        "message.max.bytes": settings.max_record + (64 << 10),
        "queue.buffering.max.kbytes": 2 * max(settings.max_queued, settings.max_record) >> 10,
        "queue.buffering.max.messages": 1_000_000,
    }


def reading(settings: KafkaSettings) -> Configuration:
    """Return what every consumer of ours has: only what is committed, from the beginning, nothing by itself."""
    return {
        **shared(settings),
        "isolation.level": "read_committed",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
        "fetch.wait.max.ms": 100,
        "fetch.error.backoff.ms": 100,
        "queued.max.messages.kbytes": 16 << 10,
        "message.max.bytes": settings.max_record + (64 << 10),
        "receive.message.max.bytes": max(100_000_000, 2 * settings.max_record + (64 << 20)),
    }


def joining(settings: KafkaSettings, group: str) -> Configuration:
    """Return the configuration of one member of ``group``."""
    found = {
        **reading(settings),
        "group.id": settings.group(group),
        "group.protocol": settings.protocol,
        "max.poll.interval.ms": int(max(settings.max_poll_interval, settings.session_timeout) * 1000),
    }
    if settings.protocol == "classic":
        found["partition.assignment.strategy"] = "cooperative-sticky"
        found["session.timeout.ms"] = int(settings.session_timeout * 1000)
        found["heartbeat.interval.ms"] = int(settings.session_timeout * 1000 / 5)
    return found


class Refusals:
    """Remembers why the brokers refuse us: librdkafka tells calls only that nobody answers. Give it as ``error_cb``."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._seen: dict[str, str] = {}

    def __call__(self, error: Any) -> None:
        """Take an error from librdkafka's own thread."""
        self._seen[error.name()] = str(error.str())

    def reason(self) -> str:
        """Return what is wrong and what to do, without any secret; empty when nobody refused."""
        if "_AUTHENTICATION" in self._seen:
            return (
                f"they refuse the user {self._settings.user!r} with {self._settings.sasl}: check `user`, `password` and "
                "`sasl` in the log's URL"
            )
        if "_SSL" in self._seen:
            text = self._seen["_SSL"]
            if "certificate verify failed" in text or "unknown ca" in text.lower():
                return "their certificate is not trusted: set `ca` in the log's URL to the authority that signed it"
            return "TLS with them fails: check `security`, `ca`, `cert` and `key` in the log's URL"
        return ""


def load() -> Any:
    """Import confluent-kafka.

    Raises
    ------
    StartError
        It is not installed.
    """
    try:
        import confluent_kafka
    except ImportError as error:
        raise StartError("a kafka:// log needs confluent-kafka: pip install 'driftgate[kafka]'") from error
    return confluent_kafka


def load_admin() -> Any:
    """Import the administration part of confluent-kafka; raises as :func:`load`."""
    load()
    return importlib.import_module("confluent_kafka.admin")


def typed(error: Exception) -> Transient:
    """Return librdkafka's ``error`` (a ``KafkaException`` or ``BufferError``) as something to try again later."""
    if isinstance(error, BufferError):
        return Transient("log_busy", "too many bytes wait for the brokers", retry_after=1.0)
    cause = error.args[0] if error.args else error
    name = cause.name().lstrip("_").lower() if hasattr(cause, "name") else "error"
    return Unavailable(f"kafka_{name}", _sentence(cause), retry_after=1.0)


def _sentence(cause: Any) -> str:
    return str(cause.str())[:300] if hasattr(cause, "str") else str(cause)[:300]
