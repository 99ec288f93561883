"""What driftgate measures of itself, in Prometheus form, read at the moment of the scrape."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from driftgate.runtime.status import Status

_NAME = re.compile(r"[^a-zA-Z0-9_]")


class StatusCollector(Collector):
    """Turns one :class:`~driftgate.runtime.status.Status` into metric families."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        status = self._status
        ledger = CounterMetricFamily(
            "driftgate_ledger",
            "Durable counters of every stage; the books must balance",
            labels=["stage", "counter"],
        )
        for group, counters in sorted(status.ledger.items()):
            for name, value in sorted(counters.items()):
                ledger.add_metric([group, name], value)
        yield ledger
        yield from _stages(status)
        yield _family("driftgate_log_bytes", "Payload bytes per topic of the log", "topic", status.log_bytes)
        yield _family("driftgate_log_end", "Next offset per topic of the log", "topic", status.log_end)
        receivers = GaugeMetricFamily("driftgate_receiver", "Counters of the OTLP receivers", labels=["name"])
        for name, number in sorted(status.receivers.items()):
            receivers.add_metric([_NAME.sub("_", name)], number)
        yield receivers
        yield GaugeMetricFamily("driftgate_ready", "1 when spans are accepted", value=float(status.ready))


def _stages(status: Status) -> Iterator[Metric]:
    lag = GaugeMetricFamily("driftgate_stage_lag", "Records not yet taken by the stage", labels=["stage"])
    up = GaugeMetricFamily("driftgate_stage_up", "1 when the stage makes progress", labels=["stage", "state"])
    progress = GaugeMetricFamily(
        "driftgate_stage_last_progress_seconds",
        "Unix time of the stage's last finished batch",
        labels=["stage"],
    )
    for stage in status.stages:
        lag.add_metric([stage.name], stage.lag)
        up.add_metric([stage.name, stage.state], float(stage.state == "running"))
        progress.add_metric([stage.name], stage.last_progress_ns / 1e9)
    yield from (lag, up, progress)


def _family(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family


def render(status: Status) -> bytes:
    """Return the text exposition of ``status`` and of the process itself."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatusCollector(status))
    ProcessCollector(registry=registry)
    return generate_latest(registry)
