"""One ``driftgate up`` as its users meet it: a real SDK in front, a real ClickHouse client behind."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import grpc
import pytest
from harness import Client, Process, wait_until
from traces import request, trace

from driftgate.demo.evidence import search
from driftgate.demo.scenario import customers, example_folder

QUICK = {
    "sampling": {"completion": {"after_root": "300ms", "idle": "1s"}},
    "drift": {"bucket": "1s", "lateness": "5s", "units": {"idle": "1s", "trace_idle": "1s"}},
}
CONVERSATIONS = 150


@pytest.fixture
def example_gateway() -> Iterator[int]:
    """Return the port of the example gateway, running in its own process."""
    child = subprocess.Popen(
        [sys.executable, str(example_folder() / "gateway/gateway.py"), "--port", "0"],
        stdout=subprocess.PIPE,
        env={"GATEWAY_TOKEN": "t" * 20},
    )
    assert child.stdout is not None
    yield int(json.loads(child.stdout.readline())["port"])
    child.terminate()
    child.wait(20)
    child.stdout.close()


def test_a_real_sdk_exports_sql_reads_the_means_and_no_personal_value_is_anywhere(
    make_process: Callable[..., Process], example_gateway: int
) -> None:
    process = make_process(QUICK)
    process.start()
    app = [str(example_folder() / "support_app/app.py"), "--gateway", f"http://127.0.0.1:{example_gateway}"]
    subprocess.run(
        [sys.executable, *app, "--rate", "60", "--count", str(CONVERSATIONS)],
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{process.ports['grpc']}"},
        check=True,
        timeout=120,
    )
    wait_until(process.drained, "every stage to take everything")
    assert process.sql("SELECT count() FROM otel_traces") == [(3 * CONVERSATIONS,)]
    wait_until(
        lambda: (
            process.sql(
                "SELECT n FROM cohort_means WHERE view = 'route' AND cohort = 'route=/support' "
                "AND rubric = 'groundedness_lexical' AND window_seconds = 900"
            )
            == [(CONVERSATIONS,)]
        ),
        "the window to hold all conversations",
    )
    ((mean,),) = process.sql(
        "SELECT mean FROM cohort_means WHERE view = 'route' AND rubric = 'groundedness_lexical' AND window_seconds = 900"
    )
    assert mean > 0.9
    with customers() as module:
        values = module.personal_values(CONVERSATIONS)
        question = module.customer(0).question

    def rows(sql: str) -> list[list[object]]:
        return [list(row) for row in process.sql(sql)]

    found = search(rows, process.data, values)
    assert found.clean, found
    assert found.tables["otel_traces"] == 3 * CONVERSATIONS
    # The search itself works: the rest of the very same question is there.
    plain = question.splitlines()[0]
    assert rows(
        f"SELECT count() > 0 FROM otel_traces WHERE SpanAttributes['gen_ai.input.messages'] LIKE '%{plain}%'"
    ) == [[1]]
    assert process.run("doctor").returncode == 0
    assert process.stop() == 0


def test_a_stop_drains_and_the_store_answers_afterwards(make_process: Callable[..., Process]) -> None:
    process = make_process(QUICK)
    process.start()
    client = Client(process.ports["grpc"])
    for number in range(40):
        assert client.send(request(trace(number)), threading.Event())
    client.close()
    assert process.stop() == 0
    answer = process.run("query", "SELECT count() AS spans FROM otel_traces", "--format", "JSONEachRow")
    assert json.loads(answer.stdout) == {"spans": 120} or json.loads(answer.stdout) == {"spans": "120"}
    assert process.run("doctor").returncode == 0


def test_a_query_may_only_read(make_process: Callable[..., Process]) -> None:
    process = make_process(QUICK)
    process.start()
    refused = process.run("query", "DROP TABLE scores", check=False)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert process.sql("SELECT count() FROM scores") == [(0,)]


@pytest.mark.parametrize("port", ["grpc", "http", "query", "web"])
def test_an_occupied_port_is_one_clear_sentence(make_process: Callable[..., Process], port: str) -> None:
    process = make_process(QUICK)
    with socket.socket() as other:
        other.bind(("127.0.0.1", process.ports[port]))
        other.listen()
        _assert_refused(process, str(process.ports[port]), 1)


def test_a_corrupt_log_is_one_clear_sentence(make_process: Callable[..., Process]) -> None:
    process = make_process(QUICK)
    process.data.mkdir()
    (process.data / "log.db").write_bytes(b"\x00garbage" * 5000)
    _assert_refused(process, "log.db", 1)


def test_a_data_folder_that_is_a_file_is_one_clear_sentence(make_process: Callable[..., Process]) -> None:
    process = make_process(QUICK)
    process.data.write_text("not a folder")
    _assert_refused(process, "data folder", 1)


def test_a_second_process_on_the_same_folder_is_refused(make_process: Callable[..., Process]) -> None:
    process = make_process(QUICK)
    process.start()
    done = process.run("up", check=False)
    assert done.returncode == 1
    assert "another driftgate process owns the log" in done.stderr


def test_a_typo_in_the_configuration_is_one_clear_sentence(make_process: Callable[..., Process]) -> None:
    process = make_process(QUICK)
    process.config_path.write_text("sampling:\n  completion:\n    after_rot: 5s\n")
    done = process.run("up", check=False)
    assert done.returncode == 2
    assert "line 3: `sampling.completion.after_rot`: unknown key; did you mean `after_root`?" in done.stderr


def _assert_refused(process: Process, word: str, code: int) -> None:
    done = process.run("up", check=False)
    assert done.returncode == code, done.stderr
    assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_when_the_log_is_full_spans_are_refused_and_acknowledged_ones_stay(
    make_process: Callable[..., Process],
) -> None:
    process = make_process({**QUICK, "log": {"max_bytes": "2MiB"}})
    process.start()
    client = Client(process.ports["grpc"])
    acknowledged = 0
    refused: grpc.RpcError | None = None
    end = time.monotonic() + 60
    while refused is None and time.monotonic() < end:
        padding = "word " * 4000
        spans = [s for n in range(8) for s in trace(f"{acknowledged}-{n}", question=padding)]
        try:
            client._export(request(spans), timeout=60)
            acknowledged += len(spans)
        except grpc.RpcError as error:
            refused = error
    assert refused is not None, "it never refused"
    assert refused.code() == grpc.StatusCode.UNAVAILABLE
    assert any(key == "grpc-status-details-bin" for key, _ in refused.trailing_metadata()), "no RetryInfo"
    client.close()
    assert process.running()
    wait_until(
        lambda: process.sql("SELECT count() FROM otel_traces") == [(acknowledged,)],
        f"{acknowledged} acknowledged spans in the store",
    )


def test_health_metrics_and_status_answer(make_process: Callable[..., Process], tmp_path: Path) -> None:
    process = make_process(QUICK)
    process.start()
    base = f"http://127.0.0.1:{process.ports['web']}"
    for path in ("/livez", "/readyz"):
        with urlopen(base + path, timeout=60) as answer:
            assert answer.status == 200

    def metrics() -> str:
        with urlopen(base + "/metrics", timeout=60) as answer:
            return str(answer.read().decode())

    wait_until(
        lambda: 'driftgate_stage_up{stage="sampler",state="running"} 1.0' in metrics(), "the sampler to run"
    )
    assert "driftgate_ready 1.0" in metrics()
    assert {stage["name"] for stage in process.status()["stages"]} == {
        "sampler",
        "scorer",
        "drift",
        "store",
        "alerter",
    }


def test_silence_becomes_a_verdict_with_a_name(make_process: Callable[..., Process]) -> None:
    rollout = {
        "name": "r",
        "incumbent": "v1",
        "candidate": "v2",
        "rubrics": ["refusal"],
        "no_data_after": "3s",
    }
    process = make_process({**QUICK, "drift": {**QUICK["drift"], "lateness": "1s", "rollouts": [rollout]}})
    process.start()
    client = Client(process.ports["grpc"])
    begun = time.time_ns() - 10 * 10**9
    for number in range(20):  # ten seconds of event time
        version = "v2" if number % 2 else "v1"
        client.send(
            request(trace(number, version=version, start_ns=begun + number * 10**9 // 2)), threading.Event()
        )
    client.close()
    # Nothing more comes: only the heartbeats in the log can tell.
    wait_until(
        lambda: (
            ("no_data",)
            in process.sql("SELECT DISTINCT state FROM verdicts WHERE rollout = 'r' AND rubric = 'refusal'")
        ),
        "a verdict that says no_data",
    )
    assert process.status()["ledger"]["heartbeat"]["beats"] >= 1


def test_a_start_that_hangs_is_ended_by_asking_again(
    make_process: Callable[..., Process], tmp_path: Path
) -> None:
    """A plug-in that never finishes its import must not leave only SIGKILL."""
    here = tmp_path / "imported"
    slow = tmp_path / "slow.py"
    slow.write_text(
        f"import pathlib, threading\npathlib.Path({str(here)!r}).touch()\nthreading.Event().wait()\n"
    )
    process = make_process({"scorers": {"rubrics": [f"{slow}:anything"]}})
    process.launch()
    wait_until(here.exists, "the import")

    def ended() -> bool:
        if process.running():
            process.interrupt()
        return not process.running()

    wait_until(ended, "the end")
    assert process.stop() == 130
    assert "ended at once: asked twice" in process.said()


def test_a_stop_that_takes_too_long_ends(tmp_path: Path) -> None:
    code = (
        "import asyncio, os, signal, threading\n"
        "from driftgate.runtime.signals import until_signal\n"
        "async def run(stop):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    await asyncio.to_thread(threading.Event().wait)\n"
        "asyncio.run(until_signal(run, 0.1, 0.1))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "did not stop within 0.1 s" in done.stderr
