"""Does the answer say what it must not?"""

from __future__ import annotations

from scorers.api import Score, Scorer, Skipped
from scorers.phrases import PhraseOptions, Phrases
from stream.interaction import Interaction


class BannedPhrases(Scorer):
    """1 when none of the phrases and patterns occurs in the answer, 0 when any does."""

    name = "banned_phrases"
    Options = PhraseOptions
    options: PhraseOptions

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self._phrases = Phrases(self.options)

    def score(self, interaction: Interaction) -> Score | Skipped:
        """Search."""
        text = interaction.output_text
        if not text:
            return Skipped("no_content")
        found = self._phrases.found(text)
        if found:
            return Score(0.0, "banned", "says: " + "; ".join(found)[:500])
        return Score(1.0, "clean")
