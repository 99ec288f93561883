"""The demo's whole story on real brokers with Faust, two workers of every stage, and a ClickHouse server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from clickhouse_server import VARIABLE, WORD, ClickHouseServer
from kafka_broker import Cluster, require_kafka


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_passes_on_kafka_with_two_workers_of_every_stage(tmp_path: Path) -> None:
    require_kafka()
    cluster = Cluster(tmp_path / "kafka")
    server = ClickHouseServer(tmp_path / "clickhouse")
    folder = tmp_path / "demo"
    try:
        cluster.start()
        server.start()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "driftgate", "demo", "--folder", str(folder), "--rate", "15"),
                *("--log", f"kafka://{cluster.bootstrap}/?partitions=4&replication=1&min_insync=1"),
                *("--store", server.settings["url"], "--store-password", server.settings["password"]),
            ],
            capture_output=True,
            text=True,
            timeout=280,
            env={**os.environ, VARIABLE: WORD},
        )
    finally:
        server.kill()
        cluster.stop()
    logs = "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in folder.glob("*.log"))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{logs}"
    assert "NO " not in done.stdout
    # A collector and ten workers have run, and the scorer's were Faust's.
    assert "11 driftgate processes" in done.stdout
    for number in (1, 2):
        assert '"stage": "scorer"' in (folder / f"scorer-{number}.log").read_text()
