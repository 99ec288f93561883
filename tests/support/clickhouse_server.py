"""A ClickHouse server for tests, as a process of its own: chDB behind its HTTP endpoint, with writing allowed.

Run as ``python clickhouse_server.py FOLDER PORT``; the password comes from the environment. It can be killed and started
again on the same folder and port.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

VARIABLE = "DRIFTGATE_TEST_CLICKHOUSE"
WORD = "server" + "-word"


class ClickHouseServer:
    """The process, and clients for it."""

    def __init__(self, folder: Path) -> None:
        from harness import free_port

        self.folder = folder
        self.port = free_port()
        self.output = folder.with_suffix(".log")
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The ``store`` section of a configuration."""
        return {
            "url": f"clickhouse://writer@127.0.0.1:{self.port}/driftgate",
            "password": f"${{env:{VARIABLE}}}",
        }

    @property
    def pid(self) -> int:
        """The process that runs."""
        assert self._child is not None
        return self._child.pid

    def start(self) -> None:
        """Start it and wait until it answers."""
        from harness import wait_until

        root = Path(__file__).resolve().parents[2]
        with self.output.open("ab") as output:
            self._child = subprocess.Popen(
                self._command(),
                stdout=output,
                stderr=output,
                env={**os.environ, VARIABLE: WORD, "PYTHONPATH": str(root)},
            )
        wait_until(self._answers, f"the ClickHouse server: {self.output.read_text()[-1000:]}")

    def _command(self) -> list[str]:
        return [sys.executable, __file__, str(self.folder), str(self.port)]

    def _answers(self) -> bool:
        from urllib.error import URLError
        from urllib.request import urlopen

        assert self._child is not None
        assert self._child.poll() is None, self.output.read_text()[-2000:]
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=5) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    def kill(self) -> None:
        """SIGKILL; nothing happens when it does not run."""
        from harness import kill

        if self._child is not None:
            kill(self._child)
            self._child = None

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """Ask with ClickHouse's own client; each row is there once."""
        import clickhouse_connect

        client = clickhouse_connect.get_client(
            host="127.0.0.1", port=self.port, username="reader", password=WORD, database="driftgate"
        )
        try:
            return [tuple(row) for row in client.query(query, settings={"final": 1}).result_rows]
        finally:
            client.close()


async def _serve(folder: Path, port: int) -> None:
    from sinks.clickhouse.endpoint import Endpoint
    from sinks.store import Store
    from sinks.store_settings import QuerySettings, StoreSettings

    store = Store.open(StoreSettings(), folder)
    settings = QuerySettings.model_validate(
        {"port": port, "read_only": False, "token": f"${{env:{VARIABLE}}}", "max_result_rows": 10_000_000}
    )
    await Endpoint(store, settings).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2])))
