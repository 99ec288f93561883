"""Simulated scores of a canary: healthy ones in every awkward form, and bad ones. Seeded, R rollouts at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from vector_gate import Minute, Side

LEVELS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
SHARES = np.array([0.03, 0.05, 0.12, 0.30, 0.50])
MEAN = float(LEVELS @ SHARES)  # .7975; standard deviation .257
_TABLE = np.repeat(LEVELS, (SHARES * 100).round().astype(int))
DAY = 1440
CHANGES = (1, 5, 25, 45, 5)  # the candidate's units of 50, a fifth of the day each

Stream = Callable[[np.random.Generator, int, int], Minute]
"""(rng, minute from 0, rollouts) -> scores of that minute."""


def likert(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Five-level rubric, mean .80, standard deviation .26."""
    return _TABLE[rng.integers(0, 100, shape, dtype=np.uint8)]


def binary(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Pass or fail, nine in ten pass."""
    return (rng.integers(0, 10, shape, dtype=np.uint8) > 0).astype(float)


def answered(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """1 where a trace did not fail; one in twenty fails."""
    return (rng.integers(0, 20, shape, dtype=np.uint8) > 0).astype(float)


def continuous(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Beta(4, 1): mean .8, standard deviation .16."""
    return rng.random(shape) ** 0.25


def one_level_lower(rng: np.random.Generator, values: Any, drop: float) -> Any:
    """Lower the mean by ``drop``: a share of the answers is judged one level worse (standard deviation stays .26-.28)."""
    share = drop / (0.25 * (1.0 - SHARES[0]))
    return np.maximum(0.0, values - 0.25 * (rng.random(values.shape) < share))


def worthless(rng: np.random.Generator, values: Any, drop: float) -> Any:
    """Lower the mean by ``drop``: a share of the answers gets 0 (standard deviation grows to .41 at a drop of .2)."""
    return np.where(rng.random(values.shape) < drop / MEAN, 0.0, values)


def full(values: Any) -> Side:
    return Side(values, np.full(len(values), values.shape[1]))


def packed(values: Any, keep: Any, weight: Any = None) -> Side:
    """Return the kept units of every row, moved to its front."""
    order = np.argsort(~keep, axis=1, kind="stable")
    return Side(
        np.take_along_axis(values, order, axis=1),
        keep.sum(axis=1),
        None if weight is None else np.take_along_axis(weight, order, axis=1),
    )


def steady(
    ours: int = 5,
    theirs: int = 45,
    *,
    draw: Any = likert,
    drop: float = 0.0,
    bad_from: int = 0,
    harm: Any = one_level_lower,
) -> Stream:
    """Equal traffic every minute; from minute ``bad_from`` on the candidate is worse by ``drop``."""

    def minute(rng: np.random.Generator, at: int, runs: int) -> Minute:
        candidate, incumbent = draw(rng, (runs, ours)), draw(rng, (runs, theirs))
        if drop and at >= bad_from:
            candidate = harm(rng, candidate, drop)
        return Minute([(full(candidate), full(incumbent))])

    return minute


def swing(draw: Any = likert) -> Stream:
    """Both arms rise and fall by .15 over the day (cut off at 0 and 1)."""

    def minute(rng: np.random.Generator, at: int, runs: int) -> Minute:
        shift = 0.15 * np.sin(2.0 * np.pi * at / DAY)
        sides = [full(np.clip(draw(rng, (runs, n)) + shift, 0.0, 1.0)) for n in (5, 45)]
        return Minute([(sides[0], sides[1])])

    return minute


def failing_in_rhythm(shares: tuple[int, ...] = (5,)) -> Stream:
    """Failed traces of both arms, two to eight in a hundred over the day; of 50 a minute ``shares`` are the candidate's."""

    def minute(rng: np.random.Generator, at: int, runs: int) -> Minute:
        ours = shares[at * len(shares) // DAY]
        rate = 0.05 + 0.03 * np.sin(2.0 * np.pi * at / DAY)
        sides = [full((rng.random((runs, n)) >= rate).astype(float)) for n in (ours, 50 - ours)]
        return Minute([(sides[0], sides[1])])

    return minute


def one_percent(draw: Any = likert) -> Stream:
    """50 units a minute, of which each is the candidate's with probability .01."""

    def minute(rng: np.random.Generator, at: int, runs: int) -> Minute:
        count = rng.binomial(50, 0.01, runs)
        most = max(1, int(count.max()))
        return Minute([(Side(draw(rng, (runs, most)), count), Side(draw(rng, (runs, 50)), 50 - count))])

    return minute


def changed_weights(rng: np.random.Generator, at: int, runs: int) -> Minute:
    """The candidate's share of 50 units a minute goes 2, 10, 50, 90 and back to 10 per cent, with the daily swing."""
    ours = CHANGES[at * len(CHANGES) // DAY]
    shift = 0.15 * np.sin(2.0 * np.pi * at / DAY)
    sides = [full(np.clip(likert(rng, (runs, n)) + shift, 0.0, 1.0)) for n in (ours, 50 - ours)]
    return Minute([(sides[0], sides[1])])


def tail_sampled(rng: np.random.Generator, at: int, runs: int) -> Minute:
    """10 + 90 units a minute; those below .75 are all kept, the others with probability .2."""

    def side(n: int) -> Side:
        values = likert(rng, (runs, n))
        weight = np.where(values < 0.75, 1.0, 5.0)
        return packed(values, rng.random(values.shape) < 1.0 / weight, weight)

    return Minute([(side(10), side(90))])


def changed_judge(rng: np.random.Generator, at: int, runs: int) -> Minute:
    """At noon another judge comes, which gives .15 less to everyone."""
    minute = steady()(rng, at, runs)
    if at < DAY // 2:
        return minute
    return Minute(
        [(full(np.maximum(0.0, a.value - 0.15)), full(np.maximum(0.0, b.value - 0.15))) for a, b in minute.strata],
        evaluator="judge 2",
    )  # fmt: skip


def late_and_twice(draw: Any = likert) -> Stream:
    """One record in ten comes too late, one in ten comes twice (half of the copies too late themselves).

    As in the stage, what is late is left out and an id counts once, whichever copy comes first.
    """

    def side(rng: np.random.Generator, runs: int, n: int) -> Side:
        values = draw(rng, (runs, n))
        late = rng.random((runs, n)) < 0.1
        twice = rng.random((runs, n)) < 0.1
        copy_late = rng.random((runs, n)) < 0.5
        # All records that were sent: n firsts, then their copies where there are any; the id is the place of the first.
        sent = np.concatenate([np.ones((runs, n), dtype=bool), twice], axis=1)
        in_time = sent & ~np.concatenate([late, copy_late], axis=1)
        seen = np.zeros((runs, n), dtype=bool)
        counted = np.zeros((runs, 2 * n), dtype=bool)
        for record in range(2 * n):
            unit = record % n
            counted[:, record] = in_time[:, record] & ~seen[:, unit]
            seen[:, unit] |= counted[:, record]
        return packed(np.concatenate([values, values], axis=1), counted)

    def minute(rng: np.random.Generator, at: int, runs: int) -> Minute:
        del at
        return Minute([(side(rng, runs, 5), side(rng, runs, 45))])

    return minute


def sessions(correlation: float, ours: int = 2, theirs: int = 18, draw: Any = likert) -> Stream:
    """Sessions of 1-20 scores, 20 s apart, any two of which correlate by ``correlation``; strata by length."""
    own_share = np.sqrt(correlation)

    def side(rng: np.random.Generator, runs: int, n: int) -> tuple[Any, Any]:
        length = rng.integers(1, 21, (runs, n))
        of_own = rng.binomial(length, own_share)
        fresh = draw(rng, (runs, n, 20))
        other = np.where(np.arange(20) < (length - of_own)[:, :, None], fresh, 0.0).sum(axis=2)
        stratum = np.digitize((length - 1) * 20 // 60, [1, 3])  # as in Gate.take: 1 min, 2-3 min, 4-7 min
        return (of_own * draw(rng, (runs, n)) + other) / length, stratum

    def minute(rng: np.random.Generator, at: int, runs: int) -> Minute:
        (x_c, s_c), (x_i, s_i) = side(rng, runs, ours), side(rng, runs, theirs)
        return Minute([(packed(x_c, s_c == s), packed(x_i, s_i == s)) for s in range(3)])

    return minute


@dataclass
class Intents:
    """Four intents, equally frequent, that explain part of the scores; the marginal distribution stays the same.

    A score comes from the quarter of the distribution that belongs to its intent with probability ``share``, else
    from all of it. Gives the same stream twice: in one stratum, and split by intent.
    """

    drop: float = 0.0
    share: float = 0.75

    def explained(self) -> float:
        """Share of the variance that the intent explains (R squared)."""
        quarters = _TABLE.reshape(4, 25).mean(axis=1)
        return float(self.share**2 * quarters.var() / _TABLE.var())

    def minute(self, rng: np.random.Generator, runs: int) -> tuple[Minute, Minute]:
        sides = []
        for n in (5, 45):
            intent = rng.integers(0, 4, (runs, n))
            place = rng.integers(0, 100, (runs, n))
            own = intent * 25 + place // 4
            values = _TABLE[np.where(rng.random((runs, n)) < self.share, own, place)]
            if n == 5 and self.drop:
                values = one_level_lower(rng, values, self.drop)
            sides.append((values, intent))
        (x_c, k_c), (x_i, k_i) = sides
        return (
            Minute([(full(x_c), full(x_i))]),
            Minute([(packed(x_c, k_c == k), packed(x_i, k_i == k)) for k in range(4)]),
        )


HEALTHY: dict[str, Stream] = {
    "plain, 5 + 45 per minute": steady(),
    "sessions of 1-20 scores, correlation .5": sessions(0.5),
    "sessions of 1-20 scores, correlation .8": sessions(0.8),
    "daily swing of ±.15 in both arms": swing(),
    "1 % canary of 50 per minute": one_percent(),
    "weights 2, 10, 50, 90, 10 % in a day, with swing": changed_weights,
    "tail-sampled, probabilities 1 and .2 by score": tail_sampled,
    "judge bumped at noon, .15 lower": changed_judge,
    "one in ten late, one in ten twice": late_and_twice(),
    "binary rubric, 90 % pass": steady(draw=binary),
    "continuous rubric, Beta(4, 1)": steady(draw=continuous),
}

FAILING: dict[str, Stream] = {
    "sessions of 1-20 scores, correlation .5": sessions(0.5, draw=answered),
    "sessions of 1-20 scores, correlation .8": sessions(0.8, draw=answered),
    "daily swing of ±.15 in both arms": failing_in_rhythm(),
    "1 % canary of 50 per minute": one_percent(answered),
    "weights 2, 10, 50, 90, 10 % in a day, with swing": failing_in_rhythm(CHANGES),
    "tail-sampled, probabilities 1 and .2 by score": steady(10, 90, draw=answered),
    "one in ten late, one in ten twice": late_and_twice(answered),
}
"""What fails in the traffic of a healthy stream, seen before sampling, where it is not just one in twenty of 5 + 45."""
