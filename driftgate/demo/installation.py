"""What the demo watches: one ``driftgate up``, or a collector and two workers of every stage on Kafka."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from driftgate.config import load
from driftgate.demo import settings
from driftgate.demo.observer import Observer, QueryPort, Source
from driftgate.demo.processes import Child
from driftgate.log_view import look
from driftgate.running import request
from sinks.store import Store
from stream.errors import DriftgateError, StartError, Transient
from stream.kafka.settings import KafkaSettings

STAGES = ("sampler", "scorer", "drift", "store", "alerter")
_EACH = 2
_PATIENCE_S = 90.0

Start = Callable[[str, list[str], dict[str, str]], Child]


class Installation(Protocol):
    """Processes that the scenario starts and looks at."""

    children: list[Child]

    def start(self, config: Path, start: Start) -> dict[str, str]:
        """Start everything and wait until spans are accepted; return the addresses."""

    def observer(self) -> Observer:
        """Return what looks at it."""


class OneProcess:
    """``driftgate up``."""

    def __init__(self) -> None:
        self.children: list[Child] = []
        self._endpoints: dict[str, str] = {}

    def start(self, config: Path, start: Start) -> dict[str, str]:
        """See :meth:`Installation.start`."""
        up = start("up", ["up"], {})
        self.children = [up]
        path = config.parent / "data" / "endpoints.json"
        end = time.monotonic() + _PATIENCE_S
        while time.monotonic() < end:
            up.check()
            try:
                self._endpoints = json.loads(path.read_text())
            except (FileNotFoundError, ValueError):
                time.sleep(0.1)
            else:
                return self._endpoints
        raise StartError(f"driftgate up was not ready in time:\n{up.tail()}")

    def observer(self) -> Observer:
        """See :meth:`Installation.observer`."""
        return Observer(QueryPort(self._endpoints), settings.INCUMBENT, settings.CANDIDATE)


class OnKafka:
    """Two workers of every stage; brokers and ClickHouse server are there already."""

    def __init__(self, url: str) -> None:
        self.children: list[Child] = []
        self._url = url
        self._config = Path()
        self._web = ""

    def start(self, config: Path, start: Start) -> dict[str, str]:
        """See :meth:`Installation.start`."""
        self._config = config
        made = start("topics", ["topics", "create"], {})
        if made.wait(_PATIENCE_S):
            raise StartError(f"the topics could not be created:\n{made.tail()}")
        self.children = [self._member("collector", ["collector"], start)]
        self.children += [
            self._member(f"{stage}-{number}", ["worker", stage], start)
            for number in range(1, _EACH + 1)
            for stage in STAGES
        ]
        found = {child.name: child.ready(_PATIENCE_S) for child in self.children}
        self._web = found["alerter-1"]["web"]
        self._wait_for_members()
        return {"otlp_grpc": found["collector"]["otlp_grpc"], "web": self._web}

    def _member(self, name: str, command: list[str], start: Start) -> Child:
        joint = "&" if "?" in self._url else "?"
        named = self._url if "instance=" in self._url else f"{self._url}{joint}instance={name}"
        return start(name, command, {"DRIFTGATE__LOG__URL": named})

    def _wait_for_members(self) -> None:
        end = time.monotonic() + _PATIENCE_S
        wanted = dict.fromkeys(STAGES, _EACH)
        found: dict[str, int] = {}
        while not wanted.items() <= found.items():
            for child in self.children:
                child.check()
            if time.monotonic() > end:
                raise StartError(f"not every worker has joined its group in time: {found}")
            time.sleep(0.5)
            with contextlib.suppress(Transient):  # groups move between coordinators while they are new
                found = look(load(self._config, {})).members or {}

    def observer(self) -> Observer:
        """See :meth:`Installation.observer`."""
        return Observer(_Outside(self._config, self._web), settings.INCUMBENT, settings.CANDIDATE)


class _Outside(Source):
    """Kafka, the ClickHouse server and the alerter's administration port."""

    def __init__(self, config: Path, web: str) -> None:
        self._loaded = load(config, {})
        self._store = Store.open(self._loaded.store, self._loaded.store_folder)
        self._web = web

    def sql(self, query: str) -> list[list[Any]]:
        rows: list[list[Any]] = json.loads(self._store.ask(query, "JSONCompact"))["data"]
        return rows

    def status(self) -> dict[str, Any]:
        view = look(self._loaded)
        try:
            alerter = json.loads(request(self._web, "/v1/status", timeout=10))
        except DriftgateError as error:
            raise ConnectionError(str(error)) from error
        stages = [{"name": name, "state": "running", "lag": lag} for name, lag in view.lags.items()]
        return {
            "ledger": view.counters,
            "stages": stages,
            "incidents": alerter["incidents"],
            "rollbacks": alerter["rollbacks"],
        }


def chosen(log: str) -> Installation:
    """Return the installation for the log's URL, empty for the one-process runtime.

    Raises
    ------
    StartError
        The URL cannot be used.
    """
    if not log:
        return OneProcess()
    try:
        KafkaSettings.from_url(log)
    except ValueError as error:
        raise StartError(f"--log: {error}") from error
    return OnKafka(log)
