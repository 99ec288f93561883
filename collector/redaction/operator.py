"""What a find is replaced by: a tag, a mask, nothing, or a keyed pseudonym."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from collector.redaction.rule import Rule
from collector.settings import RedactionSettings
from stream.errors import ConfigError

_SHORTEST_KEY = 32
# Pseudonyms are written in letters, so that no rule can take a part of one for a number.
_LETTERS = str.maketrans("0123456789", "ghijklmnop")


class Operators:
    """The operator of each rule.

    Raises
    ------
    ConfigError
        ``operators`` names an entity that has no rule, or the key for pseudonyms is missing or too short.
    """

    def __init__(self, settings: RedactionSettings, rules: Sequence[Rule]) -> None:
        known = {rule.name for rule in rules}
        if unknown := set(settings.operators) - known:
            raise ConfigError(
                f"redaction.operators names {sorted(unknown)}, which no rule finds; known are {sorted(known)}"
            )
        self._rules = rules
        self._operators = [settings.operators.get(rule.name, settings.default_operator) for rule in rules]
        # An operator given for an entity by name is meant for ids too.
        self._by_name = [rule.name in settings.operators for rule in rules]
        self._joinable: frozenset[str] = frozenset()
        self._key_id = ""
        self._key = b""
        if settings.pseudonym is not None:
            key = settings.pseudonym.key.reveal().encode()
            if len(key) < _SHORTEST_KEY:
                raise ConfigError(
                    f"redaction.pseudonym.key has {len(key)} characters; at least {_SHORTEST_KEY} are needed "
                    "(for example: openssl rand -hex 32)"
                )
            self._key = hashlib.blake2b(key, digest_size=32).digest()
            self._key_id = settings.pseudonym.key_id
            self._joinable = frozenset(settings.pseudonym.attributes)

    def replacement(self, rule: int, found: bytes, hint: str, tenant: str) -> bytes:
        """Return what stands in place of ``found``."""
        operator = self._operators[rule]
        if hint in self._joinable and not self._by_name[rule]:
            operator = "pseudonym"
        if operator == "tag":
            return b"[%b]" % self._rules[rule].name.encode()
        if operator == "mask":
            keep = self._rules[rule].keep_last
            return b"****" + (found[-keep:] if keep and len(found) > 2 * keep else b"")
        if operator == "drop":
            return b""
        return self._pseudonym(rule, found.decode("utf-8", "replace"), tenant).encode()

    def _pseudonym(self, rule: int, found: str, tenant: str) -> str:
        entity = self._rules[rule].name.lower()
        canonical = self._rules[rule].canonical
        text = canonical(found) if canonical is not None else found
        message = b"\0".join((tenant.encode(), entity.encode(), text.encode()))
        digest = hashlib.blake2b(message, key=self._key, digest_size=16).hexdigest()
        return f"pii:{entity}:{self._key_id}:{digest.translate(_LETTERS)}"
