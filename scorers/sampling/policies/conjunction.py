"""Keep traces that all of several policies keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from scorers.sampling.ballot import NO, Ballot, Vote
from scorers.sampling.policies.nested import Nested
from scorers.sampling.trace import Trace

if TYPE_CHECKING:
    from scorers.sampling.settings import AnyPolicy


class And(Nested):
    """Keeps a trace when every inner policy does; the probabilities multiply. Rate limits are asked last."""

    name: ClassVar[str] = "and"

    type: Literal["and"] = "and"
    policies: tuple[AnyPolicy, ...] = Field(min_length=1, max_length=50)
    """The inner policies."""

    def vote(self, trace: Trace, ballot: Ballot) -> Vote:
        """See :meth:`Policy.vote`."""
        keep, probability, unknown = True, 1.0, False
        for index, policy in self.cheap_first():
            vote = policy.vote(trace, ballot.inner(index, keep))
            keep = keep and vote.keep
            if vote.probability is None:
                unknown = True
            else:
                probability *= vote.probability
                if probability == 0.0:
                    return NO
        return Vote(keep, None if unknown else probability)
