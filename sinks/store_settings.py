"""Settings of the ClickHouse store and of the query endpoint in front of the embedded one."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import msgspec
from pydantic import Field, field_validator, model_validator

from stream.secret import Secret
from stream.settings import ByteSize, Seconds, Settings

_DAY = 86400.0
_MAX_RETENTION = 100 * 365 * _DAY
_SERVER_OPTIONS = ("secure", "verify", "ca_cert", "cluster", "replicated")
# A cluster's name as ClickHouse has it, or a macro that holds it.
_CLUSTER = re.compile(r"[A-Za-z0-9_.-]+|\{[A-Za-z0-9_]+\}")

Retention = Annotated[Seconds, Field(ge=0, le=_MAX_RETENTION)]


class Target(msgspec.Struct, frozen=True):
    """Where the store is, taken apart from its URL. ``path`` is empty for the data folder of the process."""

    kind: Literal["chdb", "clickhouse"]
    database: str = "driftgate"
    path: str = ""
    host: str = ""
    port: int = 0
    username: str = ""
    secure: bool = False
    verify: bool = True
    ca_cert: str = ""
    cluster: str = ""
    replicated: bool = False


class StoreRetention(Settings):
    """How long rows stay, counted from when the log took them; 0 keeps them for ever."""

    otel_traces: Retention = 30 * _DAY
    """Spans, and the table that finds a trace's time by its id."""

    sampled_traces: Retention = 30 * _DAY
    """Sampling decisions."""

    scores: Retention = 180 * _DAY
    """One row per rubric and interaction, and the records as the drift stage read them, which replays need."""

    operations: Retention = 90 * _DAY
    """What every trace did, kept or not: one row per trace."""

    cohort_windows: Retention = 180 * _DAY
    """Rolling windows of every cohort."""

    verdicts: Retention = 730 * _DAY
    """Decisions with their evidence."""

    incidents: Retention = 730 * _DAY
    """Incidents."""

    rollbacks: Retention = 730 * _DAY
    """Rollback decisions and what came of them."""

    dead_letters: Retention = 30 * _DAY
    """Records that no stage could use, with their original (redacted) bytes."""


class StoreSettings(Settings):
    """The ClickHouse store."""

    url: str = "chdb:///"
    """``chdb:///`` is an embedded ClickHouse in the data folder, ``chdb:///absolute/path`` one elsewhere;
    ``clickhouse://user@host:8123/database?secure=true`` is a server (options: secure, verify, ca_cert; for a cluster of
    one shard also cluster, the name for ``ON CLUSTER``, and replicated)."""

    password: Secret | None = None
    """Password of the ClickHouse server's user, by reference."""

    spans: Literal["all", "none"] = "all"
    """Whether every received span is stored, or only decisions and scores."""

    insert_max_rows: int = Field(default=50_000, ge=100, le=1_000_000)
    """Rows of one insert."""

    insert_max_bytes: ByteSize = Field(default=64 << 20, ge=1 << 20, le=1 << 30)
    """Bytes of log records that go into one insert."""

    query_timeout: Seconds = Field(default=60.0, ge=1.0, le=3600.0)
    """Longest time one statement of driftgate itself may take."""

    connect_timeout: Seconds = Field(default=10.0, ge=0.1, le=300.0)
    """Longest time to wait for a connection to a ClickHouse server."""

    retention: StoreRetention = StoreRetention()
    """How long rows stay, per table."""

    @field_validator("url")
    @classmethod
    def _checked(cls, url: str) -> str:
        parse_target(url)
        return url

    @property
    def target(self) -> Target:
        """The URL, taken apart."""
        return parse_target(self.url)


def parse_target(url: str) -> Target:
    """Take a store URL apart.

    Raises
    ------
    ValueError
        It is not a store URL; the message names the fix.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"not a valid store URL: {error}") from error
    if parts.scheme == "chdb":
        if parts.netloc or parts.query or not parts.path.startswith("/"):
            raise ValueError("an embedded store is written chdb:/// (data folder) or chdb:///absolute/path")
        return Target("chdb", path="" if parts.path == "/" else unquote(parts.path))
    if parts.scheme == "clickhouse":
        return _server(parts, port)
    raise ValueError("a store URL starts with chdb:/// or clickhouse://")


def _server(parts: SplitResult, port: int | None) -> Target:
    if parts.password is not None:
        raise ValueError("the password does not belong in the URL: give it as password: ${env:NAME}")
    if not parts.hostname:
        raise ValueError("a ClickHouse server is written clickhouse://user@host:8123/database")
    options = {key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
    if unknown := set(options) - set(_SERVER_OPTIONS):
        raise ValueError(
            f"unknown option {sorted(unknown)[0]!r} in the store URL; known: {', '.join(_SERVER_OPTIONS)}"
        )
    database = unquote(parts.path.strip("/")) or "driftgate"
    if not database.isidentifier():
        raise ValueError("the database in the store URL is made of letters, digits and underscores")
    secure = _flag(options.get("secure", "false"))
    cluster = options.get("cluster", "")
    if "cluster" in options and not _CLUSTER.fullmatch(cluster):
        raise ValueError("cluster in the store URL is a cluster's name, or a macro such as {cluster}")
    return Target(
        "clickhouse",
        database=database,
        host=parts.hostname,
        port=port or (8443 if secure else 8123),
        username=unquote(parts.username or "default"),
        secure=secure,
        verify=_flag(options.get("verify", "true")),
        ca_cert=options.get("ca_cert", ""),
        cluster=cluster,
        replicated=_flag(options.get("replicated", "false")),
    )


def _flag(text: str) -> bool:
    if text.lower() in ("1", "true", "yes"):
        return True
    if text.lower() in ("0", "false", "no"):
        return False
    raise ValueError("secure, verify and replicated in the store URL are true or false")


class QuerySettings(Settings):
    """The ClickHouse-compatible HTTP endpoint in front of the embedded store."""

    enabled: bool = True
    """Whether to listen."""

    host: str = "127.0.0.1"
    """Address to listen on. Anything but loopback needs a token."""

    port: int = Field(default=8123, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""

    token: Secret | None = None
    """What clients send as a bearer token, as password, or in ``X-ClickHouse-Key``."""

    read_only: bool = True
    """Refuse everything but reading from driftgate's own tables. Turning it off needs a token."""

    max_result_bytes: ByteSize = Field(default=64 << 20, ge=1 << 10, le=4 << 30)
    """Uncompressed bytes of one answer."""

    max_result_rows: int = Field(default=1_000_000, ge=1, le=100_000_000)
    """Rows of one answer."""

    max_execution_time: Seconds = Field(default=30.0, ge=0.1, le=3600.0)
    """Longest time one query may take."""

    max_concurrent: int = Field(default=4, ge=1, le=64)
    """Queries that run at once; more wait, and are refused with 503 after ``max_execution_time``."""

    max_query_bytes: ByteSize = Field(default=256 << 10, ge=1 << 10, le=16 << 20)
    """Size of one query text."""

    max_insert_bytes: ByteSize = Field(default=64 << 20, ge=1 << 20, le=1 << 30)
    """Size of the data of one INSERT, decompressed; only where ``read_only`` is off."""

    max_memory: ByteSize = Field(default=1 << 30, ge=64 << 20, le=256 << 30)
    """Memory of one query."""

    @model_validator(mode="after")
    def _guarded(self) -> Any:
        loopback = self.host in ("localhost", "::1") or self.host.startswith("127.")
        if self.token is None and self.enabled:
            if not loopback:
                raise ValueError(f"listening on {self.host} needs a token: set token: ${{env:NAME}}")
            if not self.read_only:
                raise ValueError("read_only: false needs a token: set token: ${env:NAME}")
        return self
