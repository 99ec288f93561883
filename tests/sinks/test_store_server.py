"""The store on a ClickHouse server: the same code over HTTP, against the endpoint with writing allowed."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sinks.clickhouse.endpoint import Endpoint
from sinks.store import Store
from sinks.store_migrations import migrations
from sinks.store_settings import QuerySettings, StoreSettings
from stream.errors import Permanent, StartError, Unavailable

NOW = time.time_ns()
VARIABLE = "DRIFTGATE_TEST_STORE_PASSWORD"
Serve = Callable[[Store, QuerySettings], Endpoint]


@pytest.fixture
def server(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv(VARIABLE, "server" + "-pass")
    engine = Store.open(StoreSettings(), tmp_path / "server")
    yield serve(engine, QuerySettings(port=0, read_only=False, token=f"${{env:{VARIABLE}}}"))
    engine.close()


def settings(port: int, **more: object) -> StoreSettings:
    return StoreSettings.model_validate(
        {"url": f"clickhouse://writer@127.0.0.1:{port}/driftgate", "password": f"${{env:{VARIABLE}}}"} | more
    )


def scores(*ids: str) -> dict[str, list[object]]:
    return {
        "score_id": list(ids),
        "time": [NOW] * len(ids),
        "value": [0.5] * len(ids),
        "ingested_at": [NOW] * len(ids),
    }


def test_migrate_insert_and_query_over_http(server: Endpoint, tmp_path: Path) -> None:
    store = Store.open(settings(server.port), tmp_path)
    assert store.embedded is None
    for _ in range(2):
        assert store.migrate() == migrations()[-1].version
    for token in ("one", "one", "two"):
        assert store.insert("scores", scores("a", "b"), token) == 2
    # Nothing is dropped for its token; rows collapse by their ids when they are read.
    assert store.query("SELECT count() AS n FROM scores SETTINGS final = 0") == [{"n": 6}]
    assert store.query("SELECT score_id FROM scores ORDER BY score_id") == [
        {"score_id": "a"},
        {"score_id": "b"},
    ]
    assert store.query("SELECT {x:String} AS x", {"x": "it's"}) == [{"x": "it's"}]
    with pytest.raises(Permanent, match="bad_rows"):
        store.insert("scores", scores("c") | {"value": ["text"]}, "three")
    with pytest.raises(Permanent, match="bad_query"):
        store.query("SELECT nope")
    store.upsert_rows("incidents", [{"incident_id": "i", "state": "firing", "version": 1, "updated_at": NOW}])
    assert store.query("SELECT incident_id FROM incidents_open") == [{"incident_id": "i"}]
    store.close()


def test_an_insert_of_many_megabytes_arrives_whole(server: Endpoint, tmp_path: Path) -> None:
    """The client cuts large rows into several compressed frames of one request."""
    store = Store.open(settings(server.port), tmp_path)
    store.migrate()
    count = 64
    rows = {
        "time": [NOW] * count,
        "topic": ["scores"] * count,
        "offset": list(range(count)),
        "value": [os.urandom(400_000) for _ in range(count)],
    }
    assert store.insert("dead_letters", rows, "large") == count
    assert store.query("SELECT count() AS n, uniqExact(cityHash64(value)) AS u FROM dead_letters") == [
        {"n": count, "u": count}
    ]
    store.close()


def test_a_server_that_goes_away_is_unavailable_until_it_is_back(
    server: Endpoint, serve: Serve, tmp_path: Path, endpoint_loop: asyncio.AbstractEventLoop
) -> None:
    engine = server._store
    store = Store.open(settings(server.port), tmp_path)
    store.migrate()
    store.insert("scores", scores("a"), "one")
    # A second server on the same port stands for the restarted one.
    port = server.port
    asyncio.run_coroutine_threadsafe(server.stop(), endpoint_loop).result(60)
    with pytest.raises(Unavailable):
        store.insert("scores", scores("b"), "two")
    with pytest.raises(Unavailable):
        store.query("SELECT 1")
    serve(engine, QuerySettings(port=port, read_only=False, token=f"${{env:{VARIABLE}}}"))
    store.insert("scores", scores("b"), "two")
    assert store.query("SELECT count() AS n FROM scores") == [{"n": 2}]
    store.close()


def test_a_wrong_password_and_a_missing_server_are_start_errors(
    server: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "not" + "-it"
    monkeypatch.setenv("OTHER", secret)
    with pytest.raises(StartError, match=r"refuses the user 'writer'.*store\.password") as caught:
        Store.open(settings(server.port, password="${env:OTHER}"), tmp_path)
    assert secret not in str(caught.value)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    with pytest.raises(StartError, match=rf"cannot reach ClickHouse at 127\.0\.0\.1:{free}"):
        Store.open(settings(free, connect_timeout=1), tmp_path)


def test_a_start_on_a_cluster_makes_nothing_that_is_there(server: Endpoint, tmp_path: Path) -> None:
    """``ON CLUSTER`` waits for every replica: a restart must not need the one that is down. chDB refuses the clause."""
    where = f"clickhouse://writer@127.0.0.1:{server.port}/driftgate?cluster=main"
    store = Store.open(settings(server.port, url=where), tmp_path)
    with pytest.raises(StartError, match="no such cluster"):
        store.migrate()
    store.close()
    plain = Store.open(settings(server.port), tmp_path)
    plain.migrate()
    plain.close()
    store = Store.open(settings(server.port, url=where), tmp_path)
    assert store.migrate() == migrations()[-1].version
    store.close()


def test_replicated_tables_need_a_place_in_keeper(server: Endpoint, tmp_path: Path) -> None:
    where = f"clickhouse://writer@127.0.0.1:{server.port}/driftgate?replicated=true"
    store = Store.open(settings(server.port, url=where), tmp_path)
    with pytest.raises(
        StartError, match=r"\{uuid\}.*set cluster in store\.url, make the database Replicated"
    ):
        store.migrate()
    store.close()


def test_the_endpoint_is_for_the_embedded_store_only(server: Endpoint, tmp_path: Path, serve: Serve) -> None:
    store = Store.open(settings(server.port), tmp_path)
    with pytest.raises(StartError, match="query the ClickHouse server itself"):
        serve(store, QuerySettings(port=0))
    store.close()
