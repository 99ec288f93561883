"""JSON Schema checks that are safe with schemas a stranger wrote.

Tool schemas arrive in spans. So a ``$ref`` is never fetched, a ``pattern`` runs on RE2 (linear time), references are
counted (a few of them can multiply without end), so are the steps of a check (an ``enum`` of thousands, asked of every
one of thousands of items, would take hours), ``uniqueItems`` is linear, and schema and instance have size limits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from stream.conventions.values import dumps

MAX_SCHEMA = 200_000  # characters
MAX_INSTANCE = 1_000_000
MAX_REFERENCES = 10_000  # followed during one check
MAX_STEPS = 200_000  # of one check: keywords applied, each as large as its value
MAX_SCHEMAS = 256


class SchemaUnusable(ValueError):  # noqa: N818 - named for what it says
    """The schema is no valid JSON Schema, too large, or uses what cannot be checked safely."""


class InstanceTooLarge(ValueError):  # noqa: N818 - named for what it says
    """The instance is over the size limit."""


class Schema:
    """A compiled schema.

    Raises
    ------
    SchemaUnusable
        See there.
    """

    def __init__(self, schema: Any) -> None:
        from jsonschema import Draft202012Validator
        from jsonschema.validators import extend, validator_for
        from referencing.jsonschema import SchemaRegistry

        text = dumps(schema)
        if len(text) > MAX_SCHEMA:
            raise SchemaUnusable(f"the schema has more than {MAX_SCHEMA:,} characters")
        if '"patternProperties"' in text:
            raise SchemaUnusable(
                "patternProperties is not supported: its patterns cannot be run in linear time"
            )
        self._followed = self._steps = 0
        self._limit = MAX_STEPS
        made: Any = extend
        dialect = validator_for(schema, default=Draft202012Validator)
        try:
            meta = validator_for(dialect.META_SCHEMA, default=dialect)
            linear = made(meta, {"uniqueItems": _unique})
            checking = linear(dialect.META_SCHEMA, format_checker=meta.FORMAT_CHECKER)
            valid = checking.is_valid(schema)
        except RecursionError as error:
            raise SchemaUnusable("not a valid JSON Schema") from error
        if not valid:
            raise SchemaUnusable("not a valid JSON Schema")
        checks = {**dialect.VALIDATORS, "pattern": _pattern, "uniqueItems": _unique}
        for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
            if keyword in dialect.VALIDATORS:
                checks[keyword] = self._counted(dialect.VALIDATORS[keyword])
        changed = {keyword: self._stepping(keyword, check) for keyword, check in checks.items()}
        registry: SchemaRegistry = _empty_registry()
        self._validator = made(dialect, changed)(schema, registry=registry)

    def _stepping(self, keyword: str, check: Callable[..., Any]) -> Callable[..., Any]:
        def stepping(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
            self._step(1 + _size(value) + (len(instance) // 1_000 if isinstance(instance, str) else 0))
            if keyword.startswith("unevaluated") and isinstance(instance, list | dict):
                self._step(
                    len(instance) ** 2 // 500
                )  # each is looked for in a list of those that were seen to
            for error in check(validator, value, instance, schema) or ():
                # Every message repeats the instance, and errors of alternatives are all kept.
                self._step(len(error.message) // 100)
                error.message = ""
                yield error

        return stepping

    def _step(self, by: int) -> None:
        self._steps += by
        if self._steps > self._limit:
            raise SchemaUnusable("the check takes too many steps")

    def _counted(self, follow: Callable[..., Any]) -> Callable[..., Any]:
        def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
            self._followed += 1
            if self._followed > MAX_REFERENCES:
                raise SchemaUnusable("its references multiply without end")
            yield from follow(validator, value, instance, schema) or ()

        return counted

    @property
    def steps(self) -> int:
        """How many steps the last check took."""
        return self._steps

    def problem(self, instance: Any, limit: int = MAX_STEPS) -> str:
        """Return where and how ``instance`` breaks the schema ("$.city: required"), without its data; "" if it does not.

        ``limit`` is the number of steps that the check may take.

        Raises
        ------
        SchemaUnusable
            A reference cannot be resolved or never ends, a pattern is not RE2, or the check takes too many steps.
        InstanceTooLarge
            See there.
        """
        from jsonschema.exceptions import best_match
        from referencing.exceptions import Unresolvable

        self._followed = self._steps = 0
        self._limit = limit
        if len(dumps(instance)) > MAX_INSTANCE:
            raise InstanceTooLarge(f"more than {MAX_INSTANCE:,} characters")
        try:
            error = best_match(self._validator.iter_errors(instance))
        except Unresolvable as problem:
            raise SchemaUnusable("it refers to a schema that is not part of it") from problem
        except RecursionError as problem:
            raise SchemaUnusable("its references never end") from problem
        return "" if error is None else f"{error.json_path[:200]}: {error.validator}"


def _empty_registry() -> Any:
    from referencing import Registry

    return Registry()  # without a retrieve function: nothing is ever fetched


def _pattern(validator: Any, pattern: Any, instance: Any, schema: Any) -> Iterator[Any]:
    import re2
    from jsonschema.exceptions import ValidationError

    if not isinstance(instance, str):
        return
    try:
        found = re2.search(pattern, instance)
    except re2.error as error:
        raise SchemaUnusable("a pattern is not supported by RE2") from error
    if not found:
        yield ValidationError("does not match the pattern")


def _size(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(len(below) for below in value.values() if isinstance(below, list))
    return len(value) if isinstance(value, list) else 0


def _unique(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema.exceptions import ValidationError

    if (
        wanted is True
        and isinstance(instance, list)
        and len({_frozen(one) for one in instance}) < len(instance)
    ):
        yield ValidationError("has equal items")


def _frozen(value: Any) -> Hashable:
    """Return what is equal for JSON values that are equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, list):
        return "list", tuple(_frozen(one) for one in value)
    if isinstance(value, dict):
        return "dict", frozenset((key, _frozen(one)) for key, one in value.items())
    return (value,) if isinstance(value, bool) else value


class SchemaCache:
    """Compiled schemas by their text, the 256 used last; unusable ones are remembered too."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Schema | SchemaUnusable] = OrderedDict()

    def get(self, schema: Any) -> Schema:
        """Return the compiled schema, or raise :class:`SchemaUnusable`."""
        key = dumps(schema)
        found = self._known.get(key)
        if found is None:
            try:
                found = Schema(schema)
            except SchemaUnusable as error:
                found = error
            self._known[key] = found
            if len(self._known) > MAX_SCHEMAS:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        if isinstance(found, SchemaUnusable):
            raise found
        return found
