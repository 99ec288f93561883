"""Real Apache Kafka brokers on loopback, from the Maven Central jars: KRaft mode, small heap, gone with the test run."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from harness import free_port

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ROOT / ".cache" / "kafka"
_POM = ROOT / "tests" / "kafka" / "pom.xml"
_CLUSTER_ID = "driftgate-test-cluster"
_START_S = 60.0
# A broker that lives for a minute gains nothing from the optimising compiler.
_JAVA = (
    "-Xmx192m", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Xshare:auto",
)  # fmt: skip


class KafkaMissing(Exception):  # noqa: N818 - a reason to skip
    """Java, Maven or the jars are not there; the text says which."""


def libraries() -> Path:
    """Return the folder with Kafka's jars, fetching them the first time.

    Raises
    ------
    KafkaMissing
        They cannot be had.
    """
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            raise KafkaMissing(f"{program} is not installed")
    # The pom names the version, so a new one gets a folder of its own.
    target = LIBRARIES / f"jars-{_POM.stat().st_size}-{_digest(_POM)}"
    if not (target / ".complete").is_file():
        done = subprocess.run(
            [
                "mvn",
                "-q",
                "-B",
                "-f",
                str(_POM),
                "dependency:copy-dependencies",
                f"-DoutputDirectory={target}",
            ],
            capture_output=True,
            text=True,
            timeout=300,
        )
        if done.returncode != 0:
            raise KafkaMissing(f"Maven could not fetch the jars: {done.stdout[-300:]}")
        (target / ".complete").touch()
    return target


def _digest(path: Path) -> str:
    import hashlib

    return hashlib.blake2b(path.read_bytes(), digest_size=6).hexdigest()


class Broker:
    """One broker, which is also a controller."""

    def __init__(self, node: int, folder: Path, ports: tuple[int, int]) -> None:
        self.node = node
        self.port, self.controller_port = ports
        self.folder = folder
        self.output = folder / "broker.log"
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """host:port for clients."""
        return f"127.0.0.1:{self.port}"

    def prepare(self, voters: str, replicas: int) -> None:
        """Write the configuration and format the storage."""
        self.folder.mkdir(parents=True)
        properties = {
            "process.roles": "broker,controller",
            "node.id": self.node,
            "controller.quorum.voters": voters,
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": self.folder / "data",
            "auto.create.topics.enable": "false",
            "num.partitions": 1,
            "offsets.topic.num.partitions": 4,
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.num.partitions": 4,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": max(1, replicas - 1),
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            "group.consumer.min.session.timeout.ms": 1000,
            "group.consumer.session.timeout.ms": 6000,
            "group.consumer.min.heartbeat.interval.ms": 200,
            "group.consumer.heartbeat.interval.ms": 500,
            "controlled.shutdown.enable": "false",
            "log.cleaner.dedupe.buffer.size": 4 << 20,
            "log.segment.bytes": 64 << 20,
            "log.index.size.max.bytes": 1 << 20,
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": 500,
            "num.network.threads": 2,
            "num.io.threads": 2,
        }
        path = self.folder / "server.properties"
        path.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        self._java("kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(path))

    def _command(self, main: str, *arguments: str) -> list[str]:
        return ["java", *_JAVA, "-cp", f"{libraries()}/*", main, *arguments]

    def _java(self, main: str, *arguments: str) -> None:
        done = subprocess.run(self._command(main, *arguments), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """Start the process; see :meth:`Cluster.wait`."""
        with self.output.open("ab") as output:
            self._child = subprocess.Popen(
                self._command("kafka.Kafka", str(self.folder / "server.properties")),
                stdout=output,
                stderr=output,
            )

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._child is not None and self._child.poll() is None

    def kill(self) -> None:
        """SIGKILL, as when the machine is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it; idempotent."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Stop answering without closing connections."""
        assert self._child is not None
        os.kill(self._child.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Answer again."""
        assert self._child is not None
        os.kill(self._child.pid, signal.SIGCONT)

    def _end(self, number: int) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)
            self._child.wait(30)
        self._child = None


class Cluster:
    """One or three brokers."""

    def __init__(self, folder: Path, brokers: int = 1) -> None:
        self.brokers = [
            Broker(node, folder / f"broker{node}", (free_port(), free_port()))
            for node in range(1, brokers + 1)
        ]
        voters = ",".join(f"{b.node}@127.0.0.1:{b.controller_port}" for b in self.brokers)
        for broker in self.brokers:
            broker.prepare(voters, brokers)

    @property
    def bootstrap(self) -> str:
        """host:port of all brokers, by comma."""
        return ",".join(broker.address for broker in self.brokers)

    def start(self) -> None:
        """Start all brokers and wait until they answer."""
        for broker in self.brokers:
            broker.start()
        self.wait()

    def wait(self) -> None:
        """Wait until every broker is a member of the cluster."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        client = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0, "logger": _quiet()})
        end = time.monotonic() + _START_S
        found = 0
        while time.monotonic() < end:
            for broker in self.brokers:
                assert broker.alive(), broker.output.read_text()[-3000:]
            with contextlib.suppress(KafkaException):
                found = len(client.list_topics(timeout=1.0).brokers)
                if found == len(self.brokers):
                    return
        raise AssertionError(
            f"{found} of {len(self.brokers)} brokers; " + self.brokers[0].output.read_text()[-3000:]
        )

    def stop(self) -> None:
        """End every broker; idempotent."""
        for broker in self.brokers:
            broker.stop()


def _quiet() -> object:
    import logging

    logger = logging.getLogger("kafka-test-client")
    logger.setLevel(logging.CRITICAL)
    return logger
