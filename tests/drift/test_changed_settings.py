"""Other settings after a restart: what still fits goes on, what does not starts anew, and nothing is left that nobody asked for."""

from __future__ import annotations

from typing import Any

import msgspec

from stream.records import ScoreRecord


def later(items: list[ScoreRecord], seconds: float, **cohort: str) -> list[ScoreRecord]:
    """The same scores again, as others, so much later and with these attributes too."""
    return [
        msgspec.structs.replace(
            item,
            score_id=f"{item.score_id}/{seconds}",
            unit_id=f"{item.unit_id}/{seconds}",
            trace_id=f"{item.trace_id}/{seconds}",
            time_unix_nano=item.time_unix_nano + round(seconds * 1e9),
            cohort=item.cohort | cohort,
        )
        for item in items
    ]


def continued(
    streams: Any, before: dict[str, Any], after: dict[str, Any], first: list[Any], second: list[Any]
) -> tuple[Any, int]:
    """A feed that got ``first`` under one rollout and ``second`` under another, and how many verdicts were there between."""
    feed = streams.Feed(streams.demo_settings(rollout={"operations": []} | before))
    feed.feed(streams.to_records(first))
    number = len(feed.verdicts)
    feed.settings = streams.demo_settings(rollout={"operations": []} | after)
    feed.restart()
    feed.feed(streams.to_records(second, first=len(first)))
    return feed, number


def test_another_intended_share_is_checked_from_then_on(streams: Any) -> None:
    first = streams.canary(3, 40, share=0.2)
    second = later(streams.canary(4, 40, share=0.5), 40)
    feed, _ = continued(streams, {"expected_share": 0.2}, {"expected_share": 0.5}, first, second)
    assert "sample_ratio_mismatch" not in feed.transitions()
    wrong, _ = continued(streams, {"expected_share": 0.2}, {"expected_share": 0.2}, first, second)
    assert wrong.transitions()[-1] == "sample_ratio_mismatch"


def test_a_share_that_is_left_out_is_checked_no_longer(streams: Any) -> None:
    first, second = streams.canary(3, 40, share=0.2), later(streams.canary(4, 40, share=0.2), 40)
    feed, number = continued(streams, {"expected_share": 0.5}, {}, first, second)
    assert feed.verdicts[number - 1].state == "sample_ratio_mismatch"
    assert feed.transitions()[-1] == "ok"
    assert feed.verdicts[-1].evidence.sample_ratio_p is None
    assert feed.verdicts[-1].evidence.pairs > feed.verdicts[number - 1].evidence.pairs  # the evidence goes on


def test_arms_of_another_attribute_are_other_arms(streams: Any) -> None:
    first = later(streams.canary(3, 40, rate=20), 0, model="m1")
    second = later(streams.canary(4, 40, rate=20), 40, model="m1")
    feed, number = continued(streams, {}, {"arm": "model", "no_data_after": 20}, first, second)
    assert number
    assert feed.verdicts[number:] == []  # there is one model only


def test_a_named_incumbent_is_not_what_was_tested_as_a_candidate(streams: Any) -> None:
    first, second = streams.canary(3, 40, rate=20), later(streams.canary(4, 40, rate=20), 40)
    feed, number = continued(streams, {}, {"incumbent": "v2"}, first, second)
    assert {(v.incumbent, v.candidate) for v in feed.verdicts[:number]} == {("v1", "v2")}
    assert {(v.incumbent, v.candidate) for v in feed.verdicts[number:]} == {("v2", "v1")}


def test_a_longer_lateness_does_not_count_again_what_was_closed(streams: Any) -> None:
    items = streams.canary(5, 30, rate=10)
    feed = streams.Feed(streams.demo_settings(lateness=1))
    feed.feed(streams.to_records(items))
    feed.settings = streams.demo_settings(lateness=60)
    feed.restart()
    again = [streams.score(31.5, number="next"), *items]  # each of them once more
    feed.feed(streams.to_records(again, first=len(items)))
    assert feed.counters["scores_used"] == len(items) + 1


def test_a_digest_of_another_period_begins_with_the_next_one(streams: Any) -> None:
    def configured(period: str) -> Any:
        watch = {"rubrics": ["quality"], "learn": 900, "min_units": 50, "digest": {"period": period}}
        return streams.demo_settings(bucket=60, lateness=60, windows=[600], watches=[watch])

    hour, day = 3600, 86400
    start = day - streams.T0 // 10**9 % day  # the next midnight
    for before, after, length in (("hour", "day", day), ("day", "hour", hour)):
        feed = streams.Feed(configured(before))
        feed.feed(streams.to_records([streams.score(start + 60.0 * n, number=n) for n in range(90)]))
        feed.settings = configured(after)
        feed.restart()
        number = len(feed.verdicts)
        times = [start + 5400.0 + 600 * n for n in range(150)]
        feed.feed(streams.to_records([streams.score(at, number=at) for at in times], first=90))
        found = [v.evidence.digest for v in feed.verdicts[number:] if v.kind == "digest"]
        assert found
        assert {one.end_unix_nano - one.start_unix_nano for one in found} == {length * 10**9}  # type: ignore[union-attr]
        assert found[0].end_unix_nano == streams.T0 + (start + max(2 * hour, length)) * 10**9  # type: ignore[union-attr]


def test_another_present_window_says_how_bad_it_is_from_then_on(streams: Any) -> None:
    first, second = streams.canary(3, 40, rate=20), later(streams.canary(4, 40, rate=20), 40)
    feed, number = continued(streams, {}, {"present_window": 20}, first, second)
    assert [one.seconds for one in feed.verdicts[number - 1].evidence.windows] == [900, 3600]
    assert [one.seconds for one in feed.verdicts[-1].evidence.windows] == [20, 80]
    assert feed.verdicts[-1].evidence.pairs > feed.verdicts[number - 1].evidence.pairs


def test_other_windows_do_not_forget_which_scores_were_there(streams: Any) -> None:
    items = streams.canary(5, 10, rate=10)
    feed = streams.Feed(streams.demo_settings(lateness=60))
    feed.feed(streams.to_records(items))
    feed.settings = streams.demo_settings(lateness=60, windows=[60])
    feed.restart()
    feed.feed(streams.to_records(items, first=len(items)))
    assert feed.counters["scores_excluded.duplicate"] == len(items)


def test_the_interval_follows_alpha_as_the_threshold_does(streams: Any) -> None:
    first, second = streams.canary(3, 40, rate=20), later(streams.canary(4, 40, rate=20), 40)
    feed, _ = continued(streams, {"alpha": 0.001}, {"alpha": 0.4}, first, second)
    same, _ = continued(streams, {"alpha": 0.4}, {"alpha": 0.4}, first, second)
    ours, theirs = feed.verdicts[-1].evidence, same.verdicts[-1].evidence
    assert (ours.e_threshold, ours.interval_low, ours.interval_high) == (
        theirs.e_threshold, theirs.interval_low, theirs.interval_high,
    )  # fmt: skip
