"""The ClickHouse HTTP endpoint as its clients use it: clickhouse-connect, Grafana's requests, curl."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import http.client
import json
import threading
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import clickhouse_connect
import lz4.frame
import pytest
import zstandard
from clickhouse_connect.driver.exceptions import DatabaseError

from sinks.clickhouse.endpoint import Endpoint
from sinks.store import Store
from sinks.store_settings import QuerySettings
from stream.errors import StartError

NOW = time.time_ns() // 10**9 * 10**9
SLOW = "SELECT sum(sipHash64(number)) FROM numbers(1000000000000)"
Serve = Callable[[Store, QuerySettings], Endpoint]


class Reply:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def text(self) -> str:
        return self.body.decode()


def send(
    endpoint: Endpoint,
    body: bytes | str = b"",
    *,
    method: str = "POST",
    path: str = "/",
    headers: dict[str, str] | None = None,
    **url: str,
) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=30)
    target = f"{path}?{urllib.parse.urlencode(url)}" if url else path
    data = body.encode() if isinstance(body, str) else body
    connection.request(method, target, data or None, headers or {})
    response = connection.getresponse()
    reply = Reply(response.status, dict(response.getheaders()), response.read())
    connection.close()
    return reply


def fill(store: Store) -> None:
    for version, means, counts in ((1, [0.9, 0.5], [100, 20]), (2, [0.91, 0.4], [110, 30])):
        store.insert(
            "cohort_windows",
            {
                "end_time": [NOW] * 2,
                "view": ["prompt"] * 2,
                "cohort": ["prompt_version=v17", "prompt_version=v18"],
                "rubric": ["groundedness"] * 2,
                "window_seconds": [900] * 2,
                "mean": means,
                "n": counts,
                "version": [version] * 2,
                "ingested_at": [NOW] * 2,
            },
            f"version {version}",
        )


def client_of(endpoint: Endpoint, **more: Any) -> Any:
    return clickhouse_connect.get_client(host="127.0.0.1", port=endpoint.port, **more)


@pytest.fixture
def endpoint(store: Store, serve: Serve) -> Endpoint:
    fill(store)
    return serve(store, QuerySettings(port=0, max_execution_time=20))


def test_clickhouse_connect_reads_the_cohort_means(endpoint: Endpoint) -> None:
    client = client_of(endpoint)
    rows = client.query("SELECT cohort, mean, n, end_time FROM cohort_means ORDER BY cohort").named_results()
    assert [(row["cohort"], row["mean"], row["n"]) for row in rows] == [
        ("prompt_version=v17", 0.91, 110),
        ("prompt_version=v18", 0.4, 30),
    ]
    assert client.command("SELECT count() FROM cohort_windows") == 2
    assert client.query("SELECT count() FROM cohort_windows", settings={"final": 0}).result_rows == [(4,)]
    assert client.database in (None, "default", "driftgate", "__default__")
    client.close()


def test_clickhouse_connect_parameters_frames_streams_and_raw(endpoint: Endpoint) -> None:
    client = client_of(endpoint, database="driftgate")
    text = "it's \\ a\ttab\nüñí"
    assert client.query(
        "SELECT {a:String}, {b:Array(UInt8)}", parameters={"a": text, "b": [1, 2]}
    ).result_rows == [(text, [1, 2])]
    assert client.query("SELECT %(a)s", parameters={"a": text}).result_rows == [(text,)]
    frame = client.query_df("SELECT cohort, mean FROM cohort_means ORDER BY mean")
    assert list(frame["mean"]) == [0.4, 0.91]
    with client.query_row_block_stream("SELECT number, toString(number) FROM numbers(150000)") as stream:
        assert sum(len(block) for block in stream) == 150_000
    assert client.raw_query("SELECT 1 AS a", fmt="JSONEachRow") == b'{"a":1}\n'
    assert client.query("SELECT number FROM numbers(3) WHERE number > 5").result_rows == []
    assert client.query("DESCRIBE TABLE scores").result_rows[0][0] == "time"
    assert client.query("SELECT toDateTime('2026-01-02 03:04:05')").result_rows[0][0].hour == 3
    result = client.query("SELECT number FROM numbers(3)", settings={"max_threads": 1, "max_block_size": 2})
    assert result.result_rows == [(0,), (1,), (2,)]
    assert int(result.summary["read_rows"]) == 3
    client.close()


def test_clickhouse_connect_sees_errors_with_their_codes(endpoint: Endpoint) -> None:
    client = client_of(endpoint)
    for sql, code in (
        ("SELECT nope", 47),
        ("SELECT FROM WHERE", 62),
        ("SELECT * FROM nowhere", 60),
        ("DROP TABLE scores", 164),
        ("SELECT throwIf(1)", 395),
    ):
        with pytest.raises(DatabaseError, match=f"Code: {code}"):
            client.command(sql)
    with pytest.raises(DatabaseError, match="Code: 164"):
        client.insert("scores", [["x"]], column_names=["score_id"])
    client.close()


def test_grafanas_requests(endpoint: Endpoint) -> None:
    """The plug-in's HTTP protocol: SQL as the body, Native with a protocol revision, gzip; and JSON as other tools ask."""
    reply = send(
        endpoint,
        "SELECT displayName(), version(), revision(), timezone()",
        default_format="Native",
        client_protocol_version="54460",
        database="default",
        max_execution_time="60",
        headers={"Accept-Encoding": "gzip", "Authorization": "Basic ZGVmYXVsdDo="},
    )
    assert reply.status == 200
    assert reply.body.startswith(b"\x01\x00\x02\xff\xff\xff\xff\x00\x04\x01\x0ddisplayName()\x06String\x00")
    reply = send(endpoint, "SELECT cohort, mean FROM cohort_means ORDER BY mean", default_format="JSON")
    assert json.loads(reply.body)["data"][0] == {"cohort": "prompt_version=v18", "mean": 0.4}
    assert reply.headers["Content-Type"] == "application/json; charset=UTF-8"
    reply = send(endpoint, "SELECT 1 AS a FORMAT JSONCompact", default_format="TSV")
    assert json.loads(reply.body)["data"] == [[1]]
    assert reply.headers["X-ClickHouse-Format"] == "JSONCompact"


def test_answers_carry_clickhouses_headers(endpoint: Endpoint) -> None:
    reply = send(endpoint, "SELECT 1", query_id="my-query-1")
    assert reply.headers["X-ClickHouse-Query-Id"] == "my-query-1"
    assert reply.headers["X-ClickHouse-Format"] == "TabSeparated"
    assert reply.headers["X-ClickHouse-Timezone"] == "UTC"
    assert reply.headers["X-ClickHouse-Server-Display-Name"] == "driftgate"
    assert json.loads(reply.headers["X-ClickHouse-Summary"])["read_rows"] == "1"
    assert len(send(endpoint, "SELECT 1").headers["X-ClickHouse-Query-Id"]) == 36
    assert len(send(endpoint, "SELECT 1", query_id="a\r\nX-Evil: 1").headers["X-ClickHouse-Query-Id"]) == 36


def test_errors_are_in_clickhouses_form(endpoint: Endpoint) -> None:
    reply = send(endpoint, "SELECT nope")
    assert reply.status == 404
    assert reply.headers["X-ClickHouse-Exception-Code"] == "47"
    assert reply.text.startswith("Code: 47. DB::Exception: ")
    assert "(UNKNOWN_IDENTIFIER) (version " in reply.text
    assert send(endpoint, "SELECT FROM WHERE").status == 400
    assert send(endpoint, "").status == 400
    assert send(endpoint, b"SELECT \xff").status == 400
    assert send(endpoint, "SELECT 1", default_format="Nope").headers["X-ClickHouse-Exception-Code"] == "73"
    assert send(endpoint, "SELECT 1 FORMAT Nope").headers["X-ClickHouse-Exception-Code"] == "73"
    assert send(endpoint, "SELECT 1", database="other").status == 404
    assert send(endpoint, "SELECT 1", compress="1").status == 501
    assert send(endpoint, "SELECT 1", no_such_setting="1").status == 403
    assert send(endpoint, "SELECT {x:UInt8}").headers["X-ClickHouse-Exception-Code"] == "456"
    assert send(endpoint, "x", headers={"Content-Type": "multipart/form-data; boundary=x"}).status == 501


def test_health_paths(endpoint: Endpoint) -> None:
    for path in ("/", "/ping", "/replicas_status"):
        assert send(endpoint, method="GET", path=path).text == "Ok.\n"
    assert send(endpoint, method="GET", path="/play").status == 404
    assert send(endpoint, method="PUT").status == 405


def test_query_in_the_url_and_the_rest_in_the_body(endpoint: Endpoint) -> None:
    assert send(endpoint, method="GET", query="SELECT 1").text == "1\n"
    assert send(endpoint, "+ 1", query="SELECT 1").text == "2\n"


def test_bodies_and_answers_are_compressed_on_request(endpoint: Endpoint) -> None:
    sql = b"SELECT number FROM numbers(1000)"
    plain = send(endpoint, sql).body
    for encoding, pack, unpack in (
        ("gzip", gzip.compress, gzip.decompress),
        (
            "zstd",
            zstandard.ZstdCompressor().compress,
            lambda data: zstandard.ZstdDecompressor().decompress(data),
        ),
        ("lz4", lz4.frame.compress, lz4.frame.decompress),
    ):
        reply = send(
            endpoint,
            pack(sql),
            enable_http_compression="1",
            headers={"Content-Encoding": encoding, "Accept-Encoding": f"br, {encoding};q=0.9"},
        )
        assert reply.headers["Content-Encoding"] == encoding
        assert unpack(reply.body) == plain
    unasked = send(endpoint, sql, headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in unasked.headers
    assert send(endpoint, b"\x1f\x8bbroken", headers={"Content-Encoding": "gzip"}).status == 400
    assert send(endpoint, gzip.compress(sql)[:-10], headers={"Content-Encoding": "gzip"}).status == 400
    assert send(endpoint, sql, headers={"Content-Encoding": "snappy"}).status == 501


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "lz4", "identity"])
def test_a_large_or_exploding_body_is_refused(store: Store, serve: Serve, encoding: str) -> None:
    endpoint = serve(store, QuerySettings(port=0, max_query_bytes=10_000))
    bomb = b"SELECT 1 " + b" " * 50_000_000 if encoding != "identity" else b" " * 20_000
    pack = {
        "gzip": gzip.compress,
        "zstd": zstandard.ZstdCompressor().compress,
        "lz4": lz4.frame.compress,
        "identity": bytes,
    }
    packed = pack[encoding](bomb)
    reply = send(endpoint, packed[:9_000] if len(packed) > 10_000 and encoding == "zstd" else packed,
                 headers={"Content-Encoding": encoding})  # fmt: skip
    assert reply.status == 413
    assert send(endpoint, "SELECT 1").text == "1\n"


def test_limits_hold_and_only_get_tighter(store: Store, serve: Serve) -> None:
    endpoint = serve(
        store,
        QuerySettings(
            port=0, max_execution_time=1, max_result_rows=100, max_result_bytes=100_000, max_memory="100MiB"
        ),
    )
    for more in ({}, {"max_execution_time": "0"}, {"max_execution_time": "600"}):
        reply = send(endpoint, SLOW, **more)
        assert (reply.status, reply.headers["X-ClickHouse-Exception-Code"]) == (408, "159")
    assert send(endpoint, "SELECT number FROM numbers(101)").headers["X-ClickHouse-Exception-Code"] == "396"
    assert send(endpoint, "SELECT number FROM numbers(101)", max_result_rows="0").status == 400
    assert send(endpoint, "SELECT number FROM numbers(11)", max_result_rows="10").status == 400
    assert send(endpoint, "SELECT number FROM numbers(100)").status == 200
    assert send(endpoint, "SELECT repeat('x', 200000)").status == 400
    assert send(endpoint, "SELECT length(groupArray(number)) FROM numbers(100000000)").headers[
        "X-ClickHouse-Exception-Code"
    ] == "241"  # fmt: skip
    assert send(endpoint, SLOW, max_execution_time="x").status == 400


def test_more_queries_than_slots_wait_and_are_refused_in_time(store: Store, serve: Serve) -> None:
    endpoint = serve(store, QuerySettings(port=0, max_concurrent=1, max_execution_time=1))
    codes: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: codes.append(send(endpoint, SLOW).headers["X-ClickHouse-Exception-Code"])
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(codes) == {"159", "202"}
    assert send(endpoint, "SELECT 1").text == "1\n"


def test_queries_and_inserts_do_not_wait_for_each_other(store: Store, serve: Serve) -> None:
    endpoint = serve(store, QuerySettings(port=0, max_execution_time=120))
    slow = threading.Thread(target=send, args=(endpoint, SLOW))
    slow.start()
    failures: list[str] = []

    def read() -> None:
        client = client_of(endpoint)
        for _ in range(20):
            seen = client.query("SELECT count() AS n, uniqExact(score_id) AS ids FROM scores").result_rows[0]
            if seen[0] != seen[1]:
                failures.append(f"a duplicate is visible: {seen}")
        client.close()

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(15):
        ids = [f"{number}-{row}" for row in range(10)]
        for token in ("a", "b"):  # the second is a redelivery in another cut
            store.insert(
                "scores", {"score_id": ids, "time": [NOW] * 10, "ingested_at": [NOW] * 10}, f"{token}{number}"
            )
    for reader in readers:
        reader.join()
    assert failures == []
    assert store.embedded is not None
    killed = store.embedded.client.query(
        "KILL QUERY WHERE query LIKE '%sipHash64%' AND query NOT LIKE 'KILL%' SYNC"
    )
    assert killed.row_count == 1, "all of it happened while a query ran"
    slow.join()
    assert send(endpoint, "SELECT count() FROM scores").text == "150\n"


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    value = "query" + "-token-" + "ü"
    monkeypatch.setenv("DRIFTGATE_TEST_TOKEN", value)
    return value


def test_a_token_is_asked_for_in_every_form_clients_have(store: Store, serve: Serve, token: str) -> None:
    endpoint = serve(store, QuerySettings(port=0, token="${env:DRIFTGATE_TEST_TOKEN}"))
    basic = base64.b64encode(f"any:{token}".encode()).decode()
    wrong = base64.b64encode(b"any:wrong").decode()
    utf8 = token.encode().decode("latin-1")
    assert send(endpoint, "SELECT 1", headers={"Authorization": f"Basic {basic}"}).text == "1\n"
    assert send(endpoint, "SELECT 1", headers={"Authorization": f"Bearer {utf8}"}).text == "1\n"
    assert (
        send(endpoint, "SELECT 1", headers={"X-ClickHouse-User": "u", "X-ClickHouse-Key": utf8}).text == "1\n"
    )
    assert send(endpoint, "SELECT 1", user="u", password=token).text == "1\n"
    missing = send(endpoint, "SELECT 1")
    assert missing.status == 401
    assert missing.headers["WWW-Authenticate"].startswith("Basic")
    for headers in (
        {"Authorization": f"Basic {wrong}"},
        {"Authorization": "Bearer wrong"},
        {"X-ClickHouse-Key": "wrong"},
        {"X-ClickHouse-Key": utf8[:-1]},
    ):
        reply = send(endpoint, "SELECT 1", headers=headers)
        assert (reply.status, reply.headers["X-ClickHouse-Exception-Code"]) == (403, "516")
    assert send(endpoint, "SELECT 1", headers={"Authorization": "Basic !!!"}).status in (401, 403)
    assert send(endpoint, method="GET", path="/ping").text == "Ok.\n"
    client = client_of(endpoint, username="grafana", password=token)
    assert client.command("SELECT 1") == 1
    client.close()


def test_without_a_token_only_local_names_are_served(endpoint: Endpoint) -> None:
    """A web page whose name resolves to 127.0.0.1 (DNS rebinding) must not read the store through a browser."""
    for host, status in (
        ("evil.example", 403),
        ("127.0.0.1.evil.example:8123", 403),
        ("localhost", 200),
        ("[::1]:8123", 200),
    ):
        assert send(endpoint, "SELECT 1", headers={"Host": host}).status == status, host


def test_an_occupied_port_is_explained(endpoint: Endpoint, store: Store, serve: Serve) -> None:
    with pytest.raises(StartError, match=rf"cannot listen on 127\.0\.0\.1:{endpoint.port}.*query\.port"):
        serve(store, QuerySettings(port=endpoint.port))
    assert send(endpoint, "SELECT 1").text == "1\n"


def test_writing_is_possible_where_the_settings_say_so(
    store: Store, serve: Serve, token: str, tmp_path: Path
) -> None:
    endpoint = serve(store, QuerySettings(port=0, read_only=False, token="${env:DRIFTGATE_TEST_TOKEN}"))
    client = client_of(endpoint, username="w", password=token)
    client.command("CREATE TABLE notes (id UInt32, text String) ENGINE = MergeTree ORDER BY id")
    client.insert("notes", [[1, "a"], [2, "line\nbreak ; FORMAT x"]], column_names=["id", "text"])
    assert client.query("SELECT id, text FROM notes ORDER BY id").result_rows == [
        (1, "a"),
        (2, "line\nbreak ; FORMAT x"),
    ]
    key = {"X-ClickHouse-Key": token.encode().decode("latin-1")}
    reply = send(endpoint, "3\tc\n4\td\n", query="INSERT INTO notes (id, text) FORMAT TSV", headers=key)
    assert json.loads(reply.headers["X-ClickHouse-Summary"])["written_rows"] == "2"
    assert send(endpoint, "INSERT INTO notes VALUES (5, 'e')", headers=key).status == 200
    assert (
        send(endpoint, "INSERT INTO notes (id, text) FORMAT TSV\nnot a number\tx\n", headers=key).status
        == 400
    )
    assert client.command("SELECT count() FROM notes") == 5
    assert send(endpoint, method="GET", query="DROP TABLE notes", headers=key).status == 403
    assert send(endpoint, "DROP TABLE notes; DROP TABLE scores", headers=key).status == 400
    client.command("DROP TABLE notes")
    assert store.query("SELECT count() AS n FROM scores") == [{"n": 0}]
    client.close()


def test_stop_ends_running_queries(store: Store) -> None:
    """The time limit is far beyond the test's own: without KILL QUERY this would not end."""

    async def stop_under_load() -> None:
        endpoint = Endpoint(store, QuerySettings(port=0, max_execution_time=3600))
        await endpoint.start()
        asked = asyncio.create_task(asyncio.to_thread(send, endpoint, SLOW))
        while not store.query(  # noqa: ASYNC110 - the engine tells nobody when a query begins
            "SELECT query FROM system.processes WHERE query LIKE '%sipHash64%' AND query NOT LIKE '%LIKE%'"
        ):
            await asyncio.sleep(0.01)
        await endpoint.stop()
        with contextlib.suppress(OSError, http.client.HTTPException):
            assert (await asked).status != 200

    asyncio.run(stop_under_load())
    assert store.query("SELECT 1 AS one") == [{"one": 1}]


def test_stop_is_idempotent_and_the_port_is_free_again(store: Store, serve: Serve) -> None:
    async def twice() -> int:
        endpoint = Endpoint(store, QuerySettings(port=0))
        await endpoint.stop()
        await endpoint.start()
        port = endpoint.port
        await endpoint.stop()
        await endpoint.stop()
        return port

    port = asyncio.run(twice())
    assert send(serve(store, QuerySettings(port=port)), "SELECT 1").text == "1\n"
