"""The ``collector`` section of the configuration: where OTLP is received, within which limits, and what is redacted."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from stream.secret import Secret
from stream.settings import ByteSize, Seconds, Settings

Operator = Literal["tag", "mask", "drop", "pseudonym"]

_ENTITY = r"^[A-Z][A-Z0-9_]{0,63}$"


class TlsSettings(Settings):
    """Certificates of one listener. With ``client_ca_file`` clients must show a certificate signed by it (mTLS)."""

    cert_file: Path
    """Certificate chain, PEM."""
    key_file: Path
    """Private key of the certificate, PEM."""
    client_ca_file: Path | None = None
    """Authorities whose client certificates are accepted, PEM; without it clients need none."""


class GrpcSettings(Settings):
    """OTLP over gRPC."""

    enabled: bool = True
    """Whether to listen at all."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all interfaces (set ``tenants`` and ``tls`` before you do that)."""
    port: int = Field(default=4317, ge=0, le=65535)
    """Port to listen on; 0 takes any free one."""
    tls: TlsSettings | None = None
    """Certificates; plain text without."""


class HttpSettings(Settings):
    """OTLP over HTTP. Browsers of other origins are not served (no CORS headers)."""

    enabled: bool = True
    """Whether to listen at all."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all interfaces (set ``tenants`` and ``tls`` before you do that)."""
    port: int = Field(default=4318, ge=0, le=65535)
    """Port to listen on; 0 takes any free one."""
    tls: TlsSettings | None = None
    """Certificates; plain text without."""


class TenantSettings(Settings):
    """One sender: its data is kept apart under this name."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name that goes with the data; it is not secret."""
    token: Secret | None = None
    """What the sender puts after ``Authorization: Bearer``; at least 16 characters."""
    token_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """In place of ``token``: its SHA-256 in hex, so that no file holds the token. Take a long random token."""

    @model_validator(mode="after")
    def _one_token(self) -> TenantSettings:
        if (self.token is None) == (self.token_sha256 is None):
            raise ValueError(f"tenant {self.name} needs either token or token_sha256")
        return self


class RuleSettings(Settings):
    """A redaction rule of your own."""

    name: str = Field(pattern=_ENTITY)
    """Entity name, as it appears in tags and counters, for example ``EMPLOYEE_ID``."""
    pattern: str = Field(min_length=1, max_length=2000)
    """RE2 pattern. With a group called ``value`` only that group is redacted, else the whole match."""
    context: tuple[str, ...] = ()
    """Words of which one must stand within 48 bytes before the match, or in the attribute's key; none: no condition."""
    validator: str | None = None
    """A check the match must pass: ``luhn`` or ``stdnum.<module>`` (for example ``stdnum.de.idnr``)."""
    must_match: tuple[str, ...] = Field(min_length=1)
    """Texts in which the rule must find something; tried at start-up."""
    must_not_match: tuple[str, ...] = Field(min_length=1)
    """Texts in which the rule must find nothing; tried at start-up."""


class PseudonymSettings(Settings):
    """Keyed pseudonyms: the same text gives the same ``pii:<entity>:<key id>:<letters>`` within a tenant.

    They cannot be reversed or guessed without the key. Hashes without a key are not offered: all nine-digit numbers
    can be tried in a second.
    """

    key: Secret
    """At least 32 characters; a new key needs a new ``key_id``."""
    key_id: str = Field(default="k1", pattern=r"^[a-z][a-z0-9]{0,15}$")
    """Name of the key, written into each pseudonym."""
    attributes: tuple[str, ...] = (
        "user.id",
        "user.email",
        "user.name",
        "enduser.id",
        "enduser.pseudo.id",
        "session.id",
        "gen_ai.conversation.id",
        "langfuse.user.id",
        "langfuse.session.id",
        "traceloop.association.properties.user_id",
        "traceloop.association.properties.session_id",
    )
    """Attribute keys whose matches become pseudonyms instead of tags, so that units stay joinable.

    An id that no rule matches (``sess-123``) is not personal data and stays as it is.
    """


class RedactionSettings(Settings):
    """What is taken out of the data before it is stored."""

    operators: dict[str, Operator] = Field(default_factory=dict)
    """Operator per entity: ``tag`` ([EMAIL]), ``mask`` (****, last four of a card stay), ``drop`` or ``pseudonym``."""
    default_operator: Operator = "tag"
    """Operator of the entities that ``operators`` does not name."""
    pseudonym: PseudonymSettings | None = None
    """Key for pseudonyms; without it there are none."""
    rules: tuple[RuleSettings, ...] = ()
    """Rules of your own, besides the built-in ones."""
    disable: tuple[str, ...] = ()
    """Entities that are not looked for."""
    allow: tuple[str, ...] = ()
    """Exact texts that stay, for example your support address. Only the text itself stays, never the rest of its value."""
    max_json_depth: int = Field(default=64, ge=1, le=250)
    """JSON inside strings is understood to this depth; what is deeper is scanned as plain text."""
    max_base64_bytes: ByteSize = Field(default=1 << 20, ge=0, le=64 << 20)
    """Text in base64 (data URIs too) is looked into up to this length; what is longer stays as it is. 0 looks into none."""
    max_candidates: int = Field(default=100_000, ge=100)
    """Candidate matches looked at in one string; a string with more is refused (it would take too long)."""

    @model_validator(mode="after")
    def _pseudonyms_need_a_key(self) -> RedactionSettings:
        if self.pseudonym is None and "pseudonym" in (self.default_operator, *self.operators.values()):
            raise ValueError(
                "the operator 'pseudonym' needs redaction.pseudonym.key; hashes without a key can be reversed"
            )
        return self


class CollectorSettings(Settings):
    """Stage 1: OTLP receivers, redaction, publishing."""

    grpc: GrpcSettings = GrpcSettings()
    """The listener for OTLP over gRPC."""
    http: HttpSettings = HttpSettings()
    """The listener for OTLP over HTTP."""
    tenants: tuple[TenantSettings, ...] = ()
    """Who may send. Empty: anybody, as tenant ``default``."""
    redaction: RedactionSettings = RedactionSettings()
    """The redaction policy."""
    max_request_bytes: ByteSize = Field(default=64 << 20, ge=1024, le=1 << 30)
    """Largest request, compressed and decompressed."""
    max_in_flight_bytes: ByteSize = Field(default=256 << 20, ge=1024)
    """Bytes of all requests being handled; beyond it requests are refused with a delay before they are decoded."""
    max_spans_per_request: int = Field(default=50_000, ge=1)
    """Spans or log records taken from one request; those beyond it are refused, one by one."""
    max_span_bytes: ByteSize = Field(default=8 << 20, ge=1024)
    """Largest span or log record; a larger one is refused."""
    max_string_bytes: ByteSize = Field(default=4 << 20, ge=1024)
    """Longest string in a span or log record; one with a longer string is refused."""
    max_attribute_depth: int = Field(default=20, ge=1, le=40)
    """Deepest nesting of arrays and maps in an attribute; a span with a deeper one is refused."""
    max_record_bytes: ByteSize = Field(default=900 * 1000, ge=1024)
    """Requests are cut into log records of at most this size (a single larger span is a record of its own)."""
    decode_threads: int = Field(default=2, ge=1, le=64)
    """Requests decoded and redacted at the same time."""
    read_timeout: Seconds = Field(default=30.0, gt=0, le=600)
    """How long the body of an HTTP request may take to arrive."""
    retry_after: Seconds = Field(default=1.0, gt=0, le=300)
    """Delay that refused senders are told, before load and jitter stretch it."""
    stop_grace: Seconds = Field(default=10.0, ge=0, le=600)
    """How long a stop waits for requests in flight."""

    @model_validator(mode="after")
    def _limits_fit(self) -> CollectorSettings:
        if self.max_in_flight_bytes < self.max_request_bytes:
            raise ValueError("max_in_flight_bytes must be at least max_request_bytes")
        names = [tenant.name for tenant in self.tenants]
        if len(names) != len(set(names)):
            raise ValueError("two tenants have the same name")
        return self
