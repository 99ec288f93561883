"""Replicated tables against a real ZooKeeper: two replicas, each a chDB of its own behind HTTP.

What is not here: ``ON CLUSTER``, which chDB lacks (each statement is run on both replicas instead, as the clause has it
done), and the transfer of rows between replicas.
"""

from __future__ import annotations

import random
import re
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from clickhouse_server import VARIABLE, WORD
from harness import wait_until
from replica_server import ReplicaServer, require_replicas
from zookeeper import ZooKeeper, require_zookeeper

from sinks.store import Store
from sinks.store_cluster import PlacedClient, Placement
from sinks.store_migrations import migrate, migrations
from sinks.store_settings import StoreSettings
from stream.errors import Transient

NOW = time.time_ns()
ROOT = "/clickhouse/tables"
TABLES = 12
ROWS = 50
KILLS = 2
_TABLE = re.compile(r"\ACREATE TABLE IF NOT EXISTS (\w+)")


def place(table: str) -> uuid.UUID:
    """Return the table's UUID, which is part of its default path."""
    return uuid.uuid5(uuid.NAMESPACE_OID, table)


class Cluster:
    """ZooKeeper and two replicas."""

    def __init__(self, folder: Path) -> None:
        place = require_replicas()
        self.keeper = ZooKeeper(folder / "zookeeper")
        self.first, self.second = (
            ReplicaServer(folder / name, name, self.keeper.port, place) for name in ("r1", "r2")
        )

    def start(self) -> None:
        parts = (self.keeper, self.first, self.second)
        with ThreadPoolExecutor(len(parts)) as pool:
            for started in [pool.submit(part.start) for part in parts]:
                started.result()

    def stop(self) -> None:
        for part in (self.first, self.second, self.keeper):
            part.kill()


class Everywhere:
    """A client that has DDL done on both replicas, in one order and with one UUID per table, as ``ON CLUSTER`` does.

    Of a replicated table's ALTER, ClickHouse does one and lets ZooKeeper tell the others.
    """

    def __init__(self, first: Any, second: Any) -> None:
        self._first, self._second = first, second

    def command(self, cmd: str, *, parameters: Any = None, settings: Any = None) -> Any:
        cmd = _TABLE.sub(lambda made: f"{made[0]} UUID '{place(made[1])}'", cmd)
        if cmd.startswith(("CREATE", "DROP")):
            self._second.command(cmd)
            # chDB cannot fetch a part, and dies trying: also where a merge or mutation needs one it does not have.
            self._second.command("SYSTEM STOP FETCHES")
            self._second.command("SYSTEM STOP MERGES")
        return self._first.command(cmd, parameters=parameters, settings=settings)

    def query(self, query: str, *, parameters: Any = None, settings: Any = None) -> Any:
        return self._first.query(query, parameters=parameters, settings=settings)


def connect(server: ReplicaServer) -> Any:
    return clickhouse_connect.get_client(
        host="127.0.0.1", port=server.port, username="writer", password=WORD, database="driftgate",
        autogenerate_session_id=False,
    )  # fmt: skip


def open_store(server: ReplicaServer, folder: Path, **more: object) -> Store:
    return Store.open(StoreSettings.model_validate(server.settings | more), folder)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return both replicas with the schema on them."""
    require_zookeeper()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, WORD)
        made = Cluster(tmp_path_factory.mktemp("replicas"))
        try:
            made.start()
            both = Everywhere(connect(made.first), connect(made.second))
            version = migrate(PlacedClient(both, Placement(replicated=True)), replicated=True, shared=True)
            assert version == migrations()[-1].version
            yield made
        finally:
            made.stop()


@pytest.fixture
def store(cluster: Cluster, tmp_path: Path) -> Iterator[Store]:
    opened = open_store(cluster.first, tmp_path)
    yield opened
    opened.close()


def scores(*ids: str, value: float = 0.5, ingested_at: int = NOW) -> dict[str, list[object]]:
    return {
        "score_id": list(ids),
        "time": [NOW] * len(ids),
        "value": [value] * len(ids),
        "ingested_at": [ingested_at] * len(ids),
    }


def spans(batch: int) -> dict[str, list[object]]:
    ids: list[object] = [f"{batch:08d}{row:08d}" for row in range(ROWS)]
    return {
        "Timestamp": [NOW + batch] * ROWS, "TraceId": ids, "SpanId": ids, "SpanName": ["chat"] * ROWS,
        "IngestedAt": [NOW] * ROWS,
    }  # fmt: skip


def test_the_whole_schema_is_replicated_and_every_replica_has_a_place_of_its_own(
    cluster: Cluster, store: Store
) -> None:
    assert store.migrate() == store.migrate() == migrations()[-1].version  # sets the retention, too
    asked = "SELECT table, zookeeper_path, replica_path, is_readonly, total_replicas, active_replicas FROM system.replicas"
    for server in (cluster.first, cluster.second):
        tables = server.sql(f"{asked} ORDER BY table")
        assert len(tables) == TABLES
        assert tables == [
            (name, f"{ROOT}/{place(name)}/one", f"{ROOT}/{place(name)}/one/replicas/{server.name}", 0, 2, 2)
            for name, *_ in tables
        ]
        assert server.sql(
            "SELECT count() FROM system.tables WHERE database = 'driftgate' AND engine LIKE '%MergeTree' "
            "AND engine != 'ReplicatedReplacingMergeTree'"
        ) == [(0,)]
    # Columns and retention that came by ALTER on the first reach the second through ZooKeeper.
    shape = (
        "SELECT table, name, type FROM system.columns WHERE database = 'driftgate' ORDER BY table, position",
        "SELECT name, extract(engine_full, 'TTL [^ ]+ [+] [^ ]+') FROM system.tables WHERE engine LIKE 'Repl%' ORDER BY 1",
    )
    wanted = [cluster.first.sql(query) for query in shape]
    assert ("cohort_windows", "p95", "Nullable(Float64)") in wanted[0]
    assert all("TTL" in ttl for name, ttl in wanted[1] if name != "schema_migrations"), wanted[1]
    wait_until(
        lambda: [cluster.second.sql(query) for query in shape] == wanted, "the second replica's ALTERs"
    )


def test_a_place_that_is_taken_is_refused(cluster: Cluster) -> None:
    taken = f"{ROOT}/{place('schema_migrations')}/one"
    with pytest.raises(DatabaseError, match="REPLICA_ALREADY_EXISTS"):
        connect(cluster.second).command(
            "CREATE TABLE twin (version UInt32, name String, applied_at DateTime DEFAULT now()) "
            f"ENGINE = ReplicatedReplacingMergeTree('{taken}', 'r1', applied_at) ORDER BY version"
        )


def test_repeated_inserts_are_stored_again_and_read_once(cluster: Cluster, store: Store) -> None:
    for _ in range(3):
        store.insert("scores", scores("a", "b"), "scores:0:0-1")
        store.insert("otel_traces", spans(90_000_000), "otlp_spans:0:0-0")
    # Nothing was taken for a repetition: neither the rows nor those of the view.
    for table, rows in (("scores", 2), ("otel_traces", ROWS), ("otel_traces_trace_id_ts", ROWS)):
        asked = f"SELECT count() AS n FROM {table}"
        assert store.query(f"{asked} SETTINGS final = 0") == [{"n": 3 * rows}], table
        assert store.query(asked) == [{"n": rows}], table
    # What was deleted by hand can come again.
    connect(cluster.first).command("ALTER TABLE scores DELETE WHERE 1 SETTINGS mutations_sync = 1")
    store.insert("scores", scores("a", "b"), "scores:0:0-1")
    assert store.query("SELECT count() AS n FROM scores SETTINGS final = 0") == [{"n": 2}]
    # The newest wins, by its version; merging leaves what FINAL shows.
    store.insert("scores", scores("a", value=0.9, ingested_at=NOW + 1), "scores:0:2-2")
    store.insert("scores", scores("a", value=0.1, ingested_at=NOW - 1), "scores:0:3-3")
    connect(cluster.first).command("OPTIMIZE TABLE scores FINAL")
    found = "SELECT score_id AS id, value FROM scores ORDER BY id SETTINGS final = 0"
    assert store.query(found) == [{"id": "a", "value": 0.9}, {"id": "b", "value": 0.5}]
    # The other replica has been told what to fetch.
    waits = "SELECT count() FROM system.replication_queue WHERE table = 'scores' AND source_replica = 'r1'"
    wait_until(lambda: cluster.second.sql(waits) > [(0,)], "the log of parts")


def stored(store: Store, batch: int) -> bool:
    """Insert a batch of spans and tell whether it was acknowledged."""
    try:
        store.insert("otel_traces", spans(batch), f"otlp_spans:0:{batch}-{batch}")
    except Transient:
        return False
    return True


def test_after_kills_every_acknowledged_row_is_there_once(cluster: Cluster, tmp_path: Path) -> None:
    rng = random.Random(7)
    server = cluster.first
    before = server.sql("SELECT count() FROM otel_traces")[0][0]
    batch = 0
    for _ in range(KILLS):
        store = open_store(server, tmp_path)
        # As after a crash of the store stage, the last batches come again.
        batch = max(batch - 3, 0)
        wait_until(partial(stored, store, batch), "the replica to write again")
        last = batch + rng.randrange(4, 9)
        # Where in the next insert it dies is left to chance.
        killer = threading.Timer(rng.random() * 0.03, server.kill)
        while stored(store, batch):
            if batch == last:
                killer.start()
            batch += 1
        killer.join()
        store.close()
        server.start()
    store = open_store(server, tmp_path)
    for again in range(batch - 3, batch + 1):
        wait_until(partial(stored, store, again), "the replica to write again")
    expected = before + ROWS * (batch + 1)
    for table in ("otel_traces", "otel_traces_trace_id_ts"):
        counted = store.query(f"SELECT count() AS n, uniqExact(TraceId) AS ids FROM {table}")
        assert counted == [{"n": expected, "ids": expected}], table
    store.close()


def test_without_zookeeper_inserts_fail_for_now_and_reading_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    store = open_store(cluster.first, tmp_path, query_timeout=4)
    first, second = 80_000_000, 80_000_001
    wait_until(partial(stored, store, first), "an insert before")
    cluster.keeper.kill()
    with pytest.raises(Transient):
        store.insert("otel_traces", spans(second), "otlp_spans:0:2-2")
    times = f"[{NOW + first}, {NOW + second}]"
    found = f"SELECT count() AS n FROM otel_traces WHERE has({times}, toUnixTimestamp64Nano(Timestamp))"
    assert store.query(found) in ([{"n": ROWS}], [{"n": 2 * ROWS}])
    cluster.keeper.start()
    wait_until(partial(stored, store, second), "an insert after ZooKeeper is back")
    assert store.query(found) == [{"n": 2 * ROWS}]
    store.close()
