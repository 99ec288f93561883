"""What a window says: weighted mean and error, share that passes, worst tenth and quantiles, for many streams at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from drift.bins import Floats, Ints
from drift.panes import PASS, WW, WWX, WWXX, WX, W

QUANTILES = (0.05, 0.5, 0.95)
Bools = np.ndarray[tuple[int], np.dtype[np.bool_]]


class Summary(NamedTuple):
    """Columns of shape (rows,); NaN where a quantity does not exist."""

    n: Ints
    weight: Floats
    n_eff: Floats
    mean: Floats
    error: Floats
    pass_rate: Floats
    worst_decile: Floats
    quantiles: Floats  # (rows, len(QUANTILES))


def summarize(
    segment: Ints,
    counts: Ints,
    values: Floats,
    weights: Floats,
    rows: int,
    *,
    threshold: float,
    sums: Floats | None = None,
    lower: Bools,
    highest_is_worst: Bools,
) -> Summary:
    """Summarize ``rows`` streams from their slots.

    Every sum runs over a stream's own slots in their order (value, then weight), so it depends on nothing but how often
    each slot was hit: not on the order of arrival, not on other streams, not on how partial counts were merged.

    Parameters
    ----------
    segment
        Stream of each slot, 0 to rows - 1, ascending; within a stream slots ascend by value and weight. Shape (slots,),
        as ``counts``, ``values`` and ``weights``.
    threshold
        What is at least this good passes.
    sums
        Shape (rows, COLUMNS): exact moments, where slots are bins; else they follow from the slots.
    lower
        Shape (rows,): 1 - value says how good a value is, else the value itself.
    highest_is_worst
        Shape (rows,): the worst decile is the highest.
    """
    length = np.bincount(segment, minlength=rows)
    position = np.arange(len(segment)) - (np.cumsum(length) - length)[segment]
    shape = rows, int(length.max(initial=1)) or 1

    def spread_out(column: Floats) -> Floats:
        table = np.zeros(shape)
        table[segment, position] = column
        return table

    def total(column: Floats) -> Floats:
        # Cumulated, hence one after the other: a padding of zeros changes nothing, which pairwise summation would.
        sums: Floats = np.cumsum(spread_out(column), axis=1)[:, -1]
        return sums

    mass = counts * weights
    n = np.rint(total(counts.astype(np.float64))).astype(np.int64)
    if sums is None:
        w, wx, ww = total(mass), total(mass * values), total(mass * weights)
        passing = total(np.where(goodness(values, lower[segment]) >= threshold, mass, 0.0))
    else:
        w, wx, ww, passing = sums[:, W], sums[:, WX], sums[:, WW], sums[:, PASS]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = wx / w
        if sums is None:
            spread = total(mass * weights * (values - mean[segment]) ** 2)
        else:
            spread = np.maximum(0.0, sums[:, WWXX] - 2.0 * mean * sums[:, WWX] + mean * mean * ww)
        # Linearised variance of the Hájek mean, with the small-sample factor n / (n - 1).
        error = np.where(n > 1, np.sqrt(spread / (w * w) * n / (n - 1.0)), np.nan)
        effective = w * w / ww
        pass_rate = passing / w
    bars = np.cumsum(spread_out(mass), axis=1)
    known = spread_out(values)
    return Summary(
        n=n,
        weight=w,
        n_eff=effective,
        mean=mean,
        error=error,
        pass_rate=pass_rate,
        worst_decile=_worst_decile(spread_out(mass), known, bars, highest_is_worst),
        quantiles=np.stack([_quantile(bars, known, q) for q in QUANTILES], axis=1),
    )


def _quantile(bars: Floats, values: Floats, q: float) -> Floats:
    """Return the smallest value up to which at least the share ``q`` of the weight lies."""
    # Bars are rounded sums: a share that is exactly q must not be missed by the last bit.
    reached = bars >= bars[:, -1:] * (q * (1.0 - 1e-12))
    found: Floats = np.take_along_axis(values, reached.argmax(axis=1)[:, None], axis=1)[:, 0]
    return found


def goodness(values: Floats, lower: Bools | np.bool_) -> Floats:
    """Return how good values in [0, 1] are: themselves, or 1 - value where lower is better."""
    good: Floats = np.where(lower, 1.0 - values, values)
    return good


def _worst_decile(mass: Floats, values: Floats, bars: Floats, highest: Bools) -> Floats:
    """Return the mean of the lowest (or highest) tenth of the weight."""
    total = bars[:, -1:]
    below = np.where(highest[:, None], total - bars, bars - mass)
    part = np.clip(0.1 * total - below, 0.0, mass)
    with np.errstate(invalid="ignore"):
        mean: Floats = np.cumsum(part * values, axis=1)[:, -1] / np.cumsum(part, axis=1)[:, -1]
    return mean
