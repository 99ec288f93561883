"""Does the answer say what it must not?"""

from __future__ import annotations

from scorers.api import Score
from scorers.phrases import PhraseScorer


class BannedPhrases(PhraseScorer):
    """1 when none of the phrases and patterns occurs in the answer, 0 when any does."""

    name = "banned_phrases"

    def rated(self, found: list[str], wanted: list[str]) -> Score:
        """See :meth:`scorers.phrases.PhraseScorer.rated`."""
        if found:
            return Score(0.0, "banned", "says: " + "; ".join(found)[:500])
        return Score(1.0, "clean")
