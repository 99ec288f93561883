"""What a ``kafka://`` URL says: brokers, topics, security. Secrets stand in it by reference only."""

from __future__ import annotations

import os
import re
import socket
import uuid
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator

from stream.errors import ConfigError
from stream.secret import Secret
from stream.settings import ByteSize, Seconds, Settings

SCHEME = "kafka://"
_NAME = "[A-Za-z0-9._-]{0,100}"
_DURATIONS = (
    "retention",
    "timeout",
    "transaction_timeout",
    "session_timeout",
    "max_poll_interval",
    "stalled_after",
)


class KafkaSettings(Settings):
    """The options of ``kafka://host:port[,host:port]/?option=value&…``."""

    brokers: str
    """Addresses by comma, from the part between `kafka://` and `/`."""
    prefix: str = Field(default="", pattern=r"^[A-Za-z0-9._-]{0,100}$")
    """Put before the name of every topic, consumer group and transaction."""
    instance: str = Field(default="", pattern=rf"^({_NAME}|\$\{{env:[A-Za-z_][A-Za-z0-9_]*\}})$")
    """Name of this process that outlives a restart, one process each; `${env:HOSTNAME}` takes it from the environment, so
    that all containers share one file. With it, what a killed process left open is settled by its successor at once;
    without it, after `transaction_timeout`."""
    partitions: int = Field(default=8, ge=1, le=10_000)
    """Partitions of every topic; fixed once the topics exist, because traces are placed by it."""
    replication: int = Field(default=3, ge=1, le=32)
    """Copies of every topic."""
    min_insync: int = Field(default=2, ge=1, le=32)
    """Copies that must have a record before it counts as written (`min.insync.replicas`)."""
    retention: Seconds = Field(default=7 * 86400.0, gt=0)
    """How long records are kept."""
    max_record: ByteSize = Field(default=16 << 20, ge=64 << 10, le=512 << 20)
    """Largest record (`max.message.bytes` of the topics)."""
    max_queued: ByteSize = Field(default=64 << 20, ge=1 << 20)
    """Bytes that may wait in this process for the brokers; more are refused with a delay."""
    compression: Literal["zstd", "lz4", "snappy", "gzip", "none"] = "zstd"
    """Compression of records."""
    timeout: Seconds = Field(default=8.0, ge=1, le=300)
    """Longest wait for the brokers in one write; below the deadline of OTLP clients (10 s)."""
    transaction_timeout: Seconds = Field(default=15.0, ge=2, le=900)
    """After this time the brokers give up what a killed process left open."""
    protocol: Literal["classic", "consumer"] = "classic"
    """Group protocol: `classic` with cooperative assignment, or `consumer` (KIP-848, brokers from 4.0)."""
    session_timeout: Seconds = Field(default=15.0, ge=1, le=1800)
    """A worker that is not heard of for so long loses its partitions (`classic`; else the brokers say)."""
    max_poll_interval: Seconds = Field(default=300.0, ge=5, le=86400)
    """A worker that handles one batch for so long loses its partitions."""
    stalled_after: Seconds = Field(default=900.0, ge=1)
    """A partition with records to take whose offset has not moved for so long counts as stalled. Longer than the sampler
    may hold a trace (`sampling.completion`) and than a judge may be away."""
    security: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = "plaintext"
    """Security protocol."""
    ca: str = ""
    """PEM file of the authorities to trust; empty: the system's."""
    cert: str = ""
    """PEM file of this client's certificate."""
    key: str = ""
    """PEM file of this client's key."""
    key_password: Secret | None = None
    """Password of the key."""
    sasl: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    """SASL mechanism."""
    user: str = ""
    """SASL user."""
    password: Secret | None = None
    """SASL password."""

    @classmethod
    def from_url(cls, url: str) -> KafkaSettings:
        """Return the settings in ``url``.

        Raises
        ------
        ValueError
            It cannot be used; the message names the option.
        """
        parts = urlsplit(url)
        if parts.scheme != "kafka" or not parts.netloc or parts.path not in ("", "/") or parts.fragment:
            raise ValueError("use kafka://host:port[,host:port]/?option=value")
        if "@" in parts.netloc:
            raise ValueError(
                "no credentials before the host: use user=…&password=${env:NAME} among the options"
            )
        options: dict[str, Any] = {}
        for name, value in parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)):
            if name in options or name == "brokers":
                raise ValueError(f"option `{name}` is given twice")
            # All of a URL is text, so a bare number of seconds must be told from a duration with a unit.
            options[name] = f"{value}s" if name in _DURATIONS and value.isdigit() else value
        try:
            return cls(brokers=parts.netloc, **options)
        except ValidationError as error:
            raise ValueError("; ".join(_explain(item["loc"], item) for item in error.errors())) from None

    @field_validator("brokers")
    @classmethod
    def _addresses(cls, brokers: str) -> str:
        for address in brokers.split(","):
            host, colon, port = address.rpartition(":")
            if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
                raise ValueError(f"every broker is host:port; {address!r} is not")
        return brokers

    @model_validator(mode="after")
    def _fits(self) -> KafkaSettings:
        if self.min_insync > self.replication:
            raise ValueError("min_insync is larger than replication: nothing could ever be written")
        if self.security.startswith("sasl") and not (self.user and self.password):
            raise ValueError(f"security={self.security} needs user=… and password=${{env:NAME}}")
        if not self.security.startswith("sasl") and (self.user or self.password):
            raise ValueError("user and password need security=sasl_ssl (or sasl_plaintext)")
        if bool(self.cert) != bool(self.key):
            raise ValueError("cert and key go together")
        return self

    def topic(self, name: str) -> str:
        """Return the name on the brokers of our topic ``name``."""
        return self.prefix + name

    def state_topic(self, group: str) -> str:
        """Return the compacted topic that holds the state and the ledger of ``group``."""
        return f"{self.prefix}{group}.state"

    def group(self, name: str) -> str:
        """Return the name on the brokers of consumer group ``name``."""
        return self.prefix + name

    def writer(self, role: str) -> str:
        """Return a transactional id for one writer of this process.

        Raises
        ------
        ConfigError
            The variable that `instance` names is not set, or no name can be made of it.
        """
        # Two processes under one id would fence each other, so without a given name each start is its own.
        instance = self._instance() or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        return f"{self.prefix}{role}-{instance}"

    def partition_writer(self, group: str, partition: int) -> str:
        """Return the transactional id of whoever owns ``partition`` of ``group``."""
        return f"{self.prefix}{group}-partition-{partition}"

    def _instance(self) -> str:
        if not self.instance.startswith("$"):
            return self.instance
        variable = self.instance.removeprefix("${env:").removesuffix("}")
        value = os.environ.get(variable, "")
        if not value or not re.fullmatch(_NAME, value):
            raise ConfigError(
                f"the log's `instance` is {self.instance}: set {variable} to a name of this process "
                "(letters, digits, dot, dash, underscore; 100 at most)"
            )
        return value


def _explain(location: tuple[int | str, ...], item: Any) -> str:
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        known = ", ".join(sorted(set(KafkaSettings.model_fields) - {"brokers"}))
        message = f"unknown option; known: {known}"
    return f"option `{location[0]}`: {message}" if location else message
