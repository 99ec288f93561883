"""Did the interaction stay within its price?"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from scorers.api import Score, Scorer, Skipped
from stream.interaction import Interaction
from stream.settings import Settings


class CostOptions(Settings):
    """Limit, and prices for spans that report tokens but no cost."""

    limit_usd: Annotated[float, Field(gt=0)] = 0.05
    """Highest cost of one interaction."""

    input_usd_per_million: Annotated[float, Field(ge=0)] | None = None
    """Price of a million input tokens."""

    output_usd_per_million: Annotated[float, Field(ge=0)] | None = None
    """Price of a million output tokens."""


class Cost(Scorer):
    """1 within the limit, 0 over it. The reported cost counts; without one, tokens times the given prices."""

    name = "cost"
    Options = CostOptions
    options: CostOptions

    def score(self, interaction: Interaction) -> Score | Skipped:
        """Compare with the limit."""
        cost = interaction.cost_usd
        if cost is None:
            cost = self._priced(interaction)
        if cost is None:
            return Skipped("no_cost")
        within = cost <= self.options.limit_usd
        return Score(within, "within" if within else "over", f"{cost:.6f} USD")

    def _priced(self, interaction: Interaction) -> float | None:
        into, out = self.options.input_usd_per_million, self.options.output_usd_per_million
        if into is None or out is None or not interaction.usage:
            return None
        usage = interaction.usage
        return ((usage.input_tokens or 0) * into + (usage.output_tokens or 0) * out) / 1e6
