"""The e-SR detector: evidence that a bounded mean has become too low at some time after the start.

An e-process that was right about a healthy candidate for hours has lost nearly all its capital and needs hours to win
it back. This detector starts a new e-process at every observation and adds them up.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from drift.eprocess import GRID, Floats, bets, finite_exp, log_mixture

EARLY = 0.9
"""Share of the start weights that is spent within the horizon; the rest is for everything after it."""

LATE_WEIGHTS = (0.01, 0.02, 0.05, 0.17, 0.3, 0.45)
"""Shares of the fractions. Against its high threshold only drops that large bets suit are found in useful time."""


def log_start_weights(position: Floats, horizon: int) -> Floats:
    """Return log w_j for positions j = 1, 2, ... (any shape): see :class:`ShiryaevRoberts`."""
    late = (1.0 - EARLY) * horizon**2 / (position * (position + 1.0))
    return np.log(np.where(position <= horizon, EARLY, late))


def advance(log_sums: Floats, log_factors: Floats, log_weights: Floats) -> Floats:
    """Return log M after n observations, from log M before them, shape (..., G).

    Parameters
    ----------
    log_factors
        log L_i, shape (..., G, n).
    log_weights
        log w_i, shape (..., n); -inf where an observation starts no e-process.
    """
    # With S_i = sum of the log factors up to i: M_n = e^{S_n} (M_0 + sum_j w_j e^{-S_{j-1}}), summed in logarithms.
    sums = np.cumsum(log_factors, axis=-1)
    total = sums[..., -1:]
    started = log_weights[..., None, :] + (total - (sums - log_factors))
    terms = np.concatenate([log_sums[..., None] + total, started], axis=-1)
    top = terms.max(axis=-1)
    scale = np.where(np.isneginf(top), 0.0, top)
    with np.errstate(divide="ignore"):
        out: Floats = scale + np.log(np.exp(terms - scale[..., None]).sum(axis=-1))
    return out


class ShiryaevRoberts(msgspec.Struct):
    """Weighted sum of betting e-processes, one started at each observation j with weight w_j.

    M_t = L_t (M_{t-1} + w_t), L_t = 1 - c z_t, as a weighted mean over the fractions c; hypothesis as in
    :class:`drift.eprocess.BettingEProcess`. With N = ``horizon``,

        w_j = .9 for j <= N,    w_j = .1 N^2 / (j (j + 1)) for j > N,    so that sum_j w_j <= N.

    M_t / N plus the weights not yet used is a nonnegative supermartingale that starts at no more than 1; hence
    P(sup_t M_t >= N / alpha) <= alpha at any length of the stream. (The detector with w = 1 has that bound only up to
    observation N.)

    The recursion depends on the order of the observations.

    References
    ----------
    Shin, Ramdas and Rinaldo, E-detectors: a nonparametric framework for sequential change detection, arXiv:2203.03532.

    Examples
    --------
    >>> detector = ShiryaevRoberts(horizon=5000)
    >>> detector.update(np.array([0.2] * 1000))
    >>> round(detector.value, 2)
    7.95
    >>> detector.update(np.array([-0.5] * 40))
    >>> detector.value > 5000 / 0.025
    True
    """

    horizon: int
    log_sums: list[float] = msgspec.field(default_factory=lambda: [-math.inf] * len(GRID))
    count: int = 0

    def update(self, z: Floats) -> None:
        """Take the observations ``z`` (shape (n,), each <= 1), in order."""
        if not z.size:
            return
        position = np.arange(self.count + 1, self.count + z.size + 1, dtype=np.float64)
        weights = log_start_weights(position, self.horizon)
        self.log_sums = advance(np.asarray(self.log_sums), bets(z), weights).tolist()
        self.count += int(z.size)

    @property
    def log_value(self) -> float:
        """Logarithm of M_t; -inf before the first observation."""
        return float(log_mixture(np.asarray(self.log_sums), LATE_WEIGHTS))

    @property
    def value(self) -> float:
        """M_t; to be compared with N / alpha."""
        return finite_exp(self.log_value)

    def restart(self) -> None:
        """Forget evidence; the weights already spent stay spent, so the bound on false alarms holds over restarts."""
        self.log_sums = [-math.inf] * len(GRID)
