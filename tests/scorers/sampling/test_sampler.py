"""The sampler stage: assembly, completion, late spans, log records, caps, bad input."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from scorers.sampler import SamplerStage
from stream.errors import StartError
from stream.records import TOPIC_LOGS, TOPIC_SPANS
from stream.stage import Batch, Record


def test_trace_is_whole_and_goes_out_after_root_and_quiet(rig, runtime):
    run = runtime()
    run.spans(0, rig.span(1, 1, 0), rig.span(2, 1, 0))
    run.spans(1, rig.span(1, 0), resource="other")
    run.process(run.take({TOPIC_SPANS: 9}), 1)
    run.tick(5.999)
    assert run.outputs == []
    run.tick(6)
    [kept] = map(rig.Kept, run.outputs)
    assert (kept.trace_id, kept.numbers, kept.late) == (rig.trace_id(1), [0, 1], False)
    assert (kept.tenant, kept.lane, kept.policy, kept.probability) == ("t", "uniform", "uniform", 1.0)
    services = [group.resource.attributes[0].value.string_value for group in kept.data.resource_spans]
    assert services == ["shop", "other"]
    assert kept.data.resource_spans[0].schema_url == "https://schema/r"
    assert kept.data.resource_spans[0].scope_spans[0].schema_url == "https://schema/s"
    assert kept.data.resource_spans[0].scope_spans[0].scope.name == "lib"
    assert dict(run.outputs[0].headers)["redaction-policy"] == b"7"
    run.tick(29.999)
    assert len(run.outputs) == 1
    run.tick(30)  # the other trace has no root
    assert rig.Kept(run.outputs[1]).trace_id == rig.trace_id(2)
    assert run.ledger == {
        "spans_in": 3, "spans_kept": 3, "spans_pending": 0, "operations_seen": 2,
        "operations_skipped.no_interaction": 2,
        "traces_kept": 2, "traces_kept.uniform": 2,
    }  # fmt: skip


def test_every_new_span_postpones_until_the_oldest_age(rig, runtime):
    run = runtime({"completion": {"idle": 30, "max_age": "100s"}})
    for at in range(0, 130, 10):
        run.spans(at, rig.span(1, at + 1, 0))
        run.process(run.take({TOPIC_SPANS: 9}), at)
        run.tick(at)
    first = rig.Kept(run.outputs[0])
    assert first.numbers == list(range(1, 100, 10))  # the one at 100 s is the first late one
    assert not first.late


def test_time_is_that_of_the_records_not_of_the_clock(rig, runtime):
    """After an hour of downtime everything is old, and still what belongs together is decided together."""
    run = runtime()
    run.spans(0, rig.span(1, 1, 0))
    run.spans(20, rig.span(1, 0))
    run.spans(27, rig.span(2, 0))
    for _ in range(3):
        run.process(run.take({TOPIC_SPANS: 1}), 3600)
    run.tick(3600)
    assert [rig.Kept(output).numbers for output in run.outputs] == [[0, 1], [0]]


def test_topics_are_merged_by_time_however_they_are_polled(rig, runtime):
    """The spans topic is read far ahead of the logs: the content must still be there when the trace is decided."""
    run = runtime()
    for number in range(5):
        run.logs(number * 20, {"trace": number, "span": 0, "body": "hi"})
        run.spans(number * 20 + 1, rig.span(number, 0))
    run.process(run.take({TOPIC_SPANS: 5}), 3600)
    assert run.outputs == []
    run.process(run.take({TOPIC_LOGS: 5}), 3600)
    run.tick(3600)
    assert [len(rig.Kept(output).spans[0].events) for output in run.outputs] == [1] * 5


def test_an_idle_topic_does_not_stop_the_other(rig, runtime):
    """Under constant load without log records no batch is ever empty."""
    run = runtime()
    for second in range(60):
        run.spans(second, rig.span(second, 0))
        run.process(run.take({TOPIC_SPANS: 1}), second)
    assert len(run.outputs) >= 50


def test_what_waits_for_the_other_topic_is_bounded(rig, runtime):
    run = runtime({"caps": {"reorder_bytes": 1}})
    run.spans(0, rig.span(1, 0))
    run.spans(10, rig.span(2, 0))
    run.process(run.take({TOPIC_SPANS: 9}), 3600)
    assert run.count("spans_in") == 2


def test_idle_partition_is_decided_while_another_is_busy(rig):
    stage = SamplerStage()
    stage.assign(0, {})
    stage.assign(1, {})
    quiet = Record(TOPIC_SPANS, 1, 0, rig.spans_payload([rig.span(1, 0)]), timestamp_ns=rig.START)
    outputs = stage.process(Batch([quiet], rig.START)).outputs
    for number in range(20):
        at = rig.START + number * rig.SECOND
        busy = Record(TOPIC_SPANS, 0, number, rig.spans_payload([rig.span(9, number, 0)]), timestamp_ns=at)
        outputs += stage.process(Batch([busy], at)).outputs
    assert [output.key for output in outputs] == [rig.trace_id(1)]


def test_duplicates_count_and_collapse(rig, runtime):
    run = runtime()
    run.spans(0, rig.span(1, 0), rig.span(1, 0, name="again"))
    run.spans(1, rig.span(1, 0))
    [kept] = run.run(100)
    assert [item.name for item in kept.spans] == ["span 0"]
    run.spans(200, rig.span(1, 0))  # the client retries long after
    assert run.run() == []
    assert (run.count("spans_duplicate"), run.count("spans_kept"), run.count("spans_in")) == (3, 1, 4)


def test_late_spans_follow_a_kept_trace_together(rig, runtime):
    run = runtime({"uniform": {"ratio": 0}, "policies": [{"type": "error"}]})
    run.spans(0, rig.span(1, 0, status=2))
    run.run(10)
    run.spans(20, rig.span(1, 1, 0))
    run.spans(21, rig.span(1, 2, 0), rig.span(1, 0))
    [late] = run.run(100)
    assert (late.late, late.numbers) == (True, [1, 2])
    assert (late.lane, late.policy, late.probability) == ("triage", "error", 1.0)
    assert (run.count("spans_late_kept"), run.count("spans_kept"), run.count("traces_kept")) == (2, 3, 1)
    assert run.count("spans_duplicate") == 1


def test_late_spans_follow_a_dropped_trace(rig, runtime):
    run = runtime({"uniform": {"ratio": 0}})
    run.spans(0, rig.span(1, 0))
    run.run(10)
    run.spans(20, rig.span(1, 1, 0, status=2))
    assert run.run(100) == []
    assert (run.count("spans_late_dropped"), run.count("spans_dropped"), run.count("traces_dropped")) == (
        1,
        2,
        1,
    )


def test_tenants_do_not_meet_in_one_trace(rig, runtime):
    run = runtime()
    run.spans(0, rig.span(1, 0), tenant="a")
    run.spans(0, rig.span(1, 1, 0), tenant="b")
    run.logs(0, {"trace": 1, "span": 0, "body": "secret of b"}, tenant="b")
    kept = run.run()
    assert [(item.tenant, item.numbers, len(item.spans[0].events)) for item in kept] == [
        ("a", [0], 0),
        ("b", [1], 1),
    ]


def test_log_records_become_events_of_their_span(rig, runtime):
    run = runtime()
    run.logs(
        0,
        {
            "trace": 1,
            "span": 1,
            "name": "gen_ai.user.message",
            "body": "hi",
            "attributes": {"gen_ai.system": "x"},
        },
        {"trace": 1, "span": 7, "name": "gen_ai.evaluation.result"},
        {"trace": 1, "name": "gen_ai.choice"},
        {"trace": 1, "span": 1, "name": "", "attributes": {"event.name": "gen_ai.choice"}},
        {"trace": 1, "span": 1, "name": "app.log"},
        {"trace": None, "name": "gen_ai.choice"},
    )
    own = rig.span(1, 1, 0)
    own.events.add(name="own")
    run.spans(40, rig.span(1, 0), own)
    [kept] = run.run()
    root, child = kept.spans
    assert [event.name for event in child.events] == ["own", "gen_ai.user.message", "gen_ai.choice"]
    assert [event.name for event in root.events] == ["gen_ai.evaluation.result", "gen_ai.choice"]
    message = child.events[1]
    assert message.time_unix_nano == rig.START
    found = {item.key: item.value.string_value for item in message.attributes}
    assert found == {"gen_ai.system": "x", "event.body": "hi"}
    assert (run.count("logs_in"), run.count("logs_joined"), run.count("logs_dropped")) == (6, 4, 2)


def test_log_records_without_any_span_are_given_up_and_the_trace_can_still_come(rig, runtime):
    run = runtime()
    run.logs(0, {"trace": 1, "span": 0})
    assert run.run(119) == []
    assert run.count("logs_pending") == 1
    assert run.run(121) == []
    assert (run.count("logs_pending"), run.count("logs_dropped")) == (0, 1)
    run.spans(130, rig.span(1, 0))
    [kept] = run.run()
    assert not kept.late
    assert len(kept.spans[0].events) == 0


def test_log_records_of_late_spans_join_them(rig, runtime):
    run = runtime()
    run.spans(0, rig.span(1, 0))
    run.run(10)
    run.logs(20, {"trace": 1, "span": 1}, {"trace": 1, "span": 0})
    run.spans(22, rig.span(1, 1, 0))
    [late] = run.run()
    assert [(item.name, len(item.events)) for item in late.spans] == [("span 1", 1)]
    assert (run.count("logs_joined"), run.count("logs_dropped")) == (1, 1)


def test_logs_of_a_dropped_trace_are_dropped(rig, runtime):
    run = runtime({"uniform": {"ratio": 0}})
    run.spans(0, rig.span(1, 0))
    run.logs(0, {"trace": 1, "span": 0})
    run.run(10)
    run.logs(11, {"trace": 1, "span": 0})
    run.run(20)
    assert (run.count("logs_in"), run.count("logs_dropped")) == (2, 2)


@pytest.mark.parametrize(
    ("caps", "counter"),
    [
        ({"max_traces": 2}, "max_traces"),
        ({"max_bytes": 1 << 16}, "max_bytes"),
        ({"max_spans_per_trace": 2}, "max_spans_per_trace"),
        ({"max_trace_bytes": 1 << 10}, "max_trace_bytes"),
    ],
)
def test_caps_decide_and_forget_nothing(rig, runtime, caps, counter):
    run = runtime({"caps": caps, "completion": {"after_root": 20}})
    for number in range(80):
        run.spans(
            number / 10, *(rig.span(number % 40, 3 * number + part, 9) for part in range(3)), scope="x" * 500
        )
    run.process(run.take({TOPIC_SPANS: 1000}), 9)
    run.tick(9)
    assert run.count(f"evictions.{counter}") > 0
    run.tick(1000)
    kept = [number for output in run.outputs for number in rig.Kept(output).numbers]
    assert sorted(kept) == list(range(240))
    assert run.count("spans_kept") == 240


def test_a_huge_trace_comes_out_in_bounded_pieces(rig, runtime):
    run = runtime(
        {"caps": {"max_trace_bytes": "1MiB", "max_record_bytes": "256KiB", "max_spans_per_trace": 5000}}
    )
    total, step = 100_000, 1_000
    for first in range(0, total, step):
        run.spans(first / 10_000, *(rig.span(1, number + 1, 0) for number in range(first, first + step)))
    run.spans(11, rig.span(1, 0))
    for _ in range(110):
        run.process(run.take({TOPIC_SPANS: 1}), 11)
    assert run.count("spans_pending") <= 5000 + step
    run.tick(100)
    kept = list(map(rig.Kept, run.outputs))
    assert sum(len(item.spans) for item in kept) == total + 1
    assert max(item.size for item in kept) <= 256 << 10
    assert [item.late for item in kept] == [False] + [True] * (len(kept) - 1)
    assert run.count("traces_kept") == 1
    assert sum(map(len, run.state.values())) < 64 << 10


def test_a_cut_trace_has_its_root_in_the_first_record(rig, runtime):
    run = runtime({"caps": {"max_record_bytes": "1KiB"}})
    run.spans(0, *(rig.span(1, number, 0, name="n" * 300) for number in range(1, 9)), rig.span(1, 0))
    kept = run.run()
    assert len(kept) > 2
    assert 0 in kept[0].numbers
    assert max(item.size for item in kept) <= 1024
    assert sorted(number for item in kept for number in item.numbers) == list(range(9))


def test_decisions_are_bounded_and_an_old_trace_cannot_hold_them_all(rig, runtime):
    run = runtime({"caps": {"decisions": 1000}, "completion": {"idle": 500}})
    run.spans(0, rig.span(0, 1, 0))
    for number in range(1, 3001):
        run.spans(number / 100, rig.span(number, 0))
        if number % 50 == 0:
            run.process(run.take({TOPIC_SPANS: 1000}), number / 100)
            run.tick(number / 100)
    assert run.count("evictions.decisions") == 1
    assert run.count("traces_kept") > 2000
    held = [value for key, value in run.state.items() if key.startswith("decisions/")]
    assert sum(map(len, held)) < 100_000
    run.restart()
    run.run(5000)
    assert run.count("traces_kept") == 3001
    assert len({output.key for output in run.outputs}) == len(run.outputs) == 3001


def test_undecodable_records_are_rejected_and_the_rest_goes_on(rig, runtime):
    run = runtime()
    run.write(TOPIC_SPANS, 0, b"\xff\xff\xff\xff")
    run.write(TOPIC_LOGS, 0, b"\x0a\xff")
    run.spans(0, rig.span(1, 0))
    assert len(run.run()) == 1
    assert [(reject.reason, reject.record.topic) for reject in run.rejects] == [
        ("undecodable", TOPIC_SPANS),
        ("undecodable", TOPIC_LOGS),
    ]
    assert run.rejects[0].record.value == b"\xff\xff\xff\xff"


def test_spans_with_wrong_ids_are_rejected_alone(rig, runtime):
    run = runtime()
    good = rig.span(1, 0)
    bad = [rig.span(b"short", 1), rig.span(b"\0" * 16, 2), rig.span(2, -1), rig.span(b"", 3)]
    run.spans(0, bad[0], good, *bad[1:])
    [kept] = run.run()
    assert kept.numbers == [0]
    assert (run.count("spans_invalid"), run.count("spans_in")) == (4, 5)
    [reject] = run.rejects
    assert reject.reason == "invalid_ids"
    dead = TracesData.FromString(reject.record.value)
    assert list(dead.resource_spans[0].scope_spans[0].spans) == bad


@settings(max_examples=200, deadline=None)
@given(payload=st.binary(max_size=300), topic=st.sampled_from([TOPIC_SPANS, TOPIC_LOGS]))
def test_no_bytes_can_stop_the_stage(rig, payload, topic):
    run = rig.Runtime({"policies": [{"type": "cost", "at_least": 1}, {"type": "feedback"}]})
    run.write(topic, 0, payload)
    run.spans(1, rig.span(1, 0))
    assert run.run()[-1].numbers == [0]


@pytest.mark.parametrize("stamp", [1, 2**63 - 1, -5, 0])
def test_broken_record_timestamps_move_nothing(rig, runtime, stamp):
    run = runtime()
    run.spans(0, rig.span(1, 1, 0))
    run.log[TOPIC_SPANS].append(
        Record(TOPIC_SPANS, 0, 1, rig.spans_payload([rig.span(2, 0)]), timestamp_ns=stamp)
    )
    run.process(run.take({TOPIC_SPANS: 9}), 1)
    run.tick(2)
    assert run.outputs == []
    run.tick(40)
    assert len(run.outputs) == 2


@pytest.mark.parametrize("start", [0, 1, 2**64 - 1])
def test_span_times_of_1970_and_2554_do_not_matter_to_completion(rig, runtime, start):
    run = runtime({"policies": [{"type": "latency", "at_least": "2s"}]})
    run.spans(0, rig.span(1, 0, start_time_unix_nano=start, end_time_unix_nano=0), rig.span(1, 1, 0))
    [kept] = run.run(6)
    assert kept.policy == "uniform"


def test_records_of_a_partition_that_is_not_ours_are_an_error(rig):
    stage = SamplerStage()
    record = Record(TOPIC_SPANS, 3, 0, b"")
    with pytest.raises(ValueError, match="partition 3"):
        stage.process(Batch([record], rig.START))
    stage.assign(3, {})
    stage.process(Batch([record], rig.START))
    stage.revoke(3)
    with pytest.raises(ValueError, match="partition 3"):
        stage.process(Batch([record], rig.START))


def test_unknown_fields_and_attributes_pass_unchanged(rig, runtime):
    """What the sampler does not read it must not change: only trace state and joined events differ."""
    run = runtime()
    original = rig.span(1, 0, attributes={"a": ["x", 1, True], "b": 2.5, "text": "é\n"}, flags=0x101, kind=3)
    original.links.add(trace_id=b"l" * 16, span_id=b"m" * 8, trace_state="q=1")
    original.events.add(name="e").attributes.add(key="k").value.bytes_value = b"\xff"
    original.dropped_attributes_count = 4
    original.status.message = "fine"
    run.spans(0, original)
    [kept] = run.run()
    [sent] = kept.spans
    assert sent.trace_state == "ot=th:0"
    sent.trace_state = ""
    assert sent == original


@pytest.mark.parametrize("name", ["offsets", "decisions/0000000000000001", "decisions/x"])
def test_corrupt_state_says_what_to_do(name):
    with pytest.raises(StartError, match="restore a backup"):
        SamplerStage().assign(0, {name: b"\xc1"})
