"""What a sampling policy is: it looks at a whole trace and says keep or not, and how probable that answer was.

The probability is what makes the kept traces usable as a sample, so a policy must state it truthfully: it is the
chance, over the hash of the trace id, that a trace with *these* spans gets this policy's yes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from pydantic import Field

from scorers.sampling.ballot import Ballot, Vote
from scorers.sampling.trace import Trace
from stream.settings import Settings


class Policy(Settings, ABC):
    """One policy of the triage lane. A kind of policy is a subclass in its own file of ``scorers.sampling.policies``.

    A subclass sets ``name`` (the word in the configuration) and a field ``type`` with that literal, declares its
    options as further fields, and implements :meth:`vote`, which must not raise whatever the spans hold.
    """

    name: ClassVar[str] = ""
    veto: ClassVar[bool] = False  # a yes means: drop the trace, whatever others say

    label: str = Field(default="", alias="name", pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$|^$")
    """Name under which kept traces are credited to it; the type if not given."""

    @property
    def title(self) -> str:
        """The name it is credited under."""
        return self.label or self.name

    @property
    def by_chance(self) -> bool:
        """True when its probability can be other than 0 and 1."""
        return False

    @property
    def limited(self) -> bool:
        """True when its answer depends on other traces, so that its probability is unknown."""
        return False

    @abstractmethod
    def vote(self, trace: Trace, ballot: Ballot) -> Vote:
        """Say whether to keep ``trace``."""
