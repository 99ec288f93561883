"""Spans per second of the collector on one core: an OTLP request in, redacted records out, with and without the log.

    python -P bench/collector.py [--seconds 1.0] [--rounds 5] [--share 0.01] [--profile] [--served 10]

Requests of 100 and 512 LLM-like spans of 0.3, 2.8 and 8 KB with fourteen attributes, of which ``--share`` hold an entity.
"redact" is what the collector does: decode, check, look for open gates, walk through the spans that have one, cut. "no
rules" is the same without any rule, "decode" only parses and serializes. "log" is redact and a durable append to the SQLite
log, waiting for each request. All run interleaved in a thread; the figures are CPU time of all threads, medians of the rounds.
A microsecond per span is a CPU second per million spans.

``--served`` seconds: one and two processes that listen on one port (gRPC, SQLite log), four connections that wait for each
answer; spans per second, CPU seconds of the processes per million spans, latency of the export call, memory.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import multiprocessing
import pstats
import random
import resource
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from collector.ingest import Ingest
from collector.receivers import Receivers
from collector.redaction.engine import Engine
from collector.settings import CollectorSettings
from stream.sqlite_log import SqliteLog
from stream.stage import Output

_KEYS = (
    "operation.name",
    "provider.name",
    "request.model",
    "response.model",
    "conversation.id",
    "response.id",
)
_NUMBERS = ("usage.input_tokens", "usage.output_tokens", "request.max_tokens")
_WORDS = (
    "the customer asked about an order and said that refund was late please send invoice tomorrow thanks ok"
)


def request(spans: int, size: int, share: float, rng: random.Random) -> bytes:
    """Make one export request of ``spans`` spans of about ``size`` bytes."""
    words = _WORDS.split()
    made = ExportTraceServiceRequest()
    group = made.resource_spans.add()
    for key in ("service.name", "service.version", "deployment.environment.name"):
        group.resource.attributes.add(key=key).value.string_value = "support"
    scope = group.scope_spans.add()
    scope.scope.name = "opentelemetry.instrumentation.openai"
    for _ in range(spans):
        span = scope.spans.add(
            trace_id=rng.randbytes(16),
            span_id=rng.randbytes(8),
            name="chat gpt-4.1",
            kind=3,
            start_time_unix_nano=1_700_000_000_000_000_000,
            end_time_unix_nano=1_700_000_001_000_000_000,
        )
        small = size < 1000
        for key in _KEYS[: 2 if small else None]:
            span.attributes.add(key=f"gen_ai.{key}").value.string_value = "gpt-4.1-mini"
        for key in _NUMBERS[: 1 if small else None]:
            span.attributes.add(key=f"gen_ai.{key}").value.int_value = rng.randrange(4000)
        content = max(20, size - span.ByteSize() - 80)
        for key in ("input.messages", "output.messages"):
            text = " ".join(rng.choices(words, k=content // 11))
            if rng.random() < share / 2:
                text += " write to jane.doe@example.com or +1 415-555-2671"
            body = f'[{{"role":"user","parts":[{{"type":"text","content":"{text}"}}]}}]'
            span.attributes.add(key=f"gen_ai.{key}").value.string_value = body
    return made.SerializeToString()


def decode(payload: bytes) -> None:
    """Parse and serialize, nothing else."""
    ExportTraceServiceRequest.FromString(payload).SerializeToString()


def micros(run: Callable[[bytes], None], payloads: list[bytes], spans: int, seconds: float) -> float:
    """Return the CPU microseconds per span (all threads) of running over ``payloads`` for about ``seconds``."""
    done = 0
    began = time.process_time()
    while time.process_time() - began < seconds:
        run(payloads[done % len(payloads)])
        done += 1
    return (time.process_time() - began) / (done * spans) * 1e6


async def _serve(port: int, folder: str, pipe: Any) -> None:
    settings = CollectorSettings.model_validate(
        {"grpc": {"port": port}, "http": {"enabled": False}, "max_request_bytes": "64MiB"}
    )
    log = SqliteLog(Path(folder) / "log.db")

    async def publish(outputs: Sequence[Output], counters: Mapping[str, int]) -> None:
        await asyncio.wrap_future(log.append(outputs, group="collector", counters=counters))

    receivers = Receivers(settings, publish, lambda: True, shared_ports=True)
    await receivers.start()
    pipe.send(receivers.grpc_port)
    await asyncio.to_thread(pipe.recv)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    pipe.send((usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024))
    await receivers.stop(1.0)
    log.close()


def _process(port: int, folder: str, pipe: Any) -> None:
    asyncio.run(_serve(port, folder, pipe))


def served(processes: int, seconds: float, share: float) -> None:
    """Export through gRPC to ``processes`` collectors on one port; print what came of it."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        port = 0
        children = []
        for number in range(processes):
            ours, theirs = context.Pipe()
            own = Path(folder) / str(number)
            own.mkdir()
            child = context.Process(target=_process, args=(port, str(own), theirs))
            child.start()
            port = ours.recv()
            children.append((child, ours))
        payloads = [request(100, 2800, share, random.Random(number)) for number in range(8)]
        taken: list[float] = []
        until = time.monotonic() + seconds

        def export(number: int) -> None:
            # A connection each: the kernel deals connections out, not requests.
            with grpc.insecure_channel(
                f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]
            ) as channel:
                call = channel.unary_unary(
                    "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
                    request_serializer=None,
                    response_deserializer=None,
                )
                while time.monotonic() < until:
                    began = time.perf_counter()
                    call(payloads[number % 8])
                    taken.append(time.perf_counter() - began)
                    number += 1

        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(export, number) for number in range(4)]:
                done.result()
        used = []
        for child, pipe in children:
            pipe.send(None)
            used.append(pipe.recv())
            child.join()
    taken.sort()
    spans = len(taken) * 100
    print(
        f"{processes} process(es): {spans / seconds:8,.0f} spans/s, "
        f"{sum(cpu for cpu, _ in used) / spans * 1e6:.0f} CPU s per million spans (start included), export p50 "
        f"{taken[len(taken) // 2] * 1e3:.1f} ms, p99 {taken[len(taken) * 99 // 100] * 1e3:.1f} ms, "
        f"{max(memory for _, memory in used):.0f} MiB each"
    )


def measure(options: argparse.Namespace) -> None:
    """Run all but the served part and print."""
    settings = CollectorSettings()
    with_rules = Ingest(settings)
    without = Ingest(settings, engine=Engine(rules=()))
    with tempfile.TemporaryDirectory() as folder:
        log = SqliteLog(Path(folder) / "log.db")

        def redact(payload: bytes) -> None:
            with_rules.traces(payload)

        def no_rules(payload: bytes) -> None:
            without.traces(payload)

        def to_log(payload: bytes) -> None:
            ingested = with_rules.traces(payload)
            log.append(ingested.outputs, group="collector", counters=ingested.counters).result()

        runs = {"decode": decode, "no rules": no_rules, "redact": redact, "log": to_log}
        print(f"CPU µs per span; 1e6 / it = spans/s per core; {options.share:.0%} of spans hold an entity")
        try:
            for size in (300, 2800, 8000):
                for spans in (100, 512):
                    rng = random.Random(size)
                    payloads = [request(spans, size, options.share, rng) for _ in range(8)]
                    taken: dict[str, list[float]] = {name: [] for name in runs}
                    for _ in range(options.rounds):
                        for name, run in runs.items():
                            pause = options.seconds / options.rounds
                            taken[name].append(micros(run, payloads, spans, pause))
                    actual = sum(map(len, payloads)) / len(payloads) / spans
                    medians = {name: sorted(values)[len(values) // 2] for name, values in taken.items()}
                    print(
                        f"{spans:4} spans of {actual:5.0f} bytes"
                        + "".join(f"   {name} {figure:6.1f}" for name, figure in medians.items())
                        + f"   {1e6 / medians['redact']:8,.0f} spans/s"
                    )
            if options.profile:
                payloads = [request(100, 2800, options.share, random.Random(1)) for _ in range(8)]
                profile = cProfile.Profile()
                profile.enable()
                for number in range(100):
                    redact(payloads[number % 8])
                profile.disable()
                pstats.Stats(profile).sort_stats("tottime").print_stats(16)
        finally:
            log.close()


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--served", type=float, default=0.0)
    options = parser.parse_args()
    # In a thread, as the receivers do: memory that the main thread gives back is returned to the system after every large
    # request and faulted in again for the next.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(measure, options).result()
    if options.served:
        for processes in (1, 2):
            served(processes, options.served, options.share)


if __name__ == "__main__":
    main()
