"""Who is sending: bearer tokens to tenant names."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence

from collector.settings import TenantSettings
from stream.errors import ConfigError, Permanent

DEFAULT_TENANT = "default"
_SHORTEST_TOKEN = 16


class Tenants:
    """Knows tokens only by their digests, keyed with a random key of this process.

    Raises
    ------
    ConfigError
        A token is missing or short, or two tenants share one.
    """

    def __init__(self, settings: Sequence[TenantSettings]) -> None:
        self._key = secrets.token_bytes(32)
        self._digests: list[tuple[bytes, str]] = []
        seen: dict[bytes, str] = {}
        for tenant in settings:
            digest = self._keyed(_sha256(tenant))
            if digest in seen:
                raise ConfigError(f"tenants {seen[digest]} and {tenant.name} have the same token")
            seen[digest] = tenant.name
            self._digests.append((digest, tenant.name))

    def _keyed(self, sha256: bytes) -> bytes:
        return hashlib.blake2b(sha256, key=self._key, digest_size=32).digest()

    def of(self, authorization: str | None) -> str:
        """Return the tenant that an ``Authorization`` value belongs to; ``default`` if no tenants are configured.

        Raises
        ------
        Permanent
            ``unauthenticated``: no token, or an unknown one.
        """
        if not self._digests:
            return DEFAULT_TENANT
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
