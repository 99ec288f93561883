"""Configuration mistakes are named with their line, their key and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from driftgate.config import load
from stream.errors import ConfigError


def _load(tmp_path: Path, text: str, **environment: str) -> object:
    path = tmp_path / "driftgate.yaml"
    path.write_text(text)
    return load(path, environment)


def test_no_file_gives_defaults_that_listen_on_loopback_only() -> None:
    config = load(None, {})
    assert {config.collector.grpc.host, config.collector.http.host, config.query.host, config.web.host} == {
        "127.0.0.1"
    }
    assert (config.collector.grpc.port, config.collector.http.port, config.query.port) == (4317, 4318, 8123)
    assert config.rollback.mode == "observe"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "collector:\n  grpc:\n    prot: 4317\n",
            "line 3: `collector.grpc.prot`: unknown key; did you mean `port`?",
        ),
        ("colector: {}\n", "line 1: `colector`: unknown key; did you mean `collector`?"),
        ("web:\n  port: eighty\n", "line 2: `web.port`: "),
        ("web:\n  port: 99999\n", "line 2: `web.port`: "),
        ("web:\n  token: plain-text-secret\n", "line 2: `web.token`: a secret is given by reference"),
        (
            "alerts:\n  channels:\n    - type: slack\n      url: https://hooks.example/x\n",
            "line 4: `alerts.channels.0.url`: a secret is given by reference",
        ),
        ("web:\n  host: 0.0.0.0\n", "line 1: `web`: listening on 0.0.0.0 needs a token"),
        ("query:\n  host: 0.0.0.0\n", "line 1: `query`: listening on 0.0.0.0 needs a token"),
        ("log: redis://localhost\n", "line 1: `log`"),
        ("a: 1\na: 2\n", "line 2: `a` stands twice"),
        ("web: [1, 2\n", "line 2: not YAML"),
        ("- 1\n", "line 1: expected `key: value` pairs"),
        ("shutdown_grace: soon\n", "line 1: `shutdown_grace`: a duration is"),
        (
            "web:\n  host: !env HOST\n",
            "line 2: not a value: could not determine a constructor for the tag '!env'",
        ),
        ("web:\n  host: 2026-02-30\n", "line 2: not a value: day is out of range for month; quote it"),
        ("web:\n  <<: {port: 1}\n", "line 2: `<<` is not known here"),
        ("web:\n  # port: 80\n", "line 1: `web`: expected `key: value` pairs; leave the section out"),
        ("data: 5\n", "line 1: `data`: expected a path"),
    ],
)
def test_a_mistake_is_named_with_line_key_and_fix(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as raised:
        _load(tmp_path, text)
    assert expected in str(raised.value)


def test_the_plain_text_of_a_mistyped_secret_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        _load(tmp_path, "web:\n  token: hunter2-hunter2\n")
    assert "hunter2" not in str(raised.value)


def test_every_mistake_is_listed_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        _load(tmp_path, "web:\n  port: x\n  hots: y\nlogging:\n  level: loud\n")
    assert [line.split("`")[1] for line in str(raised.value).splitlines()] == [
        "web.port",
        "web.hots",
        "logging.level",
    ]


def test_the_environment_overrides_the_file_and_is_named_when_wrong(tmp_path: Path) -> None:
    config = _load(tmp_path, "web: {port: 1}\n", DRIFTGATE__WEB__PORT="2", DRIFTGATE__SHUTDOWN_GRACE="5s")
    assert (config.web.port, config.shutdown_grace) == (2, 5.0)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="environment variable DRIFTGATE__WEB__PROT"):
        _load(tmp_path, "", DRIFTGATE__WEB__PROT="2")


def test_a_variable_for_one_key_keeps_the_url_that_the_file_gives_in_short(tmp_path: Path) -> None:
    config = _load(
        tmp_path,
        "log: kafka://broker.example:9092/\nstore: clickhouse://db.example:8123/x\n",
        DRIFTGATE__LOG__MAX_AGE="1d",
        DRIFTGATE__STORE__PASSWORD="${env:CLICKHOUSE_PASSWORD}",
    )
    assert config.log.url == "kafka://broker.example:9092/"  # type: ignore[attr-defined]
    assert config.log.max_age == 86400  # type: ignore[attr-defined]
    assert config.store.url == "clickhouse://db.example:8123/x"  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="DRIFTGATE__DATA is not a YAML value"):
        _load(tmp_path, "", DRIFTGATE__DATA="2026-02-30")


def test_log_and_store_may_be_given_as_urls(tmp_path: Path) -> None:
    config = _load(tmp_path, "data: d\nlog: sqlite:////var/x.db\nstore: chdb:///\n")
    assert str(config.log_path) == "/var/x.db"  # type: ignore[attr-defined]
    assert str(config.store_folder) == "d/store"  # type: ignore[attr-defined]
    config = _load(tmp_path, "data: d\nstore: chdb:///var/store\n")
    assert str(config.store_folder) == "/var/store"  # type: ignore[attr-defined]
    config = _load(tmp_path, "data: d\nstore: clickhouse://db.example:8123/x\n")
    assert str(config.store_folder) == "d/store"  # type: ignore[attr-defined]


def test_an_unreadable_file_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load(tmp_path / "missing.yaml", {})
