"""Pairs: each candidate unit against the mean of g disjoint incumbent units of the same bucket.

Both sides of a pair lived through the same minute, the same traffic and the same judge, so what changes for everyone
cancels. Who is paired with whom is decided by hashes of the unit ids and by counts, never by scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from drift.eprocess import Floats

Ints = NDArray[np.int64]


class UnitMean(msgspec.Struct, frozen=True, gc=False):
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
    chosen = sorted(candidates, key=lambda unit: unit.key)
    others = sorted(incumbents, key=lambda unit: unit.key)
    z, difference, weight, _ = pair_arrays(
        np.array([[unit.value for unit in chosen]]),
        np.array([[unit.weight for unit in chosen]]),
        np.array([len(chosen)]),
        np.array([[unit.value for unit in others]]),
        np.array([[unit.weight for unit in others]]),
        np.array([len(others)]),
        margin=margin,
        cap=np.array([cap]),
    )
    return Pairs(z=z[0], difference=difference[0], weight=weight[0])


def pair_arrays(
    x_c: Floats,
    w_c: Floats,
    n_c: Ints,
    x_i: Floats,
    w_i: Floats,
    n_i: Ints,
    *,
    margin: float,
    cap: Floats,
) -> tuple[Floats, Floats, Floats, NDArray[np.bool_]]:
    """Make the pairs of :func:`make_pairs` for R rollouts at once.

    Parameters
    ----------
    x_c, w_c, x_i, w_i
        Values and sampling weights in pairing order, shapes (R, C) and (R, I); the first ``n_c`` and ``n_i`` (shape
        (R,)) of a row are used.
    cap
        Shape (R,).

    Returns
    -------
    (z, difference, weight, real)
        Shape (R, n) with n the largest number of pairs of a row; where ``real`` is false there is no pair and all
        else is 0.
    """
    pairs = np.minimum(n_c, n_i)
    n = int(pairs.max(initial=0))
    if not n:
        empty = np.zeros((len(x_c), 0))
        return empty, empty, empty, np.zeros(empty.shape, dtype=np.bool_)
    real = np.arange(n) < pairs[:, None]
    g = np.maximum(1, n_i // np.maximum(1, n_c))
    place = np.arange(int(g[pairs > 0].max()))
    # Pair k of a row has the g incumbents k g, ..., k g + g - 1.
    chosen = np.arange(n)[:, None] * g[:, None, None] + place
    used = (place < g[:, None, None]) & real[:, :, None]
    row = np.arange(len(x_c))[:, None, None]
    chosen = np.where(used, chosen, 0)
    v_c = np.minimum(w_c[:, :n], cap[:, None])[:, :, None] / cap[:, None, None]
    v_i = np.minimum(w_i[row, chosen], cap[:, None, None]) / cap[:, None, None]
    weights = np.where(used, v_c * v_i, 0.0)
    weight = weights.sum(axis=2) / g[:, None]
    difference = (weights * (x_c[:, :n, None] - x_i[row, chosen])).sum(axis=2) / g[:, None]
    return (difference + weight * margin) / (1.0 + margin), difference, weight, real
