"""The options of a kafka:// URL: what is wrong is said with its name; secrets stand in it by reference only."""

from __future__ import annotations

from pathlib import Path

import pytest

from driftgate.config import load
from stream.errors import ConfigError
from stream.kafka.client import joining, writing
from stream.kafka.settings import KafkaSettings


def test_a_url_with_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", "pass" + "word")
    settings = KafkaSettings.from_url(
        "kafka://a:9092,b:9093/?prefix=eu.&partitions=12&retention=3d&max_record=4MiB&security=sasl_ssl"
        "&sasl=PLAIN&user=driftgate&password=${env:KAFKA_PASSWORD}&ca=/etc/ca.pem&instance=pod-1"
    )
    assert (settings.brokers, settings.partitions, settings.retention) == ("a:9092,b:9093", 12, 3 * 86400.0)
    assert settings.topic("scores") == "eu.scores"
    assert settings.writer("sampler") == "eu.sampler-pod-1"
    assert "word" not in repr(settings).replace("password", "")
    configuration = writing(settings, "x")
    assert configuration["sasl.password"] == "pass" + "word"
    assert configuration["ssl.ca.location"] == "/etc/ca.pem"
    assert configuration["compression.type"] == "zstd"


def test_without_a_name_two_starts_do_not_fence_each_other() -> None:
    settings = KafkaSettings.from_url("kafka://a:1")
    assert settings.writer("sampler") != settings.writer("sampler")


def test_the_name_of_a_container_comes_from_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = KafkaSettings.from_url("kafka://a:1/?instance=${env:DRIFTGATE_TEST_NAME}")
    monkeypatch.setenv("DRIFTGATE_TEST_NAME", "sampler-0")
    assert settings.writer("sampler") == "sampler-sampler-0"
    for wrong in ("", "two words"):
        monkeypatch.setenv("DRIFTGATE_TEST_NAME", wrong)
        with pytest.raises(ConfigError, match="DRIFTGATE_TEST_NAME"):
            settings.writer("sampler")


def test_the_group_protocol_is_cooperative_or_kip_848() -> None:
    classic = joining(KafkaSettings.from_url("kafka://a:1"), "g")
    assert classic["partition.assignment.strategy"] == "cooperative-sticky"
    new = joining(KafkaSettings.from_url("kafka://a:1/?protocol=consumer"), "g")
    assert new["group.protocol"] == "consumer"
    assert not {"session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy"} & set(new)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("kafka://", "host:port"),
        ("kafka://host", "`brokers`: every broker is host:port"),
        ("kafka://host:9092/topic", "use kafka://"),
        ("kafka://user:word@host:9092", "no credentials before the host"),
        ("kafka://host:9092/?partition=3", "`partition`: unknown option"),
        ("kafka://host:9092/?partitions=0", "`partitions`"),
        ("kafka://host:9092/?partitions=3&partitions=4", "twice"),
        ("kafka://host:9092/?replication=1", "min_insync is larger than replication"),
        ("kafka://host:9092/?security=sasl_ssl", "needs user"),
        ("kafka://host:9092/?user=a", "security=sasl_ssl"),
        ("kafka://host:9092/?security=sasl_ssl&user=a&password=plain", "`password`: a secret is given by reference"),
        ("kafka://host:9092/?cert=/c.pem", "cert and key go together"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(url: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "driftgate.yaml"
    file.write_text(f"data: here\nlog: {url}\n")
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert says in str(caught.value)
    assert "line 2: `log" in str(caught.value)


def test_a_command_on_the_wrong_log_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="driftgate up"):
        _ = load(None, {}).log.kafka
    file = tmp_path / "driftgate.yaml"
    file.write_text("log: kafka://127.0.0.1:9092\n")
    with pytest.raises(ConfigError, match="driftgate worker STAGE"):
        _ = load(file, {}).log_path
