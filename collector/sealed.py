"""Sealed boxes: bytes that only the holder of a private key can read. HPKE (RFC 9180) in its base mode.

X25519, HKDF-SHA256, ChaCha20-Poly1305 by the library ``cryptography``; nothing is invented here but the names of things.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Any

from stream.errors import ConfigError, Permanent

_KEY_BYTES = 32


class PublicKey:
    """What the collector has: it can seal and not open.

    Parameters
    ----------
    text
        32 bytes in base64, as ``driftgate quarantine keygen`` prints them.

    Raises
    ------
    ConfigError
        It is no such key.
    """

    def __init__(self, text: str) -> None:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

        try:
            raw = base64.b64decode(text, validate=True)
            if len(raw) != _KEY_BYTES:
                raise ValueError
        except (binascii.Error, ValueError):
            raise ConfigError(
                "the public key must be 32 bytes in base64: make a pair with `driftgate quarantine keygen FILE`"
            ) from None
        self._key = X25519PublicKey.from_public_bytes(raw)
        self.id = _key_id(raw)

    def seal(self, plain: bytes, about: bytes) -> bytes:
        """Return ``plain`` sealed; it opens only together with the same ``about``."""
        return bytes(_suite().encrypt(plain, self._key, info=about))


class PrivateKey:
    """What opens sealed bytes.

    Parameters
    ----------
    pem
        PKCS #8, as ``driftgate quarantine keygen`` writes it.

    Raises
    ------
    ConfigError
        It is no X25519 private key.
    """

    def __init__(self, pem: bytes) -> None:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(pem, None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, X25519PrivateKey):
            raise ConfigError("the private key is no unencrypted X25519 key in PEM (PKCS #8)")
        self._key = key

    @classmethod
    def generate(cls) -> tuple[PrivateKey, bytes]:
        """Return a new key, and its PEM."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        pem = X25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return cls(pem), pem

    @property
    def public(self) -> str:
        """The public key, in base64."""
        return base64.b64encode(self._key.public_key().public_bytes_raw()).decode()

    @property
    def id(self) -> str:
        """What the pair is called."""
        return _key_id(self._key.public_key().public_bytes_raw())

    def open(self, sealed: bytes, about: bytes) -> bytes:
        """Return what was sealed.

        Raises
        ------
        Permanent
            ``not_ours``: another key, or changed bytes, or changed headers.
        """
        from cryptography.exceptions import InvalidTag

        try:
            return bytes(_suite().decrypt(sealed, self._key, info=about))
        except (InvalidTag, ValueError) as error:
            raise Permanent(
                "not_ours", "it was sealed for another key, or it or its headers were changed"
            ) from error


def _suite() -> Any:
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


def _key_id(public: bytes) -> str:
    return hashlib.sha256(public).hexdigest()[:12]
