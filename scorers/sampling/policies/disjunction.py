"""Keep traces that any of several policies keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from scorers.sampling.ballot import Ballot, Vote
from scorers.sampling.policies.nested import Nested
from scorers.sampling.trace import Trace

if TYPE_CHECKING:
    from scorers.sampling.settings import AnyPolicy


class Or(Nested):
    """Keeps a trace when an inner policy does, with probability 1 - prod(1 - p). Rate limits are asked last."""

    name: ClassVar[str] = "or"

    type: Literal["or"] = "or"
    policies: tuple[AnyPolicy, ...] = Field(min_length=1, max_length=50)
    """The inner policies."""

    def vote(self, trace: Trace, ballot: Ballot) -> Vote:
        """See :meth:`Policy.vote`."""
        keep, missed, unknown = False, 1.0, False
        for index, policy in self.cheap_first():
            vote = policy.vote(trace, ballot.inner(index, not keep))
            keep = keep or vote.keep
            if vote.probability is None:
                unknown = True
            else:
                missed *= 1.0 - vote.probability
                if missed == 0.0:
                    break
        return Vote(keep, None if unknown and missed > 0.0 else 1.0 - missed)
