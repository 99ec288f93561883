"""What the tests of ``deploy/`` share: the files, and a broker for those that start an installation."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka_broker import Cluster, shared_cluster

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the variables that ``new-env.sh`` makes."""
    file = tmp_path_factory.mktemp("secrets") / ".env"
    subprocess.run(["sh", str(ROOT / "deploy/compose/new-env.sh"), str(file)], check=True)
    return dict(line.split("=", 1) for line in file.read_text().splitlines())


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return a running cluster of one broker; skips, loudly, or fails as the tests in ``tests/kafka`` do."""
    with shared_cluster(tmp_path_factory.mktemp("kafka")) as cluster:
        yield cluster
