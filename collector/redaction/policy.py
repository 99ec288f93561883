"""Which rules are in force, what their version is called, and whether each does what it says."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from collector.redaction import rules as rules_package
from collector.redaction.pseudonym import Pseudonyms
from collector.redaction.rule import Rule
from collector.redaction.validator import validator
from collector.settings import RedactionSettings, RuleSettings
from stream.errors import ConfigError
from stream.records import stable_id

if TYPE_CHECKING:
    from collector.redaction.engine import Engine

# Part of the policy version: raised when the engine itself finds more, or less, with the same rules.
_ENGINE = "4"
_OFFSETS = (0, 1, 7, 15, 31, 63)


def built_in_rules() -> list[Rule]:
    """Return the rules of every file in ``collector/redaction/rules``, in the order of the files' names.

    Raises
    ------
    ConfigError
        A built-in rule has fewer than three examples of either kind.
    """
    found: list[Rule] = []
    for info in sorted(pkgutil.iter_modules(rules_package.__path__), key=lambda item: item.name):
        module = importlib.import_module(f"{rules_package.__name__}.{info.name}")
        found += module.RULES
    for rule in found:
        if len(rule.must_match) < 3 or len(rule.must_not_match) < 3:
            raise ConfigError(f"built-in redaction rule {rule.name} needs three examples of each kind")
    return found


def effective_rules(settings: RedactionSettings, rules: Sequence[Rule] | None = None) -> tuple[Rule, ...]:
    """Return the built-in rules (or ``rules``) and the user's own, without the disabled ones.

    Raises
    ------
    ConfigError
        ``disable`` names an unknown entity, or a validator does not exist.
    """
    found = [*(built_in_rules() if rules is None else rules), *(_user_rule(rule) for rule in settings.rules)]
    names = {rule.name for rule in found}
    if unknown := set(settings.disable) - names:
        raise ConfigError(
            f"redaction.disable names {sorted(unknown)}, which no rule finds; known are {sorted(names)}"
        )
    return tuple(rule for rule in found if rule.name not in settings.disable)


def _user_rule(settings: RuleSettings) -> Rule:
    return Rule(
        name=settings.name,
        gate="",  # derived from the pattern
        pattern=settings.pattern,
        check=validator(settings.validator, settings.name) if settings.validator else None,
        context=settings.context,
        must_match=settings.must_match,
        must_not_match=settings.must_not_match,
    )


def policy_versions(settings: RedactionSettings, rules: Sequence[Rule]) -> dict[str, str]:
    """Return for each tenant with a policy of its own, and for all others under ``""``, the policy's version.

    A version is 12 hex digits that change whenever the same data could be redacted differently.
    """
    parts = [
        _ENGINE,
        settings.model_dump_json(exclude={"rules", "tenants", "max_scan_time", "residual_share", "ner"}),
    ]
    if settings.pseudonym is not None:
        parts.append(Pseudonyms(settings.pseudonym).fingerprint)
    validators = {rule.name: rule.validator or "" for rule in settings.rules}
    for rule in rules:
        check = getattr(rule.check, "__qualname__", "")
        parts += (rule.name, rule.gate, rule.pattern, check, validators.get(rule.name, ""), *rule.context)
        parts += (str(rule.announced), rule.keys)
    versions = {"": stable_id(*parts)[:12]}
    for name, own in settings.tenants.items():
        key = Pseudonyms(own.pseudonym).fingerprint if own.pseudonym is not None else ""
        versions[name] = stable_id(*parts, own.model_dump_json(), key)[:12]
    return versions


def self_test(engine: Engine, rules: Sequence[Rule]) -> None:
    """Try every rule's examples: those of users behind text of many lengths and inside JSON, the built-in ones cut off.

    The tests try the built-in ones in every form; at each start that would take a second.

    Raises
    ------
    ConfigError
        A rule misses what it must match, or matches what it must not; the message names rule and example.
    """
    names: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    known = {example for rule in built_in_rules() for example in rule.must_match}
    for rule in rules:
        must, must_not = names.setdefault(rule.name, ({}, {}))
        must.update(dict.fromkeys(rule.must_match))
        must_not.update(dict.fromkeys(rule.must_not_match))
    for name, (must, must_not) in names.items():
        for wanted, examples in ((True, must), (False, must_not)):
            for number, example in enumerate(examples, 1):
                for form in forms(example, known_good=example in known) if wanted else (example,):
                    if (name in engine.entities_in(form)) != wanted:
                        # The example itself is not shown: a user's may be real.
                        raise ConfigError(
                            f"redaction rule {name} {'misses' if wanted else 'wrongly matches'} example {number} of "
                            f"{'must_match' if wanted else 'must_not_match'}"
                        )


def forms(example: str, *, known_good: bool = False) -> list[str]:
    """Return the texts in which an example is tried: with ``known_good`` only the hardest."""
    inside = example.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    # It can only be read as text with escapes.
    cut_off = f'[{{"content":"a\\n{inside}\\n", "role'
    if known_good:
        return [cut_off]
    made = ["." * offset + " " + example for offset in _OFFSETS]
    made += (example, example + "\n", f"\n{example}\n")
    made += (f'{{"content":"a\\n{inside}\\n"}}', cut_off)
    return made
