"""Settings of incidents, notifications and rollbacks: the ``alerts`` and ``rollback`` sections."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator
from yarl import URL

from sinks.rollback.template import check_template
from stream.records import VerdictState
from stream.secret import Secret
from stream.settings import ByteSize, Seconds, Settings

Severity = Literal["warn", "page", "critical"]
Mode = Literal["observe", "approve", "enforce"]

_HOUR = 3600.0
_DAY = 24 * _HOUR


def _checked_url(url: str) -> str:
    parsed = URL(url)
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError("expected a URL such as https://example.org/path")
    if parsed.user or parsed.password:
        raise ValueError("credentials do not belong into a URL; use a token, given by reference")
    return url


def _templated(value: Any) -> Any:
    check_template(value)
    return value


def _templated_url(url: str) -> str:
    check_template(url)
    # A placeholder in the authority would let a verdict choose the host that gets the token.
    place = url.find("{{")
    if place != -1 and url.count("/", 0, place) < 3:
        raise ValueError("placeholders may stand in the path and query of a URL, not in its host")
    _checked_url(url.replace("{{", "").replace("}}", ""))
    return url


class OutgoingSettings(Settings):
    """What outgoing requests of one section may reach."""

    allow_private_networks: bool = False
    """Whether https requests may reach private addresses (RFC 1918, CGNAT, IPv6 ULA); never loopback or link-local."""
    allow_hosts: tuple[str, ...] = Field(default=(), max_length=100)
    """`host:port` that may be reached whatever its address, scheme and port; for example `127.0.0.1:9000`."""

    @field_validator("allow_hosts")
    @classmethod
    def _host_and_port(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            name, colon, port = host.rpartition(":")
            if not colon or not name or not port.isdecimal() or not 0 < int(port) < 65536 or "/" in host:
                raise ValueError(f"{host!r}: expected host:port, for example 127.0.0.1:9000 or [::1]:9000")
        return tuple(host.lower() for host in hosts)


class RetrySettings(Settings):
    """Exponential backoff: ``first`` doubled with every failure, at most ``longest``, spread by up to a half."""

    attempts: int = Field(default=20, ge=1, le=1000)
    """Tries before the message becomes a dead letter."""
    first: Seconds = Field(default=1.0, gt=0, le=_HOUR)
    """Wait after the first failure."""
    longest: Seconds = Field(default=30 * 60.0, gt=0, le=_DAY)
    """Longest wait; also the longest `Retry-After` that is followed."""


class ChannelSettings(Settings):
    """What every channel has."""

    name: str = Field(default="", max_length=64, pattern=r"^[A-Za-z0-9_.-]*$")
    """Name used in lists and metrics; the type if not given. Unique."""
    severities: tuple[Severity, ...] = ("warn", "page", "critical")
    """Incidents it hears about."""
    tenants: tuple[str, ...] = ()
    """Tenants it hears about; empty means all."""
    rollouts: tuple[str, ...] = ()
    """Rollouts and cohort views it hears about; empty means all."""
    per_minute: int = Field(default=60, ge=1, le=6000)
    """Most requests a minute, evenly spaced."""
    timeout: Seconds = Field(default=15.0, gt=0, le=30)
    """Longest time of one request."""


class SlackSettings(ChannelSettings):
    """A Slack incoming webhook."""

    type: Literal["slack"]
    """`slack`."""
    url: Secret
    """The webhook's URL. Whoever has it can post, so it is a secret."""


class PagerDutySettings(ChannelSettings):
    """A PagerDuty service, by Events API v2."""

    type: Literal["pagerduty"]
    """`pagerduty`."""
    routing_key: Secret
    """Integration key of the service: 32 characters."""
    url: str = "https://events.pagerduty.com/v2/enqueue"
    """Where events go; `https://events.eu.pagerduty.com/v2/enqueue` for accounts in the EU."""
    severities: tuple[Severity, ...] = ("page", "critical")
    """Incidents it hears about."""
    per_minute: int = Field(default=100, ge=1, le=6000)
    """Most requests a minute; PagerDuty throttles near 120 for one key."""

    _url = field_validator("url")(_checked_url)


class WebhookSettings(ChannelSettings):
    """Any HTTP endpoint, signed as Standard Webhooks 1.0.0 says."""

    type: Literal["webhook"]
    """`webhook`."""
    url: str
    """Where messages go."""
    secrets: tuple[Secret, ...] = Field(min_length=1, max_length=4)
    """Signing secrets, each `whsec_` and base64 of 24 to 64 bytes; the first is the current one, others are being rotated out."""
    per_minute: int = Field(default=600, ge=1, le=6000)
    """Most requests a minute."""

    _url = field_validator("url")(_checked_url)


class AlertmanagerSettings(ChannelSettings):
    """A Prometheus Alertmanager, by its API v2; routing and grouping are then its own."""

    type: Literal["alertmanager"]
    """`alertmanager`."""
    url: str
    """Its address, for example `https://alertmanager.example.org`; the path of the API is added."""
    token: Secret | None = None
    """Bearer token, if a proxy in front asks for one."""
    labels: dict[str, str] = Field(default_factory=dict, max_length=20)
    """Labels added to every alert."""
    resend: Seconds = Field(default=60.0, ge=10, le=_HOUR)
    """How often a firing alert is sent again; Alertmanager would resolve it otherwise."""
    per_minute: int = Field(default=600, ge=1, le=6000)
    """Most requests a minute."""

    _url = field_validator("url")(_checked_url)


AnyChannel = Annotated[
    SlackSettings | PagerDutySettings | WebhookSettings | AlertmanagerSettings, Field(discriminator="type")
]


class SilenceSettings(Settings):
    """Incidents that nobody is told about. Everything given must match; rollbacks are not affected."""

    tenant: str = ""
    """Tenant; empty matches all."""
    rollout: str = ""
    """Rollout or cohort view; empty matches all."""
    route: str = ""
    """Route; empty matches all."""
    candidate: str = ""
    """Candidate; empty matches all."""
    severities: tuple[Severity, ...] = ("warn", "page", "critical")
    """Severities it covers."""
    starts: datetime | None = None
    """Start, with a time zone; always if not given."""
    ends: datetime | None = None
    """End, with a time zone; never if not given."""
    comment: str = Field(default="", max_length=500)
    """Why."""

    @field_validator("starts", "ends")
    @classmethod
    def _zoned(cls, moment: datetime | None) -> datetime | None:
        if moment is not None and moment.tzinfo is None:
            raise ValueError("give a time zone, for example 2026-01-31T22:00:00Z")
        return moment


class PendingSettings(Settings):
    """How long a bad verdict must stand before anybody is told; gone by then, nobody is."""

    warn: Seconds = Field(default=60.0, ge=0, le=_DAY)
    """For warnings."""
    page: Seconds = Field(default=0.0, ge=0, le=_DAY)
    """For pages. The sequential test has waited for evidence already, so none by default."""


class AlertSettings(OutgoingSettings):
    """Incidents and who is told about them."""

    channels: tuple[AnyChannel, ...] = Field(default=(), max_length=50)
    """Where notifications go."""
    pending: PendingSettings = PendingSettings()
    """How long a bad verdict must stand before anybody is told."""
    group_wait: Seconds = Field(default=5.0, ge=0, le=_HOUR)
    """Wait before the first notification of an incident, so that rubrics failing together come in one message."""
    group_interval: Seconds = Field(default=300.0, ge=0, le=_DAY)
    """Shortest time between two messages of one incident when further rubrics join it."""
    repeat_interval: Seconds = Field(default=4 * _HOUR, ge=60, le=30 * _DAY)
    """How often a firing incident that nobody acknowledged is told again."""
    keep_firing: Seconds = Field(default=120.0, ge=0, le=_DAY)
    """How long all rubrics must be well again before the incident is resolved, so that flapping makes no noise."""
    resolve_after: Seconds = Field(default=_DAY, ge=60, le=90 * _DAY)
    """An incident about which no verdict came for so long is closed as expired."""
    warn_states: tuple[VerdictState, ...] = ("no_data", "judge_changed", "sample_ratio_mismatch")
    """Verdict states that open a warning although no quality was measured: silence is an alarm too."""
    warnings_per_hour: int = Field(default=60, ge=1, le=10000)
    """Warnings a channel gets in an hour; further ones wait. Pages and resolutions never do."""
    silences: tuple[SilenceSettings, ...] = Field(default=(), max_length=200)
    """Incidents that nobody is told about."""
    retry: RetrySettings = RetrySettings()
    """When a channel does not answer."""
    external_url: str = ""
    """Address of the administration port as people reach it; messages then link to the incident's page there."""
    retention: Seconds = Field(default=90 * _DAY, ge=_DAY, le=3650 * _DAY)
    """How long resolved incidents are kept here; the store keeps its own copy."""

    @field_validator("channels")
    @classmethod
    def _unique(cls, channels: tuple[Any, ...]) -> tuple[Any, ...]:
        named = tuple(
            channel if channel.name else channel.model_copy(update={"name": channel.type})
            for channel in channels
        )
        names = [channel.name for channel in named]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two channels are called {name!r}; give each its own name")
        return named

    @field_validator("external_url")
    @classmethod
    def _url(cls, url: str) -> str:
        return _checked_url(url).rstrip("/") if url else url

    @field_validator("warn_states")
    @classmethod
    def _never_well(cls, states: tuple[VerdictState, ...]) -> tuple[VerdictState, ...]:
        if well := {"ok", "non_inferior", "warming_up", "insufficient_data"} & set(states):
            known = ", ".join(sorted(set(get_args(VerdictState)) - {"ok", "non_inferior"}))
            raise ValueError(f"{', '.join(sorted(well))} cannot open an incident (known: {known})")
        return states


class ReadSettings(Settings):
    """Read before write: what the gateway says now."""

    url: str = Field(max_length=4096)
    """Answers the current state as JSON. May hold placeholders."""
    pointer: str = Field(default="", max_length=1024, pattern=r"^(/.*)?$")
    """JSON Pointer (RFC 6901) to the value that matters; the whole answer if empty. May hold placeholders."""
    done: Any = None
    """If the value equals this, the candidate is off already and nothing is called."""
    expect: Any = None
    """If given, the value must equal this, else somebody changed it meanwhile and nothing is called."""
    etag: bool = True
    """Send `If-Match` with the answer's ETag, so that the gateway refuses when it changed in between."""

    _templates = field_validator("pointer", "done", "expect")(_templated)
    _url = field_validator("url")(_templated_url)


class UndoSettings(Settings):
    """The request that would take the rollback back. It is rendered and recorded, never sent by itself."""

    url: str = Field(max_length=4096)
    """May hold placeholders, `{{previous}}` among them."""
    method: Literal["POST", "PUT", "PATCH", "DELETE"] = "POST"
    """HTTP method."""
    body: Any = None
    """JSON body; strings may hold placeholders."""

    _templates = field_validator("body")(_templated)
    _url = field_validator("url")(_templated_url)


class VerifySettings(Settings):
    """A rollback is done when telemetry shows it."""

    settle: Seconds = Field(default=10.0, ge=0, le=_HOUR)
    """Grace after the call: spans that start within it do not count."""
    hold: Seconds = Field(default=30.0, ge=0, le=_HOUR)
    """How long the candidate must have no traffic."""
    deadline: Seconds = Field(default=300.0, gt=0, le=_DAY)
    """If the candidate still has traffic so long after the grace, the rollback failed."""
    max_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the two arms' spans the candidate may still have."""
    min_incumbent_traffic: int = Field(default=20, ge=1, le=1_000_000)
    """Spans the incumbent must have meanwhile; without traffic nothing is proved."""
    telemetry_lag: Seconds = Field(default=10.0, ge=0, le=_HOUR)
    """How long a span may take from its start to the store."""
    interval: Seconds = Field(default=5.0, gt=0, le=_HOUR)
    """How often the store is asked."""
    watch: Seconds = Field(default=_DAY, gt=0, le=30 * _DAY)
    """How long a failed or unknown verification is looked at again, in case traffic falls to zero later."""

    @model_validator(mode="after")
    def _possible(self) -> VerifySettings:
        if self.deadline <= self.hold + self.telemetry_lag:
            raise ValueError(
                f"deadline ({self.deadline:g} s) must be longer than hold plus telemetry_lag "
                f"({self.hold + self.telemetry_lag:g} s), else no rollback can be verified in time"
            )
        return self


class TargetSettings(Settings):
    """What every rollback target has."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")
    """Unique name."""
    rollout: str = Field(default="*", min_length=1, max_length=256)
    """Rollout it belongs to; `*` serves every rollout that has no target of its own."""
    timeout: Seconds = Field(default=10.0, gt=0, le=30)
    """Longest time of one request."""
    retries: RetrySettings = RetrySettings(attempts=60, longest=60.0)
    """When the gateway does not answer; people are paged at the first failure, and the calls go on."""
    dry_run: bool = False
    """Read the state and record what would be called, but do not call it."""


def _default_body() -> Any:
    names = ("rollout", "candidate", "incumbent", "reason", "decision_id")
    return {name: f"{{{{{name}}}}}" for name in names}


class HttpTarget(TargetSettings):
    """Any gateway with an HTTP endpoint."""

    type: Literal["http"] = "http"
    """`http`."""
    url: str = Field(max_length=4096)
    """Where to call. Placeholders such as `{{candidate}}` are percent-encoded."""
    method: Literal["POST", "PUT", "PATCH", "DELETE"] = "POST"
    """HTTP method."""
    headers: dict[str, str] = Field(default_factory=dict, max_length=20)
    """Further headers; values may hold placeholders. Secrets belong into `token`."""
    body: Any = Field(default_factory=_default_body)
    """JSON body; strings in it may hold placeholders, and a string that is one placeholder keeps its type."""
    token: Secret | None = None
    """Sent as `Authorization: Bearer …` with every request to this target."""
    read: ReadSettings | None = None
    """Read before write."""
    undo: UndoSettings | None = None
    """The request that would take it back, for the record."""
    max_response: ByteSize = Field(default=1 << 20, ge=1024, le=16 << 20)
    """Largest answer that is read."""

    _templates = field_validator("headers", "body")(_templated)
    _url = field_validator("url")(_templated_url)

    @field_validator("headers")
    @classmethod
    def _harmless(cls, headers: dict[str, str]) -> dict[str, str]:
        reserved = {
            "authorization",
            "idempotency-key",
            "host",
            "content-length",
            "if-match",
            "transfer-encoding",
        }
        for name in headers:
            if name.lower() in reserved:
                raise ValueError(f"header {name!r} is set by driftgate (a secret belongs into token)")
        return headers


class RollbackSettings(OutgoingSettings):
    """Taking a candidate back."""

    mode: Mode = "observe"
    """`observe`: say what would be done; `approve`: wait for a person; `enforce`: do it."""
    kill_switch: bool = False
    """No rollback is called while this is set. `driftgate incidents kill-switch` is the one at run time."""
    targets: tuple[HttpTarget, ...] = Field(default=(), max_length=100)
    """Gateways that can take a candidate back."""
    cooldown: Seconds = Field(default=1800.0, ge=0, le=30 * _DAY)
    """Shortest time between two automatic rollbacks of one rollout on one route."""
    max_per_hour: int = Field(default=3, ge=0, le=1000)
    """Automatic rollbacks of all rollouts in an hour; more than a few bad releases an hour are something else."""
    max_verdict_age: Seconds = Field(default=_DAY, gt=0, le=30 * _DAY)
    """A verdict older than this rolls nothing back by itself: the world has moved on."""
    quiet_after: Seconds = Field(default=900.0, ge=0, le=_DAY)
    """After a verified rollback, verdicts about spans of so long ago belong to it and open no new incident."""
    verify: VerifySettings = VerifySettings()
    """A rollback is done when telemetry shows it."""

    @field_validator("targets")
    @classmethod
    def _unique(cls, targets: tuple[HttpTarget, ...]) -> tuple[HttpTarget, ...]:
        names = [target.name for target in targets]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two targets are called {name!r}; give each its own name")
        return targets

    def targets_of(self, rollout: str) -> list[HttpTarget]:
        """Return the targets of ``rollout``: its own, else those for every rollout."""
        own = [target for target in self.targets if target.rollout == rollout]
        return own or [target for target in self.targets if target.rollout == "*"]
