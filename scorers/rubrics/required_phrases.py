"""Does the answer say what it must?"""

from __future__ import annotations

from scorers.api import Score, Scorer, Skipped
from scorers.phrases import PhraseOptions, Phrases
from stream.interaction import Interaction


class RequiredPhrases(Scorer):
    """The share of the phrases and patterns that occur in the answer, 0 to 1."""

    name = "required_phrases"
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
        found = set(self._phrases.found(text))
        missing = [name for name in self._phrases.names if name not in found]
        value = 1 - len(missing) / len(self._phrases.names)
        if missing:
            return Score(value, "missing", "does not say: " + "; ".join(missing)[:500])
        return Score(1.0, "complete")
