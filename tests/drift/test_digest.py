"""The digest: e-BH, its e-values, and what a watch says at the end of a period."""

from __future__ import annotations

import doctest
import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import drift.digest
from drift.change_detector import ChangeDetector
from drift.digest import PeriodEvidence, e_bh
from driftgate.commands.digest import together
from stream.records import Heartbeat, OperationsRecord, TraceFacts

BENCH = Path(__file__).resolve().parents[2] / "bench"
SECOND = 10**9
HOUR = 3600 * SECOND


def test_the_examples_in_the_docstring_are_true() -> None:
    assert doctest.testmod(drift.digest) == (0, 2)


@given(
    st.lists(st.floats(0, 1e6), max_size=12), st.floats(0.01, 0.5), st.integers(0, 20)
)  # fmt: skip
def test_e_bh_is_its_definition(values: list[float], alpha: float, more: int) -> None:
    count = len(values) + more
    ordered = sorted(values, reverse=True)
    largest = max((k for k in range(1, len(values) + 1) if ordered[k - 1] * alpha * k >= count), default=0)
    found = e_bh(values, alpha, count)
    assert sum(found) == largest
    if largest:
        assert min(value for value, one in zip(values, found, strict=True) if one) >= ordered[largest - 1]


def test_the_value_of_a_period_is_an_e_value_and_that_of_a_detector_is_not() -> None:
    """On the edge of the hypothesis the mean of e-values is 1 at most; that of e-SR grows with the units."""
    rng = np.random.default_rng(80)
    e_values, detectors = [], []
    for _ in range(600):
        x = (rng.random(100) < 0.8).astype(float)
        m, one = np.full(100, 0.8), np.ones(100)
        period, detector = PeriodEvidence(), ChangeDetector()
        period.update(x[:50], m[:50], m[:50], one[:50])
        period.update(x[50:], m[50:], m[50:], one[50:])
        detector.update(x, m, one)
        e_values.append(period.e_value)
        detectors.append(detector.value)
    assert np.mean(e_values) <= 1 + 3 * np.std(e_values) / np.sqrt(600)
    assert np.mean(detectors) > 20


def test_the_false_discovery_rate_is_kept_under_dependence() -> None:
    """docs/statistics.md has the full table."""
    before = list(sys.path)
    sys.path.append(str(BENCH))
    try:
        from attribution import digests
    finally:
        sys.path[:] = before
    for shared in (0.0, 0.5):
        wrong, power = digests(60, 12, 0.15, shared, 0.0, 300, 30, 81, 0.1)
        assert wrong.mean() <= 0.1
        assert power.mean() >= 0.9


_RUNS: dict[tuple[bool, bool], Any] = {}


def run(streams: Any, *, bad: bool, notify: bool = False) -> Any:
    if (bad, notify) not in _RUNS:
        _RUNS[bad, notify] = made(streams, bad=bad, notify=notify)
    return _RUNS[bad, notify]


def made(streams: Any, *, bad: bool, notify: bool) -> Any:
    """Three prompt versions for two hours and a bit; v2 is worse in the second one."""
    rng = np.random.default_rng(82)
    watch = {
        "rubrics": ["quality"], "learn": 900, "min_units": 60, "present_window": 60, "min_present": 10,
        "digest": {"period": "hour", "notify": notify},
    }  # fmt: skip
    feed = streams.Feed(streams.demo_settings(bucket=10, lateness=10, windows=[600], watches=[watch]))
    start = -(streams.T0 % HOUR) / SECOND + 3600  # the next whole hour
    items: list[Any] = []
    for i in range(1560):
        at = start + 5.0 * i
        arm = f"v{1 + i % 3}"
        drop = 0.4 if bad and arm == "v2" and at >= start + 3600 else 0.0
        items.append(streams.score(at, float(streams.draw(rng, 1, drop)[0]), arm=arm, number=i))
    feed.feed(streams.to_records([*items, Heartbeat(time_unix_nano=items[-1].time_unix_nano + 300 * SECOND)]))
    feed.start = streams.T0 + round(start * SECOND)
    return feed


def test_a_digest_at_the_end_of_every_period_names_what_got_worse(streams: Any) -> None:
    feed = run(streams, bad=True)
    first, second = [v for v in feed.verdicts if v.kind == "digest"]
    assert (first.state, second.state) == ("ok", "warn")
    assert {first.severity, second.severity} == {"none"}
    digest = second.evidence.digest
    assert digest is not None
    assert (digest.streams, digest.found, digest.alpha) == (3, 1, 0.1)
    assert (digest.start_unix_nano, digest.end_unix_nano) == (feed.start + HOUR, feed.start + 2 * HOUR)
    worst = digest.entries[0]
    assert worst.worse
    assert worst.cohort == "prompt_version=v2,route=support"
    assert 220 <= worst.units <= 250  # a third of the 720 units of the hour
    assert worst.mean == pytest.approx((worst.expected or 0) - 0.4, abs=0.06)
    assert not any(entry.worse for entry in digest.entries[1:])
    assert second.reason == "1 of 3 streams got worse: quality of prompt_version=v2,route=support."


def test_a_digest_warns_only_where_it_was_asked_to(streams: Any) -> None:
    assert [v.severity for v in run(streams, bad=True, notify=True).verdicts if v.kind == "digest"] == [
        "none",
        "warn",
    ]
    assert [v.severity for v in run(streams, bad=False, notify=True).verdicts if v.kind == "digest"] == [
        "none",
        "none",
    ]


def test_scores_and_operational_streams_have_digests_of_their_own(streams: Any) -> None:
    watch = {
        "rubrics": ["quality"], "operations": ["error_rate"], "learn": 900, "min_units": 50,
        "digest": {"period": "hour"},
    }  # fmt: skip
    feed = streams.Feed(streams.demo_settings(bucket=60, lateness=60, windows=[600], watches=[watch]))
    items: list[Any] = []
    for minute in range(130):
        of = streams.score(60.0 * minute, number=minute)
        facts = TraceFacts(trace_id=of.trace_id, time_unix_nano=of.time_unix_nano)
        items += [of, OperationsRecord(cohort=of.cohort, traces=[facts])]
    feed.feed(streams.to_records(items))
    digests = [v for v in feed.verdicts if v.kind == "digest"]
    assert sorted({v.evidence.digest.entries[0].rubric for v in digests}) == ["error_rate", "quality"]  # type: ignore[union-attr]
    assert len({v.verdict_id for v in digests}) == len(digests)


def test_digests_of_partitions_are_put_together_and_found_anew(streams: Any) -> None:
    verdict = [v for v in run(streams, bad=True).verdicts if v.kind == "digest"][-1]
    text = msgspec.json.encode(verdict.evidence).decode()
    old = json.dumps({"digest": {**json.loads(text)["digest"], "end_unix_nano": 1, "streams": 9999}})
    rows = [["default", "cohorts", text]] * 3 + [["default", "cohorts", old]]
    (merged,) = together(rows)
    assert (merged["streams"], merged["found"], len(merged["entries"])) == (9, 3, 9)
    (strict,) = together(rows, alpha=1e-300)
    assert strict["found"] == 0
