"""The ``collector`` section of the configuration: where OTLP is received, within which limits, and what is redacted."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from collector.tenant_settings import TenantLimits, TenantSettings
from stream.secret import Secret
from stream.settings import ByteSize, Seconds, Settings

Operator = Literal["tag", "mask", "drop", "keep", "pseudonym"]

_ORIGIN = re.compile(r"https?://[a-z0-9.\[\]:-]+")
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
    """OTLP over gRPC: gzip and deflate; zstd is not spoken by grpcio."""

    enabled: bool = True
    """Whether to listen at all."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all interfaces (set ``tenants`` and ``tls`` before you do that)."""
    port: int = Field(default=4317, ge=0, le=65535)
    """Port to listen on; 0 takes any free one."""
    tls: TlsSettings | None = None
    """Certificates; plain text without."""
    max_connection_age: Seconds | None = Field(default=None, gt=0, le=86_400)
    """Senders are asked to connect anew after so long, so that they spread over workers and over load balancers' targets."""
    reflection: bool = True
    """Whether gRPC tools such as grpcurl may ask which services there are."""


class CorsSettings(Settings):
    """Browsers that may send. A browser shows its token to whoever reads the page: give it a tenant of its own."""

    allowed_origins: tuple[str, ...] = Field(min_length=1, max_length=100)
    """Origins such as ``https://app.example.com``, compared exactly, or ``*`` for all of them."""
    allowed_headers: tuple[str, ...] = ()
    """Request headers besides ``Content-Type``, ``Content-Encoding`` and ``Authorization`` that a page may send."""
    max_age: Seconds = Field(default=600.0, ge=0, le=86_400)
    """How long a browser remembers the answer to its question before a request."""

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is no origin: a scheme and a host, without a path (https://app.example.com)"
                )
        return origins


class HttpSettings(Settings):
    """OTLP over HTTP."""

    enabled: bool = True
    """Whether to listen at all."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all interfaces (set ``tenants`` and ``tls`` before you do that)."""
    port: int = Field(default=4318, ge=0, le=65535)
    """Port to listen on; 0 takes any free one."""
    tls: TlsSettings | None = None
    """Certificates; plain text without."""
    cors: CorsSettings | None = None
    """Browsers that may send from pages of other origins; none without."""


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


class PseudonymKeySettings(Settings):
    """A key that pseudonyms were made with before."""

    key: Secret
    """The key."""
    key_id: str = Field(pattern=r"^[a-z][a-z0-9]{0,15}$")
    """The name it had."""


class PseudonymSettings(Settings):
    """Keyed pseudonyms: the same text gives the same ``pii:<entity>:<key id>:<letters>`` within a tenant.

    They cannot be reversed or guessed without the key. Hashes without a key are not offered: all nine-digit numbers
    can be tried in a second.
    """

    key: Secret
    """At least 32 characters; a new key needs a new ``key_id``."""
    key_id: str = Field(default="k1", pattern=r"^[a-z][a-z0-9]{0,15}$")
    """Name of the key, written into each pseudonym."""
    previous: tuple[PseudonymKeySettings, ...] = ()
    """Keys of before. Nothing is written with them; `driftgate pseudonym` knows what a text was called under them."""
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

    @model_validator(mode="after")
    def _ids_differ(self) -> PseudonymSettings:
        ids = [self.key_id, *(old.key_id for old in self.previous)]
        if len(ids) != len(set(ids)):
            raise ValueError("every key needs a key_id of its own, also the previous ones")
        return self


class PathSettings(Settings):
    """What happens to finds in some places. Of several entries that match a place the first decides."""

    path: str = Field(pattern=r"^[^\s]{1,256}$")
    """A place: ``span.attributes.user.email``, ``attributes.gen_ai.*`` (of any owner: span, event, link, scope, resource,
    log), ``log.body``, ``span.name``, ``*.attributes.debug.*``. ``*`` stands for any characters, ``?`` for one."""
    operator: Operator | None = None
    """Operator for everything found there."""
    operators: dict[str, Operator] = Field(default_factory=dict)
    """Operator per entity found there; comes before ``operator``."""
    allow: tuple[str, ...] = ()
    """Exact texts that stay there, besides those allowed everywhere."""
    remove: bool = False
    """Remove such attributes whole, whatever stands in them. Only for paths of attributes."""

    @model_validator(mode="after")
    def _of_attributes(self) -> PathSettings:
        if self.remove and "attributes." not in self.path:
            raise ValueError(f"path {self.path!r}: only attributes can be removed (attributes.<key>)")
        return self


class TenantRedactionSettings(Settings):
    """What is different for one tenant. What is not said here is as for everybody."""

    operators: dict[str, Operator] = Field(default_factory=dict)
    """Operator per entity."""
    default_operator: Operator | None = None
    """Operator of all other entities."""
    allow: tuple[str, ...] = ()
    """Exact texts that stay, besides those allowed for everybody."""
    paths: tuple[PathSettings, ...] = ()
    """Places with operators of their own; they come before the general ones."""
    pseudonym: PseudonymSettings | None = None
    """The tenant's own key. Without it the general key is used; pseudonyms of tenants differ all the same."""


class NerSettings(Settings):
    """Names and addresses of people, found by a language model in the traces that were sampled. Needs ``driftgate[ner]``.

    It runs where the sampler runs, before anything of the trace is scored or sent to a judge.
    """

    model: str = Field(min_length=1)
    """spaCy model: an installed package (``en_core_web_sm``) or a folder. Nothing is downloaded."""
    language: str = Field(default="en", pattern=r"^[a-z]{2}$")
    """Language of the model."""
    entities: tuple[str, ...] = Field(default=("PERSON", "LOCATION"), min_length=1)
    """What is looked for, by presidio's names: PERSON, LOCATION, NRP, ORGANIZATION, DATE_TIME."""
    min_score: float = Field(default=0.4, ge=0, le=1)
    """Finds with a lower score stay."""
    max_text_bytes: ByteSize = Field(default=64 << 10, ge=256, le=1_000_000)
    """Longest text that is looked at."""
    max_record_bytes: ByteSize = Field(default=512 << 10, ge=1024)
    """Text that is looked at in one record of a trace."""
    max_time: Seconds = Field(default=20.0, gt=0, le=300)
    """How long one record may take."""
    on_failure: Literal["blank", "keep"] = "blank"
    """What happens to a text that could not be looked at: ``blank`` puts ``[UNSCREENED]`` in its place, ``keep`` lets it pass."""


class RedactionSettings(Settings):
    """What is taken out of the data before it is stored."""

    operators: dict[str, Operator] = Field(default_factory=dict)
    """Operator per entity: ``tag`` ([EMAIL]), ``mask`` (****, last four of a card stay), ``drop``, ``keep`` or
    ``pseudonym``."""
    default_operator: Operator = "tag"
    """Operator of the entities that ``operators`` does not name."""
    paths: tuple[PathSettings, ...] = ()
    """Places with operators of their own, or whose attributes are removed."""
    tenants: dict[str, TenantRedactionSettings] = Field(default_factory=dict)
    """What is different per tenant, by the tenant's name."""
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
    max_scan_time: Seconds = Field(default=5.0, gt=0, le=300)
    """How long one request may be scanned; what is not scanned by then is refused, never passed."""
    ner: NerSettings | None = None
    """Names and addresses in sampled traces; without it they are not looked for."""
    residual_share: float = Field(default=0.01, ge=0, le=1)
    """Share of published spans and log records that are scanned again in another way, to see whether anything is left."""

    @model_validator(mode="after")
    def _pseudonyms_need_a_key(self) -> RedactionSettings:
        if self.pseudonym is None:
            scopes: list[tuple[str, list[Operator | None]]] = [
                ("", [self.default_operator, *self.operators.values(), *_of_paths(self.paths)])
            ]
            scopes += [
                (
                    f"tenants.{name}.",
                    [tenant.default_operator, *tenant.operators.values(), *_of_paths(tenant.paths)],
                )
                for name, tenant in self.tenants.items()
                if tenant.pseudonym is None
            ]
            for scope, operators in scopes:
                if "pseudonym" in operators:
                    raise ValueError(
                        f"the operator 'pseudonym' needs redaction.{scope}pseudonym.key; hashes without a key can be reversed"
                    )
        return self


def _of_paths(paths: Iterable[PathSettings]) -> list[Operator | None]:
    return [operator for path in paths for operator in (path.operator, *path.operators.values())]


class QuarantineSettings(Settings):
    """Keeps what could not be redacted, encrypted, in place of dropping it. Only the private key's holder can read it."""

    public_key: str = Field(min_length=1, max_length=128)
    """X25519 key in base64, printed by `driftgate quarantine keygen FILE`. The private key never comes near the collector."""
    max_item_bytes: ByteSize = Field(default=4 << 20, ge=1024, le=64 << 20)
    """Largest item; what is larger is dropped. On Kafka it must stay below `max_record`."""
    max_bytes_per_hour: ByteSize = Field(default=64 << 20, ge=1024)
    """Bytes that one process keeps per hour; what is beyond it is dropped. How long it stays is the log's to say."""


class CollectorSettings(Settings):
    """Stage 1: OTLP receivers, redaction, publishing."""

    grpc: GrpcSettings = GrpcSettings()
    """The listener for OTLP over gRPC."""
    http: HttpSettings = HttpSettings()
    """The listener for OTLP over HTTP."""
    tenants: tuple[TenantSettings, ...] = ()
    """Who may send. Empty: anybody, as tenant ``default``."""
    tenant_limits: TenantLimits = TenantLimits()
    """What each tenant may send, unless it has ``limits`` of its own. Without ``tenants`` only the rates hold, for all together."""
    redaction: RedactionSettings = RedactionSettings()
    """The redaction policy."""
    quarantine: QuarantineSettings | None = None
    """What to do with what cannot be redacted; without it, it is dropped."""
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
    """Requests are cut into log records of at most this size; larger are those of a span, or a resource, that is large itself."""
    workers: int = Field(default=1, ge=1, le=256)
    """Processes of `driftgate collector` that share the ports, each with a redaction engine and with the limits below for itself."""
    decode_threads: int = Field(default=2, ge=1, le=64)
    """Requests decoded and redacted at the same time."""
    read_timeout: Seconds = Field(default=30.0, gt=0, le=600)
    """How long the body of a request may take to arrive."""
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
        authorities = any(listen.tls and listen.tls.client_ca_file for listen in (self.grpc, self.http))
        if not authorities and any(tenant.certificates for tenant in self.tenants):
            raise ValueError("tenants[].certificates need grpc.tls.client_ca_file or http.tls.client_ca_file")
        return self

    def limits_by_tenant(self) -> dict[str, TenantLimits]:
        """Return the limits of every configured tenant."""
        return {tenant.name: tenant.limits or self.tenant_limits for tenant in self.tenants}
