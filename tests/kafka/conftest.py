"""One real broker for all tests of this folder. Without Java or Maven they skip, loudly, or fail where CI says so."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kafka_broker import Cluster, shared_cluster


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return a running cluster of one broker."""
    with shared_cluster(tmp_path_factory.mktemp("kafka")) as cluster:
        yield cluster


@pytest.fixture
def make_url(kafka: Cluster) -> Callable[..., str]:
    """Return a maker of log URLs; every test has topics of its own by prefix."""
    prefix = f"t{uuid.uuid4().hex[:8]}."

    def make(**options: Any) -> str:
        asked = {
            "prefix": prefix,
            "partitions": 2,
            "replication": 1,
            "min_insync": 1,
            "session_timeout": "6s",
            "timeout": "30s",
        }
        asked.update(options)
        return f"kafka://{kafka.bootstrap}/?" + "&".join(f"{key}={value}" for key, value in asked.items())

    return make
