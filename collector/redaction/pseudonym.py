"""Keyed pseudonyms, and what a text was called under the keys of before."""

from __future__ import annotations

import hashlib

from collector.redaction.rule import Rule
from collector.settings import PseudonymSettings
from stream.errors import ConfigError
from stream.secret import Secret

_SHORTEST_KEY = 32
# Pseudonyms are written in letters, so that no rule can take a part of one for a number.
_LETTERS = str.maketrans("0123456789", "ghijklmnop")


class Pseudonyms:
    """Makes ``pii:<entity>:<key id>:<letters>``; BLAKE2b, keyed, 128 bits.

    Raises
    ------
    ConfigError
        A key is missing or too short, or two key ids stand for one key.
    """

    def __init__(self, settings: PseudonymSettings) -> None:
        self.attributes = frozenset(settings.attributes)
        self._keys = {settings.key_id: _digest(settings.key, "redaction.pseudonym.key")}
        for old in settings.previous:
            key = _digest(old.key, f"redaction.pseudonym.previous key {old.key_id}")
            if key in self._keys.values():
                raise ConfigError(
                    f"redaction.pseudonym.previous: key {old.key_id} is the same as another; a new key_id needs a new key"
                )
            self._keys[old.key_id] = key
        self._key_id = settings.key_id

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The key in use, then those of before."""
        return tuple(self._keys)

    @property
    def fingerprint(self) -> str:
        """Eight hex digits that differ from key to key and say nothing about it."""
        return hashlib.blake2b(b"fingerprint", key=self._keys[self._key_id], digest_size=4).hexdigest()

    def of(self, rule: Rule, found: str, tenant: str, key_id: str = "") -> str:
        """Return the pseudonym of ``found`` within ``tenant``, under the key in use or the one called ``key_id``."""
        key_id = key_id or self._key_id
        entity = rule.name.lower()
        text = rule.canonical(found) if rule.canonical is not None else found
        message = b"\0".join((tenant.encode(), entity.encode(), text.encode()))
        digest = hashlib.blake2b(message, key=self._keys[key_id], digest_size=16).hexdigest()
        return f"pii:{entity}:{key_id}:{digest.translate(_LETTERS)}"


def _digest(secret: Secret, where: str) -> bytes:
    key = secret.reveal().encode()
    if len(key) < _SHORTEST_KEY:
        raise ConfigError(
            f"{where} has {len(key)} characters; at least {_SHORTEST_KEY} are needed "
            "(for example: openssl rand -hex 32)"
        )
    return hashlib.blake2b(key, digest_size=32).digest()
