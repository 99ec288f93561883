"""The whole way, on SQLite and on a real Kafka, with the same requests: spans/s and CPU per stage, lag over time, scaling.

    python -P bench/pipeline.py [--traces 6000] [--live 20] [--rate 300] [--kafka] [--sqlite]

A trace has eight spans of about 1.2 KB and one of 32 routes; a request has 100 spans and goes over OTLP/gRPC. On Kafka
every stage is one process, then two (``driftgate collector``, ``driftgate worker …``), and stages work off one after the
other: the others are stopped (SIGSTOP), so a stage has the machine to itself, the broker and the database. On SQLite it is
``driftgate up``, all stages at once, and CPU is told apart by thread. The database is chDB in both: in the process on
SQLite, behind its HTTP endpoint in a process of its own on Kafka, where a ClickHouse server would be. Then both take
``--rate`` spans/s for ``--live`` seconds with everything running, and the lag of every stage is printed.

CPU is user and system time of the processes (or threads) of a stage, from ready to done, idle ticks included; imports are
not. "per core" is spans per second of CPU: what one core does when it does nothing else. With two workers, "busiest" is the
CPU of the one with more work over that of a single worker: half is perfect sharing. On a machine with few cores the wall
clock cannot show scaling, because broker, workers and the others on the machine share the cores; CPU can.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import psutil
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_HERE = Path(__file__).resolve().parent
sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != _HERE]
sys.path.append(str(_HERE.parent / "tests" / "support"))

from clickhouse_server import VARIABLE, WORD, ClickHouseServer  # noqa: E402
from harness import free_port  # noqa: E402
from kafka_broker import Cluster  # noqa: E402

_SPANS = 8
_ROUTES = 32
_REQUEST = 100
_STAGES = ("sampler", "scorer", "drift", "store")
_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_QUIET_S = 4.0
_SESSION_S = (
    60  # a stopped process is a member for so long; heartbeats, and so changes of members, take a fifth of it
)
_LONGEST_S = 900.0
_ANSWER = "Refunds are paid within five working days after the parcel reaches our warehouse. " * 8
_TICKS = os.sysconf("SC_CLK_TCK")


def requests(traces: int, seed: int) -> Iterator[bytes]:
    """Yield export requests of ``_REQUEST`` spans; traces arrive interleaved, roots last."""
    rng = random.Random(seed)
    order: list[tuple[float, int, int]] = []
    for number in range(traces):
        born = number / 20
        order += [(born + rng.random(), number, place) for place in range(1, _SPANS)]
        order.append((born + 1.0, number, 0))
    order.sort()
    for first in range(0, len(order), _REQUEST):
        made = ExportTraceServiceRequest()
        group = made.resource_spans.add()
        group.resource.attributes.add(key="service.name").value.string_value = "bench"
        scope = group.scope_spans.add()
        for _, number, place in order[first : first + _REQUEST]:
            _span(scope.spans.add(), seed, number, place)
        yield made.SerializeToString()


def _span(span: Any, seed: int, number: int, place: int) -> None:
    now = time.time_ns()
    span.trace_id = hashlib.blake2b(b"%d/%d" % (seed, number), digest_size=16).digest()
    span.span_id = hashlib.blake2b(b"%d/%d/%d" % (seed, number, place), digest_size=8).digest()
    if place:
        span.parent_span_id = hashlib.blake2b(b"%d/%d/0" % (seed, number), digest_size=8).digest()
    span.start_time_unix_nano, span.end_time_unix_nano = now - 200_000_000, now
    texts: dict[str, str] = {"bench.step": f"step {place}", "bench.payload": _ANSWER[: 500 + 37 * place]}
    span.name = f"step {place}"
    if place == 0:
        span.name = "POST /ask"
        texts["driftgate.route"] = f"/support/{number % _ROUTES}"
    elif place == 1:
        span.name = "retrieval"
        texts |= {"gen_ai.operation.name": "retrieval", "retrieval.documents.0.document.content": _ANSWER}
    elif place == 2:
        span.name = "chat"
        texts |= {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-4.1-mini",
            "gen_ai.prompt.name": "support",
            "gen_ai.prompt.version": f"v{number % 2}",
            "gen_ai.input.messages": _messages("user", "How long does a refund take?"),
            "gen_ai.output.messages": _messages("assistant", _ANSWER),
        }
    for key, text in texts.items():
        span.attributes.add(key=key).value.string_value = text


def _messages(role: str, text: str) -> str:
    return json.dumps([{"role": role, "parts": [{"type": "text", "content": text}]}])


def send(port: int, payloads: list[bytes], *, rate: float = 0.0, at_once: int = 8) -> float:
    """Send every request until it is acknowledged; return seconds. ``rate`` is spans/s, 0 as fast as answers come."""
    began = time.monotonic()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        export = channel.unary_unary(_EXPORT)
        waiting: deque[tuple[Any, bytes]] = deque()

        def settle() -> None:
            call, payload = waiting.popleft()
            try:
                call.result()
            except grpc.RpcError:  # told to wait
                time.sleep(0.2)
                waiting.append((export.future(payload, timeout=60), payload))

        for number, payload in enumerate(payloads):
            if rate:
                time.sleep(max(0.0, began + number * _REQUEST / rate - time.monotonic()))
            while len(waiting) >= at_once:
                settle()
            waiting.append((export.future(payload, timeout=60), payload))
        while waiting:
            settle()
    return time.monotonic() - began


class Process:
    """One process of ours with an administration port."""

    def __init__(self, pid: int, web: int) -> None:
        self.pid = pid
        self.web = web
        self._process = psutil.Process(pid)

    def cpu(self) -> float:
        """Return seconds of CPU so far."""
        times = self._process.cpu_times()
        return times.user + times.system

    def status(self) -> dict[str, Any]:
        """Return what it says about itself, or nothing while it cannot."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.web}/v1/status", timeout=20) as reply:
                found: dict[str, Any] = msgspec.json.decode(reply.read())
                return found
        except OSError:
            return {}

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)


def until_ready(processes: list[Process], settle: float = 4.0) -> None:
    """Wait until each accepts spans or runs its stage, then ``settle`` seconds, so that partitions are where they stay."""
    end = time.monotonic() + 300
    for process in processes:
        while True:
            status = process.status()
            if status.get("ready") and all(s["state"] == "running" for s in status["stages"]):
                break
            assert time.monotonic() < end, f"not ready: {status}"
            time.sleep(0.3)
    time.sleep(settle)


class Watch:
    """Looks at stages until nothing moves; remembers lag over time, and CPU at the moment of the last movement."""

    def __init__(self, processes: list[Process]) -> None:
        self.processes = processes
        self.series: list[tuple[float, dict[str, int]]] = []
        self._before = [process.cpu() for process in processes]
        self.counted: Counter[str] = Counter()
        self.cpu = [0.0] * len(processes)
        self.seconds = 0.0

    def run(self, goal: dict[str, int] | None = None, least: float = 0.0) -> None:
        """Watch until the stages have counted ``goal``, or, without one, until no lag and no undecided span is left."""
        began = changed = time.monotonic()
        last: Any = None
        while time.monotonic() - began < _LONGEST_S:
            found = [process.status() for process in self.processes]
            stages = [stage for status in found for stage in status.get("stages", [])]
            self.counted = Counter()
            for status in found:
                for counters in status.get("ledger", {}).values():
                    self.counted.update(counters)
            open_spans = self.counted["spans_pending"]
            lag: dict[str, int] = {}
            for stage in stages:
                lag[stage["name"]] = lag.get(stage["name"], 0) + stage["lag"]
            now = time.monotonic()
            self.series.append((now - began, lag))
            moved = ([stage["records"] for stage in stages], open_spans)
            if moved != last:
                if last is not None:
                    changed = now
                    self.cpu = [p.cpu() - b for p, b in zip(self.processes, self._before, strict=True)]
                    self.seconds = now - began
                last = moved
            if goal:
                if all(self.counted[name] >= count for name, count in goal.items()) and not open_spans:
                    return
            elif lag and not any(lag.values()) and not open_spans:
                quiet = now - changed
                if self.seconds and quiet > _QUIET_S and now - began > least:
                    return
            time.sleep(0.25)
        raise AssertionError(f"not done after {_LONGEST_S:.0f} s: {self.series[-1]}")

    def curve(self, stage: str, points: int = 9) -> str:
        """Return the lag of ``stage`` at a few moments, as text."""
        inside = [(t, lag.get(stage, 0)) for t, lag in self.series if t <= self.seconds + 1.0]
        step = max(1, len(inside) // points)
        return "  ".join(f"{t:.0f}s {lag:,}" for t, lag in inside[::step])


def document(folder: Path, log: str, grpc_port: int) -> dict[str, Any]:
    """Return the configuration: everything kept, traces complete a second after their root."""
    return {
        "data": str(folder / "data"),
        "log": log,
        "collector": {"grpc": {"port": grpc_port}, "http": {"enabled": False}},
        "sampling": {"completion": {"after_root": "1s", "idle": "10s"}, "uniform": {"ratio": 1.0}},
        "query": {"enabled": False},
        "logging": {"level": "error"},
    }


def row(name: str, workers: str, spans: int, seconds: float, cpu: float, more: str = "") -> str:
    per_million = cpu / spans * 1e6
    rate = f"{spans / seconds:9,.0f}" if seconds else "        –"
    return f"| {name:9} | {workers:>7} | {rate} | {per_million:8.0f} | {spans / cpu if cpu else 0:9,.0f} | {more} |"


_HEAD = "| stage | workers | spans/s (clock) | CPU s per million spans | spans/s per core | |\n|---|---:|---:|---:|---:|---|"


# Kafka ---------------------------------------------------------------------------------------------------------------


def on_kafka(
    cluster: Cluster, broker: Process, workers: int, payloads: list[bytes], spans: int
) -> dict[str, list[float]]:
    """Run one installation stage by stage; print its rows; return stage -> CPU of each worker."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        port = free_port()
        # Stopped processes must stay members of their groups.
        url = (
            f"kafka://{cluster.bootstrap}/?prefix=bench{workers}.&partitions=8&replication=1&min_insync=1"
            f"&session_timeout={_SESSION_S}s&max_poll_interval=2000s"
        )
        server = ClickHouseServer(folder / "clickhouse")
        server.start()
        stack.callback(server.kill)
        database = Process(server.pid, 0)
        path = folder / "driftgate.yaml"
        path.write_text(yaml.safe_dump({**document(folder, url, port), "store": server.settings}))
        base = [sys.executable, "-m", "driftgate"]
        secrets = {**os.environ, VARIABLE: WORD}
        subprocess.run(
            [*base, "topics", "create", "-c", str(path)], check=True, stdout=subprocess.DEVNULL, env=secrets
        )

        def start(*arguments: str, data: str = "data") -> Process:
            web = free_port()
            environment = {
                **secrets,
                "DRIFTGATE__WEB__PORT": str(web),
                "DRIFTGATE__DATA": str(folder / data),
            }
            child = subprocess.Popen([*base, *arguments, "-c", str(path)], env=environment)
            stack.callback(child.wait)
            stack.callback(child.kill)
            return Process(child.pid, web)

        collector = start("collector")
        stages = {
            stage: [start("worker", stage, data=f"{stage}{i}") for i in range(workers)] for stage in _STAGES
        }
        everything = [process for group in stages.values() for process in group]
        until_ready([collector, *everything], settle=4.0 if workers == 1 else _SESSION_S / 2)
        for process in everything:
            process.signal(signal.SIGSTOP)
        used: dict[str, list[float]] = {}
        goals = {
            "sampler": {"spans_in": spans},
            "scorer": {"traces_in": spans // _SPANS},
            "store": {"spans_stored": spans},
        }
        before, broker_before = collector.cpu(), broker.cpu()
        seconds = send(port, payloads)
        used["collector"] = [collector.cpu() - before]
        print(
            row(
                "collector",
                "1",
                spans,
                seconds,
                used["collector"][0],
                f"broker {broker.cpu() - broker_before:.1f} s",
            )
        )
        for stage, processes in stages.items():
            broker_before, database_before = broker.cpu(), database.cpu()
            watch = Watch(processes)
            for process in processes:
                process.signal(signal.SIGCONT)
            watch.run(goals[stage])
            used[stage] = watch.cpu
            if stage == "scorer":
                goals["drift"] = {"scores_in": watch.counted["scores_expected"]}
                goals["store"]["scores_stored"] = watch.counted["scores_expected"]
            note = f"broker {broker.cpu() - broker_before:.1f} s; "
            if stage == "store":
                note += f"database {database.cpu() - database_before:.1f} s; "
            note += f"lag {watch.curve(stage)}"
            print(row(stage, str(len(processes)), spans, watch.seconds, sum(watch.cpu), note), flush=True)
        if workers == 1 and OPTIONS.live:
            live("Kafka, one worker each", port, [collector, *everything])
        return used


# SQLite --------------------------------------------------------------------------------------------------------------


def _up(path: str, names: str) -> None:
    """Run ``driftgate up`` and keep a file of what its threads are called."""
    from driftgate import logs
    from driftgate.config import load
    from driftgate.runtime.embedded import Embedded

    def tell() -> None:
        while True:
            found = {str(thread.native_id): thread.name for thread in threading.enumerate()}
            Path(names + ".new").write_text(json.dumps(found))
            Path(names + ".new").rename(names)
            time.sleep(0.5)

    config = load(Path(path))
    logs.configure(config.logging.level, config.logging.format)
    threading.Thread(target=tell, name="bench-names", daemon=True).start()
    asyncio.run(Embedded(config, Path.cwd()).run(asyncio.Event()))


def thread_cpu(pid: int, names: Path) -> dict[str, float]:
    """Return part -> seconds of CPU: the stages' threads by name, and those of gRPC and of the database engine."""
    known = json.loads(names.read_text())
    found: dict[str, float] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            text = (task / "stat").read_text()
            fields = text.rpartition(")")[2].split()
            name = known.get(task.name, "")
            command = text.partition("(")[2].rpartition(")")[0]
            if name.startswith("driftgate-"):
                part = name.removeprefix("driftgate-")
            elif name == "bench-names":
                continue
            elif name or command.startswith(("python", "grpc", "event", "default", "resolver", "timer")):
                part = "collector"
            else:
                part = "store"  # the engine's own threads
            found[part] = found.get(part, 0.0) + (int(fields[11]) + int(fields[12])) / _TICKS
    return found


def on_sqlite(payloads: list[bytes], spans: int) -> None:
    """Run ``driftgate up``; print its rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        port, web = free_port(), free_port()
        path = folder / "driftgate.yaml"
        path.write_text(yaml.safe_dump({**document(folder, "sqlite:///", port), "web": {"port": web}}))
        child = multiprocessing.get_context("spawn").Process(
            target=_up, args=(str(path), str(folder / "names"))
        )
        child.start()
        assert child.pid is not None
        try:
            process = Process(child.pid, web)
            until_ready([process])
            before = thread_cpu(child.pid, folder / "names")
            watch = Watch([process])
            sending: list[float] = []
            sender = threading.Thread(target=lambda: sending.append(send(port, payloads)))
            sender.start()
            watch.run(least=3.0)
            sender.join()
            after = thread_cpu(child.pid, folder / "names")
            for part in ("collector", "log", *_STAGES, "alerter"):
                cpu = after.get(part, 0.0) - before.get(part, 0.0)
                print(
                    row(
                        part, "thread", spans, 0.0, cpu, f"lag {watch.curve(part)}" if part in _STAGES else ""
                    )
                )
            print(
                row("all", "1", spans, watch.seconds, watch.cpu[0], f"sent in {sending[0]:.1f} s"), flush=True
            )
            if OPTIONS.live:
                live("SQLite", port, [process])
        finally:
            child.kill()
            child.join()


def live(title: str, port: int, processes: list[Process]) -> None:
    """Offer a steady rate with everything running; print the lag of every stage over time."""
    payloads = list(requests(int(OPTIONS.rate * OPTIONS.live / _SPANS), seed=77))
    watch = Watch(processes)
    sender = threading.Thread(target=lambda: send(port, payloads, rate=OPTIONS.rate))
    sender.start()
    watch.run(least=OPTIONS.live)
    sender.join()
    print(f"\n{title}, {OPTIONS.rate:.0f} spans/s for {OPTIONS.live:.0f} s, lag in records:\n")
    for stage in _STAGES:
        print(f"- {stage}: {watch.curve(stage)}")
    print(
        f"- done {watch.seconds - OPTIONS.live:.1f} s after the last request; {sum(watch.cpu):.1f} s of CPU\n",
        flush=True,
    )


def main() -> None:
    """Run and print."""
    payloads = list(requests(OPTIONS.traces, seed=1))
    spans = OPTIONS.traces * _SPANS
    size = sum(map(len, payloads)) / spans
    print(f"{spans:,} spans of {size:.0f} bytes, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    if OPTIONS.sqlite:
        print(f"### SQLite, one process\n\n{_HEAD}")
        on_sqlite(payloads, spans)
    if OPTIONS.kafka:
        with tempfile.TemporaryDirectory() as folder:
            cluster = Cluster(Path(folder) / "kafka")
            try:
                cluster.start()
                child = cluster.brokers[0]._child
                assert child is not None
                broker = Process(child.pid, 0)
                used = {}
                for workers in (1, 2):
                    print(f"\n### Kafka, {workers} worker(s) for each stage\n\n{_HEAD}")
                    used[workers] = on_kafka(cluster, broker, workers, payloads, spans)
                print(
                    "\n### A second worker\n\n| stage | CPU of one | CPU of two, each | busiest | all CPU |\n|---|---:|---:|---:|---:|"
                )
                for stage in _STAGES:
                    one, two = used[1][stage][0], used[2][stage]
                    each = " + ".join(f"{cpu:.1f} s" for cpu in two)
                    print(f"| {stage} | {one:.1f} s | {each} | {max(two) / one:.2f} | {sum(two) / one:.2f} |")
            finally:
                cluster.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--traces", type=int, default=6000)
    parser.add_argument("--live", type=float, default=20.0, help="seconds; 0 leaves it out")
    parser.add_argument("--rate", type=float, default=300.0, help="spans/s of the live part")
    parser.add_argument("--kafka", action="store_true")
    parser.add_argument("--sqlite", action="store_true")
    OPTIONS = parser.parse_args()
    if not (OPTIONS.kafka or OPTIONS.sqlite):
        OPTIONS.kafka = OPTIONS.sqlite = True
    main()
