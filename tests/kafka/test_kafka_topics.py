"""Topics are created with settings that keep the promises, and what differs is found before work starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from driftgate.cli import cli
from stream.errors import StartError
from stream.kafka.log import KafkaLog
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import Topics, Wanted, wanted


def test_create_check_and_again(make_url: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "driftgate.yaml"
    file.write_text(f"log: {make_url()}\n")
    runner = CliRunner()
    count = len(wanted(KafkaSettings.from_url(make_url())))
    with pytest.raises(StartError, match=r"otlp_spans is missing; run `driftgate topics create`"):
        runner.invoke(cli, ["topics", "check", "-c", str(file)], catch_exceptions=False)
    first = runner.invoke(cli, ["topics", "create", "-c", str(file)], catch_exceptions=False)
    assert first.output.count("created ") == count
    again = runner.invoke(cli, ["topics", "create", "-c", str(file)], catch_exceptions=False)
    assert again.output == f"{count} topics: ok\n"
    checked = runner.invoke(cli, ["topics", "check", "-c", str(file)], catch_exceptions=False)
    assert checked.output == f"{count} topics: ok\n"


def test_what_differs_is_named(make_url: Callable[..., str]) -> None:
    settings = KafkaSettings.from_url(make_url())
    topics = Topics(settings)
    spans, state = wanted(settings, ("otlp_spans",), ("sampler",))
    topics.create(
        [
            Wanted(spans.name, 3, 1, {**spans.config, "retention.ms": "1000", "max.message.bytes": "1000"}),
            Wanted(state.name, 2, 1, {**state.config, "cleanup.policy": "delete"}),
        ]
    )
    problems = "\n".join(topics.check([spans, state]))
    assert f"{spans.name} has 3 partitions, not 2" in problems
    assert "retention.ms is 1000, less than 604800000" in problems
    assert "max.message.bytes is 1000, less than" in problems
    assert f"{state.name}: cleanup.policy is delete, not compact" in problems
    with pytest.raises(StartError, match="has 3 partitions"):
        KafkaLog(settings).check(("otlp_spans",), ("sampler",))


def test_what_the_brokers_refuse_and_their_silence_are_start_errors(make_url: Callable[..., str]) -> None:
    settings = KafkaSettings.from_url(make_url(replication=3))
    with pytest.raises(StartError, match=r"cannot be created: .*eplication factor"):
        Topics(settings).create(wanted(settings, ("otlp_spans",), ()))
    nobody = KafkaSettings.from_url("kafka://127.0.0.1:1/?timeout=1s")
    with pytest.raises(StartError, match=r"brokers do not answer: .*asked 127\.0\.0\.1:1; check `log`"):
        KafkaLog(nobody).check(("otlp_spans",), ())
