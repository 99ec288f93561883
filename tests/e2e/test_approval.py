"""Mode `approve`: nothing is called until a person says so; pull gates tell what was found meanwhile."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any
from urllib.request import urlopen

from harness import Client, CountingGateway, Process, wait_until
from traces import BAD, GOOD, request, trace


def _config(gateway: CountingGateway) -> dict[str, Any]:
    return {
        "sampling": {"completion": {"after_root": "200ms", "idle": "1s"}},
        "scorers": {"rubrics": ["refusal", "groundedness_lexical"]},
        "drift": {
            "bucket": "1s",
            "lateness": "2s",
            "units": {"idle": "1s", "trace_idle": "1s"},
            "rollouts": [{"name": "r", "match": {"route": "ask"}, "incumbent": "v1", "candidate": "v2"}],
        },
        "rollback": {
            "mode": "approve",
            "allow_hosts": [f"127.0.0.1:{gateway.port}"],
            "targets": [
                {
                    "name": "gateway",
                    "url": f"http://127.0.0.1:{gateway.port}/rollback",
                    "token": "${env:GATEWAY_TOKEN}",
                }
            ],
        },
    }


def _gate(process: Process) -> dict[str, Any]:
    with urlopen(f"http://127.0.0.1:{process.ports['web']}/v1/gates/r", timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def test_a_person_approves_the_rollback(
    make_process: Callable[..., Process], counting_gateway: CountingGateway
) -> None:
    process = make_process(_config(counting_gateway), {"GATEWAY_TOKEN": "gateway-" + "token"})
    process.start()
    assert _gate(process)["verdict"] == "inconclusive"
    client = Client(process.ports["grpc"])
    stop = threading.Event()

    def send() -> None:
        number = 0
        while not stop.wait(0.02):
            number += 1
            bad = number % 4 == 0
            spans = trace(number, route="ask", version="v2" if bad else "v1", answer=BAD if bad else GOOD)
            client.send(request(spans), stop)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()

    def waiting() -> list[dict[str, Any]]:
        return [
            i for i in json.loads(process.run("incidents", "list", "--json").stdout) if i["state"] == "firing"
        ]

    (incident,) = wait_until(waiting, "an incident")
    assert counting_gateway.calls == []
    wait_until(lambda: _gate(process)["verdict"] == "fail", "the gate to fail")
    this = incident["incident_id"]
    process.run("incidents", "ack", this)
    unknown = process.run("incidents", "approve", "f" * 32, check=False)
    assert unknown.returncode == 1
    assert unknown.stderr == f"driftgate: unknown_incident: there is no incident {'f' * 32}\n"
    process.run("incidents", "silence", this, "--for", "2h", "--comment", "load test")
    assert process.run("incidents", "silence", this, "--for", "soon", check=False).returncode == 2
    assert "load test" in process.run("incidents", "show", this).stdout
    process.run("incidents", "silence", this, "--lift")
    # What messages link to is there.
    page = urlopen(f"http://127.0.0.1:{process.ports['web']}/incidents/{this}", timeout=60).read().decode()
    assert "load test" in page
    process.run("incidents", "kill-switch", "on")
    stopped = process.run("incidents", "approve", this, check=False)
    assert "the rollback kill switch is on" in stopped.stderr
    process.run("incidents", "kill-switch", "off")
    assert process.run("incidents", "kill-switch").stdout == "the kill switch is off\n"
    assert counting_gateway.calls == []
    process.run("incidents", "approve", this)
    wait_until(lambda: len(counting_gateway.effective) == 1, "the call")
    stop.set()
    sender.join(20)
    client.close()
    shown = process.run("incidents", "list").stdout
    assert incident["incident_id"] in shown
    assert "rollback to gateway" in shown
    process.run("incidents", "resolve", this, "--comment", "we know")
    assert "resolved" in process.run("incidents", "list").stdout
    assert process.run("incidents", "undelivered").stdout == "every message was delivered or still waits\n"
    assert counting_gateway.calls == list(counting_gateway.effective)
    assert process.stop() == 0
