"""Pairs: each candidate unit against the mean of g disjoint incumbent units of the same bucket.

Both sides of a pair lived through the same minute, the same traffic and the same judge, so what changes for everyone
cancels. Who is paired with whom is decided by hashes of the unit ids and by counts, never by scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from drift.eprocess import Floats


class UnitMean(msgspec.Struct, frozen=True):
    """What one closed unit brings to one rubric."""

    key: int  # hash of the unit's id; decides its place
    value: float  # weighted mean of its scores, in [0, 1]
    weight: float  # mean of 1 / inclusion probability of its scores, >= 1
    time_ns: int  # its last score
    trace_id: str  # the trace of its worst score


class Pairs(msgspec.Struct, frozen=True):
    """Pairs of one bucket, arrays of shape (n,)."""

    z: Floats  # in [-1, 1]; its mean is >= 0 if the candidate is not worse by more than the margin
    difference: Floats  # candidate minus incumbents, weighted
    weight: Floats  # in (0, 1]; all 1 where all sampling probabilities are equal


def make_pairs(
    candidates: Sequence[UnitMean], incumbents: Sequence[UnitMean], *, margin: float, cap: float
) -> Pairs:
    """Pair the units of one bucket (and stratum).

    With n_c candidates and n_i incumbents, min(n_c, n_i) pairs are made, each with g = max(1, n_i // n_c) incumbents
    of its own. With v = min(weight, cap) / cap,

        z = mean over the g incumbents of v_c v_i (x_c - x_i + margin) / (1 + margin).

    Candidate and incumbents are sampled independently, so E[v_c v_i (x_c - x_i)] has the sign of the difference of the
    two population means whatever the sampling probabilities depend on; equal probabilities give v = 1.

    Parameters
    ----------
    margin
        Tolerated drop, in [0, 1).
    cap
        Largest weight that counts in full, > 0. To keep the test exact it must not depend on this bucket's scores.
    """
    chosen = sorted(candidates, key=lambda unit: unit.key)[: len(incumbents)]
    others = sorted(incumbents, key=lambda unit: unit.key)
    n = len(chosen)
    if not n:
        empty = np.empty(0)
        return Pairs(z=empty, difference=empty, weight=empty)
    g = max(1, len(others) // n)
    x_c = np.array([unit.value for unit in chosen])[:, None]
    v_c = np.minimum(np.array([unit.weight for unit in chosen]), cap)[:, None] / cap
    x_i = np.array([unit.value for unit in others[: n * g]]).reshape(n, g)
    v_i = np.minimum(np.array([unit.weight for unit in others[: n * g]]), cap).reshape(n, g) / cap
    weights = v_c * v_i
    weight = weights.mean(axis=1)
    difference = (weights * (x_c - x_i)).mean(axis=1)
    return Pairs(z=(difference + weight * margin) / (1.0 + margin), difference=difference, weight=weight)
