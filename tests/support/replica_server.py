"""A replica of a ClickHouse cluster for tests: chDB with a real ZooKeeper, behind its HTTP endpoint, as a process.

Run as ``python replica_server.py FOLDER PORT CONFIG PLACE``. It can be killed and started again on the same folder and port.

chDB has replicated tables, but leaves them read-only: they want to know at which address other replicas fetch parts
from, and only the server program ever says (ClickHouse issue 78632). So the one function that asks is given an answer,
in this process's memory. Nobody listens there: replicas share metadata, the log of parts and everything else that is in
ZooKeeper, but not their rows (chDB dies when it fetches a part). ``ON CLUSTER`` and Replicated databases are not there
either.
"""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import platform
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from clickhouse_server import ClickHouseServer, _serve
from maven_jars import skip_or_fail

# How Context::getInterserverIOAddress begins on x86-64: is the host empty, is the port 0?
_ASKS = re.compile(
    rb"AVSH\x83\xec.L\x8b6I\x0f\xbe\x8e.{4}H\x85\xc9I\x8b\x96.{4}H\x89\xc8H\x0fH\xc2H\x85\xc0t.A\x0f\xb7\x86.{4}f\x85\xc0t",
    re.DOTALL,
)
# Servers know their own session in ZooKeeper by their UUID, which is zero in every chDB: so the path tells them apart.
_CONFIG = """<clickhouse>
  <zookeeper>
    <node><host>127.0.0.1</host><port>{port}</port></node>
    <session_timeout_ms>1500</session_timeout_ms>
    <sessions_path>/clickhouse/sessions/{name}</sessions_path>
  </zookeeper>
  <macros><shard>one</shard><replica>{name}</replica></macros>
</clickhouse>
"""


class ReplicaServer(ClickHouseServer):
    """One replica. ``name`` is its macro ``replica``; ``asks`` comes from :func:`require_replicas`."""

    def __init__(self, folder: Path, name: str, keeper_port: int, asks: int) -> None:
        super().__init__(folder)
        self.name = name
        self._asks = asks
        self._config = folder.with_suffix(".xml")
        self._config.write_text(_CONFIG.format(port=keeper_port, name=name))

    @property
    def settings(self) -> dict[str, Any]:
        """The ``store`` section of a configuration."""
        plain = super().settings
        return {**plain, "url": f"{plain['url']}?replicated=true"}

    def _command(self) -> list[str]:
        given = (self.folder, self.port, self._config, self._asks)
        return [sys.executable, __file__, *map(str, given)]


def require_replicas() -> int:
    """Return where in chDB's library the function is that asks for the address.

    Skips, or fails when ``DRIFTGATE_REQUIRE_KAFKA=1``, where there is no such place.
    """
    if platform.machine() != "x86_64" or sys.platform != "linux":
        pytest.skip("REPLICATED TABLES ARE NOT TESTED: they need chDB on Linux on x86-64")
    with _library().open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
        found = [match.start() for match in _ASKS.finditer(image)]
    if len(found) != 1:
        skip_or_fail(
            "replicated chDB", "this version asks for its address in another way: see replica_server.py"
        )
    return found[0]


def _library() -> Path:
    import chdb

    return Path(chdb.__file__).with_name("_chdb.abi3.so")


def _answer(place: int) -> None:
    """Let the function at ``place`` in the library's file return 127.0.0.1, port 9."""
    address = _loaded(place)
    assert _ASKS.match(ctypes.string_at(address, 128)), "another library than the one that was looked into"
    text = b"127.0.0.1"
    string = text.ljust(23, b"\0") + bytes([len(text)])  # libc++, short form
    # mov rax, 8 bytes of it; mov [rdi + n], rax; ... mov word [rdi + 24], 9; mov rax, rdi; ret
    code = b"".join(b"\x48\xb8" + string[n : n + 8] + b"\x48\x89\x47" + bytes([n]) for n in (0, 8, 16))
    code += b"\x66\xc7\x47\x18\x09\x00" + b"\x48\x89\xf8\xc3"
    libc = ctypes.CDLL(None)
    page = ctypes.c_void_p(address & -mmap.PAGESIZE)
    everything = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    assert libc.mprotect(page, 2 * mmap.PAGESIZE, everything) == 0
    ctypes.memmove(address, code, len(code))
    assert libc.mprotect(page, 2 * mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC) == 0


def _loaded(place: int) -> int:
    name = str(_library())
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights, offset, _, _, *path = line.split(maxsplit=5)
        first, last = (int(end, 16) for end in span.split("-"))
        if path == [name] and "x" in rights and 0 <= place - int(offset, 16) < last - first:
            return first + place - int(offset, 16)
    raise AssertionError("chDB's library is not loaded")


if __name__ == "__main__":
    import chdb

    _answer(int(sys.argv[4]))
    # The engine takes its configuration from whoever opens it first.
    first = chdb.connect(f"{sys.argv[1]}?config-file={sys.argv[3]}")
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2])))
