"""Pairs of one bucket, with equal and with unequal sampling probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drift.eprocess import BettingEProcess
from drift.pairing import UnitMean, make_pairs


def unit(key: int, value: float, weight: float = 1.0) -> UnitMean:
    return UnitMean(key=key, value=value, weight=weight, time_ns=0, trace_id="")


values = st.lists(st.floats(0, 1), max_size=20)


@given(values, values, st.floats(0, 0.5), st.floats(1, 50))
def test_pairs_are_bounded_and_unweighted_when_all_probabilities_are_equal(
    ours: list[float], theirs: list[float], margin: float, weight: float
) -> None:
    candidates = [unit(i, v, weight) for i, v in enumerate(ours)]
    incumbents = [unit(100 + i, v, weight) for i, v in enumerate(theirs)]
    pairs = make_pairs(candidates, incumbents, margin=margin, cap=weight)
    assert len(pairs.z) == min(len(ours), len(theirs))
    assert np.all(pairs.weight == 1.0)
    assert np.all((pairs.z >= -1.0) & (pairs.z <= 1.0))
    assert pairs.z == pytest.approx((pairs.difference + margin) / (1 + margin))


def test_each_candidate_meets_incumbents_of_its_own_in_the_order_of_keys() -> None:
    candidates = [unit(2, 0.5), unit(1, 1.0)]
    incumbents = [unit(14, 0.9), unit(11, 0.2), unit(13, 0.8), unit(12, 0.4), unit(15, 0.0)]
    pairs = make_pairs(candidates, incumbents, margin=0.0, cap=1.0)
    assert pairs.difference.tolist() == pytest.approx([1.0 - (0.2 + 0.4) / 2, 0.5 - (0.8 + 0.9) / 2])


@given(values, values, st.randoms())
def test_the_order_of_arrival_does_not_matter(ours: list[float], theirs: list[float], random: object) -> None:
    candidates = [unit(i, v) for i, v in enumerate(ours)]
    incumbents = [unit(100 + i, v) for i, v in enumerate(theirs)]
    expected = make_pairs(candidates, incumbents, margin=0.02, cap=1.0)
    random.shuffle(candidates)  # type: ignore[attr-defined]
    random.shuffle(incumbents)  # type: ignore[attr-defined]
    actual = make_pairs(candidates, incumbents, margin=0.02, cap=1.0)
    assert actual.z.tolist() == expected.z.tolist()


def test_sampling_that_depends_on_the_outcome_does_not_bias_weighted_pairs() -> None:
    """Given equal population means, but bad candidate answers five times as likely to be kept as bad incumbent ones,

    I expect weighted pairs to show no harm, and unweighted ones to show it (so the case is a real trap).
    """
    rng = np.random.default_rng(11)
    totals, bare, ends = 0.0, 0.0, []
    for _ in range(150):
        ours, theirs = [], []
        for side, bad_p, arm in ((ours, 1.0, 0), (theirs, 0.2, 1)):
            x = (rng.random(200) < 0.8).astype(float)
            p = np.where(x == 0, bad_p, 0.2)
            kept = np.flatnonzero(rng.random(200) < p)
            side += [unit(1000 * arm + int(i), float(x[i]), float(1 / p[i])) for i in kept]
        pairs = make_pairs(ours, theirs, margin=0.0, cap=5.0)
        totals += float(pairs.z.sum())
        plain = [unit(one.key, one.value) for one in ours], [unit(one.key, one.value) for one in theirs]
        bare += float(make_pairs(*plain, margin=0.0, cap=1.0).z.sum())
        process = BettingEProcess()
        process.update(pairs.z)
        ends.append(process.value)
    assert abs(totals) / 150 < 1.0
    assert bare / 150 < -8.0
    assert np.mean(np.array(ends) >= 20) <= 0.05


def test_weights_above_the_cap_count_as_the_cap() -> None:
    pairs = make_pairs([unit(1, 0.0, 100.0)], [unit(2, 1.0, 2.0)], margin=0.0, cap=4.0)
    assert pairs.weight.tolist() == [0.5]
    assert pairs.z.tolist() == [-0.5]
