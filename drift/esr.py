"""The e-SR detector: evidence that a bounded mean has become too low at some time after the start.

An e-process that was right about a healthy candidate for hours has lost nearly all its capital and needs hours to win
it back. This detector starts a new e-process at every observation and adds them up.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from drift.eprocess import GRID, Floats, bets, finite_exp, log_mean_exp


class ShiryaevRoberts(msgspec.Struct):
    """Weighted sum of betting e-processes, one started at each observation j with weight w_j.

    M_t = L_t (M_{t-1} + w_t), L_t = 1 - c z_t, averaged over the fractions c; hypothesis as in
    :class:`drift.eprocess.BettingEProcess`. With N = ``horizon``,

        w_j = 1/2 for j <= N,    w_j = N^2 / (2 j (j + 1)) for j > N,    so that sum_j w_j <= N.

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
    13.46
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
        log_factors = bets(z)
        # With S_i = sum of the log factors up to i: M_n = e^{S_n} (M_0 + sum_j w_j e^{-S_{j-1}}), summed in logarithms.
        sums = np.cumsum(log_factors, axis=1)
        total = sums[:, -1:]
        before = sums - log_factors
        started = self._log_weights(z.size)[None, :] + (total - before)
        carried = np.asarray(self.log_sums)[:, None] + total
        terms = np.concatenate([carried, started], axis=1)
        top = terms.max(axis=1, keepdims=True)
        self.log_sums = (top[:, 0] + np.log(np.exp(terms - top).sum(axis=1))).tolist()
        self.count += int(z.size)

    def _log_weights(self, size: int) -> Floats:
        j = np.arange(self.count + 1, self.count + size + 1, dtype=np.float64)
        tail = self.horizon**2 / (2.0 * j * (j + 1.0))
        return np.log(np.where(j <= self.horizon, 0.5, tail))

    @property
    def log_value(self) -> float:
        """Logarithm of M_t; -inf before the first observation."""
        return log_mean_exp(self.log_sums)

    @property
    def value(self) -> float:
        """M_t; to be compared with N / alpha."""
        return finite_exp(self.log_value)

    def restart(self) -> None:
        """Forget evidence; the weights already spent stay spent, so the bound on false alarms holds over restarts."""
        self.log_sums = [-math.inf] * len(GRID)
