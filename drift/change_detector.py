"""Has the mean of a bounded stream left its expected value? For ever, with a stated average time to a false alarm."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from drift.eprocess import GRID, Floats, bets, finite_exp, log_mixture
from drift.esr import advance

SHARES = (0.05, 0.2, 0.4, 0.25, 0.08, 0.02)
"""Shares of the fractions. Here a bet of c stakes c/(1 - m) per unit of score, so smaller ones than for pairs are right."""


class ChangeDetector(msgspec.Struct):
    """e-SR with a new e-process of weight 1 at every observation, for E[x_t | past] >= m_t.

    With z_t = v_t (x_t - m_t) / (1 - m_t) <= 1, M_t = L_t (M_{t-1} + 1), L_t = 1 - c z_t, as a weighted mean over the
    fractions c. If the hypothesis is true, M_t - t is a supermartingale: the average number of observations before
    M >= A is at least A, and the probability of M >= A within n observations is at most n / A.

    References
    ----------
    Shin, Ramdas and Rinaldo, E-detectors, arXiv:2203.03532, theorem 2.4.

    Examples
    --------
    >>> detector = ChangeDetector()
    >>> detector.update(np.full(1000, 0.8), np.full(1000, 0.78), np.ones(1000))
    >>> detector.value < 1000
    True
    >>> detector.update(np.full(60, 0.6), np.full(60, 0.78), np.ones(60))
    >>> detector.value > 1e4
    True
    """

    log_sums: list[float] = msgspec.field(default_factory=lambda: [-math.inf] * len(GRID))

    def update(self, x: Floats, least: Floats, weight: Floats) -> None:
        """Take observations in order.

        Parameters
        ----------
        x
            Shape (n,), in [0, 1].
        least
            m_t, shape (n,), below 1; known before x_t. Values below 0 count as 0.
        weight
            v_t, shape (n,), in (0, 1]: sampling weights over their cap.
        """
        if not x.size:
            return
        m = np.maximum(least, 0.0)
        z = weight * (x - m) / (1.0 - m)
        self.log_sums = advance(np.asarray(self.log_sums), bets(z), np.zeros(x.size)).tolist()

    @property
    def value(self) -> float:
        """M_t; to be compared with A."""
        return finite_exp(float(log_mixture(np.asarray(self.log_sums), SHARES)))
