"""Who is sending: bearer tokens and client certificates to tenant names."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence

from collector.tenant_settings import TenantSettings
from stream.errors import ConfigError, Permanent

DEFAULT_TENANT = "default"
_SHORTEST_TOKEN = 16


class Tenants:
    """Knows tokens only by their digests, keyed with a random key of this process.

    Raises
    ------
    ConfigError
        A token is missing or short, or two tenants share one, or a name in certificates.
    """

    def __init__(self, settings: Sequence[TenantSettings]) -> None:
        self._key = secrets.token_bytes(32)
        self._open = not settings
        self._digests: list[tuple[bytes, str]] = []
        self._certificates: dict[str, str] = {}
        seen: dict[bytes, str] = {}
        for tenant in settings:
            for name in tenant.certificates:
                if self._certificates.setdefault(name, tenant.name) != tenant.name:
                    raise ConfigError(
                        f"tenants {self._certificates[name]} and {tenant.name} have the same certificate name {name}"
                    )
            if tenant.token is None and tenant.token_sha256 is None:
                continue
            digest = self._keyed(_sha256(tenant))
            if digest in seen:
                raise ConfigError(f"tenants {seen[digest]} and {tenant.name} have the same token")
            seen[digest] = tenant.name
            self._digests.append((digest, tenant.name))

    def _keyed(self, sha256: bytes) -> bytes:
        return hashlib.blake2b(sha256, key=self._key, digest_size=32).digest()

    def of(self, authorization: str | None, certificate: frozenset[str] = frozenset()) -> str:
        """Return the tenant of a request; ``default`` if no tenants are configured.

        Parameters
        ----------
        authorization
            The value of ``Authorization``. If there is one it decides, and a certificate must not contradict it.
        certificate
            Names in the verified client certificate (:mod:`collector.certificate`).

        Raises
        ------
        Permanent
            ``unauthenticated``: neither token nor known certificate, or an unknown token. ``forbidden``: the certificate
            is verified, but is no tenant's, or is another tenant's than the token.
        """
        if self._open:
            return DEFAULT_TENANT
        shown = {tenant for name in certificate if (tenant := self._certificates.get(name)) is not None}
        if len(shown) > 1:
            raise Permanent("forbidden", "the certificate has names of several tenants")
        if authorization is None:
            if shown:
                return shown.pop()
            if certificate and self._certificates:
                raise Permanent("forbidden", "the client certificate belongs to no tenant")
        name = self._by_token(authorization)
        if shown and name not in shown:
            raise Permanent("forbidden", "the token and the client certificate belong to different tenants")
        return name

    def _by_token(self, authorization: str | None) -> str:
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Permanent(
                "unauthenticated", "send the header 'Authorization: Bearer <token of your tenant>'"
            )
        digest = self._keyed(hashlib.sha256(token.strip().encode("utf-8", "replace")).digest())
        # Every digest is compared, so that the time taken says nothing about which one it is.
        found = [name for known, name in self._digests if hmac.compare_digest(known, digest)]
        if not found:
            raise Permanent("unauthenticated", "the token is not known")
        return found[0]


def _sha256(tenant: TenantSettings) -> bytes:
    if tenant.token is None:
        return bytes.fromhex(tenant.token_sha256 or "")
    token = tenant.token.reveal()
    if len(token) < _SHORTEST_TOKEN:
        raise ConfigError(
            f"the token of tenant {tenant.name} has {len(token)} characters; at least {_SHORTEST_TOKEN} are "
            "needed (for example: openssl rand -hex 24)"
        )
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
