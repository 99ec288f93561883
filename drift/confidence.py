"""An interval for a bounded mean that is right at every moment at once (a confidence sequence)."""

from __future__ import annotations

import math

import msgspec

_MAX_BET = 0.5  # the usual truncation; keeps the first intervals finite


class ConfidenceSequence(msgspec.Struct):
    """Predictable plug-in empirical-Bernstein confidence sequence for a mean in [-1, 1].

    With y = (z + 1)/2 in [0, 1], running mean m_t and variance s2_t (both shrunk towards 1/2 and 1/4),

        l_t = min(1/2, sqrt(2 log(2/alpha) / (s2_{t-1} t log(1 + t)))),
        psi(l) = -log(1 - l) - l,
        interval = sum l_i y_i / sum l_i  +-  (log(2/alpha) + sum (y_i - m_{i-1})^2 psi(l_i)) / sum l_i.

    It holds at all times together with probability 1 - alpha. When the mean changes over time it covers the average of
    the means so far, weighted with l_i.

    References
    ----------
    Waudby-Smith and Ramdas, arXiv:2010.09686, theorem 2.

    Examples
    --------
    >>> sequence = ConfidenceSequence(alpha=0.05)
    >>> for z in [0.1, -0.1] * 200:
    ...     sequence.update(z)
    >>> low, high = sequence.interval()
    >>> low < 0.0 < high < 0.06
    True
    """

    alpha: float
    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    sum_bets: float = 0.0
    sum_bets_y: float = 0.0
    sum_penalty: float = 0.0

    def update(self, z: float) -> None:
        """Take one observation ``z`` in [-1, 1]."""
        y = (z + 1.0) / 2.0
        mean = (0.5 + self.total) / (self.count + 1)
        variance = (0.25 + self.squares) / (self.count + 1)
        t = self.count + 1
        bet = min(_MAX_BET, math.sqrt(2.0 * math.log(2.0 / self.alpha) / (variance * t * math.log1p(t))))
        self.sum_bets += bet
        self.sum_bets_y += bet * y
        self.sum_penalty += (y - mean) ** 2 * (-math.log1p(-bet) - bet)
        self.count = t
        self.total += y
        self.squares += (y - (0.5 + self.total) / (t + 1)) ** 2

    def interval(self) -> tuple[float, float]:
        """Return (low, high), within [-1, 1]; (-1, 1) before the first observation."""
        if not self.count:
            return -1.0, 1.0
        centre = self.sum_bets_y / self.sum_bets
        width = (math.log(2.0 / self.alpha) + self.sum_penalty) / self.sum_bets
        return max(-1.0, 2.0 * (centre - width) - 1.0), min(1.0, 2.0 * (centre + width) - 1.0)
