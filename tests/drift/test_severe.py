"""Severe rubrics: tested by themselves, after few units, at a part of alpha of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stream.records import Evidence, Heartbeat

SECOND = 10**9


def both(streams: Any, seconds: float, *, safe: float, seed: int = 90, drop: float = 0.0) -> list[Any]:
    """Every trace has a quality and a safety score; ``safe`` is the candidate's share of safe answers."""
    rng = np.random.default_rng(seed)
    items: list[Any] = []
    for one in streams.canary(seed, seconds, rate=10.0, drop=drop):
        good = safe if one.cohort["prompt_version"] == "v2" else 0.995
        at = (one.time_unix_nano - streams.T0) / SECOND
        items.append(one)
        items.append(
            streams.score(
                at, float(rng.random() < good), arm=one.cohort["prompt_version"], number=f"s{len(items)}",
                rubric="safety", trace_id=one.trace_id, unit_id=one.unit_id,
            )
        )  # fmt: skip
    return items


def rollout(**more: Any) -> dict[str, Any]:
    return {"rubrics": ["quality"], "severe": ["safety"], "incumbent": "v1", "max_units": 500, **more}


def first(feed: Any, rubric: str, state: str) -> Any:
    return next((v for v in feed.verdicts if v.rubric == rubric and v.state == state), None)


def test_harm_is_stopped_before_the_other_rubrics_have_enough_units(streams: Any) -> None:
    feed = streams.Feed(streams.demo_settings(rollout=rollout()))
    feed.feed(streams.to_records(both(streams, 60, safe=0.3)))
    bad = first(feed, "safety", "regressed")
    assert bad is not None
    assert bad.action == "rollback"
    assert 10 <= bad.evidence.candidate_units < 30
    assert bad.evidence.alpha == 0.01
    assert bad.evidence.e_threshold == pytest.approx(1 / (0.01 * 0.45))
    at_that_time = [
        v for v in feed.verdicts if v.rubric == "quality" and v.time_unix_nano <= bad.time_unix_nano
    ]
    assert {v.state for v in at_that_time} == {"warming_up"}
    assert bad.evidence.worst_trace_ids


def test_a_severe_rubric_takes_no_evidence_from_the_others_and_gives_none(streams: Any) -> None:
    """The bar of the other rubric is what it would be alone, but for the part of alpha that severe ones have."""
    feed = streams.Feed(streams.demo_settings(rollout=rollout(severe=["safety", "privacy"])))
    feed.feed(streams.to_records(both(streams, 60, safe=0.3)))

    def evidence(rubric: str) -> Evidence:
        return [v.evidence for v in feed.verdicts if v.rubric == rubric][-1]

    assert evidence("quality").e_threshold == pytest.approx(1 / (0.03 * 0.45))
    assert evidence("safety").e_threshold == pytest.approx(2 / (0.01 * 0.45))  # two of them share their part
    assert evidence("safety").sr_threshold == pytest.approx(2 * 500 / (0.01 * 0.55))


def test_promotion_waits_for_severe_rubrics_and_is_never_theirs_to_give(streams: Any) -> None:
    wide = rollout(margin=0.3, page_size=0.3)
    feed = streams.Feed(streams.demo_settings(rollout=wide))
    feed.feed(streams.to_records(both(streams, 200, safe=0.995)))
    promoted = [v for v in feed.verdicts if v.action == "promote"]
    assert len(promoted) == 1
    held = streams.Feed(streams.demo_settings(rollout=wide))
    held.feed(streams.to_records(both(streams, 200, safe=0.3)))
    assert first(held, "quality", "non_inferior") is not None
    assert not [v for v in held.verdicts if v.action == "promote"]
    alone = streams.Feed(streams.demo_settings(rollout=rollout(rubrics=[], margin=0.3)))
    alone.feed(streams.to_records(both(streams, 200, safe=0.995)))
    assert first(alone, "safety", "non_inferior") is not None
    assert not [v for v in alone.verdicts if v.action == "promote"]


def test_a_candidate_that_was_there_for_a_moment_only_is_missed(streams: Any) -> None:
    """All its scores fall into one bucket, and the next thing in the log is an hour later."""
    items = [streams.score(0.1 + 0.01 * i, arm="v1" if i % 2 else "v2", number=i) for i in range(80)]
    feed = streams.Feed(streams.demo_settings(rollout={"incumbent": "v1"}))
    feed.feed(streams.to_records([*items, Heartbeat(time_unix_nano=streams.T0 + 3600 * SECOND)]))
    assert {v.state for v in feed.verdicts if v.candidate == "v2"} == {"no_data"}
    assert {v.severity for v in feed.verdicts} == {"warn"}


def test_two_prompts_with_one_version_are_two_verdicts_and_two_causes(streams: Any) -> None:
    from sinks.incidents.incident import cause_of

    items: list[Any] = []
    for prompt in ("answer", "summary"):
        for one in streams.canary(91, 60, drop=0.5, rate=10):
            cohort = {**one.cohort, "prompt_name": prompt}
            at = (one.time_unix_nano - streams.T0) / SECOND
            items.append(
                streams.score(
                    at, one.value, arm=cohort["prompt_version"], number=f"{prompt}{at}", cohort=cohort
                )
            )
    items.sort(key=lambda one: one.time_unix_nano)
    feed = streams.Feed(streams.demo_settings(rollout={"incumbent": "v1"}))
    feed.feed(streams.to_records(items))
    bad = [v for v in feed.verdicts if v.action == "rollback"]
    assert sorted(v.prompt_name for v in bad) == ["answer", "summary"]
    assert len({cause_of(v) for v in bad}) == 2
