"""A real ``driftgate up`` in its own process, a gateway that counts, and a client that remembers what was acknowledged."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import clickhouse_connect
import grpc
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

# How soon a failure is told, and nothing else: on a busy machine what takes a second may take a minute.
PATIENCE_S = 240.0
# Clients of one process would else share one connection.
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)
_RETRYABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


def wait_until(
    condition: Callable[[], Any], what: str | Callable[[], str], timeout: float = PATIENCE_S
) -> Any:
    """Return the first truthy answer of ``condition``; fail with ``what``, asked for then, when none comes."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if answer := condition():
            return answer
        time.sleep(0.05)
    pytest.fail(f"timed out after {timeout:.0f} s: {what if isinstance(what, str) else what()}")


def kill(child: subprocess.Popen[bytes]) -> None:
    """SIGKILL ``child`` and wait until it is gone; nothing happens when it is."""
    child.kill()
    child.wait(PATIENCE_S)


_LOWEST_PORT, _HIGHEST_PORT = 15_000, 32_000
# From somewhere, so that two runs at once seldom meet, and never the same one twice: a port is taken some time after it was
# asked for.
_ports = itertools.count(secrets.randbelow(_HIGHEST_PORT - _LOWEST_PORT))


def free_port() -> int:
    """Return a port that was free a moment ago, below the range that outgoing connections take theirs from.

    A client that dials a server which is down could otherwise be given the server's own port.
    """
    while True:
        port = _LOWEST_PORT + next(_ports) % (_HIGHEST_PORT - _LOWEST_PORT)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Process:
    """One data folder and the ``driftgate up`` that owns it, startable and killable any number of times."""

    def __init__(
        self, folder: Path, config: dict[str, Any], environment: dict[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.ports = {name: free_port() for name in ("grpc", "http", "query", "web")}
        self.config_path = folder / "driftgate.yaml"
        self.environment = {**os.environ, **(environment or {})}
        document = {
            "data": str(self.data),
            **config,
            "collector": {
                **config.get("collector", {}),
                "grpc": {"port": self.ports["grpc"]},
                "http": {"port": self.ports["http"]},
            },
            "query": {"port": self.ports["query"]},
            "web": {"port": self.ports["web"]},
        }
        self.config_path.write_text(yaml.safe_dump(document))
        self._child: subprocess.Popen[bytes] | None = None
        self.output = folder / "up.log"

    def start(self) -> None:
        """Start it and wait until it accepts spans."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start it without waiting."""
        with self.output.open("ab") as output:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "driftgate", "up", "-c", str(self.config_path)],
                stdout=output,
                stderr=output,
                env=self.environment,
            )

    def wait_ready(self) -> None:
        """Wait until it accepts spans."""
        wait_until(self.ready, f"readiness; it said:\n{self.said()}")

    def ready(self) -> bool:
        """Whether it accepts spans; fails the test when it has ended."""
        assert self._child is not None
        assert self._child.poll() is None, f"it ended with {self._child.returncode}:\n{self.said()}"
        return (self.data / "endpoints.json").is_file() and self._reads_pid() == self._child.pid

    def _reads_pid(self) -> int:
        try:
            return int(json.loads((self.data / "endpoints.json").read_text())["pid"])
        except (ValueError, KeyError, OSError):
            return 0

    def said(self) -> str:
        """Return the end of its output."""
        return (
            "\n".join(self.output.read_text(errors="replace").splitlines()[-40:])
            if self.output.exists()
            else ""
        )

    def kill(self) -> None:
        """SIGKILL."""
        assert self._child is not None
        kill(self._child)

    def interrupt(self) -> None:
        """SIGINT, as Ctrl-C sends it."""
        assert self._child is not None
        self._child.send_signal(signal.SIGINT)

    def stop(self) -> int:
        """SIGTERM; return its exit code."""
        assert self._child is not None
        if self._child.poll() is None:
            self._child.terminate()
            self._child.wait(PATIENCE_S)
        return self._child.returncode

    def running(self) -> bool:
        """Whether the process lives."""
        return self._child is not None and self._child.poll() is None

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run another driftgate command with the same configuration."""
        done = subprocess.run(
            [sys.executable, "-m", "driftgate", *arguments, "-c", str(self.config_path)],
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=120,
        )
        assert not check or done.returncode == 0, (
            f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    def run_bytes(self, *arguments: str) -> bytes:
        """Run another driftgate command and return exactly what it writes."""
        done = subprocess.run(
            [sys.executable, "-m", "driftgate", *arguments, "-c", str(self.config_path)],
            capture_output=True,
            env=self.environment,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the ClickHouse endpoint with ClickHouse's own client."""
        client = clickhouse_connect.get_client(host="127.0.0.1", port=self.ports["query"])
        try:
            return [tuple(row) for row in client.query(query).result_rows]
        finally:
            client.close()

    def status(self) -> dict[str, Any]:
        """Return GET /v1/status."""
        from urllib.request import urlopen

        with urlopen(f"http://127.0.0.1:{self.ports['web']}/v1/status", timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def drained(self) -> bool:
        """Whether every stage has taken everything and nothing is pending."""
        status = self.status()
        pending = status["ledger"].get("sampler", {}).get("spans_pending", 0)
        return pending == 0 and all(s["state"] == "running" and s["lag"] == 0 for s in status["stages"])


class Client:
    """Sends OTLP requests until each is acknowledged and remembers what was."""

    def __init__(self, *ports: int) -> None:
        self._ports = itertools.cycle(ports)
        self._connect()
        self.acknowledged: set[tuple[str, str]] = set()

    def _connect(self) -> None:
        """Connect to the next receiver, as a load balancer would."""
        self._channel = grpc.insecure_channel(f"127.0.0.1:{next(self._ports)}", options=_OWN_CONNECTION)
        self._export = TraceServiceStub(self._channel).Export  # type: ignore[no-untyped-call]

    def send(self, request: ExportTraceServiceRequest, stop: threading.Event) -> bool:
        """Send ``request`` until it is acknowledged or ``stop`` is set; return whether it was."""
        while not stop.is_set():
            try:
                answer = self._export(request, timeout=10)
            except grpc.RpcError as error:
                code = error.code()
                if code not in _RETRYABLE:
                    pytest.fail(f"{code}: {error.details()}")
                self._channel.close()
                stop.wait(0.05)
                self._connect()
                continue
            assert not answer.HasField("partial_success"), answer
            for resource in answer_spans(request):
                self.acknowledged.add(resource)
            return True
        return False

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


def answer_spans(request: ExportTraceServiceRequest) -> Iterator[tuple[str, str]]:
    """Yield (trace id, span id) of every span in ``request``."""
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield span.trace_id.hex(), span.span_id.hex()


class CountingGateway:
    """A gateway that enforces its bearer token and idempotency keys, and counts what really happened."""

    def __init__(self, token: str) -> None:
        self.calls: list[str] = []
        self.effective: dict[str, str] = {}  # idempotency key -> rollout
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                rollout = self.path.rpartition("/")[2]
                active = "v1" if rollout in gateway.effective.values() else "v2"
                self._answer(200, {"active": active})

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", "0"))
                body = json.loads(self.rfile.read(length) or b"{}")
                if self.headers.get("Authorization") != f"Bearer {token}":
                    self._answer(401, {})
                    return
                key = self.headers.get("Idempotency-Key", "")
                if not key:
                    self._answer(400, {})
                    return
                gateway.calls.append(key)
                gateway.effective.setdefault(key, body["rollout"])
                self._answer(200, {"done": True})

            def _answer(self, code: int, body: dict[str, Any]) -> None:
                raw = json.dumps(body).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Stay quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
