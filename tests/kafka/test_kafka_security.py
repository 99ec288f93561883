"""TLS and SASL on real brokers: three of them, users by SCRAM and PLAIN, an authority of our own."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from harness import PATIENCE_S, Client, free_port, wait_until
from kafka_broker import Cluster, Security, require_kafka
from traces import request, trace

USER, VARIABLE = "driftgate", "DRIFTGATE_TEST_KAFKA_PASSWORD"
WORD = "kafka" + "-word"
WRONG = "not" + "-it"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    require_kafka()
    folder = tmp_path_factory.mktemp("secured")
    cluster = Cluster(folder, 3, Security(folder / "security", {USER: WORD}))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


class Installation:
    """Commands with one configuration file."""

    def __init__(self, folder: Path, cluster: Cluster, word: str = WORD, **options: str) -> None:
        security = cluster.brokers[0].security
        assert security is not None
        asked = {
            "prefix": f"s{uuid.uuid4().hex[:6]}.",
            "partitions": "2",
            "security": "sasl_ssl",
            "ca": str(security.ca),
            "user": USER,
            "password": f"${{env:{VARIABLE}}}",
            "timeout": "8s",
            **options,
        }
        query = "&".join(f"{key}={value}" for key, value in asked.items() if value)
        self.port = free_port()
        self.path = folder / "driftgate.yaml"
        self.path.write_text(
            yaml.safe_dump(
                {
                    "data": str(folder / "data"),
                    "log": f"kafka://{cluster.secure_bootstrap}/?{query}",
                    "collector": {"grpc": {"port": self.port}, "http": {"enabled": False}},
                    "sampling": {
                        "completion": {"after_root": "200ms", "idle": "1s"},
                        "uniform": {"ratio": 1.0},
                    },
                    "web": {"enabled": False},
                }
            )
        )
        self._environment = {VARIABLE: word, "PATH": "/usr/bin:/bin"}
        self.output = folder / "output.log"

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "driftgate", *arguments, "-c", str(self.path)]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(*arguments), capture_output=True, text=True, env=self._environment, timeout=60
        )

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with self.output.open("ab") as output:
            return subprocess.Popen(
                self._command(*arguments), stdout=output, stderr=output, env=self._environment
            )


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
def test_spans_go_from_collector_to_sampler_and_scorer_over_sasl_and_tls(
    secured: Cluster, tmp_path: Path, mechanism: str
) -> None:
    ours = Installation(tmp_path, secured, sasl=mechanism)
    made = ours.run("topics", "create")
    assert made.returncode == 0, made.stderr
    # The scorer is Faust's, whose client is another one.
    children = [ours.start("collector"), ours.start("worker", "sampler"), ours.start("worker", "scorer")]
    client = Client(ours.port)
    try:
        assert client.send(request(trace("secure")), threading.Event())

        def scored() -> bool:
            from driftgate.config import load
            from stream.kafka.log import KafkaLog

            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(VARIABLE, WORD)
                counted = KafkaLog(load(ours.path, {}).log.kafka).counters()
            return (
                counted.get("sampler", {}).get("spans_kept") == 3
                and counted.get("scorer", {}).get("traces_scored") == 1
            )

        wait_until(scored, lambda: f"the scores: {ours.output.read_text()[-2000:]}")
    finally:
        client.close()
        for child in children:
            child.terminate()
        codes = [child.wait(PATIENCE_S) for child in children]
        assert codes == [0, 0, 0], ours.output.read_text()[-3000:]


@pytest.mark.parametrize(
    ("command", "options", "says"),
    [
        (
            "topics check",
            {"word": WRONG},
            "refuse the user 'driftgate' with SCRAM-SHA-512: check `user`, `pass",
        ),
        ("collector", {"word": WRONG, "sasl": "PLAIN"}, "refuse the user 'driftgate' with PLAIN"),
        ("worker sampler", {"user": "nobody"}, "refuse the user 'nobody'"),
        ("topics create", {"ca": ""}, "their certificate is not trusted: set `ca`"),
        ("doctor", {"word": WRONG}, "refuse the user 'driftgate'"),
    ],
)
def test_what_the_brokers_refuse_ends_with_the_fix_and_no_secret(
    secured: Cluster, tmp_path: Path, command: str, options: dict[str, str], says: str
) -> None:
    done = Installation(tmp_path, secured, **options).run(*command.split())
    assert done.returncode == 1, done.stderr
    assert says in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert WRONG not in done.stderr + done.stdout
    assert WORD not in done.stderr + done.stdout
