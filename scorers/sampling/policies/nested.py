"""What policies made of policies share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import model_validator

from scorers.sampling.policy import Policy

if TYPE_CHECKING:
    from scorers.sampling.settings import AnyPolicy


class Nested(Policy):
    """A policy over several inner policies."""

    if TYPE_CHECKING:
        policies: tuple[AnyPolicy, ...]

    @model_validator(mode="after")
    def _no_inner_veto(self) -> Self:
        if any(policy.veto for policy in self.policies):
            raise ValueError("drop stands at the top of the list only: it overrules everything")
        return self

    @property
    def by_chance(self) -> bool:
        """See :attr:`Policy.by_chance`."""
        return any(policy.by_chance for policy in self.policies)

    @property
    def limited(self) -> bool:
        """See :attr:`Policy.limited`."""
        return any(policy.limited for policy in self.policies)

    def cheap_first(self) -> list[tuple[int, Policy]]:
        """Return the inner policies with their positions; those that spend something come last."""
        return sorted(enumerate(self.policies), key=lambda item: item[1].limited)
