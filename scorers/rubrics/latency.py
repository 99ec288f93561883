"""Was the answer there in time?"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from scorers.api import Score, Scorer, Skipped
from stream.interaction import Interaction
from stream.settings import Seconds, Settings


class LatencyOptions(Settings):
    """Limits."""

    limit: Annotated[Seconds, Field(gt=0)] = 10.0
    """Longest duration: of the root span for a trace, of the span itself for a span."""

    first_chunk_limit: Annotated[Seconds, Field(gt=0)] | None = None
    """Longest wait for the first chunk of a streamed answer, where it is reported."""


class Latency(Scorer):
    """1 within the limits, 0 over one of them. Skipped without usable times."""

    name = "latency"
    Options = LatencyOptions
    options: LatencyOptions

    def score(self, interaction: Interaction) -> Score | Skipped:
        """Compare with the limits."""
        if interaction.latency_s is None:
            return Skipped("no_latency")
        if interaction.latency_s > self.options.limit:
            return Score(0.0, "slow", f"{interaction.latency_s:.3f} s")
        first, limit = interaction.time_to_first_chunk, self.options.first_chunk_limit
        if first is not None and limit is not None and first > limit:
            return Score(0.0, "slow_first_chunk", f"{first:.3f} s to the first chunk")
        return Score(1.0, "in_time", f"{interaction.latency_s:.3f} s")
