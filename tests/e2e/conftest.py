"""Processes and gateways that end with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import CountingGateway, Process


@pytest.fixture
def make_process(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Return a maker of processes that end with the test."""
    made: list[Process] = []

    def make(config: dict[str, Any] | None = None, environment: dict[str, str] | None = None) -> Process:
        folder = tmp_path / f"p{len(made)}"
        folder.mkdir()
        made.append(Process(folder, config or {}, environment))
        return made[-1]

    yield make
    for process in made:
        if process.running():
            process.kill()


@pytest.fixture
def counting_gateway() -> Iterator[CountingGateway]:
    """Return a running gateway."""
    gateway = CountingGateway("gateway-" + "token")
    yield gateway
    gateway.close()
