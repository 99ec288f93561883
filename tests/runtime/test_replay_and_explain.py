"""Verdicts of the past, reproduced from log, store and file, and explained: through the command line, with real parts."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from harness import PATIENCE_S

from drift.partition import settings_id
from drift.settings import DriftSettings
from drift.stage import DriftStage
from driftgate.cli import cli, main
from driftgate.config import load
from driftgate.verdict_picture import draw
from driftgate.verdict_story import Story
from sinks.store import Store
from sinks.store_settings import StoreSettings
from sinks.store_stage import StoreStage
from stream.records import TOPIC_SCORES, TOPIC_VERDICTS, Evaluator, Evidence, Heartbeat, ScoreRecord, Verdict
from stream.sqlite_log import SqliteLog
from stream.stage import Batch, Output, Record

SECOND = 10**9
START = 1_760_000_040 * SECOND
SETTINGS = """
drift:
  bucket: 1
  lateness: 2
  max_skew: 31536000
  report_every: 5
  windows: [60, 900]
  units: {idle: 2, trace_idle: 1, max: 30}
  rollouts:
    - {name: r, incumbent: v1, candidate: v2, rubrics: [quality], no_data_after: 60}
  watches:
    - {name: w, rubrics: [quality], learn: 60, min_units: 300, report_every: 10}
"""


def chance(*parts: object) -> float:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=4).digest(), "big") / 2**32


def inputs() -> list[bytes]:
    """150 s of a canary that goes bad at 70 s; with late and doubled scores, skipped ones, garbage, and heartbeats."""
    items: list[tuple[float, bytes]] = []
    for number in range(3000):
        at = 0.05 * number
        arm = "v2" if number % 4 == 0 else "v1"
        bad = arm == "v2" and at > 70 and chance("bad", number) < 0.5
        record = ScoreRecord(
            score_id=f"{number:032x}",
            time_unix_nano=START + round(at * SECOND),
            trace_id=f"{number:032x}",
            span_id=f"{number:016x}",
            unit_id=f"{number:032x}",
            rubric="quality",
            evaluator=Evaluator(id="judge"),
            value=0.0 if bad else [0.5, 0.75, 1.0][number % 3],
            probability=0.5,
            cohort={"route": "support", "prompt_version": arm},
        )
        raw = msgspec.json.encode(record)
        items.append((at + (5.0 if number % 97 == 0 else 0.0), raw))
        if number % 50 == 0:
            items.append((at + 0.5, raw))
        if number % 61 == 0:
            skipped = msgspec.structs.replace(record, score_id=f"s{number}", status="skipped", value=None)
            items.append((at, msgspec.json.encode(skipped)))
        if number % 500 == 0:
            items.append((at, b'{"type":"score","broken\n' + b"\xff"))
    items += [
        (at, msgspec.json.encode(Heartbeat(time_unix_nano=START + at * SECOND))) for at in range(151, 260, 6)
    ]
    return [raw for _, raw in sorted(items, key=lambda item: item[0])]


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration and the log and store of a process that has run."""
    folder = tmp_path_factory.mktemp("past")
    (folder / "driftgate.yaml").write_text(f"data: {folder / 'data'}\n{SETTINGS}")
    config = load(folder / "driftgate.yaml")
    config.data.mkdir()
    log = SqliteLog(config.log_path, max_age=86400, max_bytes=1 << 30)
    log.append([Output(TOPIC_SCORES, raw) for raw in inputs()], group="scorer", counters={}).result(
        PATIENCE_S
    )
    drive(log, DriftStage(config.drift), [TOPIC_SCORES])
    store = Store.open(StoreSettings(), config.store_folder)
    store.migrate()
    drive(log, StoreStage(store, StoreSettings()), [TOPIC_SCORES, TOPIC_VERDICTS])
    store.close()
    log.close()
    return folder


def drive(log: SqliteLog, stage: Any, topics: list[str]) -> None:
    consumer = log.consumer(stage.name, topics)
    stage.assign(0, {})
    while records := consumer.poll(700, 0):
        consumer.commit(records, stage.process(Batch(records, 1)))
    consumer.close()


@pytest.fixture
def copy(past: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    shutil.copytree(past / "data", tmp_path / "data", symlinks=True)
    (tmp_path / "driftgate.yaml").write_text(f"data: {tmp_path / 'data'}\n{SETTINGS}")
    return tmp_path


def run(folder: Path, *arguments: str, code: int = 0) -> Result:
    given = [*arguments, "-c", str(folder / "driftgate.yaml")]
    result = CliRunner().invoke(cli, given, standalone_mode=False)
    assert result.exception is None, result.exception
    assert (result.return_value or 0) == code, result.output
    return result


def published(folder: Path) -> Iterator[dict[str, Any]]:
    for line in run(folder, "verdicts", "--all", "--json", "--limit", "100000").stdout_bytes.splitlines():
        yield json.loads(line)


def rollback_of(folder: Path) -> str:
    (found,) = (one for one in published(folder) if one.get("action") == "rollback")
    return str(found["verdict_id"])


def test_the_stream_exercises_what_it_should(past: Path) -> None:
    kinds = {(one["kind"], one["state"]) for one in published(past)}
    assert {
        ("canary", "regressed"),
        ("drift", "warming_up"),
        ("drift", "regressed"),
    } <= kinds
    assert len({one["settings"] for one in published(past)}) == 1


@pytest.mark.parametrize("origin", ["log", "store"])
def test_every_verdict_is_reproduced_to_the_byte(past: Path, origin: str) -> None:
    count = len(list(published(past)))
    result = run(past, "replay", "--all", "--from", origin)
    assert (
        f"{count} verdicts reproduced to the byte, 0 different, 0 not reached, 0 not recorded"
        in result.stderr
    )
    assert result.stderr.strip().endswith(f"input: the {origin}")


@pytest.mark.parametrize("origin", ["log", "store"])
def test_one_verdict_is_reproduced_and_named_by_its_first_digits(past: Path, origin: str) -> None:
    verdict_id = rollback_of(past)
    result = run(past, "replay", "--verdict", verdict_id[:10], "--from", origin)
    recorded = next(one for one in published(past) if one["verdict_id"] == verdict_id)
    assert json.loads(result.stdout) == recorded
    assert "reproduced to the byte" in result.stderr


def test_an_exported_file_gives_the_same(past: Path, tmp_path: Path) -> None:
    for origin in ("log", "store"):
        run(past, "replay", "--export", str(tmp_path / f"{origin}.jsonl"), "--from", origin)
    exported = (tmp_path / "log.jsonl").read_bytes()
    assert exported == (tmp_path / "store.jsonl").read_bytes()
    assert len(exported.splitlines()) == len(inputs())
    recorded = run(past, "verdicts", "--all", "--json", "--limit", "100000").stdout_bytes
    (tmp_path / "verdicts.jsonl").write_bytes(recorded)
    away = tmp_path / "away"
    away.mkdir()
    (away / "driftgate.yaml").write_text(f"data: {away / 'none'}\n{SETTINGS}")
    given = str(tmp_path / "log.jsonl"), "--expect", str(tmp_path / "verdicts.jsonl")
    assert "0 different, 0 not reached" in run(away, "replay", *given, "--all").stderr
    printed = run(away, "replay", str(tmp_path / "log.jsonl")).stdout_bytes
    assert sorted(printed.splitlines()) == sorted(recorded.splitlines())


def cut_log(folder: Path, first: int) -> None:
    with sqlite3.connect(folder / "data" / "log.db") as connection:
        (table,) = connection.execute("SELECT id FROM topics WHERE name = 'scores'").fetchone()
        connection.execute(f"DELETE FROM t_{table} WHERE offset < ?", (first,))
    connection.close()


def test_a_log_that_lost_its_beginning_says_so_and_the_store_is_read(copy: Path) -> None:
    verdict_id = rollback_of(copy)
    cut_log(copy, 1000)
    result = run(copy, "replay", "--verdict", verdict_id)
    assert (
        "The log has lost its beginning (it starts with offsets 1000 of partition 0); reading the store"
        in result.stderr
    )
    assert "scores of the store" in result.stderr
    result = run(copy, "replay", "--verdict", verdict_id, "--from", "log", code=1)
    assert "--from store" in result.stderr
    assert "NOT reproduced" in result.stderr
    result = run(copy, "replay", "--all")
    assert "0 different, 0 not reached" in result.stderr


def test_without_the_store_a_cut_log_is_replayed_and_found_wanting(copy: Path) -> None:
    recorded = run(copy, "verdicts", "--all", "--json", "--limit", "100000").stdout_bytes
    (copy / "verdicts.jsonl").write_bytes(recorded)
    shutil.rmtree(copy / "data" / "store")
    cut_log(copy, 1000)
    verdict_id = next(
        one["verdict_id"] for one in map(json.loads, recorded.splitlines()) if one.get("action")
    )
    result = run(copy, "replay", "--verdict", verdict_id, "--expect", str(copy / "verdicts.jsonl"), code=1)
    assert "There is no store either" in result.stderr
    assert "NOT reproduced" in result.stderr


def test_other_settings_are_named_as_the_reason(copy: Path) -> None:
    verdict_id = rollback_of(copy)
    config = (copy / "driftgate.yaml").read_text().replace("incumbent: v1,", "incumbent: v1, margin: 0.03,")
    (copy / "driftgate.yaml").write_text(config)
    result = run(copy, "replay", "--verdict", verdict_id, code=1)
    assert "NOT reproduced" in result.stderr
    assert "other drift settings" in result.stderr
    assert (
        "CAUTION: these are not the settings of the verdict"
        in run(copy, "explain", verdict_id, code=1).stdout
    )


def test_settings_that_were_changed_while_a_gate_ran_are_named(copy: Path) -> None:
    """Half of the input under one margin, the rest under another; as a process that is started anew."""
    path, text = copy / "driftgate.yaml", (copy / "driftgate.yaml").read_text()
    first = load(path).drift
    path.write_text(text.replace("incumbent: v1,", "incumbent: v1, margin: 0.01,"))
    second = load(path).drift
    records = [Record(TOPIC_SCORES, 0, offset, raw) for offset, raw in enumerate(inputs())]
    state: dict[str, bytes] = {}
    verdicts: list[Verdict] = []
    for known, part in ((first, records[:1000]), (second, records[1000:1800]), (second, records[1800:])):
        stage = DriftStage(known)
        stage.assign(0, dict(state))
        result = stage.process(Batch(part, 0))
        state |= {key: value for (_, key), value in result.state.items() if value is not None}
        for (_, key), value in result.state.items():
            if value is None:
                state.pop(key, None)
        verdicts += [
            msgspec.json.decode(one.value, type=Verdict)
            for one in result.outputs
            if one.topic == TOPIC_VERDICTS
        ]
    ids = settings_id(first), settings_id(second)
    canary = [one for one in verdicts if one.kind == "canary"]
    assert {(one.settings, *one.evidence.earlier_settings) for one in canary} == {(ids[0],), (ids[1], ids[0])}
    bad = next(one for one in canary if one.action == "rollback")
    (copy / "verdicts.jsonl").write_bytes(msgspec.json.encode(bad))
    again = ("--scores", str(copy / "scores.jsonl"), "--expect", str(copy / "verdicts.jsonl"))
    run(copy, "replay", "--export", str(copy / "scores.jsonl"))
    text = run(copy, "explain", bad.verdict_id, *again, code=1).stdout
    assert f"the gate had other settings before, one after the other: {ids[0]}" in text
    assert f"the settings were changed while its gate ran ({ids[0]}, {ids[1]})" in text


def test_a_recorded_verdict_that_was_altered_is_found_with_the_field(past: Path, tmp_path: Path) -> None:
    verdict_id = rollback_of(past)
    lines = run(past, "verdicts", "--all", "--json", "--limit", "100000").stdout_bytes.splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        if record["verdict_id"] == verdict_id:
            record["evidence"]["pairs"] += 1
    altered = b"\n".join(json.dumps(one, separators=(",", ":")).encode() for one in records)
    (tmp_path / "altered.jsonl").write_bytes(altered)
    result = run(past, "replay", "--verdict", verdict_id, "--expect", str(tmp_path / "altered.jsonl"), code=1)
    assert "evidence.pairs: recorded " in result.stderr


def test_files_that_are_something_else_are_named(
    past: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No traceback, and no silent success over a file in which there is nothing to replay."""
    garbage = tmp_path / "garbage.jsonl"
    garbage.write_text("123\nnot a record\n")
    result = run(past, "replay", str(garbage), code=1)
    assert "2 of 2 score lines could not be read" in result.stderr
    told = [("--all", "--expect", str(garbage)), (str(tmp_path / "missing.jsonl"),)]
    for arguments, message in zip(told, ("line 1 is no verdict", "No such file or directory"), strict=True):
        monkeypatch.setattr(
            "sys.argv", ["driftgate", "replay", *arguments, "-c", str(past / "driftgate.yaml")]
        )
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        assert message in capsys.readouterr().err


def test_lines_that_a_replay_passes_over_are_told(past: Path, tmp_path: Path) -> None:
    run(past, "replay", "--export", str(tmp_path / "one.jsonl"))
    text = (tmp_path / "one.jsonl").read_bytes()
    (tmp_path / "two.jsonl").write_bytes(text * 2)
    once = run(past, "replay", str(tmp_path / "one.jsonl"))
    twice = run(past, "replay", str(tmp_path / "two.jsonl"))
    assert twice.stdout == once.stdout
    assert "passed over" not in once.stderr
    assert f"{len(text.splitlines()):,} lines stand behind a later offset of their partition" in twice.stderr


def test_verdicts_are_listed_latest_first(past: Path) -> None:
    lines = run(past, "verdicts").stdout.splitlines()
    assert 3 <= len(lines) <= 20
    times = [line.split("  ")[1] for line in lines]
    assert times == sorted(times, reverse=True)
    (only,) = run(past, "verdicts", "--state", "regressed", "--rollout", "r").stdout.splitlines()
    assert only.startswith(rollback_of(past))
    assert "[rollback]" in only


def test_explain_says_what_a_verdict_rests_on(past: Path) -> None:
    verdict_id = rollback_of(past)
    text = run(past, "explain", verdict_id[:8]).stdout
    recorded = next(one for one in published(past) if one["verdict_id"] == verdict_id)
    assert recorded["reason"] in text
    for trace in recorded["evidence"]["worst_trace_ids"]:
        assert trace in text
    assert "this rubric was tested with margin 0.02 and alpha 0.04" in text
    assert (
        "alpha 0.05 for all that can roll back (rubrics quality 0.04; operations error_rate 0.01), of which 45% from the "
        "start and 55% for late changes; margin 0.02" in text
    )
    assert "run again, it gives the same verdict to the byte" in text
    # Until the decision; of the late and the doubled some came twice for one reason only.
    items = [
        json.loads(raw) for raw in inputs()[: recorded["evidence"]["last_offset"] + 1] if b"broken" not in raw
    ]
    skipped = sum(item.get("status") == "skipped" for item in items)
    assert f"{skipped} skipped; for example trace" in text
    assert "duplicate; for example trace" in text
    assert "late; for example trace" in text
    rows = [line for line in text.splitlines() if line.startswith("2025-10-09 ")]
    assert rows[-1].split()[2] == "regressed"
    assert len(rows) > 5


def test_explain_draws_a_picture(past: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    drift = next(
        one["verdict_id"] for one in published(past) if (one["kind"], one["state"]) == ("drift", "regressed")
    )
    for name, verdict_id in (("canary", rollback_of(past)), ("drift", drift)):
        path = tmp_path / f"{name}.png"
        assert str(path) in run(past, "explain", verdict_id, "--png", str(path)).stderr
        image = path.read_bytes()
        assert image.startswith(b"\x89PNG\r\n\x1a\n")
        assert len(image) > 30_000


def test_a_verdict_that_came_with_its_first_difference_shows_it(tmp_path: Path) -> None:
    """One value is no line; it is drawn as a point with its interval."""
    image = pytest.importorskip("matplotlib.image")
    evidence = Evidence(
        e_value=1e6, e_threshold=110.0, mean_difference=-0.5, interval_low=-0.9, interval_high=-0.2
    )
    begun = Verdict(
        verdict_id="a" * 32, kind="canary", time_unix_nano=10**18, rubric="refusal", candidate="v2",
        incumbent="v1", state="warming_up",
    )  # fmt: skip
    ended = msgspec.structs.replace(
        begun, verdict_id="b" * 32, time_unix_nano=10**18 + 10**10, state="regressed", evidence=evidence
    )
    coloured = []
    for name, one in (("with", ended), ("without", msgspec.structs.replace(ended, evidence=Evidence()))):
        draw(Story(verdict=one, history=[begun, one]), tmp_path / f"{name}.png")
        lowest_panel = image.imread(tmp_path / f"{name}.png")[-300:, :, :3]
        red, green, blue = (lowest_panel[:, :, channel] for channel in range(3))
        coloured.append(int(((red > 0.7) & (green < 0.3) & (blue < 0.3)).sum()))
    assert coloured[0] > coloured[1] + 30


def test_explain_still_tells_what_was_recorded_when_the_input_is_gone(copy: Path) -> None:
    verdict_id = rollback_of(copy)
    store = Store.open(StoreSettings(), copy / "data" / "store")
    store._open_client().command("TRUNCATE TABLE score_log")
    store.close()
    cut_log(copy, 10**9)
    text = run(copy, "explain", verdict_id).stdout
    assert "not run again" in text
    assert "regressed" in text


def test_ids_that_are_none_and_those_that_are_not_there(past: Path) -> None:
    for given, message in (("'; DROP", "32 hex digits"), ("0000000000", "no verdict 0000000000")):
        result = CliRunner().invoke(
            cli, ["explain", given, "-c", str(past / "driftgate.yaml")], standalone_mode=False
        )
        assert message in str(result.exception)


def test_defaults_have_one_name_and_any_change_another(past: Path) -> None:
    assert settings_id(DriftSettings()) == settings_id(DriftSettings())
    assert settings_id(DriftSettings()) != settings_id(DriftSettings(lateness=121))


TALLIES = """
drift:
  lateness: 0
  max_skew: 31536000
  rollouts: []
  watches:
    - {name: w, rubrics: [quality], learn: 3600, min_units: 50, report_every: 86400, digest: {period: hour}}
  budgets:
    - {name: judging, of: judges, usd: 5, match: {route: support}}
"""


@pytest.fixture(scope="module")
def tallies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five hours of a cohort that gets worse after two, scored at a cent each: budgets and digests have something to say."""
    folder = tmp_path_factory.mktemp("tallies")
    (folder / "driftgate.yaml").write_text(f"data: {folder / 'data'}\n{TALLIES}")
    config = load(folder / "driftgate.yaml")
    config.data.mkdir()
    log = SqliteLog(config.log_path, max_age=86400, max_bytes=1 << 30)
    start = START // (86400 * SECOND) * 86400 * SECOND
    records = [
        ScoreRecord(
            score_id=f"{number:032x}",
            time_unix_nano=start + number * 30 * SECOND,
            trace_id=f"{number:032x}",
            span_id=f"{number:016x}",
            unit_id=f"{number:032x}",
            rubric="quality",
            evaluator=Evaluator(id="judge", kind="judge"),
            value=0.0 if number > 240 and chance("worse", number) < 0.6 else [0.5, 0.75, 1.0][number % 3],
            cost_usd=0.01,
            cohort={"route": "support", "prompt_version": "v1"},
        )
        for number in range(600)
    ]
    log.append(
        [Output(TOPIC_SCORES, msgspec.json.encode(one)) for one in records], group="scorer", counters={}
    ).result(30)
    drive(log, DriftStage(config.drift), [TOPIC_SCORES])
    log.close()
    return folder


def test_explain_words_a_budget_as_a_sum(tallies: Path) -> None:
    over = next(one for one in published(tallies) if one["state"] == "over_budget")
    text = run(tallies, "explain", over["verdict_id"]).stdout
    assert "budget judging of route=support, tenant default: the day from 2025-10-09 00:00:00 UTC on" in text
    assert "of 5 USD used, 100%" in text
    assert "at this rate" in text
    assert "what judges spend, route=support, for every route by itself: 5 USD a day; warns at 80%" in text
    assert "run again, it gives the same verdict to the byte" in text
    rows = [line for line in text.splitlines() if line.startswith("2025-10-09 ")]
    assert [row.split()[2] for row in rows][-1] == "over_budget"
    assert "warn" in [row.split()[2] for row in rows]
    for foreign in (
        "baseline",
        "e-SR",
        "windows",
        "evaluator",
        "left out",
        "sessions",
        "candidate",
        "against",
    ):
        assert foreign not in text


def test_explain_words_a_digest_as_a_list(tallies: Path) -> None:
    found = next(one for one in published(tallies) if one["kind"] == "digest" and one["state"] == "warn")
    text = run(tallies, "explain", found["verdict_id"]).stdout
    assert "digest of watch w, tenant default: all its cohorts and rubrics, 2025-10-09 0" in text
    assert "1 of 1 streams got worse; of those named, at most 10% are expected to be healthy (e-BH)" in text
    entry = found["evidence"]["digest"]["entries"][0]
    line = next(
        line for line in text.splitlines() if "quality of prompt_version=v1,route=support: mean" in line
    )
    assert f"mean {entry['mean']:.3f} where {entry['expected']:.3f} was expected" in line
    assert "one per hour, alpha 0.1, margin 0.02; not sent to the channels" in text
    assert "run again, it gives the same verdict to the byte" in text
    assert "period ends (UTC)" in text
    for foreign in ("e-SR", "against", "since the baseline", "left out", "windows", "evaluator"):
        assert foreign not in text
