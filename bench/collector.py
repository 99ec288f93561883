"""Spans per second of the collector on one core: an OTLP request in, redacted records out, with and without the log.

    python -P bench/collector.py [--seconds 1.0] [--rounds 5] [--share 0.01] [--profile]

Requests of 100 and 512 LLM-like spans of 0.3, 2.8 and 8 KB with fourteen attributes, of which ``--share`` hold an entity.
"redact" is what the collector does: decode, check, walk, scan, cut. "no rules" is the same without any rule, "decode" only
parses and serializes: the ratios say what the walk and the scan cost. "log" is redact and a durable append to the SQLite
log, waiting for each request. All run interleaved; the figures are CPU time of all threads, medians of
the rounds.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from collector.ingest import Ingest
from collector.redaction.engine import Engine
from collector.settings import CollectorSettings
from stream.sqlite_log import SqliteLog

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


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
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


if __name__ == "__main__":
    main()
