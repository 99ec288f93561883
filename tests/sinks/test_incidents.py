"""The incident state machine, through the alerter stage: what verdicts and time bring."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinks.alerter import AlerterStage
from sinks.alerts_settings import AlertSettings, RollbackSettings
from sinks.incidents.incident import Rollback
from sinks.incidents.operator import Operator
from sinks.incidents.store import IncidentStore
from sinks.testing import regression
from stream.errors import Permanent, StartError, Transient
from stream.records import TOPIC_VERDICTS, Verdict
from stream.stage import Batch, Output, Record
from stream.testing import FakeClock, MemoryLog, drive

CHANNELS = [
    {"type": "slack", "url": "${env:SLACK}"},
    {"type": "pagerduty", "routing_key": "${env:PD}"},
]
TARGET = {"name": "gateway", "url": "https://gateway.example/rollback"}
OK = {"state": "ok", "severity": "none", "action": "none"}
WARN = {"state": "warn", "severity": "warn", "action": "none"}


class Bench:
    """A stage over a log in memory, with a clock that is told."""

    def __init__(
        self, path: Path, alerts: dict[str, Any] | None = None, rollback: dict[str, Any] | None = None
    ):
        self.clock = FakeClock()
        self.log = MemoryLog(clock=self.clock)
        self.db = IncidentStore(path)
        self.alerts = AlertSettings.model_validate({"channels": CHANNELS, **(alerts or {})})
        self.rollback = RollbackSettings.model_validate(rollback or {})
        self.stage = AlerterStage(self.db, self.alerts, self.rollback)
        self.operator = Operator(self.db, self.alerts, self.rollback)

    def say(self, *verdicts: Verdict) -> None:
        self.log.append([Output(TOPIC_VERDICTS, msgspec.json.encode(verdict)) for verdict in verdicts])
        drive(self.stage, self.log)

    def tick(self, seconds: float = 0.0) -> None:
        self.clock.advance(seconds)
        drive(self.stage, self.log, ticks=1)

    def verdict(self, number: int = 0, **changes: Any) -> Verdict:
        return regression(number, time_unix_nano=self.clock.now_ns, **changes)

    @property
    def counts(self) -> dict[str, int]:
        return self.log.counters().get("alerter", {})

    def incidents(self, state: str = "") -> list[dict[str, Any]]:
        return self.db.list_incidents(state=state)

    def outbox(self) -> list[tuple[str, str, str]]:
        rows = self.db.read("SELECT lane, event, state FROM outbox ORDER BY seq")
        return [(row["lane"], row["event"], row["state"]) for row in rows]

    def deliver(self) -> None:
        """Pretend that everything queued has arrived."""
        with self.db.transaction() as ledger:
            ledger.execute(
                "UPDATE outbox SET state = 'delivered', attempts = 1, done_at = ? WHERE state = 'queued'",
                (self.clock.now_ns,),
            )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "incidents.db")


def test_a_regression_opens_one_firing_incident_and_one_message_per_channel(bench: Bench) -> None:
    bench.say(bench.verdict())
    [incident] = bench.incidents("firing")
    assert (incident["severity"], incident["rollout"], incident["candidate"]) == ("page", "support", "v18")
    assert bench.outbox() == [
        ("notify/slack", "trigger", "queued"),
        ("notify/pagerduty", "trigger", "queued"),
    ]
    assert bench.counts["incidents_opened"] == 1
    assert bench.counts["notifications_queued"] == 2


def test_all_rubrics_of_a_candidate_belong_to_one_incident(bench: Bench) -> None:
    bench.say(bench.verdict(rubric="groundedness"), bench.verdict(rubric="refusal"))
    [incident] = bench.incidents()
    assert {item["rubric"] for item in incident["conditions"]} == {"groundedness", "refusal"}
    # Both came within group_wait, so one message says both.
    assert len(bench.outbox()) == 2


def test_candidates_and_routes_are_causes_of_their_own(bench: Bench) -> None:
    bench.say(bench.verdict(), bench.verdict(candidate="v19"), bench.verdict(1, route="billing"))
    assert len(bench.incidents()) == 3


def test_the_same_verdict_again_changes_nothing(bench: Bench) -> None:
    verdict = bench.verdict()
    bench.say(verdict)
    before = bench.incidents()
    bench.say(verdict, verdict)
    assert bench.incidents() == before
    assert bench.counts["verdicts_in"] == 3
    assert bench.counts["verdicts_duplicate"] == 2


def test_a_crash_before_the_log_commits_applies_and_counts_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "i.db", rollback={"mode": "enforce", "targets": [TARGET]})
    records = [
        Record(TOPIC_VERDICTS, 0, 0, msgspec.json.encode(bench.verdict())),
        Record(TOPIC_VERDICTS, 0, 1, b"not json"),
        Record(TOPIC_VERDICTS, 0, 2, msgspec.json.encode(bench.verdict(1, candidate="v19"))),
    ]
    bench.stage.assign(0, {})
    first = bench.stage.process(Batch(records[:2], bench.clock.now_ns))
    # Killed here: nothing of `first` reached the log. The next life sees the records in another batch.
    again = AlerterStage(bench.db, bench.alerts, bench.rollback)
    again.assign(0, {})
    second = again.process(Batch(records, bench.clock.now_ns))
    assert len(bench.incidents()) == 2
    assert second.counters["verdicts_in"] == 3
    assert second.counters["verdicts_rejected"] == 1
    assert second.counters["incidents_opened"] == 2
    assert second.counters["rollbacks_queued"] == second.counters["rollbacks_blocked.cooldown"] == 1
    assert (
        [item.reason for item in second.rejects] == [item.reason for item in first.rejects] == ["undecodable"]
    )
    # What the log has seen is saved with the counters, so a third life adds nothing.
    third = AlerterStage(bench.db, bench.alerts, bench.rollback)
    third.assign(0, {key: value or b"" for (_, key), value in second.state.items()})
    assert third.process(Batch([], bench.clock.now_ns)).counters == {}


def test_undecodable_verdicts_are_rejected_with_a_reason(bench: Bench) -> None:
    values = [b"\xff", b"{}", b'{"type":"score"}', b"[" * 100_000, b"x" * (2 << 20)]
    bench.stage.assign(0, {})
    result = bench.stage.process(
        Batch([Record(TOPIC_VERDICTS, 0, n, value) for n, value in enumerate(values)], bench.clock.now_ns)
    )
    assert len(result.rejects) == 5
    assert {item.reason for item in result.rejects} <= {"undecodable", "not_a_verdict", "too_large"}
    assert result.counters["verdicts_rejected"] == 5


def test_a_warning_waits_and_is_forgotten_if_it_passes(bench: Bench) -> None:
    bench.say(bench.verdict(**WARN))
    assert [item["state"] for item in bench.incidents()] == ["pending"]
    bench.tick(30)
    bench.say(bench.verdict(1, **OK))
    bench.tick(31)
    [incident] = bench.incidents()
    assert incident["state"] == "resolved"
    assert bench.outbox() == []


def test_a_warning_that_stands_fires(bench: Bench) -> None:
    bench.say(bench.verdict(**WARN))
    bench.tick(59)
    assert bench.incidents()[0]["state"] == "pending"
    bench.tick(1)
    assert bench.incidents()[0]["state"] == "firing"
    # PagerDuty hears about pages only.
    assert bench.outbox() == [("notify/slack", "trigger", "queued")]


def test_a_page_after_a_warning_reaches_the_channel_that_had_not_heard(bench: Bench) -> None:
    bench.say(bench.verdict(**WARN))
    bench.tick(60)
    bench.deliver()
    bench.say(bench.verdict(1))
    assert bench.outbox() == [
        ("notify/slack", "trigger", "delivered"),
        ("notify/slack", "update", "queued"),
        ("notify/pagerduty", "trigger", "queued"),
    ]


@pytest.mark.parametrize("state", ["no_data", "judge_changed", "sample_ratio_mismatch"])
def test_silence_is_an_alarm_too(bench: Bench, state: str) -> None:
    bench.say(bench.verdict(state=state, severity="none", action="none"))
    [incident] = bench.incidents("pending")
    assert incident["severity"] == "warn"
    assert incident["conditions"][0]["state"] == state


@pytest.mark.parametrize("state", ["warming_up", "insufficient_data"])
def test_too_little_data_neither_opens_nor_resolves(bench: Bench, state: str) -> None:
    quiet = {"state": state, "severity": "none", "action": "none"}
    bench.say(bench.verdict(**quiet))
    assert bench.incidents() == []
    bench.say(bench.verdict(1), bench.verdict(2, **quiet))
    bench.tick(3600)
    assert [item["state"] for item in bench.incidents()] == ["firing"]


def test_it_resolves_when_all_rubrics_stayed_well(bench: Bench) -> None:
    bench.say(bench.verdict(rubric="a"), bench.verdict(rubric="b"))
    bench.deliver()
    bench.say(bench.verdict(1, rubric="a", **OK))
    bench.tick(500)
    assert bench.incidents()[0]["state"] == "firing"
    bench.say(bench.verdict(1, rubric="b", **OK))
    bench.tick(119)
    assert bench.incidents()[0]["state"] == "firing"
    bench.tick(1)
    assert bench.incidents()[0]["state"] == "resolved"
    assert [row for row in bench.outbox() if row[1] == "resolve"] == [
        ("notify/slack", "resolve", "queued"),
        ("notify/pagerduty", "resolve", "queued"),
    ]


def test_flapping_makes_no_noise(bench: Bench) -> None:
    bench.say(bench.verdict())
    bench.deliver()
    for number in range(1, 21, 2):
        bench.say(bench.verdict(number, **OK))
        bench.tick(60)
        bench.say(bench.verdict(number + 1))
        bench.tick(5)
    assert [item["state"] for item in bench.incidents()] == ["firing"]
    # Rubrics that come back are told at most once per group_interval.
    assert len([row for row in bench.outbox() if row[2] == "queued"]) <= 2
    assert bench.counts["incidents_opened"] == 1


def test_no_end_without_a_beginning(bench: Bench) -> None:
    bench.say(bench.verdict())
    bench.say(bench.verdict(1, **OK))
    bench.tick(120)
    assert bench.incidents()[0]["state"] == "resolved"
    assert {row[2] for row in bench.outbox()} == {"cancelled"}
    assert bench.counts["notifications_cancelled"] == bench.counts["notifications_queued"] == 2


def test_a_channel_for_warnings_hears_the_end_of_what_became_a_page(tmp_path: Path) -> None:
    only = {"channels": [{"type": "slack", "url": "${env:S}", "severities": ["warn"]}]}
    bench = Bench(tmp_path / "i.db", alerts=only)
    bench.say(bench.verdict(**WARN))
    bench.tick(60)
    bench.deliver()
    bench.say(bench.verdict(1))
    bench.say(bench.verdict(2, **OK))
    bench.tick(120)
    assert bench.outbox() == [("notify/slack", "trigger", "delivered"), ("notify/slack", "resolve", "queued")]


def test_a_firing_incident_is_repeated_until_somebody_acknowledges(bench: Bench) -> None:
    bench.say(bench.verdict())
    bench.deliver()
    bench.tick(4 * 3600 - 1)
    assert len(bench.outbox()) == 2
    bench.tick(1)
    assert [row[1] for row in bench.outbox()] == ["trigger", "trigger", "repeat", "repeat"]
    bench.deliver()
    incident = bench.incidents()[0]
    bench.operator.acknowledge(incident["incident_id"], "ada", bench.clock.now_ns)
    bench.tick(5 * 3600)
    # Only PagerDuty keeps a state of its own that an acknowledgement changes.
    assert bench.outbox()[4:] == [("notify/pagerduty", "acknowledge", "queued")]
    assert bench.incidents()[0]["acknowledged_by"] == "ada"


def test_an_alertmanager_is_told_again_every_minute_even_if_acknowledged(tmp_path: Path) -> None:
    bench = Bench(
        tmp_path / "i.db", alerts={"channels": [{"type": "alertmanager", "url": "https://am.example"}]}
    )
    bench.say(bench.verdict())
    bench.deliver()
    bench.operator.acknowledge(bench.incidents()[0]["incident_id"], "ada", bench.clock.now_ns)
    for _ in range(3):
        bench.tick(60)
        bench.deliver()
    assert [row[1] for row in bench.outbox()] == ["trigger", "repeat", "repeat", "repeat"]


def test_an_incident_without_news_expires(bench: Bench) -> None:
    bench.say(bench.verdict())
    bench.tick(86_399)
    assert bench.incidents()[0]["state"] == "firing"
    bench.tick(1)
    [incident] = bench.incidents()
    assert incident["state"] == "resolved"
    assert "expired" in incident["resolution"]


def test_a_new_episode_is_a_new_incident(bench: Bench) -> None:
    bench.say(bench.verdict())
    bench.say(bench.verdict(1, **OK))
    bench.tick(120)
    bench.say(bench.verdict(2))
    first, second = sorted(bench.incidents(), key=lambda item: item["opened_at"])
    assert (first["state"], second["state"]) == ("resolved", "firing")
    assert first["incident_id"] != second["incident_id"]
    assert first["cause"] == second["cause"]


def test_ids_depend_on_the_input_only(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        bench = Bench(tmp_path / name, rollback={"mode": "enforce", "targets": [TARGET]})
        bench.say(bench.verdict())
        rows = bench.db.read("SELECT message_id FROM outbox ORDER BY seq")
        [incident] = bench.incidents()
        found.append(
            (incident["incident_id"], incident["rollbacks"][0]["rollback_id"], [row[0] for row in rows])
        )
    assert found[0] == found[1]


def test_observe_is_the_default_and_calls_nothing(bench: Bench) -> None:
    bench.say(bench.verdict())
    [rollback] = bench.db.list_rollbacks()
    assert (rollback["mode"], rollback["state"]) == ("observe", "observed")
    assert bench.counts["rollbacks_requested"] == bench.counts["rollbacks_observed"] == 1
    assert all(row[1] != "call" for row in bench.outbox())
    with pytest.raises(Permanent, match="mode is observe"):
        bench.operator.approve(bench.incidents()[0]["incident_id"], "ada", bench.clock.now_ns)


def test_enforce_queues_one_call_per_target_and_only_once(tmp_path: Path) -> None:
    targets = [TARGET, {**TARGET, "name": "labels"}]
    bench = Bench(tmp_path / "i.db", rollback={"mode": "enforce", "targets": targets})
    bench.say(bench.verdict(), bench.verdict(1), bench.verdict(rubric="refusal"))
    calls = [row[0] for row in bench.outbox() if row[1] == "call"]
    assert calls == ["rollback/gateway", "rollback/labels"]
    assert bench.counts["rollbacks_queued"] == 2
    assert bench.counts["rollbacks_blocked.already_acted"] == 4


def test_a_target_of_its_own_comes_before_those_for_all(tmp_path: Path) -> None:
    targets = [TARGET, {**TARGET, "name": "own", "rollout": "support"}]
    bench = Bench(tmp_path / "i.db", rollback={"mode": "enforce", "targets": targets})
    bench.say(bench.verdict(), bench.verdict(1, rollout="other"))
    assert [row[0] for row in bench.outbox() if row[1] == "call"] == ["rollback/own", "rollback/gateway"]


def enforce(**changes: Any) -> dict[str, Any]:
    return {"mode": "enforce", "targets": [TARGET], **changes}


def test_cooldown_budget_and_their_end(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "i.db", rollback=enforce(cooldown="30m", max_per_hour=2))
    bench.say(bench.verdict())
    bench.say(bench.verdict(candidate="v19"))
    assert bench.counts["rollbacks_blocked.cooldown"] == 1
    bench.say(bench.verdict(rollout="b"))
    bench.say(bench.verdict(rollout="c"))
    assert bench.counts["rollbacks_blocked.budget"] == 1
    states = {(item["rollout"], item["candidate"]): item["state"] for item in bench.db.list_rollbacks()}
    assert Counter(states.values()) == {"queued": 2, "blocked": 2}
    # A later decision about the blocked ones is judged anew.
    bench.tick(3601)
    bench.say(bench.verdict(1, rollout="c"))
    assert bench.counts["rollbacks_queued"] == 3


def test_one_automatic_action_per_rollout_and_candidate_over_all_incidents(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "i.db", rollback=enforce(cooldown=0))
    bench.say(bench.verdict())
    [incident] = bench.incidents()
    with bench.db.transaction() as ledger:
        ledger.execute("UPDATE rollbacks SET state = 'verify_failed', sent = 1")
    bench.operator.resolve(incident["incident_id"], "ada", bench.clock.now_ns)
    bench.tick(7200)
    bench.say(bench.verdict(1))
    assert len(bench.incidents("firing")) == 1
    assert bench.counts["rollbacks_blocked.already_acted"] == 1
    assert bench.counts["rollbacks_queued"] == 1


@pytest.mark.parametrize(
    ("rollback", "age", "why"),
    [
        ({"kill_switch": True, "targets": [TARGET]}, 0, "kill_switch"),
        ({"targets": [TARGET]}, 86_401, "stale"),
        ({}, 0, "no_target"),
        ({"targets": [{**TARGET, "rollout": "another"}]}, 0, "no_target"),
        ({"targets": [TARGET], "max_per_hour": 0}, 0, "budget"),
    ],
)
def test_what_blocks_a_rollback_is_named_and_people_are_still_told(
    tmp_path: Path, rollback: dict[str, Any], age: int, why: str
) -> None:
    bench = Bench(tmp_path / "i.db", rollback={"mode": "enforce", **rollback})
    bench.say(regression(time_unix_nano=bench.clock.now_ns - age * 10**9))
    assert bench.counts[f"rollbacks_blocked.{why}"] == 1
    assert [row[1] for row in bench.outbox()] == ["trigger", "trigger"]
    assert any(why in item["detail"] for item in bench.incidents()[0]["history"])


def test_the_kill_switch_at_run_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "i.db", rollback=enforce())
    bench.operator.set_kill_switch(True, "ada", bench.clock.now_ns)
    assert bench.db.kill_switch() == "ada"
    bench.say(bench.verdict())
    assert bench.counts["rollbacks_blocked.kill_switch"] == 1
    incident_id = bench.incidents()[0]["incident_id"]
    with pytest.raises(Permanent, match="kill switch"):
        bench.operator.approve(incident_id, "ada", bench.clock.now_ns)
    bench.operator.set_kill_switch(False, "ada", bench.clock.now_ns)
    [approved] = bench.operator.approve(incident_id, "grace", bench.clock.now_ns)
    assert (approved["state"], approved["decided_by"], approved["automatic"]) == ("queued", "grace", 0)


def test_approve_waits_for_a_person_and_is_cancelled_with_its_incident(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "i.db", rollback={"mode": "approve", "targets": [TARGET]})
    bench.say(bench.verdict())
    bench.tick(3600)
    assert [item["state"] for item in bench.db.list_rollbacks()] == ["awaiting_approval"]
    assert all(row[1] != "call" for row in bench.outbox())
    bench.say(bench.verdict(1, **OK))
    bench.tick(120)
    assert [item["state"] for item in bench.db.list_rollbacks()] == ["cancelled"]
    incident_id = bench.incidents()[0]["incident_id"]
    with pytest.raises(Permanent, match="resolved"):
        bench.operator.approve(incident_id, "ada", bench.clock.now_ns)


def test_acts_on_what_is_not_there_say_so(bench: Bench) -> None:
    for act in (bench.operator.acknowledge, bench.operator.resolve, bench.operator.approve):
        with pytest.raises(Permanent):
            act("nothing", "ada", bench.clock.now_ns)
    with pytest.raises(Permanent, match="no incident"):
        bench.operator.show("nothing")
    with pytest.raises(Permanent, match="no dead"):
        bench.operator.replay("nothing", bench.clock.now_ns)


def test_the_export_gives_every_change_once_in_order(bench: Bench) -> None:
    seen: dict[str, dict[str, Any]] = {}
    version, reads = 0, 0
    for number in range(4):
        bench.say(bench.verdict(number, candidate=f"v{number}"))
        while (changes := bench.db.changed_since(version, limit=1)).version > version:
            assert len(changes.incidents) + len(changes.rollbacks) == 1
            version = changes.version
            reads += 1
            for row in (*changes.incidents, *changes.rollbacks):
                seen[row.get("rollback_id") or row["incident_id"]] = row
    assert reads == 8
    assert {row["state"] for row in seen.values()} == {"firing", "observed"}
    assert bench.db.changed_since(version).incidents == []
    assert list(next(iter(seen.values()))) == [
        "incident_id", "tenant", "cause", "rollout", "candidate", "state", "severity", "opened_at", "updated_at",
        "resolved_at", "summary", "verdict_id", "version",
    ]  # fmt: skip


def test_old_things_are_forgotten_and_the_file_stays_small(bench: Bench) -> None:
    bench.say(bench.verdict())
    bench.operator.resolve(bench.incidents()[0]["incident_id"], "ada", bench.clock.now_ns)
    bench.tick(91 * 86_400)
    for table in ("incidents", "conditions", "rollbacks", "outbox", "applied", "history", "attempts"):
        assert bench.db.read(f"SELECT count(*) AS n FROM {table}")[0]["n"] == 0, table


def test_history_is_bounded_and_keeps_its_beginning(bench: Bench) -> None:
    bench.say(bench.verdict())
    incident_id = bench.incidents()[0]["incident_id"]
    for number in range(300):
        bench.operator.silence(
            incident_id, bench.clock.now_ns + number, "ada", bench.clock.now_ns, str(number)
        )
    history = bench.db.show(incident_id)["history"]
    assert len(history) == 200
    assert history[0]["what"] == "opened"
    assert history[-1]["detail"] == "299"


def test_a_file_that_is_not_ours_is_named(tmp_path: Path) -> None:
    path = tmp_path / "incidents.db"
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(StartError, match=r"incidents\.db.*move it away"):
        IncidentStore(path)


def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    db = IncidentStore(tmp_path / "i.db")
    db.read("PRAGMA user_version=99")
    db.close()
    with pytest.raises(StartError, match="schema 99"):
        IncidentStore(tmp_path / "i.db")


def test_a_failed_transaction_leaves_no_trace(bench: Bench) -> None:
    def fail() -> None:
        with bench.db.transaction() as ledger:
            ledger.count(0, "x")
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert bench.db.totals(0) == {}
    bench.db.close()
    with pytest.raises(Transient):
        fail()


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]),
            st.sampled_from(["regressed", "warn", "ok", "no_data", "insufficient_data", "non_inferior"]),
            st.integers(0, 300),
        ),
        max_size=15,
    ),
    cuts=st.sets(st.integers(0, 15), max_size=4),
)
def test_crashes_and_batch_borders_do_not_change_the_outcome(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, int]], cuts: set[int]
) -> None:
    """The same verdicts at the same times give the same incidents, messages and counts, whatever is delivered twice."""
    severity = {"regressed": "page", "warn": "warn"}
    outcomes = []
    for crashing in (False, True):
        path = tmp_path_factory.mktemp("steps") / "i.db"
        db = IncidentStore(path)
        alerts = AlertSettings.model_validate({"channels": CHANNELS})
        rollback = RollbackSettings.model_validate(enforce())
        stage = AlerterStage(db, alerts, rollback)
        stage.assign(0, {})
        now, state, committed = 1_700_000_000_000_000_000, {}, 0
        counted: Counter[str] = Counter()
        records: list[Record] = []
        for number, (rubric, verdict_state, wait) in enumerate(steps):
            now += wait * 10**9
            verdict = regression(
                number, time_unix_nano=now, rubric=rubric, state=verdict_state,
                severity=severity.get(verdict_state, "none"),
                action="rollback" if verdict_state == "regressed" else "none",
            )  # fmt: skip
            records.append(Record(TOPIC_VERDICTS, 0, number, msgspec.json.encode(verdict)))
            result = stage.process(Batch(records[committed:], now))
            if crashing and number in cuts:
                stage = AlerterStage(db, alerts, rollback)
                stage.assign(0, state)
                continue
            committed = len(records)
            counted.update(result.counters)
            state.update({key: value for (_, key), value in result.state.items() if value})
        counted.update(stage.process(Batch(records[committed:], now)).counters)
        rows = db.read("SELECT message_id, lane, event, severity, state, due_at FROM outbox ORDER BY seq")
        outcomes.append((db.list_incidents(), [tuple(row) for row in rows], counted))
        open_causes = [item["cause"] for item in db.list_incidents(state="open")]
        assert len(open_causes) == len(set(open_causes))
        db.close()
    assert outcomes[0] == outcomes[1]


def test_two_targets_are_called_under_different_keys(tmp_path: Path) -> None:
    """They may be two addresses of one gateway, which takes a known key for something it has done."""
    targets = [TARGET, {**TARGET, "name": "other", "url": "https://gateway.example/other"}]
    bench = Bench(tmp_path / "i.db", rollback={"mode": "enforce", "targets": targets})
    bench.say(bench.verdict())
    keys = {item.idempotency_key for item in bench.db.read_as(Rollback, "SELECT * FROM rollbacks")}
    assert len(keys) == 2


@pytest.mark.parametrize("mode", ["enforce", "approve"])
def test_what_was_only_observed_may_be_done_once_the_mode_allows_it(tmp_path: Path, mode: str) -> None:
    bench = Bench(tmp_path / "i.db", rollback={"mode": "observe", "targets": [TARGET]})
    bench.say(bench.verdict())
    assert [item["state"] for item in bench.db.list_rollbacks()] == ["observed"]
    bench.db.close()
    later = Bench(tmp_path / "i.db", rollback={"mode": mode, "targets": [TARGET]})
    later.clock.advance(60)
    [incident] = later.incidents("firing")
    if mode == "approve":
        [done] = later.operator.approve(incident["incident_id"], "ada", later.clock.now_ns)
    else:
        later.say(later.verdict(1))
        [done] = later.db.list_rollbacks()
    assert done["state"] == "queued"


def test_a_page_is_told_however_many_rubrics_have_warned(bench: Bench) -> None:
    for number in range(70):
        bench.say(bench.verdict(number, rubric=f"r{number}", **WARN))
    bench.say(bench.verdict(100, rubric="last", action="none"))
    [incident] = bench.incidents()
    assert (incident["state"], incident["severity"]) == ("firing", "page")
    assert ("notify/pagerduty", "trigger", "queued") in bench.outbox()


def test_an_incident_that_fires_for_days_goes_on_being_told(bench: Bench) -> None:
    """Old repeats are forgotten; their numbers must not be given a second time."""
    for hour in range(80):
        if hour % 12 == 0:
            bench.say(bench.verdict(hour, action="none"))
        bench.tick(3600)
        bench.deliver()
    ids = [row["message_id"] for row in bench.db.read("SELECT message_id FROM outbox")]
    assert len(ids) == len(set(ids))
    assert bench.counts["notifications_queued"] == 2 * (1 + 79 // 4)


def test_a_damaged_database_is_waited_for_and_costs_no_verdict(tmp_path: Path) -> None:
    path = tmp_path / "damaged.db"
    bench = Bench(path)
    for number in range(100):
        bench.say(bench.verdict(number, rollout=f"r{number}"))
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    record = Record(TOPIC_VERDICTS, 0, 1000, msgspec.json.encode(bench.verdict(1000)))
    with pytest.raises(Transient, match="incident database"):
        bench.stage.process(Batch([record], bench.clock.now_ns))


def test_a_clock_that_is_put_back_neither_holds_up_a_warning_nor_its_end(bench: Bench) -> None:
    week = 7 * 86400
    bench.clock.advance(week)
    bench.say(bench.verdict(**WARN))
    bench.clock.advance(-week)
    bench.tick(1)
    bench.tick(61)
    assert [item["state"] for item in bench.incidents()] == ["firing"]
    bench.clock.advance(week)
    bench.say(bench.verdict(1, **OK))
    bench.clock.advance(-week)
    bench.tick(1)
    bench.tick(121)
    assert [item["state"] for item in bench.incidents()] == ["resolved"]
