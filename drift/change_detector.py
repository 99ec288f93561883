"""Has the mean of a bounded stream left its expected value? For ever, with a stated average time to a false alarm."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from drift.eprocess import GRID, Floats, finite_exp, log_mixture

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
        update_all([(self, x, least, weight)])

    def hold(self, value: float) -> None:
        """Give up what is above ``value``, so that evidence can fall again when the change is over; never adds any."""
        ceiling = math.log(value)
        if max(self.log_sums) > ceiling:
            self.log_sums = [min(ceiling, part) for part in self.log_sums]

    @property
    def value(self) -> float:
        """M_t; to be compared with A."""
        return finite_exp(float(log_mixture(np.asarray(self.log_sums), SHARES)))


Task = tuple[ChangeDetector, Floats, Floats, Floats]
"""A detector and its x, least and weight, as in :meth:`ChangeDetector.update`."""

_SAFE_LOG = 300.0
_SAFE_EXPONENT = 400  # of two; a step multiplies by less than 2^6 wherever 1 - m is at least .02
_STEPS = 16


def update_all(tasks: Sequence[Task]) -> None:
    """Update many different detectors at once: step k of all of them is one operation on columns.

    The result for a detector does not depend on which others are updated with it.
    """
    tasks = sorted((task for task in tasks if task[1].size), key=lambda task: -task[1].size)
    if not tasks:
        return
    sizes = np.array([x.size for _, x, _, _ in tasks])
    x, least, weight = (np.concatenate([task[place] for task in tasks]) for place in (1, 2, 3))
    m = np.maximum(least, 0.0)
    z = weight * (x - m) / (1.0 - m)
    logs = np.array([detector.log_sums for detector, _, _, _ in tasks])
    logs = advance_all(logs, z, sizes)
    for (detector, _, _, _), row in zip(tasks, logs.tolist(), strict=True):
        detector.log_sums = row


def advance_all(logs: Floats, z: Floats, sizes: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Floats:
    """Return log M after ``sizes[i]`` (descending) steps M <- (1 - c z)(M + 1) of row i of ``logs`` (rows, G).

    ``z`` holds the observations of row 0, then of row 1, and so on. M is kept as a number times a power of e and one of
    two, so no logarithm is taken per step and nothing overflows.
    """
    fractions = np.asarray(GRID)
    shift = np.where(logs > _SAFE_LOG, logs, 0.0)
    sums, one = np.exp(logs - shift), np.exp(-shift)
    exponent = np.zeros(logs.shape, dtype=np.int64)
    start = np.cumsum(sizes) - sizes
    active = len(sizes)
    for step in range(int(sizes[0])):
        while sizes[active - 1] <= step:
            active -= 1
        factor = z[start[:active] + step, None] * -fractions
        factor += 1.0
        sums[:active] += one[:active]
        sums[:active] *= factor
        if step % _STEPS == _STEPS - 1:
            _, power = np.frexp(sums)
            power = np.where(power > _SAFE_EXPONENT, power, 0)
            if power.any():
                sums, one = np.ldexp(sums, -power), np.ldexp(one, -power)
                exponent += power
    out: Floats = np.log(sums) + (shift + exponent * math.log(2.0))
    return out
