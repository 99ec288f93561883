"""Keep traces that a policy does not keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from scorers.sampling.ballot import Ballot, Vote
from scorers.sampling.policy import Policy
from scorers.sampling.trace import Trace

if TYPE_CHECKING:
    from scorers.sampling.settings import AnyPolicy


class Not(Policy):
    """Keeps a trace when the inner policy does not."""

    name: ClassVar[str] = "not"

    type: Literal["not"] = "not"
    policy: AnyPolicy
    """The inner policy."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.policy.limited or self.policy.veto:
            raise ValueError("neither rate_limit nor drop can stand inside not")
        return self

    @property
    def by_chance(self) -> bool:
        """See :attr:`Policy.by_chance`."""
        return self.policy.by_chance

    def vote(self, trace: Trace, ballot: Ballot) -> Vote:
        """See :meth:`Policy.vote`."""
        vote = self.policy.vote(trace, ballot.inner(0, True))
        return Vote(not vote.keep, 1.0 - (vote.probability or 0.0))
