"""The sample-ratio check: do the arms get the share of units they should get?

A chi-squared test that is repeated every minute rejects a correct split sooner or later. This one may be watched.
"""

from __future__ import annotations

import math

import msgspec


class SampleRatio(msgspec.Struct):
    """Beta-binomial e-process for H0: each unit falls into the candidate arm with probability ``share``.

    With k candidate units among n, and a Beta(a, b) prior with mean ``share`` and min(a, b) = 1,

        E = [B(a + k, b + n - k) / B(a, b)] / [share^k (1 - share)^(n - k)]

    is a martingale under H0, so p = min over time of 1/E is valid at every moment: P(p ever <= alpha) <= alpha.

    References
    ----------
    Lindon and Malek, Anytime-valid inference for multinomial count data, arXiv:2011.03567.

    Examples
    --------
    >>> check = SampleRatio(share=0.2)
    >>> check.update(200, 800); round(check.p, 3)
    1.0
    >>> check.update(0, 400); check.p < 0.001
    True
    """

    share: float
    since: int = 0  # only units that began at or after this count
    candidate: int = 0
    incumbent: int = 0
    log_max: float = 0.0

    def update(self, candidate: int, incumbent: int) -> None:
        """Add units of both arms; the check looks once per call."""
        self.candidate += candidate
        self.incumbent += incumbent
        scale = 1.0 / min(self.share, 1.0 - self.share)
        a, b = scale * self.share, scale * (1.0 - self.share)
        log_e = (
            _log_beta(a + self.candidate, b + self.incumbent)
            - _log_beta(a, b)
            - self.candidate * math.log(self.share)
            - self.incumbent * math.log1p(-self.share)
        )
        self.log_max = max(self.log_max, log_e)

    @property
    def p(self) -> float:
        """Always-valid p-value in (0, 1]."""
        return math.exp(-min(self.log_max, 690.0))


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
