"""Does the answer say what it must?"""

from __future__ import annotations

from scorers.api import Score
from scorers.phrases import PhraseScorer


class RequiredPhrases(PhraseScorer):
    """The share of the phrases and patterns that occur in the answer, 0 to 1."""

    name = "required_phrases"

    def rated(self, found: list[str], wanted: list[str]) -> Score:
        """See :meth:`scorers.phrases.PhraseScorer.rated`."""
        there = set(found)
        missing = [name for name in wanted if name not in there]
        if missing:
            return Score(
                1 - len(missing) / len(wanted), "missing", "does not say: " + "; ".join(missing)[:500]
            )
        return Score(1.0, "complete")
