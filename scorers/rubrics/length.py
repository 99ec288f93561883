"""Does the answer have a sensible length?"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from scorers.api import Score, Scorer, Skipped
from stream.interaction import Interaction
from stream.settings import Settings


class LengthOptions(Settings):
    """Limits in characters."""

    min_chars: Annotated[int, Field(ge=0)] = 1
    """Shortest answer."""

    max_chars: Annotated[int, Field(ge=1)] = 8_000
    """Longest answer."""

    @model_validator(mode="after")
    def _ordered(self) -> LengthOptions:
        if self.min_chars > self.max_chars:
            raise ValueError("min_chars must not be above max_chars")
        return self


class Length(Scorer):
    """1 within the limits, else 0 with the label ``too_short`` or ``too_long``.

    An answer that only calls tools has no length and is skipped.
    """

    name = "length"
    Options = LengthOptions
    options: LengthOptions

    def score(self, interaction: Interaction) -> Score | Skipped:
        """Count characters."""
        if not interaction.output_messages:
            return Skipped("no_content")
        size = len(interaction.output_text.strip())
        if not size:
            if any(part.type != "text" for m in interaction.output_messages for part in m.parts):
                return Skipped("no_text")
            if not interaction.has_content:
                return Skipped("no_content")
        if size < self.options.min_chars:
            return Score(0.0, "too_short", f"{size} characters")
        if size > self.options.max_chars:
            return Score(0.0, "too_long", f"{size} characters")
        return Score(1.0, "in_range", f"{size} characters")
