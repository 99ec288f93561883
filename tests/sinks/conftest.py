"""Real parts for the store's tests: an embedded engine in a fresh folder, and the query endpoint on a free port."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sinks.clickhouse.endpoint import Endpoint
from sinks.store import Store
from sinks.store_settings import QuerySettings, StoreSettings


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(StoreSettings(), tmp_path / "store")
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def endpoint_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread of its own, so that a test can use blocking clients."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def serve(endpoint_loop: asyncio.AbstractEventLoop) -> Iterator[Callable[[Store, QuerySettings], Endpoint]]:
    """Start endpoints; they are stopped after the test."""
    started: list[Endpoint] = []

    def start(store: Store, settings: QuerySettings) -> Endpoint:
        endpoint = Endpoint(store, settings)
        asyncio.run_coroutine_threadsafe(endpoint.start(), endpoint_loop).result(30)
        started.append(endpoint)
        return endpoint

    yield start
    for endpoint in started:
        asyncio.run_coroutine_threadsafe(endpoint.stop(), endpoint_loop).result(60)
