"""Settings of one sender: how it is recognised, and how much it may send."""

from __future__ import annotations

from pydantic import Field, model_validator

from stream.secret import Secret
from stream.settings import ByteSize, Seconds, Settings


class TenantLimits(Settings):
    """What one tenant may send. Each process of the collector counts for itself."""

    spans_per_second: float | None = Field(default=None, gt=0)
    """Spans and log records per second, averaged over ``burst``; no limit without."""
    bytes_per_second: ByteSize | None = Field(default=None, gt=0)
    """Bytes of decompressed requests per second, averaged over ``burst``; no limit without."""
    burst: Seconds = Field(default=5.0, gt=0, le=3600)
    """So many seconds' worth of the rates may come at once."""
    max_routes: int = Field(default=1000, ge=1, le=100_000)
    """Different values of each attribute that names a route; further ones are written as ``(other)``."""
    max_prompt_versions: int = Field(default=1000, ge=1, le=100_000)
    """Different values of each attribute that names a prompt or its version; further ones are written as ``(other)``."""
    max_services: int = Field(default=200, ge=1, le=100_000)
    """Different values of ``service.name``; further ones are written as ``(other)``."""


class TenantSettings(Settings):
    """One sender: its data is kept apart under this name. It shows a token, a client certificate, or either."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name that goes with the data; it is not secret."""
    token: Secret | None = None
    """What the sender puts after ``Authorization: Bearer``; at least 16 characters."""
    token_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """In place of ``token``: its SHA-256 in hex, so that no file holds the token. Take a long random token."""
    certificates: tuple[str, ...] = Field(default=(), max_length=100)
    """Names in client certificates that are this sender: ``CN=…``, ``DNS=…``, ``URI=…`` or ``EMAIL=…``. Needs ``client_ca_file``."""
    limits: TenantLimits | None = None
    """In place of ``tenant_limits``."""

    @model_validator(mode="after")
    def _recognisable(self) -> TenantSettings:
        if self.token is not None and self.token_sha256 is not None:
            raise ValueError(f"tenant {self.name} needs either token or token_sha256, not both")
        if self.token is None and self.token_sha256 is None and not self.certificates:
            raise ValueError(f"tenant {self.name} needs token, token_sha256 or certificates")
        for name in self.certificates:
            kind, _, value = name.partition("=")
            if kind not in ("CN", "DNS", "URI", "EMAIL") or not value:
                raise ValueError(
                    f"tenant {self.name}: {name!r} must start with CN=, DNS=, URI= or EMAIL= (for example "
                    "URI=spiffe://cluster/ns/acme)"
                )
        return self
