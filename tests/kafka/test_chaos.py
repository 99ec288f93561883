"""SIGKILL at random over every process, a broker and the ClickHouse server, under load: nothing is lost or done twice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from clickhouse_server import VARIABLE, WORD, ClickHouseServer
from conversations import GATEWAY_TOKEN, RUBRICS, Load, sections
from harness import PATIENCE_S, Client, CountingGateway, free_port, kill, wait_until
from kafka_broker import Cluster, require_kafka
from kafka_fleet import ForeignProducer

from driftgate.config import Config, load
from driftgate.log_view import LogView, look
from stream.kafka.scan import scan
from stream.kafka.topics import Topics, wanted
from stream.records import Verdict

KILLS = 105
SEED = int(os.environ.get("DRIFTGATE_CHAOS_SEED", "20261"))
STAGES = ("intake", "sampler", "scorer", "drift", "store", "alerter")


class Member:
    """One process of the installation, started anew as its supervisor would."""

    def __init__(self, name: str, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.kills = 0
        self.output = folder / f"{name}.log"
        self._command = [sys.executable, "-m", "driftgate", *command, "-c", str(folder / "driftgate.yaml")]
        self._environment = {**os.environ, **environment}
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, if it does not run."""
        if self.running():
            return
        with self.output.open("ab") as output:
            self._child = subprocess.Popen(self._command, stdout=output, stderr=output, env=self._environment)

    def running(self) -> bool:
        """Whether it lives."""
        return self._child is not None and self._child.poll() is None

    def kill(self) -> bool:
        """SIGKILL; return whether it was alive."""
        assert self._child is not None
        alive = self._child.poll() is None
        kill(self._child)
        self.kills += alive
        return alive

    def restart(self) -> int | None:
        """SIGTERM and start again; return the exit code, ``None`` if it had ended before."""
        assert self._child is not None
        if self._child.poll() is not None:
            self.start()
            return None
        self._child.terminate()
        code = self._child.wait(PATIENCE_S)
        self.start()
        return code

    def said(self) -> str:
        """Return the end of its output."""
        return f"--- {self.name}\n{self.output.read_text(errors='replace')[-1500:]}\n"


class Installation:
    """Two collectors and one process per stage on three brokers and a ClickHouse server."""

    def __init__(
        self, folder: Path, cluster: Cluster, server: ClickHouseServer, gateway: CountingGateway
    ) -> None:
        self.folder = folder
        self.ports = [free_port(), free_port()]
        self._url = (
            f"kafka://{cluster.bootstrap}/?partitions=3&replication=3&min_insync=2"
            "&session_timeout=3s&transaction_timeout=5s"
        )
        document = {
            "data": str(folder / "data"),
            "log": {"url": self._url},
            "store": server.settings,
            "collector": {"http": {"enabled": False}},
            "web": {"enabled": False},
            "logging": {"format": "json"},
            **sections(gateway, lateness="30s"),
        }
        (folder / "driftgate.yaml").write_text(yaml.safe_dump(document))
        self.members = [
            *(
                self._member(f"collector{n}", ["collector"], {"DRIFTGATE__COLLECTOR__GRPC__PORT": str(port)})
                for n, port in enumerate(self.ports)
            ),
            *(self._member(stage, ["worker", stage], {}) for stage in STAGES),
        ]

    def _member(self, name: str, command: list[str], environment: dict[str, str]) -> Member:
        return Member(
            name,
            command,
            self.folder,
            {
                VARIABLE: WORD,
                "GATEWAY_TOKEN": GATEWAY_TOKEN,
                "DRIFTGATE__LOG__URL": f"{self._url}&instance={name}",
                **environment,
            },
        )

    @property
    def config(self) -> Config:
        """The configuration, as a command reads it."""
        return load(self.folder / "driftgate.yaml", {})

    def start(self) -> None:
        """Create the topics and start every process."""
        settings = self.config.log.kafka
        Topics(settings).create(wanted(settings))
        for member in self.members:
            member.start()

    def revive(self) -> None:
        """Start what has ended by itself, as a supervisor does."""
        for member in self.members:
            member.start()

    def view(self) -> LogView:
        """Look at the log."""
        return look(self.config)

    def drained(self) -> bool:
        """Whether every group has taken everything and nothing is pending."""
        self.revive()
        view = self.view()
        return not any(view.lags.values()) and not view.counters.get("sampler", {}).get("spans_pending")

    def messages(self, topic: str) -> list[Any]:
        """Return everything that stands in one topic."""
        settings = self.config.log.kafka
        places = [(settings.topic(topic), number) for number in range(settings.partitions)]
        return list(scan(settings, places, settled=True))

    def said(self) -> str:
        """Return the ends of all outputs."""
        return "\n".join(member.said() for member in self.members)

    def stop(self) -> None:
        """End everything."""
        for member in self.members:
            if member.running():
                member.kill()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three brokers of this test alone: one of them is going to die."""
    require_kafka()
    made = Cluster(tmp_path / "brokers", 3)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ClickHouseServer]:
    """A ClickHouse server."""
    made = ClickHouseServer(tmp_path / "clickhouse")
    made.start()
    yield made
    made.kill()


@pytest.fixture
def gateway() -> Iterator[CountingGateway]:
    """A gateway that counts what really happened."""
    made = CountingGateway(GATEWAY_TOKEN)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_over_a_hundred_kills_lose_nothing_and_repeat_nothing(
    tmp_path: Path, cluster: Cluster, server: ClickHouseServer, gateway: CountingGateway
) -> None:
    sys.stdout.write(f"seed {SEED}\n")
    rng = random.Random(SEED)
    installation = Installation(tmp_path, cluster, server, gateway)
    began = time.monotonic()

    def mark(what: str) -> None:
        sys.stdout.write(f"{time.monotonic() - began:6.1f} s  {what}\n")
        sys.stdout.flush()

    installation.start()
    foreign = ForeignProducer(installation.config.log.kafka)
    clients = [Client(*installation.ports), Client(*reversed(installation.ports)), foreign]
    load_ = Load(clients, gateway, traces_per_request=4, pause=lambda: 0.15)
    try:
        load_.start()
        wait_until(lambda: len(load_.acknowledged) > 50, "the first spans", 240)
        mark("loaded")
        lost = rng.choice(cluster.brokers)
        kills = 0
        step = server_kills = 0
        round_: list[Member] = []
        while kills < KILLS:
            step += 1
            installation.revive()
            if not round_:
                round_ = rng.sample(installation.members, len(installation.members))
            member = round_.pop()
            time.sleep(rng.uniform(0.3, 2.5))
            kills += member.kill()
            member.start()
            assert not load_.errors, load_.errors
            if kills == KILLS // 4:
                lost.kill()
                mark(f"broker {lost.node} killed")
            if kills == KILLS // 2 and not lost.alive():
                lost.start()
                mark(f"broker {lost.node} is back")
            if kills in (KILLS // 3, KILLS * 2 // 3) and server_kills < kills * 3 // KILLS:
                server_kills += 1
                server.kill()
                time.sleep(rng.uniform(0.5, 3.0))
                server.start()
                mark("ClickHouse killed and back")
            if step % 10 == 9:
                other = rng.choice(installation.members)
                mark(f"{other.name} restarted: {other.restart()}")
        mark(f"{kills} kills: { {member.name: member.kills for member in installation.members} }")
        installation.revive()
        wait_until(
            lambda: installation.revive() or len(gateway.effective) >= 2,
            f"both rollbacks (seed {SEED})",
            300,
        )
        mark("rolled back")
        load_.finish()
        assert not load_.errors, load_.errors
        mark(f"{len(load_.acknowledged)} spans acknowledged, {len(foreign.acknowledged)} of them foreign")
        wait_until(installation.drained, "lag zero", 300)
        mark("drained")
        _check(installation, server, load_, gateway)
        doctor = subprocess.run(
            [sys.executable, "-m", "driftgate", "doctor", "-c", str(tmp_path / "driftgate.yaml")],
            capture_output=True,
            text=True,
            env={**os.environ, VARIABLE: WORD, "GATEWAY_TOKEN": GATEWAY_TOKEN},
            timeout=120,
        )
        sys.stdout.write(doctor.stdout)
        assert doctor.returncode == 0, doctor.stdout + doctor.stderr
        mark("checked")
    except BaseException:
        sys.stdout.write(f"{installation.said()}\n")
        raise
    finally:
        installation.stop()


def _check(
    installation: Installation, server: ClickHouseServer, load_: Load, gateway: CountingGateway
) -> None:
    stored = server.sql("SELECT TraceId, SpanId FROM otel_traces")
    acknowledged = load_.acknowledged
    assert len(acknowledged) > 1000
    assert set(stored) == acknowledged
    assert len(stored) == len(set(stored)), "a span is there twice"

    scores = server.sql(
        "SELECT trace_id, count(), uniqExact(rubric), uniqExact(score_id) FROM scores GROUP BY trace_id"
    )
    assert {row[0] for row in scores} == load_.traces
    assert {row[1:] for row in scores} == {(len(RUBRICS),) * 3}
    given = [msgspec.json.decode(message.value()) for message in installation.messages("scores")]
    written = Counter(record["score_id"] for record in given if "score_id" in record)
    assert len(written) == len(RUBRICS) * len(load_.traces)
    assert set(written.values()) == {1}, "a score was written to the log twice"

    assert sorted(gateway.effective.values()) == ["rollout-ask", "rollout-search"]
    decided = server.sql(
        "SELECT rollout, count() FROM verdicts WHERE action = 'rollback' GROUP BY rollout ORDER BY 1"
    )
    assert decided == [("rollout-ask", 1), ("rollout-search", 1)]
    verdicts = Counter(
        msgspec.json.decode(message.value(), type=Verdict).verdict_id
        for message in installation.messages("verdicts")
    )
    assert set(verdicts.values()) == {1}, "a verdict was written to the log twice"
    assert installation.messages("dead_letters") == []
