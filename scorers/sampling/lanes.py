"""The two lanes, and the decision about a trace.

*Uniform lane.* Keeps a trace by its randomness alone (:mod:`scorers.sampling.threshold`), whatever happened in it. Every
trace of a threshold has the same chance, so means over this lane, each trace weighted by 1/probability, estimate the
means over all traffic without bias. Only this lane feeds tests.

*Triage lane.* Keeps what the configured policies ask for: errors, the slow, the costly. What it adds is there because of
what happened in it; in a mean it would pull towards trouble. It is for people.

A trace that both lanes keep belongs to the uniform lane and carries the uniform lane's probability: had the policies
not existed it would be in the sample all the same, with exactly that chance. A trace that only policies keep carries
pi = 1 - prod(1 - p_i) over the uniform lane and all policies that match, whether or not they said yes. If one of these
is a rate limit, pi depends on the other traces and is unknown, unless something else keeps the trace with certainty.

The mean over the uniform lane is the Hajek estimator sum(x/p) / sum(1/p) (Särndal, Swensson, Wretman, "Model Assisted
Survey Sampling", 1992, §5.7).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from scorers.sampling.ballot import Ballot, Bucket
from scorers.sampling.threshold import probability_of, randomness, threshold_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scorers.sampling.policy import Policy
    from scorers.sampling.trace import Trace

UNIFORM = "uniform"
TRIAGE = "triage"


class Decision(msgspec.Struct, frozen=True, array_like=True):
    """What was decided about a trace.

    ``lane`` is ``uniform`` or ``triage``, or empty for a dropped trace. ``policy`` is the first listed policy that
    asked for the trace, or ``uniform``. ``probability`` lies in (0, 1], ``None`` if unknown. ``threshold`` is what the
    uniform lane kept it with.
    """

    lane: str = ""
    policy: str = ""
    probability: float | None = None
    threshold: int | None = None

    @property
    def kept(self) -> bool:
        """Whether the trace is sent on."""
        return bool(self.lane)


DROPPED = Decision()


class Lanes:
    """Decides about traces. Pure: the same trace, time and buckets give the same decision.

    Parameters
    ----------
    ratio
        Share of traces that the uniform lane keeps, in [0, 1].
    policies
        Policies of the triage lane in listed order.
    """

    def __init__(self, ratio: float, policies: Sequence[Policy]) -> None:
        self._threshold = threshold_of(ratio)
        # Titles are unique and stay when the list is reordered; so do the hashes made from them.
        named = [(policy.title, policy) for policy in policies]
        self._vetoes = [(path, policy) for path, policy in named if policy.veto]
        self._policies = [(path, policy) for path, policy in named if not policy.veto]

    def decide(self, trace: Trace, now_ns: int, buckets: dict[str, Bucket]) -> Decision:
        """Decide about ``trace`` at ``now_ns``; takes tokens from ``buckets`` where a rate limit lets it through."""
        for path, policy in self._vetoes:
            if policy.vote(trace, Ballot(path, buckets, now_ns, True)).keep:
                return DROPPED
        threshold = max(self._threshold, trace.threshold or 0)
        uniform = randomness(trace.trace_id, trace.rv) >= threshold
        probability = probability_of(threshold)
        missed, unknown, credited = 1.0 - probability, False, ""
        for path, policy in self._policies:
            if credited and (uniform or missed == 0.0):
                break  # nothing that follows can change the answer
            vote = policy.vote(trace, Ballot(path, buckets, now_ns, not (uniform or credited)))
            if vote.keep and not credited:
                credited = policy.title
            if vote.probability is None:
                unknown = True
            else:
                missed *= 1.0 - vote.probability
        if uniform:
            return Decision(UNIFORM, credited or UNIFORM, probability, threshold)
        if credited:
            return Decision(TRIAGE, credited, None if unknown and missed > 0.0 else 1.0 - missed)
        return DROPPED
