"""How a policy votes on a trace, and what it may know besides the trace."""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class Vote(NamedTuple):
    """A policy's answer. ``probability`` lies in [0, 1] and is 0 where the policy does not match; ``None``: unknown."""

    keep: bool
    probability: float | None


YES = Vote(True, 1.0)
NO = Vote(False, 0.0)


class Bucket(msgspec.Struct, array_like=True):
    """A token bucket: ``tokens`` at the time ``at_ns``."""

    tokens: float
    at_ns: int


class Ballot:
    """What a policy may know besides the trace.

    Parameters
    ----------
    path
        Where the policy stands in the configuration; makes the hashes of two policies independent.
    buckets
        Token buckets of the partition by path; saved with its state.
    now_ns
        Time of the decision in Unix nanoseconds, from the log's timestamps.
    wanted
        False when something else already keeps the trace, so that nothing scarce should be spent on it.
    """

    __slots__ = ("buckets", "now_ns", "path", "wanted")

    def __init__(self, path: str, buckets: dict[str, Bucket], now_ns: int, wanted: bool) -> None:
        self.path = path
        self.buckets = buckets
        self.now_ns = now_ns
        self.wanted = wanted

    def inner(self, index: int, wanted: bool) -> Ballot:
        """Return the ballot for the policy at ``index`` inside this one."""
        return Ballot(f"{self.path}/{index}", self.buckets, self.now_ns, self.wanted and wanted)
