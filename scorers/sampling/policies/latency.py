"""Keep slow traces."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from scorers.sampling.ballot import NO, YES, Ballot, Vote
from scorers.sampling.policy import Policy
from scorers.sampling.trace import Trace
from stream.settings import Seconds


class Latency(Policy):
    """Matches a trace that took long, from its earliest start to its latest end. Decodes no attributes.

    Spans that end before they start, or start at 0, do not count.
    """

    name: ClassVar[str] = "latency"

    type: Literal["latency"] = "latency"
    at_least: Seconds = Field(gt=0)
    """Shortest duration that matches."""

    def vote(self, trace: Trace, ballot: Ballot) -> Vote:
        """See :meth:`Policy.vote`."""
        del ballot
        return YES if trace.duration_ns >= self.at_least * 1e9 else NO
