"""Kills, batching and polling order change nothing: property tests against the undisturbed run."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from stream.records import TOPIC_LOGS, TOPIC_SPANS

_CONFIGURATIONS = (
    {},
    {"uniform": {"ratio": 0.5}},
    {
        "uniform": {"ratio": 0.3},
        "policies": [
            {"type": "error"},
            {
                "type": "and",
                "policies": [{"type": "attribute", "key": "k"}, {"type": "probabilistic", "ratio": 0.5}],
            },
            {"type": "rate_limit", "traces_per_second": 0.05},
        ],
    },
    {"uniform": {"ratio": 0}, "policies": [{"type": "rate_limit", "traces_per_second": 0.1, "burst": 1}]},
    {"caps": {"max_traces": 2}},
    {"caps": {"max_spans_per_trace": 3, "max_record_bytes": 1024}, "uniform": {"ratio": 0.5}},
    {"caps": {"max_bytes": 1 << 16, "max_trace_bytes": 5000}},
    {"completion": {"after_root": 1, "idle": 2, "max_age": 4, "logs_without_span": 3}},
)

# One event: seconds since the last, what, trace, span, flavour.
_EVENT = st.tuples(
    st.sampled_from([0.0, 0.4, 1.0, 3.0, 7.0, 40.0]),
    st.sampled_from(["span", "span", "span", "error", "big", "log", "log", "twice"]),
    st.integers(0, 4),
    st.integers(0, 5),
)
_HISTORY = st.lists(_EVENT, min_size=1, max_size=40)


def _write(rig, run, history) -> float:
    at = 0.0
    for pause, what, trace, number in history:
        at += pause
        parent = 0 if number else None
        fields = {"attributes": {"gen_ai.operation.name": "chat", "k": number}} if number % 2 else {}
        match what:
            case "log":
                run.logs(at, {"trace": trace, "span": number}, {"trace": trace + 1, "span": None})
            case "error":
                run.spans(at, rig.span(trace, number, parent, status=2, **fields))
            case "big":
                run.spans(
                    at, *(rig.span(trace, 10 * number + extra, 0, name="n" * 400) for extra in range(1, 6))
                )
            case "twice":
                made = rig.span(trace, number, parent, **fields)
                run.spans(at, made, rig.span(trace + 1, number, parent), made)
            case _:
                run.spans(at, rig.span(trace, number, parent, **fields))
    return at


def _seen(run):
    return [(output.key, output.headers, output.value) for output in run.outputs]


def _reference(rig, configuration, history):
    run = rig.Runtime(configuration)
    end = _write(rig, run, history)
    merged = sorted(
        (record for topic in (TOPIC_SPANS, TOPIC_LOGS) for record in run.log[topic]),
        key=lambda record: (record.timestamp_ns, record.topic != TOPIC_SPANS, record.offset),
    )
    for record in merged:
        run.process(run.take({record.topic: 1}), end + 1)
    run.tick(end + 1)
    run.tick(end + 5000)
    return run, end


def _facts(run):
    return sorted(
        (record.tenant, facts.trace_id, repr(facts)) for record in run.told for facts in record.traces
    )


def _check(rig, run, reference) -> None:
    assert _seen(run) == _seen(reference)
    assert _facts(run) == _facts(reference)
    told = [facts[:2] for facts in _facts(run)]
    assert len(set(told)) == len(told) == run.count("operations_sent"), "a trace was told about twice"
    assert {name: by for name, by in run.ledger.items() if by} == {
        name: by for name, by in reference.ledger.items() if by
    }
    assert run.count("spans_pending") == run.count("logs_pending") == run.count("spans_lost") == 0
    sent = [(kept.trace_id, number) for kept in map(rig.Kept, run.outputs) for number in kept.numbers]
    assert max(Counter(sent).values(), default=1) == 1, "a span was sent twice"
    whole = [output.key for output in run.outputs if not rig.Kept(output).late]
    assert len(set(whole)) == len(whole), "a trace was sent twice as a whole"


_STEP = st.tuples(
    st.integers(0, 6), st.integers(0, 6), st.sampled_from(["", "", "", "", "lost", "kill", "kill twice"])
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    configuration=st.sampled_from(_CONFIGURATIONS),
    history=_HISTORY,
    steps=st.lists(_STEP, min_size=1, max_size=40),
)
def test_catching_up_with_kills_gives_what_the_undisturbed_run_gives(rig, configuration, history, steps):
    """Backlog: both topics are polled in any proportion, in batches of any size, with kills at any point."""
    reference, end = _reference(rig, configuration, history)
    run = rig.Runtime(configuration)
    _write(rig, run, history)
    now = end + 1
    for spans, logs, fate in steps:
        records = run.take({TOPIC_SPANS: spans, TOPIC_LOGS: logs})
        if records:  # an empty batch means that nothing is left to read
            now += 0.0001
            run.process(records, now, lost=fate == "lost")
        if fate.startswith("kill"):
            run.restart()
        if fate == "kill twice":
            run.process(run.take({TOPIC_SPANS: 1, TOPIC_LOGS: 1}), now)
            run.restart()
    while records := run.take({TOPIC_SPANS: 3, TOPIC_LOGS: 3}):
        run.process(records, now)
    run.tick(now)
    run.tick(end + 5000)
    note(str(run.ledger))
    _check(rig, run, reference)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    configuration=st.sampled_from(_CONFIGURATIONS),
    history=_HISTORY,
    fates=st.lists(st.sampled_from(["", "", "tick", "lost", "kill", "lost tick"]), min_size=40, max_size=40),
)
def test_live_with_ticks_and_kills_gives_what_the_undisturbed_run_gives(rig, configuration, history, fates):
    """Live: every record is read when it was written, time passes in between, kills at any point."""
    history = [
        (max(0.05, pause), *rest) for pause, *rest in history
    ]  # one at a time: ties have no order here
    reference, end = _reference(rig, configuration, history)
    run = rig.Runtime(configuration)
    at = 0.0
    for event, fate in zip(history, fates, strict=False):
        # Half a millisecond before the next record: everything up to then was read.
        at += event[0]
        quiet = at - 0.0005
        if "tick" in fate and _read_all(run):
            run.process([], quiet, lost="lost" in fate)
        _append(rig, run, at, event)
        records = run.take({TOPIC_SPANS: 100, TOPIC_LOGS: 100})
        run.process(records, at, lost=fate == "lost")
        if fate == "kill":
            run.restart()
    while records := run.take({TOPIC_SPANS: 3, TOPIC_LOGS: 3}):
        run.process(records, end + 1)
    run.tick(end + 1)
    run.tick(end + 5000)
    note(str(run.ledger))
    _check(rig, run, reference)


def _append(rig, run, at, event) -> None:
    """Write one event at the time ``at``."""
    shadow = rig.Runtime(run.settings)
    _write(rig, shadow, [(at, *event[1:])])
    for topic, records in shadow.log.items():
        for record in records:
            run.write(topic, 0, record.value)
            place = run.log[topic]
            last = place.pop()
            place.append(
                type(last)(topic, 0, last.offset, last.value, b"", last.headers, record.timestamp_ns)
            )


def _read_all(run) -> bool:
    return all(run.position.get(topic, 0) == len(records) for topic, records in run.log.items())


def test_the_log_lost_what_was_pending(rig, runtime):
    """Retention took the records of a pending trace while the process was down: written off, not pending for ever."""
    run = runtime()
    run.spans(0, rig.span(1, 1, 0))
    run.logs(0, {"trace": 1, "span": 1})
    run.process(run.take({TOPIC_SPANS: 9, TOPIC_LOGS: 9}), 1)
    run.tick(1)
    assert run.count("spans_pending") == 1
    run.restart()
    run.position = {TOPIC_SPANS: 1, TOPIC_LOGS: 1}
    run.spans(100, rig.span(2, 0))
    assert run.run(200) == []  # it may still turn up
    for now in (215, 235, 236):
        run.tick(now)
    [kept] = map(rig.Kept, run.outputs)
    assert kept.numbers == [0]
    assert (run.count("spans_lost"), run.count("logs_lost"), run.count("spans_pending")) == (1, 1, 0)


def test_what_was_given_up_and_turns_up_is_found_again(rig, runtime):
    run = runtime()
    run.spans(0, rig.span(1, 0))
    run.process(run.take({TOPIC_SPANS: 9}), 1)
    run.tick(1)
    run.restart()
    for now in (100, 115, 131):
        run.tick(now)
    assert run.count("spans_lost") == 1
    run.goes_back = True
    [kept] = run.run(140)
    assert kept.numbers == [0]
    assert (run.count("spans_lost"), run.count("spans_kept")) == (0, 1)


def test_ticks_before_the_first_fetch_decide_nothing(rig, runtime):
    """After a restart a consumer may poll nothing for a while; pending traces must be read again before they are due."""
    run = runtime()
    run.spans(0, rig.span(1, 1, 0))
    run.spans(1, rig.span(1, 0))
    run.process(run.take({TOPIC_SPANS: 9}), 1)
    run.tick(2)
    run.restart()
    run.tick(100)
    assert run.committed[TOPIC_SPANS] == 0
    run.process(run.take({TOPIC_SPANS: 1}), 100)
    run.tick(101)
    assert run.outputs == []
    [kept] = run.run(102)
    assert kept.numbers == [0, 1]


def test_records_delivered_twice_without_a_restart_count_once(rig, runtime):
    run = runtime()
    run.spans(0, rig.span(1, 0))
    run.process(run.take({TOPIC_SPANS: 9}), 0)
    run.position = {}
    assert len(run.run()) == 1
    assert run.count("spans_in") == 1


def test_a_kill_between_state_and_offsets_repeats_nothing(rig, runtime):
    """On Kafka the state is saved before the offsets are committed."""
    run = runtime()
    run.spans(0, rig.span(1, 0))
    run.process(run.take({TOPIC_SPANS: 9}), 0)
    before = dict(run.committed)
    run.run(10)
    run.committed = before
    run.restart()
    assert run.run(20) == []
    assert run.count("spans_in") == 1


def test_a_kill_does_not_repeat_a_trace_with_more_spans_than_are_remembered(rig, runtime):
    """Which records a decision covered is told by their offsets, not only by the ids of the spans."""
    run = runtime({"caps": {"max_spans_per_trace": 1500}})
    run.spans(0, rig.span(2, 1, 0))
    run.spans(1, *(rig.span(1, number, 0) for number in range(1, 1600)))
    run.spans(2, rig.span(1, 1600, 0))
    run.process(run.take({TOPIC_SPANS: 9}), 3)
    run.tick(3)
    assert (run.count("traces_kept"), run.count("spans_pending")) == (1, 2)
    for _ in range(2):
        run.restart()
        run.process(run.take({TOPIC_SPANS: 9}), 4)
        run.tick(4)
    assert len(run.outputs) == 1
    run.run(100)
    kept = list(map(rig.Kept, run.outputs))
    assert [(item.trace_id == rig.trace_id(1), item.late, len(item.spans)) for item in kept] == [
        (True, False, 1599),
        (True, True, 1),
        (False, False, 1),
    ]


def test_new_records_wait_until_the_old_ones_are_back(rig, runtime):
    """After a kill one topic is polled before the other, and more waits than the limit says."""
    run = runtime({"caps": {"reorder_bytes": 0}, "uniform": {"ratio": 0}})
    run.spans(0, rig.span(1, 1, 0, status=2))
    run.process(run.take({TOPIC_SPANS: 9}), 0)
    run.tick(0)
    run.restart()
    run.logs(100, {"trace": 1, "span": 1}, {"trace": 2, "span": 1})
    run.logs(300, {"trace": 2, "span": 1})
    run.process(run.take({TOPIC_LOGS: 9}), 300)
    run.process(run.take({TOPIC_SPANS: 9}), 300)
    run.run(1000)
    [kept] = map(rig.Kept, run.outputs)
    assert kept.policy == "errors"
    assert run.count("spans_kept") == 1


def test_time_does_not_go_back_over_a_kill(rig, runtime):
    """The log's clock was set back; what that means for deadlines must survive a kill, too."""
    for kill in (False, True):
        run = runtime()
        run.spans(100, rig.span(1, 0))
        run.process(run.take({TOPIC_SPANS: 9}), 100)
        run.tick(106)
        run.spans(50, rig.span(2, 1, 0))  # counts as written at 100
        run.process(run.take({TOPIC_SPANS: 9}), 107)
        run.tick(107)
        if kill:
            run.restart()
        run.spans(110, rig.span(3, 0))
        run.spans(120, rig.span(2, 0))
        run.process(run.take({TOPIC_SPANS: 9}), 120)
        run.run(1000)
        assert [rig.Kept(output).numbers for output in run.outputs] == [[0], [0], [0, 1]], kill


def test_a_decision_stays_while_a_late_span_that_followed_it_can_be_read_again(rig, runtime):
    run = runtime({"caps": {"decisions": 1000}, "completion": {"idle": 500}, "uniform": {"ratio": 0}})
    run.spans(0, rig.span(0, 0))
    run.run(6)
    run.spans(10, rig.span(1, 1, 0))  # pending for long
    run.spans(11, rig.span(0, 1, 0))  # late
    for number in range(2, 1002):
        run.spans(12, rig.span(number, 0))
    run.run(30)
    assert run.count("evictions.decisions") == 1
    run.restart()
    run.run(40)
    assert (run.count("spans_late_dropped"), run.count("spans_dropped"), run.count("spans_lost")) == (
        1,
        1003,
        0,
    )


def test_what_was_settled_stays_settled_though_it_is_read_again_in_another_order(rig, runtime):
    """Before the kill a limit let the log records through ahead of older spans."""
    run = runtime({"caps": {"reorder_bytes": 0}, "completion": {"idle": 500}})
    run.spans(0, rig.span(2, 1, 0))  # pending for long: its log record is needed again
    run.logs(100, {"trace": 1, "span": 1}, {"trace": 2, "span": 1})
    run.logs(300, {"trace": 3, "span": 1})
    run.process(run.take({TOPIC_SPANS: 1}), 300)
    run.process(run.take({TOPIC_LOGS: 1}), 300)
    run.process(run.take({TOPIC_LOGS: 1}), 300)
    assert run.count("logs_dropped") == 1  # of trace 1, which has no span yet
    run.spans(50, rig.span(1, 1, 0))
    run.process(run.take({TOPIC_SPANS: 1}), 300)
    run.restart()
    run.run(1000)
    assert (run.count("logs_lost"), run.count("logs_dropped"), run.count("logs_joined")) == (0, 2, 1)
    assert len(run.outputs) == 2
