"""Keep traces by an attribute."""

from __future__ import annotations

import functools
from itertools import chain
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from scorers.sampling.ballot import NO, YES, Ballot, Vote
from scorers.sampling.policy import Policy
from scorers.sampling.trace import Trace


@functools.lru_cache(maxsize=256)
def _compiled(pattern: str) -> Any:
    import re2  # linear time: a user's pattern must not be able to hang the stage

    return re2.compile(pattern)


class Attribute(Policy):
    """Matches a trace in which a span or resource has an attribute with one of the given values.

    Without ``values``, ``pattern``, ``at_least`` and ``at_most`` any value matches. Of an array, each item is looked at.
    """

    name: ClassVar[str] = "attribute"

    type: Literal["attribute"] = "attribute"
    key: str = Field(min_length=1, max_length=255)
    """Name of the attribute."""
    values: tuple[str | bool | int | float, ...] = Field(default=(), max_length=1000)
    """Matches when the value equals one of these."""
    pattern: str = Field(default="", max_length=1000)
    """Matches when this regular expression (RE2) is found in a text value; anchor it with ^ and $ for the whole text."""
    at_least: float | None = None
    """Matches when a number is not below this."""
    at_most: float | None = None
    """Matches when a number is not above this."""

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        if self.pattern:
            import re2

            try:
                _compiled(self.pattern)
            except re2.error as error:
                raise ValueError(f"not a regular expression of RE2: {error}") from error
        return self

    def vote(self, trace: Trace, ballot: Ballot) -> Vote:
        """See :meth:`Policy.vote`."""
        del ballot
        keys = (self.key,)
        for held in chain(trace.values(keys), trace.resource_values(keys)):
            if self._matches(held[self.key]):
                return YES
        return NO

    def _matches(self, value: Any) -> bool:
        if isinstance(value, list):
            return any(self._matches(item) for item in value if not isinstance(item, list))
        if not (self.values or self.pattern) and self.at_least is None and self.at_most is None:
            return True
        # 1 == True in Python, but not in a trace.
        if any(
            value == wanted and isinstance(value, bool) == isinstance(wanted, bool) for wanted in self.values
        ):
            return True
        if isinstance(value, str):
            return bool(self.pattern) and _compiled(self.pattern).search(value) is not None
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if self.at_least is None and self.at_most is None:
            return False
        above = self.at_least is None or value >= self.at_least
        return above and (self.at_most is None or value <= self.at_most)
