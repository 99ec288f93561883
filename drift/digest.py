"""The digest: which of many cohorts got worse in a period, with the share of wrong findings controlled.

e-BH (Wang and Ramdas, False discovery rate control with e-values, arXiv:2009.02824). With K hypotheses and an e-value for
each, those with the k* largest e-values are found, k* the largest k whose k-th largest is at least K/(alpha k). If every
e-value of a true hypothesis has expectation at most 1, the expected share of true ones among those found is at most alpha,
whatever the dependence between them.

The value of an e-SR detector is *not* an e-value: it adds a new process at every unit, and its expectation grows with their
number. So each stream has a betting e-process of its own beside the detector that begins with the period and ends with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from drift.change_detector import SHARES
from drift.eprocess import BettingEProcess, Floats, finite_exp, log_mixture


class PeriodEvidence(msgspec.Struct):
    """Evidence of one stream since its period began, on "no unit's expected value is below m_t".

    The capital starts at 1 with the period, and the m_t come from a baseline that is frozen: so at the end of the period,
    and at any other moment that looks at no later unit, its expectation is at most 1 if the hypothesis is true.
    """

    process: BettingEProcess = msgspec.field(default_factory=BettingEProcess)
    units: int = 0
    weight: float = 0.0
    total: float = 0.0
    expected: float = 0.0

    def update(self, x: Floats, mean: Floats, least: Floats, weight: Floats) -> None:
        """Take units; ``least`` is m_t, ``mean`` the baseline, ``weight`` in (0, 1]; shape (n,)."""
        m = np.maximum(least, 0.0)
        self.process.update(weight * (x - m) / (1.0 - m))
        self.units += len(x)
        self.weight += float(weight.sum())
        self.total += float((weight * x).sum())
        self.expected += float((weight * mean).sum())

    @property
    def e_value(self) -> float:
        """The e-value."""
        return finite_exp(float(log_mixture(np.asarray(self.process.log_capital), SHARES)))

    @property
    def mean(self) -> float | None:
        """Hájek mean of the units."""
        return self.total / self.weight if self.weight else None

    @property
    def baseline(self) -> float | None:
        """What the baseline expected of them."""
        return self.expected / self.weight if self.weight else None


def e_bh(e_values: Sequence[float], alpha: float, streams: int | None = None) -> list[bool]:
    """Return which hypotheses e-BH rejects, in the order given.

    Parameters
    ----------
    streams
        Number of hypotheses, at least as many as e-values are given: those left out have smaller ones. Default: all are
        given.

    Examples
    --------
    >>> e_bh([50.0, 1.0, 25.0, 0.2], alpha=0.1)
    [True, False, True, False]
    >>> e_bh([50.0, 1.0, 15.0, 0.2], alpha=0.1)
    [True, False, False, False]
    """
    count = max(len(e_values), streams or 0)
    order = sorted(range(len(e_values)), key=lambda place: -e_values[place])
    found = 0
    for k, place in enumerate(order, 1):
        if e_values[place] * alpha * k >= count:
            found = k
    chosen = set(order[:found])
    return [place in chosen for place in range(len(e_values))]
