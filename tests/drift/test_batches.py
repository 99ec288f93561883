"""Batches: checked at once they are what their records are one by one, wherever they are cut."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drift.intake import decode, read
from drift.origins import Origins
from drift.settings import BudgetSettings, DriftSettings, RolloutSettings, WatchSettings
from stream.errors import Permanent
from stream.records import Heartbeat, OperationsRecord, ScoreRecord, TraceFacts
from stream.stage import Record

SECOND = 10**9
SKEW = 300 * SECOND
T0 = 1_700_000_000 * SECOND

long_text = st.sampled_from(["x" * 512, "x" * 513, "é" * 513, "\\" * 400])
text = st.one_of(st.sampled_from(["", "a", "support"]), long_text)
number = st.one_of(
    st.sampled_from(
        [
            0,
            1,
            -0.0,
            0.5,
            1.0,
            1.5,
            -1,
            1e-320,
            2.0**-56,
            1e-17,
            2**53,
            2**53 + 1,
            2**63,
            10**30,
            None,
            "0.5",
            True,
            [],
        ]
    ),
    st.floats(allow_nan=False),
)
changes = st.one_of(
    st.tuples(st.sampled_from(["score_id", "unit_id", "rubric", "tenant", "trace_id", "span_id", "anchor"]), text),
    st.tuples(st.sampled_from(["value", "probability", "cost_usd", "reference", "input_tokens", "output_tokens"]), number),
    st.tuples(
        st.just("time_unix_nano"),
        st.sampled_from([0, -1, T0 + SKEW, T0 + SKEW + 1, 4_102_444_800 * SECOND + 1, 2**63, 10**30, "1", 1.5, None]),
    ),
    st.tuples(st.just("status"), st.sampled_from(["scored", "skipped", "failed", "lost", None])),
    st.tuples(st.just("lane"), st.sampled_from(["uniform", "triage", "fast"])),
    st.tuples(st.just("type"), st.sampled_from(["score", "heartbeat", "operations", ""])),
    st.tuples(
        st.just("cohort"),
        st.one_of(
            st.dictionaries(text, text, max_size=3),
            st.sampled_from([None, [], {"route": 1}, {f"k{i}": "" for i in range(33)}]),
        ),
    ),
    st.tuples(
        st.just("evaluator"),
        st.one_of(
            st.fixed_dictionaries({"id": text, "model": text}), st.sampled_from([None, {}, "judge", {"id": 1}])
        ),
    ),
    st.tuples(st.sampled_from(["explanation", "label", "something new"]), st.one_of(text, number)),
)  # fmt: skip
whole = {
    "score_id": "s", "time_unix_nano": T0, "trace_id": "t", "span_id": "p", "unit_id": "u", "rubric": "quality",
    "evaluator": {"id": "judge"}, "value": 0.5, "cohort": {"route": "r"},
}  # fmt: skip
broken = st.sampled_from(
    [b"", b"{", b"null", b"[]", b'{"score_id":"\xff"}', b'{"type":"heartbeat"}', b"{}" * 2]
)


@st.composite
def values(draw: Any) -> bytes:
    if draw(st.integers(0, 9)) == 0:
        return draw(broken)  # type: ignore[no-any-return]
    record = dict(whole) | dict(draw(st.lists(changes, max_size=3)))
    for name in draw(st.lists(st.sampled_from(sorted(whole)), max_size=1)):
        del record[name]
    raw = msgspec.json.encode(record)
    cut = draw(st.sampled_from([None] * 9 + [-1]))
    return raw[:cut].replace(b"support", draw(st.sampled_from([b"support", b"\\u0073upport", b"\xc3"])))


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(values(), st.sampled_from([0, T0, T0 - SKEW, 2**63])), min_size=1, max_size=8))
def test_a_record_is_good_in_a_batch_exactly_when_it_is_a_score_by_itself(
    drawn: list[tuple[bytes, int]],
) -> None:
    records = [Record("scores", 0, i, raw, timestamp_ns=at) for i, (raw, at) in enumerate(drawn)]
    columns = read(records, SKEW, Origins())
    for row, record in enumerate(records):
        try:
            item = decode(record, SKEW)
        except Permanent:
            item = None
        assert bool(columns.good[row]) == isinstance(item, ScoreRecord)
        if not isinstance(item, ScoreRecord):
            continue
        score, origin = columns.scores[row], columns.origins[row]
        for name in ScoreRecord.__struct_fields__:
            if name not in ("evaluator", "cohort"):
                assert getattr(score, name) == getattr(item, name)
        assert (origin.evaluator, origin.cohort, origin.identity) == (
            item.evaluator, item.cohort, item.evaluator.identity,
        )  # fmt: skip
        assert columns.times[row] == item.time_unix_nano
        if item.status == "scored":
            assert repr(columns.values[row].item()) == repr(item.value or 0.0)
        known = item.probability is not None
        assert np.isnan(columns.weights[row]) != known
        if item.probability is not None:
            assert columns.weights[row] == 1.0 / item.probability
        assert columns.plain[row] == (
            item.status == "scored" and item.lane == "uniform" and not item.anchor and known
        )


def test_one_number_beyond_64_bits_spoils_only_its_own_record(streams: Any) -> None:
    feed = streams.Feed(streams.demo_settings())
    records = streams.to_records([streams.score(i, number=i) for i in range(5)])
    huge = msgspec.json.encode({**whole, "time_unix_nano": 10**30})
    feed.feed([*records, Record("scores", 0, 5, huge)])
    assert feed.counters["scores_used"] == 5
    assert [reject.reason for reject in feed.rejects] == ["bad_time"]


def everything(**more: Any) -> DriftSettings:
    return DriftSettings(
        bucket=1, lateness=3, windows=[10, 60], report_every=5, views=[["route"], ["route", "prompt_version"]],
        units={"idle": 2, "trace_idle": 1, "max": 6, "remember": 20, "max_scores": 3, "max_open": 100},
        rollouts=[
            RolloutSettings(rubrics=["quality"], severe=["harm"], operations=["error_rate"], max_arms=2, min_units=2),
            RolloutSettings(name="two", arm="model", rubrics=["quality"], scope=["route"], match={"route": "a"}),
        ],
        watches=[WatchSettings(rubrics=["quality"], operations=["error_rate"], max_cohorts=2)],
        budgets=[BudgetSettings(of="judges", usd=3.0), BudgetSettings(name="app", tokens=2000)],
        **more,
    )  # fmt: skip


@st.composite
def traffic(draw: Any) -> list[Record]:
    """Half a minute or so of everything that may come, in a random order of event times."""
    seed = draw(st.integers(0, 2**32 - 1))
    count = draw(st.integers(20, 120))
    rng = np.random.default_rng(seed)
    at, records = 0.0, []
    for i in range(count):
        at += float(rng.choice([0.0, 0.1, 0.4, 3.0], p=[0.3, 0.4, 0.25, 0.05]))
        time_ns = T0 + int((at - float(rng.choice([0, 1, 5], p=[0.7, 0.2, 0.1]))) * SECOND)
        kind = rng.random()
        cohort = {"route": str(rng.choice(["a", "b", "c"]))}
        if rng.random() < 0.9:
            cohort |= {
                "prompt_version": str(rng.choice(["v1", "v2", "v3"])),
                "model": str(rng.choice(["m", "n"])),
            }
        item: Any
        if kind < 0.05:
            item = Heartbeat(time_unix_nano=time_ns)
        elif kind < 0.15:
            traces = [
                TraceFacts(
                    trace_id=str(rng.integers(0, 90)), time_unix_nano=time_ns + k * SECOND // 2,
                    flags=["error"] if rng.random() < 0.3 else [], input_tokens=int(rng.integers(-1, 90)),
                )
                for k in range(3)
            ]  # fmt: skip
            item = OperationsRecord(cohort=cohort, traces=traces)
        else:
            item = msgspec.convert(
                {
                    **whole, "score_id": f"s{rng.integers(0, count)}", "time_unix_nano": time_ns,
                    "trace_id": f"t{i}", "unit_id": f"t{i}" if rng.random() < 0.5 else f"u{rng.integers(0, 12)}",
                    "rubric": str(rng.choice(["quality", "harm", "length"])), "value": float(rng.random()),
                    "evaluator": {"id": "judge", "kind": "judge", "model": "m" if i < count // 2 else "n"},
                    "status": str(rng.choice(["scored", "failed"], p=[0.95, 0.05])), "cohort": cohort,
                    "lane": str(rng.choice(["uniform", "triage"], p=[0.9, 0.1])),
                    "probability": [1.0, 0.3, None][int(rng.choice(3, p=[0.7, 0.2, 0.1]))],
                    "cost_usd": float(rng.choice([0.0, 0.1])), "anchor": "x" if rng.random() < 0.1 else "",
                    "reference": 0.5,
                },
                ScoreRecord,
            )  # fmt: skip
        raw = msgspec.json.encode(item)
        records.append(Record("scores", 0, i, raw[: -1 if rng.random() < 0.03 else None]))
    return records


@pytest.mark.parametrize("budgets", [True, False])
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(traffic(), st.lists(st.integers(0, 119), max_size=6), st.integers(0, 6))
def test_cuts_and_restarts_change_nothing(
    streams: Any, budgets: bool, records: list[Record], cuts: list[int], restart: int
) -> None:
    known = everything() if budgets else everything().model_copy(update={"budgets": []})
    single, cut = streams.Feed(known), streams.Feed(known)
    for record in records:
        single.feed([record])
    bounds = sorted({0, *cuts, len(records)})
    for number, (start, end) in enumerate(itertools.pairwise(bounds)):
        if number == restart:
            cut.restart()
        cut.feed(records[start:end])
    assert cut.counters == single.counters
    assert [output.value for output in cut.outputs] == [output.value for output in single.outputs]
    assert [reject.record.offset for reject in cut.rejects] == [
        reject.record.offset for reject in single.rejects
    ]
    assert cut.remembered() == single.remembered()
