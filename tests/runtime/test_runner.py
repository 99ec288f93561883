"""A stage's runner: nothing is lost when a stage waits, fails or meets poison, and nothing is done twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from harness import PATIENCE_S, wait_until

from driftgate.ledger import balance
from driftgate.runtime.runner import StageRunner
from stream.errors import Unavailable
from stream.sqlite_log import SqliteLog
from stream.stage import Batch, Output, Result


class Doubler:
    """Doubles values; keeps their sum as state. ``trouble`` may raise for a batch."""

    name = "doubler"
    topics = ("in",)

    def __init__(self, trouble: Callable[[list[bytes]], None] = lambda values: None) -> None:
        self._trouble = trouble
        self.sum = 0
        self.assigned = 0

    def assign(self, partition: int, state: Mapping[str, bytes]) -> None:
        self.assigned += 1
        self.sum = int(state.get("sum", b"0"))

    def revoke(self, partition: int) -> None:
        self.sum = -1

    def process(self, batch: Batch) -> Result:
        result = Result()
        values = [record.value for record in batch.records]
        for value in values:
            self.sum += len(value)  # changed before the trouble: the runner must bring it back
        self._trouble(values)
        if values:
            result.outputs = [Output("out", value * 2) for value in values]
            result.state[0, "sum"] = str(self.sum).encode()
            result.count("values", len(values))
        return result


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    made = SqliteLog(tmp_path / "log.db")
    yield made
    made.close()


def _append(log: SqliteLog, *values: bytes) -> None:
    log.append([Output("in", value) for value in values], group="source", counters={}).result(PATIENCE_S)


def _topic(log: SqliteLog, name: str, group: str) -> list[bytes]:
    return [record.value for record in log.consumer(group, [name]).poll(10_000, 0.0)]


def _run(log: SqliteLog, stage: Doubler, until: Callable[[], bool], **options: float) -> StageRunner:
    runner = StageRunner(log, stage, **options)  # type: ignore[arg-type]
    runner.start()
    wait_until(until, "the runner")
    runner.stop()
    assert runner.join(PATIENCE_S)
    return runner


def test_records_flow_through_and_a_second_runner_resumes_with_the_state(log: SqliteLog) -> None:
    _append(log, b"a", b"bb")
    _run(log, Doubler(), lambda: "out" in log.ends() and log.ends()["out"] == 2)
    _append(log, b"ccc")
    second = Doubler()
    _run(log, second, lambda: log.ends()["out"] == 3)
    assert _topic(log, "out", "c") == [b"aa", b"bbbb", b"cccccc"]
    assert second.sum == 6
    assert log.counters()["doubler"] == {"values": 3}


def test_poison_becomes_a_dead_letter_alone_and_its_neighbours_pass(log: SqliteLog) -> None:
    def trouble(values: list[bytes]) -> None:
        if b"poison" in values:
            raise KeyError("bug")

    stage = Doubler(trouble)
    _append(log, b"a", b"poison", b"b", b"c")
    _run(log, stage, lambda: log.ends().get("out") == 3)
    assert _topic(log, "out", "c") == [b"aa", b"bb", b"cc"]
    (letter,) = log.consumer("d", ["dead_letters"]).poll(10, 0.0)
    assert letter.value == b"poison"
    assert (letter.header("reason"), letter.header("error"), letter.header("original-offset")) == (
        "stage_error",
        "KeyError",
        "1",
    )
    # What the failed attempts had changed in memory was taken back.
    assert stage.sum == 3
    assert log.counters()["doubler"] == {"values": 3, "poisoned": 1, "rejects": 1}


def test_a_stage_that_lingers_does_not_do_so_while_it_looks_for_the_record_at_fault(log: SqliteLog) -> None:
    def trouble(values: list[bytes]) -> None:
        if b"poison" in values:
            raise KeyError("bug")

    _append(log, *(b"%d" % number for number in range(20)), b"poison")
    _run(log, Doubler(trouble), lambda: log.ends().get("dead_letters") == 1, linger=30.0)
    assert log.ends()["out"] == 20


class Holder(Doubler):
    """Still needs its first record: an undecided trace."""

    name = "holder"

    def process(self, batch: Batch) -> Result:
        result = super().process(batch)
        result.outputs = []
        result.commit = {("in", 0): 0}
        return result


def test_poison_is_found_however_much_the_stage_still_holds_before_it(log: SqliteLog) -> None:
    """Every failure reads again from the oldest record held: the search must get as far as the batch that failed."""

    def trouble(values: list[bytes]) -> None:
        if b"poison" in values:
            raise KeyError("bug")

    _append(log, *(b"%d" % number for number in range(20)), b"poison", b"later")
    runner = _run(
        log,
        Holder(trouble),
        lambda: log.counters().get("holder", {}).get("poisoned") == 1 and log.ends()["dead_letters"] == 1,
        max_records=3,
    )
    assert runner.status.state == "stopped"


def test_poison_does_not_let_go_of_what_the_stage_still_holds(log: SqliteLog) -> None:
    def trouble(values: list[bytes]) -> None:
        if "poisoned" in log.counters().get("holder", {}):
            raise Unavailable(
                "stop_here", retry_after=60.0
            )  # as if it were killed right after the dead letter
        if b"poison" in values:
            raise KeyError("bug")

    _append(log, b"held", b"poison", b"later")
    _run(log, Holder(trouble), lambda: log.counters().get("holder", {}).get("poisoned") == 1)
    assert log.committed()["holder"] == {("in", 0): 0}


def _poison(values: list[bytes]) -> None:
    if b"poison" in values:
        raise KeyError("bug")


def test_poison_at_the_end_leaves_no_lag(log: SqliteLog) -> None:
    _append(log, b"first", b"poison")
    _run(log, Doubler(_poison), lambda: log.committed().get("doubler") == {("in", 0): 2})
    assert _topic(log, "out", "c") == [b"firstfirst"]


def test_poison_that_is_read_again_after_a_restart_is_no_second_dead_letter(log: SqliteLog) -> None:
    class Later(Holder):
        """Lets go of its first record once it has seen the third."""

        def process(self, batch: Batch) -> Result:
            result = super().process(batch)
            if any(record.offset == 2 for record in batch.records):
                result.commit = {("in", 0): 1}  # the offset of the record at fault
            return result

    _append(log, b"held", b"poison")
    for _ in range(2):
        runner = _run(log, Later(_poison), lambda: log.counters().get("holder", {}).get("poisoned") == 1)
        assert runner.status.state == "stopped"
    _append(log, b"last")
    _run(log, Later(_poison), lambda: log.committed()["holder"] == {("in", 0): 2})
    assert log.counters()["holder"]["poisoned"] == 1
    assert _topic(log, "dead_letters", "c") == [b"poison"]


def test_a_stage_that_waits_commits_nothing_says_so_and_goes_on(log: SqliteLog) -> None:
    open_again = threading.Event()

    def trouble(values: list[bytes]) -> None:
        if values and not open_again.is_set():
            raise Unavailable("store_down", retry_after=0.01)

    _append(log, b"a", b"b")
    runner = StageRunner(log, Doubler(trouble))
    runner.start()
    wait_until(lambda: runner.status.state == "waiting", "it to wait")
    assert runner.status.reason == "store_down"
    assert runner.lag() == 2
    assert log.committed()["doubler"] == {("in", 0): 0}
    open_again.set()
    wait_until(lambda: runner.lag() == 0 and runner.status.state == "running", "it to go on")
    runner.stop()
    assert runner.join(PATIENCE_S)
    assert _topic(log, "out", "c") == [b"aa", b"bb"]


def test_a_tick_that_fails_does_not_end_the_stage(log: SqliteLog) -> None:
    failed = threading.Event()

    def trouble(values: list[bytes]) -> None:
        if not values and not failed.is_set():
            failed.set()
            raise ValueError("bug in a tick")

    stage = Doubler(trouble)
    runner = StageRunner(log, stage)
    runner.start()
    wait_until(failed.is_set, "the failing tick")
    _append(log, b"a")
    wait_until(lambda: log.ends().get("out") == 1, "the record to pass")
    runner.stop()
    assert runner.join(PATIENCE_S)
    assert stage.assigned == 2


def test_a_stage_that_cannot_take_over_is_named_and_tried_again(log: SqliteLog) -> None:
    class Shy(Doubler):
        def assign(self, partition: int, state: Mapping[str, bytes]) -> None:
            super().assign(partition, state)
            if self.assigned == 1:
                raise ValueError("torn state")

    _append(log, b"a")
    runner = StageRunner(log, Shy())
    runner.start()
    wait_until(lambda: runner.status.state == "failing", "it to say so")
    assert runner.status.reason == "ValueError"
    wait_until(lambda: log.ends().get("out") == 1, "the second try")
    runner.stop()
    assert runner.join(PATIENCE_S)
    assert runner.status.state == "stopped"


def test_the_ledger_notices_what_does_not_add_up() -> None:
    sound = {
        "collector": {"spans_received": 10, "spans_published": 8, "spans_refused": 2},
        "sampler": {"spans_in": 8, "spans_kept": 5, "spans_dropped": 2, "spans_pending": 1},
        "scorer": {
            "traces_in": 2,
            "traces_scored": 2,
            "scores_expected": 6,
            "scores_scored": 4,
            "scores_skipped": 2,
        },
        "drift": {"scores_in": 6, "scores_used": 4, "scores_excluded.skipped": 2, "heartbeats": 1},
    }
    handled = {("scorer", "traces.sampled"): 2, ("drift", "scores"): 7}
    assert all(line.balanced for line in balance(sound, handled))
    for group, name in [
        ("collector", "spans_published"),
        ("sampler", "spans_kept"),
        ("scorer", "scores_scored"),
        ("scorer", "traces_in"),
        ("drift", "scores_in"),
        ("drift", "scores_excluded.skipped"),
    ]:
        wrong = {key: dict(value) for key, value in sound.items()}
        wrong[group][name] += 1
        assert not all(line.balanced for line in balance(wrong, handled)), (group, name)
