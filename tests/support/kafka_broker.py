"""Real Apache Kafka brokers on loopback, from the Maven Central jars: KRaft mode, small heap, gone with the test run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import maven_jars
from harness import free_port, kill

ROOT = Path(__file__).resolve().parents[2]
_POM = ROOT / "tests" / "kafka" / "pom.xml"
_CLUSTER_ID = "driftgate-test-cluster"
_START_S = 60.0
# A broker that lives for a minute gains nothing from the optimising compiler.
_JAVA = (
    "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Xshare:auto",
)  # fmt: skip


def libraries() -> Path:
    """Return the folder with Kafka's jars, fetching them the first time; raises ``JarsMissing``."""
    return maven_jars.libraries("kafka", _POM)


class Security:
    """An authority of our own, a certificate for the brokers, and users: a listener with SASL over TLS."""

    def __init__(self, folder: Path, users: dict[str, str]) -> None:
        folder.mkdir(parents=True)
        self.users = users
        self.ca = folder / "ca.pem"
        self.keystore = folder / "broker.pem"
        key, asked, certificate, names = (folder / name for name in ("b.key", "b.csr", "b.crt", "names"))
        new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        _openssl(
            "req", "-x509", *new_key, "-days", "2", "-subj", "/CN=driftgate test authority",
            "-keyout", str(folder / "ca.key"), "-out", str(self.ca),
        )  # fmt: skip
        _openssl("req", *new_key, "-subj", "/CN=127.0.0.1", "-keyout", str(key), "-out", str(asked))
        names.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        _openssl(
            "x509", "-req", "-in", str(asked), "-CA", str(self.ca), "-CAkey", str(folder / "ca.key"),
            "-CAcreateserial", "-days", "2", "-extfile", str(names), "-out", str(certificate),
        )  # fmt: skip
        self.keystore.write_text(key.read_text() + certificate.read_text() + self.ca.read_text())

    def properties(self) -> dict[str, object]:
        """Return what a broker is configured with."""
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        users = " ".join(f'user_{name}="{word}"' for name, word in self.users.items())
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        listener = "listener.name.secure"
        return {
            f"{listener}.sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN",
            f"{listener}.plain.sasl.jaas.config": f"{plain} {users};",
            f"{listener}.scram-sha-512.sasl.jaas.config": scram,
            f"{listener}.ssl.keystore.type": "PEM",
            f"{listener}.ssl.keystore.location": self.keystore,
            f"{listener}.ssl.truststore.type": "PEM",
            f"{listener}.ssl.truststore.location": self.ca,
        }

    def format_options(self) -> list[str]:
        """Return what the storage is formatted with, so that the users are there from the start."""
        return [
            option
            for name, word in self.users.items()
            for option in ("--add-scram", f"SCRAM-SHA-512=[name={name},password={word}]")
        ]


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


class Broker:
    """One broker, which is also a controller."""

    def __init__(
        self,
        node: int,
        folder: Path,
        ports: tuple[int, int, int],
        security: Security | None = None,
        shared: bool = False,
    ) -> None:
        self.node = node
        self.shared = shared
        self.port, self.controller_port, self.secure_port = ports
        self.security = security
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
        plain = f"PLAINTEXT://127.0.0.1:{self.port}"
        secure = f",SECURE://127.0.0.1:{self.secure_port}" if self.security else ""
        properties: dict[str, object] = {
            "process.roles": "broker,controller",
            "node.id": self.node,
            "controller.quorum.voters": voters,
            "listeners": f"{plain},CONTROLLER://127.0.0.1:{self.controller_port}{secure}",
            "advertised.listeners": plain + secure,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL",
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
            "min.insync.replicas": max(1, replicas - 1),
            # A broker that was killed is given up sooner than by default (9 s): tests wait for it. One that is never
            # killed is not given up while the machine is busy.
            "broker.session.timeout.ms": 60_000 if self.shared else 4000,
            "broker.heartbeat.interval.ms": 500,
            "log.cleaner.dedupe.buffer.size": 4 << 20,
            "log.segment.bytes": 64 << 20,
            "log.index.size.max.bytes": 1 << 20,
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": 500,
            "num.network.threads": 2,
            "num.io.threads": 2,
        }
        if self.security:
            properties |= self.security.properties()
        path = self.folder / "server.properties"
        path.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        users = self.security.format_options() if self.security else []
        self._java("kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(path), *users)

    def _command(self, main: str, *arguments: str) -> list[str]:
        return [
            "java",
            *_JAVA,
            "-Xmx512m" if self.shared else "-Xmx192m",
            "-cp",
            f"{libraries()}/*",
            main,
            *arguments,
        ]

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
        self.stop()

    def stop(self) -> None:
        """End it; idempotent."""
        if self._child is not None:
            kill(self._child)
        self._child = None

    def pause(self) -> None:
        """Stop answering without closing connections."""
        assert self._child is not None
        os.kill(self._child.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Answer again."""
        assert self._child is not None
        os.kill(self._child.pid, signal.SIGCONT)


class Cluster:
    """One or three brokers; ``shared`` by many tests, none of which kills one."""

    def __init__(
        self, folder: Path, brokers: int = 1, security: Security | None = None, *, shared: bool = False
    ) -> None:
        self.brokers = [
            Broker(node, folder / f"broker{node}", (free_port(), free_port(), free_port()), security, shared)
            for node in range(1, brokers + 1)
        ]
        voters = ",".join(f"{b.node}@127.0.0.1:{b.controller_port}" for b in self.brokers)
        for broker in self.brokers:
            broker.prepare(voters, brokers)

    @property
    def bootstrap(self) -> str:
        """host:port of all brokers, by comma."""
        return ",".join(broker.address for broker in self.brokers)

    @property
    def secure_bootstrap(self) -> str:
        """The same of the listeners with SASL over TLS."""
        return ",".join(f"127.0.0.1:{broker.secure_port}" for broker in self.brokers)

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


@contextlib.contextmanager
def shared_cluster(folder: Path) -> Iterator[Cluster]:
    """Run one broker for many tests; skips, loudly, or fails where no broker can be started."""
    require_kafka()
    cluster = Cluster(folder, shared=True)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _quiet() -> object:
    import logging

    logger = logging.getLogger("kafka-test-client")
    logger.setLevel(logging.CRITICAL)
    return logger


def require_kafka() -> None:
    """Skip, or fail when ``DRIFTGATE_REQUIRE_KAFKA=1``, if no broker can be started here."""
    try:
        libraries()
    except maven_jars.JarsMissing as error:
        maven_jars.skip_or_fail("Kafka", error)
