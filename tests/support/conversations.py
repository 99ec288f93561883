"""Applications under load: conversations with a good and a bad release, and what must come of them."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from harness import CountingGateway
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from traces import BAD, GOOD, extra_span, request, trace

RUBRICS = ["refusal", "groundedness_lexical", "error", "latency"]
ROUTES = {"ask": True, "search": True, "chat": False}  # route -> whether its v2 is bad
GATEWAY_TOKEN = "gateway-" + "token"


def sections(gateway: CountingGateway, lateness: str = "10s") -> dict[str, Any]:
    """Return the configuration: short waits, one rollout per route, rollbacks through ``gateway``."""
    base = f"http://127.0.0.1:{gateway.port}"
    return {
        "sampling": {"completion": {"after_root": "300ms", "idle": "1s"}},
        "scorers": {"rubrics": RUBRICS},
        "drift": {
            "bucket": "1s",
            "lateness": lateness,
            "units": {"idle": "1s", "trace_idle": "1s"},
            "rollouts": [
                {"name": f"rollout-{route}", "match": {"route": route}, "incumbent": "v1", "candidate": "v2"}
                for route in ROUTES
            ],
        },
        "rollback": {
            "mode": "enforce",
            "allow_hosts": [f"127.0.0.1:{gateway.port}"],
            "targets": [
                {
                    "name": "gateway",
                    "url": f"{base}/rollback",
                    "token": "${env:GATEWAY_TOKEN}",
                    "read": {"url": base + "/state/{{rollout}}", "pointer": "/active", "done": "v1"},
                }
            ],
            "verify": {"settle": "1s", "hold": "2s", "telemetry_lag": "3s", "interval": "1s"},
        },
    }


class Sender(Protocol):
    """Whoever delivers spans, and knows of which it was told that they arrived."""

    acknowledged: set[tuple[str, str]]

    def send(self, request: ExportTraceServiceRequest, stop: threading.Event) -> bool:
        """Send ``request`` until it is acknowledged or ``stop`` is set; return whether it was."""


class Load:
    """Applications that send conversations until told to stop, and go on after every refusal."""

    def __init__(
        self,
        clients: Sequence[Sender],
        gateway: CountingGateway,
        *,
        traces_per_request: int = 8,
        pause: Callable[[], float] = lambda: 0.02,
    ) -> None:
        self.clients = list(clients)
        self.traces: set[str] = set()
        self.errors: list[BaseException] = []
        self._gateway = gateway
        self._size = traces_per_request
        self._pause = pause
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=(index, client), daemon=True)
            for index, client in enumerate(self.clients)
        ]

    @property
    def acknowledged(self) -> set[tuple[str, str]]:
        """Trace and span ids that a receiver has answered for."""
        return set().union(*(set(client.acknowledged) for client in self.clients))

    def start(self) -> None:
        """Begin to send."""
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Stop after what is being sent has been acknowledged; the receivers must be up."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a client never got its acknowledgement"

    def _guarded(self, index: int, client: Sender) -> None:
        try:
            self._run(index, client)
        except BaseException as error:
            self.errors.append(error)
            raise

    def _run(self, index: int, client: Sender) -> None:
        rng = random.Random(index)
        never = threading.Event()
        number = 0
        while not self._stop.is_set():
            spans, extras = [], []
            for _ in range(self._size):
                number += 1
                name = f"{index}-{number}"
                route = rng.choice(list(ROUTES))
                rolled_back = f"rollout-{route}" in self._gateway.effective.values()
                version = "v2" if rng.random() < 0.3 and not rolled_back else "v1"
                answer = BAD if version == "v2" and ROUTES[route] and rng.random() < 0.8 else GOOD
                made = trace(name, route=route, version=version, answer=answer)
                spans += made
                self.traces.add(made[0].trace_id.hex())
                if rng.random() < 0.3:
                    extras.append(extra_span(name, "cleanup"))
            client.send(request(spans), never)
            if extras:
                client.send(request(extras), never)
            self._stop.wait(self._pause())
