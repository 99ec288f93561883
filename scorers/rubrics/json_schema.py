"""Is the answer the JSON it should be?"""

from __future__ import annotations

from typing import Any

import orjson
from pydantic import model_validator

from scorers.api import Failed, Score, Scorer, Skipped
from scorers.schema import MAX_INSTANCE, InstanceTooLarge, Schema, SchemaUnusable
from stream.interaction import Interaction
from stream.settings import Settings


class JsonSchemaOptions(Settings):
    """What is asked of the answer."""

    json_schema: dict[str, Any] | None = None
    """JSON Schema of the answer; without one, any JSON will do, and only answers asked for as JSON are scored."""

    allow_fence: bool = False
    """Accept JSON inside a Markdown code fence."""

    @model_validator(mode="after")
    def _usable(self) -> JsonSchemaOptions:
        if self.json_schema is not None:
            Schema(self.json_schema)
        return self


class JsonSchema(Scorer):
    """1 when the whole answer is JSON that satisfies the schema; else 0, labelled ``not_json`` or ``invalid``."""

    name = "json_schema"
    Options = JsonSchemaOptions
    options: JsonSchemaOptions

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self._schema = None if self.options.json_schema is None else Schema(self.options.json_schema)

    def score(self, interaction: Interaction) -> Score | Skipped | Failed:
        """Parse and check."""
        if self._schema is None and interaction.output_type != "json":
            return Skipped("json_not_expected")
        text = interaction.output_text.strip()
        if not text:
            return Skipped("no_content")
        if len(text) > MAX_INSTANCE:
            return Skipped("too_large")
        if self.options.allow_fence:
            text = _unfenced(text)
        try:
            instance = orjson.loads(text)
        except orjson.JSONDecodeError:
            return Score(0.0, "not_json")
        if self._schema is None:
            return Score(1.0, "valid")
        try:
            problem = self._schema.problem(instance)
        except InstanceTooLarge:
            return Skipped("too_large")
        except SchemaUnusable as error:
            return Failed("schema_unusable", str(error))
        return Score(0.0, "invalid", problem) if problem else Score(1.0, "valid")


def _unfenced(text: str) -> str:
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        return text[text.index("\n") + 1 : -3].strip()
    return text
