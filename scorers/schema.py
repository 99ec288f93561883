"""JSON Schema checks that are safe with schemas a stranger wrote.

Tool schemas arrive in spans. So a ``$ref`` is never fetched, a ``pattern`` runs on RE2 (linear time), references are
counted (a few of them can multiply without end), and schema and instance have size limits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from stream.conventions.values import dumps

MAX_SCHEMA = 200_000  # characters
MAX_INSTANCE = 1_000_000
MAX_REFERENCES = 10_000  # followed during one check
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
        from jsonschema.exceptions import SchemaError
        from jsonschema.validators import extend, validator_for
        from referencing.jsonschema import SchemaRegistry

        text = dumps(schema)
        if len(text) > MAX_SCHEMA:
            raise SchemaUnusable(f"the schema has more than {MAX_SCHEMA:,} characters")
        if '"patternProperties"' in text:
            raise SchemaUnusable(
                "patternProperties is not supported: its patterns cannot be run in linear time"
            )
        self._followed = 0
        dialect = validator_for(schema, default=Draft202012Validator)
        try:
            dialect.check_schema(schema)
        except (SchemaError, RecursionError) as error:
            raise SchemaUnusable("not a valid JSON Schema") from error
        changed: dict[str, Any] = {"pattern": _pattern}
        for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
            if keyword in dialect.VALIDATORS:
                changed[keyword] = self._counted(dialect.VALIDATORS[keyword])
        registry: SchemaRegistry = _empty_registry()
        made: Any = extend
        self._validator = made(dialect, changed)(schema, registry=registry)

    def _counted(self, follow: Callable[..., Any]) -> Callable[..., Any]:
        def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
            self._followed += 1
            if self._followed > MAX_REFERENCES:
                raise SchemaUnusable("its references multiply without end")
            yield from follow(validator, value, instance, schema) or ()

        return counted

    def problem(self, instance: Any) -> str:
        """Return where and how ``instance`` breaks the schema ("$.city: required"), without its data; "" if it does not.

        Raises
        ------
        SchemaUnusable
            A reference cannot be resolved or never ends, or a pattern is not RE2.
        InstanceTooLarge
            See there.
        """
        from jsonschema.exceptions import best_match
        from referencing.exceptions import Unresolvable

        if len(dumps(instance)) > MAX_INSTANCE:
            raise InstanceTooLarge(f"more than {MAX_INSTANCE:,} characters")
        self._followed = 0
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
