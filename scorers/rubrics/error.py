"""Did the interaction fail?"""

from __future__ import annotations

from scorers.api import Score, Scorer
from stream.interaction import Interaction


class Error(Scorer):
    """1 without an error; 0 when the answering span or the root of the trace failed. The label is the error type."""

    name = "error"

    def score(self, interaction: Interaction) -> Score:
        """Read the status."""
        if interaction.status == "error":
            return Score(0.0, interaction.error_type or "_OTHER")
        return Score(1.0, "ok")
