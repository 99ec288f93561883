from __future__ import annotations

import pytest
from pydantic import ValidationError

from sinks.store_settings import QuerySettings, StoreSettings, Target


def test_the_default_is_an_embedded_store_in_the_data_folder() -> None:
    assert StoreSettings().target == Target("chdb", database="driftgate", path="")


def test_urls_are_taken_apart() -> None:
    assert StoreSettings(url="chdb:///var/lib/a%20b").target.path == "/var/lib/a b"
    server = StoreSettings(url="clickhouse://writer@db.example:8443/quality?secure=true&verify=false").target
    assert server == Target(
        "clickhouse",
        database="quality",
        host="db.example",
        port=8443,
        username="writer",
        secure=True,
        verify=False,
    )
    assert StoreSettings(url="clickhouse://db").target.port == 8123
    assert StoreSettings(url="clickhouse://db?secure=1").target.port == 8443


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("clickhouse://user:" + "pass@host/db", "password does not belong in the URL"),
        ("clickhouse:///db", "clickhouse://user@host:8123/database"),
        ("clickhouse://host/db?tls=1", "unknown option 'tls'"),
        ("clickhouse://host/db?cluster=a'b", "a cluster's name, or a macro"),
        ("clickhouse://host/db?replicated=maybe", "are true or false"),
        ("clickhouse://host/a-b", "letters, digits and underscores"),
        ("clickhouse://host:notaport/db", "not a valid store URL"),
        ("chdb://memory", "chdb:///absolute/path"),
        ("postgres://host", "starts with chdb:/// or clickhouse://"),
    ],
)
def test_a_wrong_url_says_what_to_write(url: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        StoreSettings(url=url)


def test_an_open_endpoint_needs_a_token() -> None:
    with pytest.raises(ValidationError, match=r"listening on 0\.0\.0\.0 needs a token"):
        QuerySettings(host="0.0.0.0")
    with pytest.raises(ValidationError, match="read_only: false needs a token"):
        QuerySettings(read_only=False)
    assert QuerySettings(host="0.0.0.0", token="${env:TOKEN}", read_only=False).token is not None
