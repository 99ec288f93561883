"""What a tenant feels of another one that sends ten times its limit: latency of export calls, in one run.

    python -P bench/tenants.py [--seconds 6] [--rounds 4] [--protocol grpc|http] [--limit 2000]

A collector process with a SQLite log, and two senders that are processes too. The modest tenant sends 20 requests of 100
spans a second. The greedy one is silent, sends at its limit (``--limit`` spans a second), or at ten times that, and comes
back at once when it is refused. Latency counts from when a request was due, so a stall counts for all that wait. The
phases take turns; the figures are medians over rounds of each round's p50 and p99.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import runpy
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio

from collector.receivers import Receivers
from collector.settings import CollectorSettings
from stream.sqlite_log import SqliteLog

_SPANS = 100
_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_TOKENS = {"modest": "m" * 24, "greedy": "g" * 24}


async def _serve(limit: float, folder: str, pipe: Any) -> None:
    os.environ.update({f"BENCH_{name}": token for name, token in _TOKENS.items()})
    tenants = [{"name": name, "token": f"${{env:BENCH_{name}}}"} for name in _TOKENS]
    tenants[1]["limits"] = {"spans_per_second": limit, "burst": "1s"}  # type: ignore[assignment]
    settings = CollectorSettings.model_validate(
        {"grpc": {"port": 0}, "http": {"port": 0}, "tenants": tenants}
    )
    log = SqliteLog(Path(folder) / "log.db")

    def publish(outputs: Any, counters: Any) -> Any:
        return asyncio.wrap_future(log.append(outputs, group="collector", counters=counters))

    receivers = Receivers(settings, publish, lambda: True)
    await receivers.start()
    pipe.send((receivers.grpc_port, receivers.http_port))
    await asyncio.to_thread(pipe.recv)
    metrics = receivers.metrics()
    await receivers.stop()
    log.close()
    pipe.send(
        {name: metrics.get(f"tenant.greedy.{name}", 0) for name in ("spans", "requests_refused")}
        | {"cpu": time.process_time()}
    )


def _server(limit: float, folder: str, pipe: Any) -> None:
    asyncio.run(_serve(limit, folder, pipe))


async def _send_all(
    ports: tuple[int, int], protocol: str, tenant: str, rate: float, seconds: float
) -> list[float]:
    request = runpy.run_path(str(Path(__file__).with_name("collector.py")))["request"]
    bodies = [request(_SPANS, 2800, 0.01, random.Random(seed)) for seed in range(4)]
    token = f"Bearer {_TOKENS[tenant]}"
    taken: list[float] = []
    async with (
        aiohttp.ClientSession() as session,
        grpc.aio.insecure_channel(f"127.0.0.1:{ports[0]}") as channel,
    ):
        export = channel.unary_unary(_EXPORT)
        headers = {"Authorization": token, "Content-Type": "application/x-protobuf"}

        async def one(body: bytes, due: float) -> None:
            if protocol == "grpc":
                try:
                    await export(body, metadata=(("authorization", token),), timeout=60)
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
            else:
                url = f"http://127.0.0.1:{ports[1]}/v1/traces"
                async with session.post(url, data=body, headers=headers) as answer:
                    await answer.read()
            taken.append(time.perf_counter() - due)

        begin = time.perf_counter()
        running: set[asyncio.Task[None]] = set()
        for number in range(int(rate * seconds)):
            due = begin + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            task = asyncio.create_task(one(bodies[number % 4], due))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)
    return taken


def _sender(
    ports: tuple[int, int], protocol: str, tenant: str, rate: float, seconds: float, pipe: Any
) -> None:
    pipe.send(asyncio.run(_send_all(ports, protocol, tenant, rate, seconds)))


def _phase(context: Any, ports: tuple[int, int], options: Any, greedy_rate: float) -> tuple[float, float]:
    here, there = context.Pipe()
    modest = context.Process(
        target=_sender, args=(ports, options.protocol, "modest", 20.0, options.seconds, there)
    )
    other, its = context.Pipe()
    greedy = context.Process(
        target=_sender, args=(ports, options.protocol, "greedy", greedy_rate, options.seconds + 1, its)
    )
    if greedy_rate:
        greedy.start()
        time.sleep(0.5)
    modest.start()
    taken = sorted(here.recv())
    modest.join()
    if greedy_rate:
        other.recv()
        greedy.join()
    return taken[len(taken) // 2] * 1e3, taken[int(len(taken) * 0.99)] * 1e3


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--protocol", choices=("grpc", "http"), default="grpc")
    parser.add_argument("--limit", type=float, default=2000.0)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        here, there = context.Pipe()
        server = context.Process(target=_server, args=(options.limit, folder, there))
        server.start()
        ports = here.recv()
        rates = {
            "alone": 0.0,
            "at its limit": options.limit / _SPANS,
            "ten times": 10 * options.limit / _SPANS,
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in rates}
        _phase(context, ports, options, 0.0)  # warm
        for _ in range(options.rounds):
            for name, rate in rates.items():
                found[name].append(_phase(context, ports, options, rate))
        here.send("stop")
        told = here.recv()
        server.join()
    medians = {
        name: tuple(statistics.median(round_[i] for round_ in rounds) for i in (0, 1))
        for name, rounds in found.items()
    }
    base = medians["at its limit"][1]
    for name, (p50, p99) in medians.items():
        print(
            f"greedy tenant {name:12}  modest tenant: p50 {p50:6.1f} ms  p99 {p99:6.1f} ms  p99 ratio {p99 / base:4.2f}"
        )
    print(json.dumps(told))


if __name__ == "__main__":
    main()
