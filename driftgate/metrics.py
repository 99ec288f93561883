"""What driftgate measures of itself, in Prometheus form, read at the moment of the scrape."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from driftgate.runtime.status import Status

_BY_PLACE = ("redacted.", "residual_finds.")
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
        stalled = GaugeMetricFamily(
            "driftgate_partition_stalled_seconds",
            "Seconds for which a partition with records to take has not moved",
            labels=["stage", "topic", "partition"],
        )
        for item in status.stalled:
            stalled.add_metric([item.stage, item.topic, str(item.partition)], item.seconds)
        yield stalled
        yield _family("driftgate_log_bytes", "Payload bytes per topic of the log", "topic", status.log_bytes)
        yield _family("driftgate_log_end", "Next offset per topic of the log", "topic", status.log_end)
        receivers = GaugeMetricFamily("driftgate_receiver", "Counters of the OTLP receivers", labels=["name"])
        for name, number in sorted(status.receivers.items()):
            if not name.startswith(_BY_PLACE):
                receivers.add_metric([_NAME.sub("_", name)], number)
        yield receivers
        if status.workers:
            up = GaugeMetricFamily("driftgate_worker_up", "1 when the worker takes spans", labels=["worker"])
            restarts = CounterMetricFamily(
                "driftgate_worker_restarts", "How often the worker ended by itself", labels=["worker"]
            )
            for worker in status.workers:
                up.add_metric([str(worker.number)], float(worker.ready))
                restarts.add_metric([str(worker.number)], worker.restarts)
            yield from (up, restarts)
        yield from _redaction(status.receivers)
        yield GaugeMetricFamily("driftgate_ready", "1 when spans are accepted", value=float(status.ready))


def _redaction(receivers: Mapping[str, float]) -> Iterator[Metric]:
    """Yield what was redacted, and what the second look found, by entity and place."""
    redactions = CounterMetricFamily(
        "driftgate_redactions", "Values redacted since the start", labels=["entity", "place"]
    )
    finds = CounterMetricFamily(
        "driftgate_residual_finds", "Values found in published data: leaks", labels=["entity", "place"]
    )
    for name, number in sorted(receivers.items()):
        if name.startswith("redacted."):
            place, _, entity = name.removeprefix("redacted.").rpartition(".")
            redactions.add_metric([entity, place], number)
        elif name.startswith("residual_finds."):
            entity, _, place = name.removeprefix("residual_finds.").partition(".")
            finds.add_metric([entity, place], number)
    yield from (redactions, finds)


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
