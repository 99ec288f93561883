"""What the tests of ``deploy/`` share: the files, and a broker for those that start an installation."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka_broker import Cluster, shared_cluster

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def secrets() -> dict[str, str]:
    """Return the variables that ``new-env.sh`` makes."""
    done = subprocess.run(
        ["sh", str(ROOT / "deploy/compose/new-env.sh")], capture_output=True, text=True, check=True
    )
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return a running cluster of one broker; skips, loudly, or fails as the tests in ``tests/kafka`` do."""
    with shared_cluster(tmp_path_factory.mktemp("kafka")) as cluster:
        yield cluster
