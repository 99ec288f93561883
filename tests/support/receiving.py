"""Receivers on free ports, running in their own event loop, and a log that remembers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from aiohttp import web_app
from harness import PATIENCE_S
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData
from opentelemetry.proto.trace.v1.trace_pb2 import Span, TracesData

from collector.receivers import Receivers
from collector.settings import CollectorSettings
from stream.stage import Output


class CapturingLog:
    """What ``publish`` is in tests: keeps records and counters; can be told to fail or to wait."""

    def __init__(self) -> None:
        self.outputs: list[Output] = []
        self.counters: dict[str, int] = {}
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.entered = threading.Event()

    async def publish(self, outputs: Sequence[Output], counters: Mapping[str, int]) -> None:
        self.entered.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.outputs += outputs
        for name, count in counters.items():
            self.counters[name] = self.counters.get(name, 0) + count

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for output in self.outputs
            if output.topic == "otlp_spans"
            for group in TracesData.FromString(output.value).resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]

    @property
    def log_records(self) -> list[Any]:
        return [
            record
            for output in self.outputs
            if output.topic == "otlp_logs"
            for group in LogsData.FromString(output.value).resource_logs
            for scope in group.scope_logs
            for record in scope.log_records
        ]


class Running:
    """Receivers that run, and the loop they run in."""

    def __init__(self, receivers: Receivers, log: CapturingLog, loop: asyncio.AbstractEventLoop) -> None:
        self.receivers = receivers
        self.log = log
        self.loop = loop
        self.ready = True

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.receivers.grpc_port}"

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.receivers.http_port}"

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE_S)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        async def on_loop() -> Any:
            return function(*arguments)

        return self.run(on_loop())


Start = Callable[..., Running]


@contextlib.contextmanager
def starting() -> Iterator[Start]:
    """Yield what starts receivers with given settings; they are stopped at the end."""
    with contextlib.ExitStack() as stack:
        # aiohttp remembers the handlers of the last 1,024 applications, and 40 MB of automata hang on each of ours.
        stack.callback(web_app._cached_build_middleware.cache_clear)

        def begin(*, clock: Callable[[], float] = time.monotonic, **settings: Any) -> Running:
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever)
            thread.start()
            stack.callback(loop.close)
            stack.callback(thread.join)
            stack.callback(loop.call_soon_threadsafe, loop.stop)
            log = CapturingLog()
            defaults = {"grpc": {"port": 0}, "http": {"port": 0}, "stop_grace": 1.0}
            made = CollectorSettings.model_validate(defaults | settings)
            running: Running | None = None
            receivers = Receivers(
                made, log.publish, lambda: running is not None and running.ready, clock=clock
            )
            running = Running(receivers, log, loop)
            running.run(receivers.start())
            stack.callback(lambda: running.run(receivers.stop()))
            return running

        yield begin
