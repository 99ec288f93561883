"""Spans per second of the sampler stage on one core, on LLM-like spans; no log, no disk.

    python bench/sampler.py [--spans 200000] [--bytes 2800] [--ratio 1.0] [--profile]

Traces of eight spans (an agent, tools, model calls) arrive interleaved in records of 100 spans, as a busy collector
writes them: about 40 traces are open at any time per second of telemetry. Prints spans/s, CPU microseconds per span and MB/s,
by CPU time, with and without facts for operational streams, for settings that need no attributes and for one that decodes
every span, and how much memory a pending span takes.
"""

from __future__ import annotations

import argparse
import collections
import cProfile
import hashlib
import pstats
import random
import time
import tracemalloc
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from scorers.sampler import SamplerStage
from scorers.sampling.settings import SamplingSettings
from stream.records import TOPIC_SPANS
from stream.stage import Batch, Record, Result

_SECOND = 1_000_000_000
_START = 1_700_000_000 * _SECOND
_SPANS_PER_TRACE = 8
_SPANS_PER_RECORD = 100
_SPANS_PER_SECOND = 2_000  # of telemetry time: tells how many traces are open at once


def records(count: int, size: int) -> list[Record]:
    """Make ``count`` spans of about ``size`` bytes as log records."""
    rng = random.Random(1)
    text = " ".join(
        rng.choices(["refund", "order", "the", "invoice", "please", "customer", "is", "late"], k=20_000)
    )
    order = []
    for trace in range(count // _SPANS_PER_TRACE):
        identity = hashlib.blake2b(b"%d" % trace, digest_size=16).digest()
        born = trace * _SPANS_PER_TRACE / _SPANS_PER_SECOND
        # The root comes last, half a second to three seconds after the first span.
        last = born + rng.uniform(0.5, 3.0)
        order += [(rng.uniform(born, last), identity, number) for number in range(1, _SPANS_PER_TRACE)]
        order.append((last, identity, 0))
    order.sort()
    made = []
    for first in range(0, len(order), _SPANS_PER_RECORD):
        chunk = order[first : first + _SPANS_PER_RECORD]
        data = TracesData()
        group = data.resource_spans.add()
        for key in ("service.name", "service.version", "deployment.environment.name", "telemetry.sdk.name"):
            group.resource.attributes.add(key=key).value.string_value = "support-assistant"
        scope = group.scope_spans.add()
        scope.scope.name = "opentelemetry.instrumentation.openai"
        for _, identity, number in chunk:
            span = scope.spans.add(
                trace_id=identity,
                span_id=(number + 1).to_bytes(8, "big"),
                parent_span_id=(1).to_bytes(8, "big") if number else b"",
                name="chat gpt-4.1",
                kind=3,
                start_time_unix_nano=_START,
                end_time_unix_nano=_START + _SECOND,
            )
            if identity[0] < 5 and number == 3:
                span.status.code = 2
            for key in (
                "operation.name",
                "provider.name",
                "request.model",
                "response.model",
                "conversation.id",
            ):
                span.attributes.add(key=f"gen_ai.{key}").value.string_value = "gpt-4.1-2025-04-14"
            for key in ("input_tokens", "output_tokens", "cache_read.input_tokens"):
                span.attributes.add(key=f"gen_ai.usage.{key}").value.int_value = rng.randrange(4000)
            span.attributes.add(key="gen_ai.prompt.version").value.string_value = "support@v17"
            span.attributes.add(key="gen_ai.usage.cost").value.double_value = rng.random() / 100
            at = rng.randrange(len(text) - size)
            content = max(0, size - 520) // 2
            span.attributes.add(key="gen_ai.input.messages").value.string_value = text[at : at + content]
            span.attributes.add(key="gen_ai.output.messages").value.string_value = text[at : at + content][
                ::-1
            ]
        at_ns = _START + int(chunk[-1][0] * _SECOND)
        headers = (("tenant", b"default"),)
        made.append(Record(TOPIC_SPANS, 0, len(made), data.SerializeToString(), b"", headers, at_ns))
    return made


def run(made: list[Record], settings: dict[str, Any]) -> tuple[float, collections.Counter[str]]:
    """Feed all records in batches of ten and return the CPU seconds it took and the ledger."""
    stage = SamplerStage(SamplingSettings.model_validate(settings))
    stage.assign(0, {})
    ledger: collections.Counter[str] = collections.Counter()
    began = time.process_time()
    for first in range(0, len(made), 10):
        batch = made[first : first + 10]
        # An empty batch before each one: the reader is not behind.
        _add(ledger, stage.process(Batch([], batch[0].timestamp_ns - 1)))
        _add(ledger, stage.process(Batch(batch, batch[-1].timestamp_ns)))
    _add(ledger, stage.process(Batch([], made[-1].timestamp_ns + 3600 * _SECOND)))
    seconds = time.process_time() - began
    if ledger["spans_kept"] + ledger["spans_dropped"] != ledger["spans_in"]:
        raise SystemExit(f"the books do not balance: {ledger}")
    return seconds, ledger


def _add(ledger: collections.Counter[str], result: Result) -> None:
    ledger.update(result.counters)


def memory(made: list[Record]) -> float:
    """Return the bytes that one pending span takes."""
    stage = SamplerStage(SamplingSettings.model_validate({"completion": {"after_root": 600}}))
    stage.assign(0, {})
    some = made[:100]
    stage.process(Batch([], some[0].timestamp_ns - 1))
    tracemalloc.start()
    ledger: collections.Counter[str] = collections.Counter()
    _add(ledger, stage.process(Batch(some, some[-1].timestamp_ns)))
    _add(ledger, stage.process(Batch([], some[-1].timestamp_ns)))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return taken / ledger["spans_pending"]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--spans", type=int, default=200_000)
    parser.add_argument("--bytes", type=int, default=2_800)
    parser.add_argument("--ratio", type=float, default=1.0)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    made = records(options.spans, options.bytes)
    total = sum(len(record.value) for record in made)
    count = len(made) * _SPANS_PER_RECORD
    print(f"{count} spans of {total / count:.0f} bytes in {len(made)} records")
    fair = {"uniform": {"ratio": 0.1}, "policies": [
        {"type": "error"}, {"type": "latency", "at_least": "60s"}]}  # fmt: skip
    silent = {"operations": {"enabled": False}}
    cost = {"name": "costly", "type": "cost", "at_least": 5.0}
    for title, section in (
        ("default (errors)", {}),
        ("default, no facts for operations", silent),
        ("uniform 10 %, errors, slow", fair),
        ("the same, no facts", fair | silent),
        ("cost: decodes every span", {"policies": [cost]}),
    ):  # fmt: skip
        if options.ratio != 1.0:
            section = {**section, "uniform": {"ratio": options.ratio}}
        profile = cProfile.Profile()
        if options.profile:
            profile.enable()
        seconds, ledger = run(made, section)
        if options.profile:
            profile.disable()
        kept = ledger.get("spans_kept", 0) / count
        print(
            f"{title:40} {count / seconds:10,.0f} spans/s {seconds / count * 1e6:6.1f} us "
            f"{total / seconds / 1e6:6,.0f} MB/s  kept {kept:.0%}"
        )
        if options.profile:
            pstats.Stats(profile).sort_stats("tottime").print_stats(12)
    print(f"memory of one pending span: {memory(made):.0f} bytes")


if __name__ == "__main__":
    main()
