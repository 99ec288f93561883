"""An interval for the mean difference that is right at every moment at once (a confidence sequence)."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from drift.eprocess import GRID, Floats, log_mixture

_SIDE = (
    0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.125, 0.15, 0.175, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5,
    0.6, 0.75, 0.9,
)  # fmt: skip
"""Values that may be an end of the interval, on both sides of 0."""


class ConfidenceSequence(msgspec.Struct):
    """The means that a betting e-process has not yet ruled out, at total error ``alpha``.

    For every value m of a grid, two e-processes bet that the mean difference lies below m and above it:

        log B_m(c) = sum log(1 - c (d_i - v_i m) / (1 - m)),    log A_m(c) = sum log(1 + c (d_i - v_i m) / (1 + m)),

    as a weighted mean over the fractions c. The upper end is the smallest m with B_m >= 2/alpha, the lower end the largest m
    with A_m >= 2/alpha. ``d`` is the weighted difference of a pair and ``v`` its weight (1 without sampling weights).

    With probability 1 - alpha the interval contains a constant (conditional) mean difference at all times together. If
    the mean changes: bets are fixed in advance, so B_m is at most a martingale of mean 1 wherever the average so far is at
    least m; hence, for each m, the probability that B_m ever reaches 2/alpha while that average is at least m is at most
    alpha/2. At m = -margin and alpha = .05 the upper end is the gate's own e-process against 40.

    The ends are grid values, rounded outwards.

    References
    ----------
    Waudby-Smith and Ramdas, arXiv:2010.09686, section 4.

    Examples
    --------
    >>> sequence = ConfidenceSequence.with_margin(alpha=0.05, margin=0.02)
    >>> sequence.update(np.array([0.1, -0.1] * 200), np.ones(400))
    >>> sequence.interval()
    (-0.02, 0.02)
    """

    alpha: float
    points: list[float]
    below: list[list[float]]  # per point, per fraction
    above: list[list[float]]

    @classmethod
    def with_margin(cls, alpha: float, margin: float) -> ConfidenceSequence:
        """Return the sequence before the first pair; -margin is one of its grid values."""
        points = sorted({-margin, *_SIDE, *(-value for value in _SIDE)})
        return cls(
            alpha=alpha,
            points=points,
            below=[[0.0] * len(GRID) for _ in points],
            above=[[0.0] * len(GRID) for _ in points],
        )

    def update(self, difference: Floats, weight: Floats) -> None:
        """Take pairs, arrays of shape (n,): differences with abs(d) <= weight, and weights in (0, 1]."""
        if not difference.size:
            return
        m = np.asarray(self.points)[:, None, None]
        c = np.asarray(GRID)[None, :, None]
        excess = difference[None, None, :] - weight[None, None, :] * m
        self.below = (np.asarray(self.below) + np.log1p(-c * excess / (1.0 - m)).sum(axis=2)).tolist()
        self.above = (np.asarray(self.above) + np.log1p(c * excess / (1.0 + m)).sum(axis=2)).tolist()

    def interval(self) -> tuple[float, float]:
        """Return (low, high), within [-1, 1]."""
        bar = math.log(2.0 / self.alpha)
        low = [m for m, proven in zip(self.points, _proven(self.above, bar), strict=True) if proven]
        high = [m for m, proven in zip(self.points, _proven(self.below, bar), strict=True) if proven]
        return max(low, default=-1.0), min(high, default=1.0)


def _proven(logs: list[list[float]], bar: float) -> list[bool]:
    return [bool(value >= bar) for value in log_mixture(np.asarray(logs))]
