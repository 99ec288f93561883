"""Keep costly traces."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field

from scorers.sampling.ballot import NO, YES, Ballot, Vote
from scorers.sampling.policy import Policy
from scorers.sampling.trace import Trace


class Cost(Policy):
    """Matches a trace whose model calls cost much: the sum over its spans of the first attribute that a span has."""

    name: ClassVar[str] = "cost"

    type: Literal["cost"] = "cost"
    at_least: float = Field(gt=0)
    """Lowest cost that matches, in the unit of the attributes (US dollars by convention)."""
    attributes: tuple[str, ...] = Field(
        default=("llm.cost.total", "gen_ai.usage.cost", "gen_ai.usage.total_cost", "gen_ai.cost.total_cost"),
        min_length=1,
        max_length=20,
    )
    """Span attributes that carry the cost of a call; of each span the first one present counts."""

    def vote(self, trace: Trace, ballot: Ballot) -> Vote:
        """See :meth:`Policy.vote`."""
        del ballot
        total = 0.0
        for held in trace.values(self.attributes):
            for key in self.attributes:
                value = held.get(key)
                if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                    total += max(0.0, value)
                    break
        return YES if total >= self.at_least else NO
