"""Drop traces, whatever else would keep them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from scorers.sampling.ballot import NO, YES, Ballot, Vote
from scorers.sampling.policies.nested import Nested
from scorers.sampling.trace import Trace

if TYPE_CHECKING:
    from scorers.sampling.settings import AnyPolicy


class Drop(Nested):
    """Drops a trace from both lanes when all inner policies match, for example health checks.

    Only conditions may stand in it: what it drops is then left out of the population by what it is, not by chance, and
    the probabilities of all other traces stay what they were.
    """

    name: ClassVar[str] = "drop"
    veto: ClassVar[bool] = True

    type: Literal["drop"] = "drop"
    policies: tuple[AnyPolicy, ...] = Field(min_length=1, max_length=50)
    """The conditions."""

    @model_validator(mode="after")
    def _conditions_only(self) -> Self:
        if self.by_chance or self.limited:
            raise ValueError("drop takes conditions only; to keep fewer traces lower uniform.ratio")
        return self

    def vote(self, trace: Trace, ballot: Ballot) -> Vote:
        """See :meth:`Policy.vote`; yes means drop."""
        inner = (
            policy.vote(trace, ballot.inner(index, True)).keep for index, policy in enumerate(self.policies)
        )
        return YES if all(inner) else NO
