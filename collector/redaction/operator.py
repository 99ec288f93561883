"""What a find is replaced by: a tag, a mask, nothing, or a keyed pseudonym; or whether it stays.

Which of them depends on the entity, the tenant and the place. :class:`Operators` knows the whole policy, a
:class:`Treatment` what of it holds for one text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import translate

import msgspec

from collector.redaction.pseudonym import Pseudonyms
from collector.redaction.rule import Rule
from collector.redaction.view import undone
from collector.settings import Operator, PathSettings, RedactionSettings, TenantRedactionSettings
from stream.errors import ConfigError

# Places repeat from span to span; what holds for them is remembered, but for long ones: whoever sends decides about keys.
_MOST_KNOWN_PLACES = 4096
_LONGEST_KNOWN_PLACE = 256
_OWNERS = ("span.", "event.", "link.", "scope.", "resource.", "log.", "*", "?", "[")


class Treatment(msgspec.Struct, frozen=True):
    """What happens to finds in one text.

    ``operators`` has one operator per rule. ``firm`` says of each whether it was chosen for the entity by its name or for
    the place; one that was not gives way to pseudonyms in the attributes that carry ids.
    """

    rules: Sequence[Rule]
    operators: tuple[Operator, ...]
    firm: tuple[bool, ...]
    allow: frozenset[bytes]
    pseudonyms: Pseudonyms | None
    tenant: str

    def keeps(self, rule: int, found: bytes) -> bool:
        """Whether ``found`` stays where it is."""
        return self.operators[rule] == "keep" or found in self.allow

    def replacement(self, rule: int, found: bytes, hint: str) -> bytes:
        """Return what stands in place of ``found``, which is the value of the attribute or JSON key ``hint``."""
        operator = self.operators[rule]
        made = self.pseudonyms
        if operator == "pseudonym" or (made is not None and not self.firm[rule] and hint in made.attributes):
            assert made is not None  # the settings refuse the operator without a key
            return made.of(self.rules[rule], _read(found), self.tenant).encode()
        if operator == "mask":
            return b"****" + self._last_of(self.rules[rule], found)
        if operator == "drop":
            return b""
        return b"[%b]" % self.rules[rule].name.encode()

    def _last_of(self, rule: Rule, found: bytes) -> bytes:
        """Return the last characters of ``found`` as a reader sees them, if ``rule`` leaves some."""
        if not rule.keep_last:
            return b""
        text = _read(found) if rule.canonical is None else rule.canonical(_read(found))
        return text[-rule.keep_last :].encode() if len(text) > 2 * rule.keep_last else b""


def _read(found: bytes) -> str:
    return undone(found).decode("utf-8", "replace")


def tagging(rules: Sequence[Rule]) -> Treatment:
    """Return the treatment that keeps nothing and tags everything: what the examples of rules are tried with."""
    count = len(rules)
    tag: Operator = "tag"
    return Treatment(rules, (tag,) * count, (True,) * count, frozenset(), None, "")


class Operators:
    """The policy: per tenant and place the operator of each rule.

    The most specific that says something decides: a path before a tenant before the general settings, in each of them the
    entity's own operator before that for all entities.

    Raises
    ------
    ConfigError
        An entity is named that has no rule, or a key for pseudonyms is missing or too short.
    """

    def __init__(self, settings: RedactionSettings, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._settings = settings
        self._check_names()
        self._default = _Tenant(settings, None)
        self._tenants = {name: _Tenant(settings, own) for name, own in settings.tenants.items()}
        self._known: dict[tuple[str, str], Treatment] = {}

    def _check_names(self) -> None:
        known = {rule.name for rule in self._rules}
        for where, names in _named(self._settings):
            if unknown := set(names) - known:
                raise ConfigError(
                    f"redaction.{where} names {sorted(unknown)}, which no rule finds; known are {sorted(known)}"
                )

    def paths(self, tenant: str) -> bool:
        """Whether places matter for ``tenant``; if not, none needs to be told."""
        return bool(self._tenants.get(tenant, self._default).paths)

    def of(self, tenant: str, path: str = "") -> Treatment:
        """Return what holds for a text of ``tenant`` at ``path`` (empty: nowhere in particular)."""
        policy = self._tenants.get(tenant, self._default)
        if not policy.paths:
            path = ""
        if (known := self._known.get((tenant, path))) is not None:
            return known
        made = policy.treatment(self._rules, tenant, path)
        if len(path) > _LONGEST_KNOWN_PLACE:
            return made
        if len(self._known) >= _MOST_KNOWN_PLACES:
            self._known = {}
        self._known[tenant, path] = made
        return made


class _Layer(msgspec.Struct, frozen=True):
    operators: Mapping[str, Operator]
    default: Operator | None
    firm: bool


class _Tenant:
    """The policy of one tenant."""

    def __init__(self, settings: RedactionSettings, own: TenantRedactionSettings | None) -> None:
        self._layers = [_Layer(settings.operators, settings.default_operator, False)]
        if own is not None:
            self._layers.insert(0, _Layer(own.operators, own.default_operator, False))
        paths = (*(own.paths if own else ()), *settings.paths)
        self.paths = [(path_pattern(item.path), item) for item in paths if not item.remove]
        self._allow = frozenset(text.encode() for text in (*settings.allow, *(own.allow if own else ())))
        pseudonym = (own.pseudonym if own else None) or settings.pseudonym
        self._pseudonyms = Pseudonyms(pseudonym) if pseudonym else None

    def treatment(self, rules: Sequence[Rule], tenant: str, path: str) -> Treatment:
        layers, allow = self._layers, self._allow
        if path and (item := self._at(path)) is not None:
            layers = [_Layer(item.operators, item.operator, True), *layers]
            allow |= {text.encode() for text in item.allow}
        chosen = [_choose(layers, rule.name) for rule in rules]
        return Treatment(
            rules,
            tuple(operator for operator, _ in chosen),
            tuple(firm for _, firm in chosen),
            allow,
            self._pseudonyms,
            tenant,
        )

    def _at(self, path: str) -> PathSettings | None:
        return next((item for pattern, item in self.paths if pattern.fullmatch(path)), None)


def _choose(layers: Sequence[_Layer], entity: str) -> tuple[Operator, bool]:
    for layer in layers:
        if (named := layer.operators.get(entity)) is not None:
            return named, True
        if layer.default is not None:
            return layer.default, layer.firm
    raise AssertionError("the general settings have a default")


def path_pattern(path: str) -> re.Pattern[str]:
    """Return the pattern of places that ``path`` stands for; without an owner it stands for all owners."""
    return re.compile(translate(path if path.startswith(_OWNERS) else f"*.{path}"))


def _named(settings: RedactionSettings) -> list[tuple[str, Mapping[str, Operator]]]:
    found: list[tuple[str, Mapping[str, Operator]]] = [("operators", settings.operators)]
    found += [(f"paths[{item.path}].operators", item.operators) for item in settings.paths]
    for name, own in settings.tenants.items():
        found.append((f"tenants.{name}.operators", own.operators))
        found += [(f"tenants.{name}.paths[{item.path}].operators", item.operators) for item in own.paths]
    return found
