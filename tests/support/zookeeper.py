"""A real Apache ZooKeeper on loopback, from the Maven Central jars: what ClickHouse calls its Keeper."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from pathlib import Path

from harness import free_port, kill, wait_until
from maven_jars import JarsMissing, libraries, skip_or_fail

_POM = Path(__file__).resolve().parents[2] / "tests" / "zookeeper" / "pom.xml"
_JAVA = ("-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Xshare:auto")
_MAIN = "org.apache.zookeeper.server.ZooKeeperServerMain"


def require_zookeeper() -> None:
    """Skip, or fail when ``DRIFTGATE_REQUIRE_KAFKA=1``, if none can be started here."""
    try:
        libraries("zookeeper", _POM)
    except JarsMissing as error:
        skip_or_fail("ZooKeeper", error)


class ZooKeeper:
    """One process; it can be killed and started again on the same folder and port."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.port = free_port()
        self._settings = folder / "zoo.cfg"
        self._output = folder / "zookeeper.log"
        self._child: subprocess.Popen[bytes] | None = None
        self._settings.write_text(
            # Sessions may be as short as two ticks, so that a killed client is gone soon.
            f"tickTime=250\ndataDir={folder / 'data'}\nclientPort={self.port}\nclientPortAddress=127.0.0.1\n"
            "admin.enableServer=false\n4lw.commands.whitelist=ruok\n"
        )

    def start(self) -> None:
        """Start it and wait until it answers."""
        with self._output.open("ab") as output:
            self._child = subprocess.Popen(
                ["java", *_JAVA, "-cp", f"{libraries('zookeeper', _POM)}/*", _MAIN, str(self._settings)],
                stdout=output,
                stderr=output,
            )
        wait_until(self._answers, "ZooKeeper")

    def _answers(self) -> bool:
        assert self._child is not None
        assert self._child.poll() is None, self._output.read_text()[-2000:]
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=5) as asked,
        ):
            asked.sendall(b"ruok")
            return asked.recv(16) == b"imok"
        return False

    def kill(self) -> None:
        """SIGKILL; nothing happens when it does not run."""
        if self._child is not None:
            kill(self._child)
            self._child = None
