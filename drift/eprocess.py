"""The betting e-process: evidence, from the first pair on, that a bounded mean is too low.

It bets a fraction of its capital on every observation. If the hypothesis is true no strategy of betting is expected to
win, so capital that has grown forty-fold is evidence, at whatever moment one looks.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

GRID = (0.05, 0.1, 0.2, 0.4, 0.7, 0.97)
"""Fractions of the capital that are bet; small ones find small effects, large ones find large effects fast."""

WEIGHTS = (0.02, 0.03, 0.1, 0.25, 0.3, 0.3)
"""Share of the capital given to each fraction at the start; most to those that suit drops of .05 to .2."""

_MAX_LOG = 690.0  # exp of it is still a finite double


def bets(z: Floats) -> Floats:
    """Return log(1 - c z) for observations z <= 1 of shape (..., n) and every fraction c: shape (..., len(GRID), n)."""
    return np.log1p(-np.asarray(GRID)[:, None] * z[..., None, :])


def log_mixture(logs: Floats, weights: tuple[float, ...] = WEIGHTS) -> Floats:
    """Return log(sum_c weight_c exp(log_c)) over the last axis of ``logs``; -inf where all are -inf."""
    top = logs.max(axis=-1)
    # A top of -inf (nothing yet) must not become inf - inf.
    scale = np.where(np.isneginf(top), 0.0, top)
    with np.errstate(divide="ignore"):
        mixed: Floats = scale + np.log((np.exp(logs - scale[..., None]) * np.asarray(weights)).sum(axis=-1))
    return mixed


def finite_exp(log_value: float) -> float:
    """Return exp(log_value), held below the largest double (JSON has no infinity)."""
    return math.exp(min(log_value, _MAX_LOG))


class BettingEProcess(msgspec.Struct):
    """Weighted mean over a grid of fractions c of the capitals K_t(c) = prod_i (1 - c z_i).

    Hypothesis: E[z_t | past] >= 0 for every t, with z <= 1. Then every K_t(c), and their mean E_t, is a nonnegative
    supermartingale that starts at 1, and P(sup_t E_t >= 1/alpha) <= alpha (Ville's inequality).

    The state is one sum of logarithms per fraction: it does not depend on the order of the observations (up to
    rounding), and the states of two parts of a stream are merged by adding them.

    References
    ----------
    Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, arXiv:2010.09686.

    Examples
    --------
    >>> process = BettingEProcess()
    >>> process.update(np.array([-0.5] * 12))
    >>> round(process.value, 2)
    48.12
    """

    log_capital: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(GRID))

    def update(self, z: Floats) -> None:
        """Bet on the observations ``z`` (shape (n,), each <= 1), in order."""
        if z.size:
            self.log_capital = (np.asarray(self.log_capital) + bets(z).sum(axis=-1)).tolist()

    @property
    def log_value(self) -> float:
        """Logarithm of E_t."""
        return float(log_mixture(np.asarray(self.log_capital)))

    @property
    def value(self) -> float:
        """E_t, an e-value: 1 is no evidence, 40 is what alpha = .025 needs."""
        return finite_exp(self.log_value)

    def fits(self) -> bool:
        """Whether a restored state has one sum for each fraction of this version."""
        return len(self.log_capital) == len(GRID)

    def restart(self) -> None:
        """Forget evidence gathered so far.

        Capital above 1 is given up, capital lost is not given back: so the bound on false alarms stays as it was over
        any number of restarts.
        """
        surplus = max(0.0, self.log_value)
        self.log_capital = [value - surplus for value in self.log_capital]
