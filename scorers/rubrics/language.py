"""Does the answer come in the right language?"""

from __future__ import annotations

from pydantic import Field, field_validator

from scorers.api import Score, Scorer, Skipped
from scorers.languages import LANGUAGES, detect
from stream.interaction import Interaction
from stream.settings import Settings


class LanguageOptions(Settings):
    """Which languages are right."""

    expected: list[str] = Field(default=[], max_length=50)
    """ISO 639-1 codes of the languages an answer may have; empty means the language of the question."""

    @field_validator("expected")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        unknown = sorted(set(value) - LANGUAGES)
        if unknown:
            raise ValueError(
                f"cannot recognise {', '.join(unknown)}; known are {', '.join(sorted(LANGUAGES))}"
            )
        return value


class Language(Scorer):
    """1 when the answer is in an expected language, or in that of the question; else 0. The label is what was found.

    Skipped where the text is too short or mixed to tell.
    """

    name = "language"
    Options = LanguageOptions
    options: LanguageOptions

    def score(self, interaction: Interaction) -> Score | Skipped:
        """Recognise and compare."""
        if not interaction.output_text:
            return Skipped("no_content")
        found = detect(interaction.output_text)
        if not found:
            return Skipped("undetermined")
        expected = self.options.expected
        if not expected:
            asked = detect(interaction.input_text)
            if not asked:
                return Skipped("question_undetermined")
            expected = [asked]
        return Score(found in expected, found, "" if found in expected else f"expected {', '.join(expected)}")
