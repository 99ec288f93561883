"""The SQLite log keeps what it acknowledged, whenever it is killed, and refuses what it cannot keep."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.errors import StartError, Transient
from stream.sqlite_log import SqliteLog
from stream.sqlite_reading import inspect, read_ledger
from stream.stage import Output, Record, Reject, Result


def _append(log: SqliteLog, *values: bytes, topic: str = "t") -> None:
    log.append(
        [Output(topic, value) for value in values], group="source", counters={"in": len(values)}
    ).result(10)


def _values(records: list[Record]) -> list[bytes]:
    return [record.value for record in records]


def test_records_come_back_in_order_with_key_and_headers(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    log.append([Output("t", b"v", b"k", (("a", b"1"), ("a", b"2")))], group="g", counters={}).result(10)
    _append(log, b"w")
    first, second = log.consumer("c", ["t"]).poll(10, 1.0)
    assert (first.offset, first.key, first.value, first.header("a")) == (0, b"k", b"v", "2")
    assert (second.offset, second.value) == (1, b"w")
    assert first.timestamp_ns > 1_600_000_000_000_000_000
    log.close()


def test_a_clock_that_steps_back_does_not_turn_records_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two topics records come in the order of time; within each in that of offsets, whatever the clock said."""
    log = SqliteLog(tmp_path / "log.db")
    for topic, seconds in (("t", 10), ("u", 11), ("t", 12), ("t", 9), ("u", 12), ("t", 13), ("u", 8)):
        monkeypatch.setattr("stream.sqlite_log.time.time_ns", lambda at=seconds: at * 10**9)
        _append(log, b"%d" % seconds, topic=topic)
    records = log.consumer("c", ["t", "u"]).poll(10, 1.0)
    log.close()
    for topic in ("t", "u"):
        offsets = [record.offset for record in records if record.topic == topic]
        assert offsets == sorted(offsets)
    assert _values(records) == [b"10", b"11", b"12", b"9", b"12", b"8", b"13"]


def test_a_group_resumes_where_it_committed_and_finds_its_state(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    _append(log, b"0", b"1", b"2", b"3")
    consumer = log.consumer("c", ["t"])
    polled = consumer.poll(2, 1.0)
    consumer.commit(polled, Result([Output("out", b"x")], state={(0, "k"): b"s"}, counters={"done": 2}))
    assert _values(consumer.poll(1, 1.0)) == [b"2"]  # polled, not committed
    log.close()

    log = SqliteLog(tmp_path / "log.db")
    consumer = log.consumer("c", ["t"])
    assert _values(consumer.poll(10, 1.0)) == [b"2", b"3"]
    assert consumer.saved_state(0) == {"k": b"s"}
    assert _values(log.consumer("d", ["out"]).poll(10, 1.0)) == [b"x"]
    assert log.counters() == {"source": {"in": 4}, "c": {"done": 2}}
    log.close()


def test_a_stage_that_holds_records_back_sees_them_again(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    _append(log, b"0", b"1", b"2")
    consumer = log.consumer("c", ["t"])
    consumer.commit(consumer.poll(10, 1.0), Result(commit={("t", 0): 1}))
    consumer.rewind()
    assert _values(consumer.poll(10, 1.0)) == [b"1", b"2"]
    log.close()


def test_a_reject_becomes_a_dead_letter_with_its_bytes_and_its_place(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    _append(log, b"\xff\x00poison")
    consumer = log.consumer("c", ["t"])
    (poison,) = consumer.poll(10, 1.0)
    consumer.commit([poison], Result(rejects=[Reject(poison, "undecodable", "not protobuf")]))
    (letter,) = log.consumer("d", ["dead_letters"]).poll(10, 1.0)
    assert letter.value == b"\xff\x00poison"
    assert [letter.header(name) for name in ("stage", "reason", "original-topic", "original-offset")] == [
        "c",
        "undecodable",
        "t",
        "0",
    ]
    assert log.counters()["c"] == {"rejects": 1}
    log.close()


def test_a_waiting_consumer_wakes_when_something_is_appended(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    consumer = log.consumer("c", ["t"])
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.extend(_values(consumer.poll(10, 30.0))))
    thread.start()
    _append(log, b"x")
    thread.join(25.0)
    assert found == [b"x"]
    log.close()


def test_retention_never_removes_what_a_group_still_needs(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", max_age=0.0)
    consumer = log.consumer("c", ["t"])
    _append(log, *(str(i).encode() for i in range(10)))
    consumer.commit(consumer.poll(4, 1.0), Result())
    log._retain()
    log.consumer("late", ["t"])
    assert [(s.first, s.end, s.size_bytes) for s in log.stats() if s.topic == "t"] == [(4, 10, 6)]
    log.close()


def test_offsets_go_on_after_retention_removed_everything(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", max_age=0.0)
    _append(log, b"0", b"1")
    log._retain()
    log.close()
    log = SqliteLog(tmp_path / "log.db")
    _append(log, b"2")
    assert [record.offset for record in log.consumer("c", ["t"]).poll(10, 1.0)] == [2]
    log.close()


def test_a_full_log_refuses_with_a_delay_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", max_bytes=2 << 20)
    consumer = log.consumer("c", ["t"])
    chunk = b"x" * 100_000
    acknowledged = 0
    refused = None
    while refused is None and acknowledged < 100:
        try:
            _append(log, chunk)
            acknowledged += 1
        except Transient as error:
            refused = error
        if acknowledged % 10 == 0:
            log._retain()
    assert refused is not None
    assert refused.retry_after > 0
    assert len(consumer.poll(1000, 1.0)) == acknowledged  # nothing acknowledged was lost
    consumer.rewind()
    while records := consumer.poll(1000, 0.0):
        consumer.commit(records, Result())
    log._retain()
    _append(log, chunk)
    log.close()


def test_when_the_disk_itself_is_full_the_append_fails_whole_and_the_log_stays_usable(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", max_bytes=1 << 20)
    consumer = log.consumer("c", ["t"])
    with pytest.raises(Transient, match="disk_full"):
        _append(log, *[b"y" * 100_000] * 40, topic="new")
    _append(log, b"small")
    assert _values(consumer.poll(10, 1.0)) == [b"small"]
    assert log.counters() == {"source": {"in": 1}}
    log.close()


def test_a_second_owner_is_refused_with_the_fix(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    with pytest.raises(StartError, match="another driftgate process owns"):
        SqliteLog(tmp_path / "log.db")
    log.close()
    SqliteLog(tmp_path / "log.db").close()


def test_a_corrupt_file_is_refused_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "log.db").write_bytes(b"not a database at all" * 1000)
    with pytest.raises(StartError, match="Move the file away"):
        SqliteLog(tmp_path / "log.db")


def test_closing_twice_is_harmless_and_a_closed_log_refuses(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    log.close()
    log.close()
    with pytest.raises(Transient):
        _append(log, b"x")


_CHILD = """
import sys
from pathlib import Path
from stream.sqlite_log import SqliteLog
from stream.stage import Output, Result

log = SqliteLog(Path(sys.argv[1]))
consumer = log.consumer("double", ["in"])
start = log.counters().get("source", {}).get("in", 0)
for number in range(start, start + 100_000):
    log.append([Output("in", b"%d" % number)], group="source", counters={"in": 1}).result()
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
    records = consumer.poll(7, 0.0)
    if number % 3 == 0:
        outputs = [Output("out", record.value * 2) for record in records]
        consumer.commit(records, Result(outputs, counters={"done": len(records)}))
    else:
        consumer.rewind()
"""


def test_sigkill_loses_nothing_acknowledged_and_repeats_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    rng = random.Random(7)
    acknowledged: list[int] = []
    for _ in range(12):
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(_CHILD), str(path)], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        acknowledged += [int(child.stdout.readline()) for _ in range(rng.randint(1, 60))]
        child.send_signal(signal.SIGKILL)
        acknowledged.extend(int(line) for line in child.stdout.read().splitlines() if line)
        child.wait()
        child.stdout.close()
    log = SqliteLog(path)
    written = [int(value) for value in _values(log.consumer("check", ["in"]).poll(100_000, 0.0))]
    doubled = _values(log.consumer("check2", ["out"]).poll(100_000, 0.0))
    ledger = log.counters()
    log.close()
    assert written == list(range(len(written)))  # each once, in order
    assert set(acknowledged) <= set(written)
    assert doubled == [str(number).encode() * 2 for number in range(len(doubled))]
    assert ledger["source"]["in"] == len(written)
    assert ledger["double"]["done"] == len(doubled)


def test_another_process_may_read_while_the_owner_writes(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    _append(log, b"x")
    with inspect(tmp_path / "log.db") as reader:
        assert read_ledger(reader) == {"source": {"in": 1}}
    log.close()
    with pytest.raises(StartError, match="no log"), inspect(tmp_path / "none.db"):
        pass


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=20),
    limit=st.integers(1, 7),
    seed=st.integers(0, 99),
)
def test_any_mix_of_commits_and_rewinds_applies_each_record_once(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], limit: int, seed: int
) -> None:
    log = SqliteLog(tmp_path_factory.mktemp("log") / "log.db")
    rng = random.Random(seed)
    number = 0
    for size in sizes:
        _append(log, *(str(number + i).encode() for i in range(size)))
        number += size
    consumer = log.consumer("c", ["t"])
    while records := consumer.poll(limit, 0.0):
        if rng.random() < 0.3:
            consumer.rewind()
        else:
            consumer.commit(records, Result([Output("out", record.value) for record in records]))
    assert _values(log.consumer("check", ["out"]).poll(1000, 0.0)) == [str(i).encode() for i in range(number)]
    log.close()


def test_nobody_else_may_read_it_whoever_can_enter_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o755)
    log = SqliteLog(folder / "log.db")
    try:
        log.append([Output("t", b"", b"x")], group="g", counters={}).result(10)
        rights = {path.name: path.stat().st_mode & 0o077 for path in folder.glob("log.db*")}
        assert {"log.db", "log.db-wal"} <= set(rights)
        assert {name for name, others in rights.items() if others and not name.endswith(".lock")} == set()
    finally:
        log.close()
