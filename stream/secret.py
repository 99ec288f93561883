"""Secrets by reference: ``${env:NAME}`` or ``file:/path``. The value itself never stands in a configuration file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from stream.errors import ConfigError

_ENV = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")


class Secret:
    """A reference to a secret; a pydantic field type. Its text form is the reference, never the value."""

    __slots__ = ("reference",)

    def __init__(self, reference: str) -> None:
        if not _ENV.fullmatch(reference) and not reference.startswith("file:/"):
            raise ValueError("a secret is given by reference: ${env:NAME} or file:/absolute/path")
        self.reference = reference

    def reveal(self) -> str:
        """Return the secret itself.

        Raises
        ------
        ConfigError
            The variable is not set, or the file cannot be read or is empty.
        """
        if match := _ENV.fullmatch(self.reference):
            value = os.environ.get(match[1], "")
            if not value:
                raise ConfigError(
                    f"environment variable {match[1]} is not set; it is named by {self.reference}"
                )
            return value
        path = Path(self.reference.removeprefix("file:"))
        try:
            value = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the secret file {path}: {error.__class__.__name__}") from error
        if not value:
            raise ConfigError(f"the secret file {path} is empty")
        return value

    def __repr__(self) -> str:
        return f"Secret({self.reference!r})"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.reference == self.reference

    def __hash__(self) -> int:
        return hash(self.reference)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from_text = core_schema.no_info_after_validator_function(cls, core_schema.str_schema())
        return core_schema.json_or_python_schema(
            json_schema=from_text,
            python_schema=core_schema.union_schema([core_schema.is_instance_schema(cls), from_text]),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda secret: secret.reference),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {
            "type": "string",
            "pattern": r"^(\$\{env:[A-Za-z_][A-Za-z0-9_]*\}|file:/.+)$",
            "description": "A reference to a secret: ${env:NAME} or file:/absolute/path.",
        }
