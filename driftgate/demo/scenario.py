"""The demo's story: a healthy release, a bad one at 20 % of the users, a verdict, a rollback, and the proof.

Nothing here decides anything. It starts the processes, moves the gateway's weights once, and watches; the decision, the
incident, the rollback call and the verification come from ``driftgate up``.
"""

from __future__ import annotations

import importlib
import json
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import yaml

from driftgate.demo import settings
from driftgate.demo.endpoints import Receivers
from driftgate.demo.installation import chosen
from driftgate.demo.observer import Snapshot
from driftgate.demo.outcome import Outcome
from driftgate.demo.processes import Child
from stream.errors import StartError

_HEALTHY_S = 15.0
_LIMIT_S = 100.0
_CANDIDATE_PERCENT = 20

Watcher = Callable[[Snapshot, str, float, list[str], list[str]], None]


class Scenario:
    """One run of the demo in ``folder``; ``rate`` conversations a second.

    Parameters
    ----------
    log
        URL of a log on Kafka; empty: ``driftgate up``.
    store
        The ``store`` section for it.
    """

    def __init__(
        self, folder: Path, rate: float, watcher: Watcher, log: str = "", store: dict[str, str] | None = None
    ) -> None:
        self._folder = folder
        self._installation = chosen(log)
        self._places: dict[str, Any] = {"log": {"url": log}, "store": store} if log else {}
        self._rate = rate
        self._watcher = watcher
        self._story: list[str] = []
        self._started = time.time()
        self._snapshot = Snapshot()
        self._phase = "starting"
        self.outcome = Outcome()

    def run(self, stack: ExitStack) -> None:
        """Run the story; ``stack`` ends the processes when the caller closes it.

        Raises
        ------
        StartError
            A process did not start, or ended on its own.
        """
        examples = example_folder()
        token, judge_key = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        receivers = stack.enter_context(Receivers())
        gateway = self._child(
            stack, "gateway", [str(examples / "gateway/gateway.py"), "--port", "0"], GATEWAY_TOKEN=token
        )
        port = int(gateway.first_json(20)["port"])
        self._gateway = f"http://127.0.0.1:{port}"
        self._token = token
        data = self._folder / "data"
        config = self._folder / "driftgate.yaml"
        config.write_text(
            yaml.safe_dump(
                settings.document(data, port, receivers.pagerduty_url, receivers.hosts, self._places),
                sort_keys=False,
            )
        )
        secrets_of = {
            "DEMO_GATEWAY_TOKEN": token,
            "DEMO_JUDGE_KEY": judge_key,
            "DEMO_SLACK_URL": receivers.slack_url,
            "DEMO_PAGERDUTY_KEY": receivers.pagerduty_key,
        }

        def start(name: str, arguments: list[str], environment: dict[str, str]) -> Child:
            command = ["-m", "driftgate", *arguments, "-c", str(config)]
            return self._child(stack, name, command, **secrets_of, **environment)

        endpoints = self._installation.start(config, start)
        self.outcome.endpoints = endpoints
        self.outcome.data = data
        self.outcome.config = config
        self._tell(f"driftgate accepts spans on {endpoints['otlp_grpc']}")
        app = self._child(
            stack,
            "support-app",
            [str(examples / "support_app/app.py"), "--gateway", self._gateway, "--rate", str(self._rate)],
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoints["otlp_grpc"],
        )
        self._children = (gateway, *self._installation.children, app)
        self._receivers = receivers
        self._observer = self._installation.observer()
        self._story_of_a_bad_release()
        app.stop(10)
        self._tell("the application has stopped; waiting until every stage has taken everything")
        self._until("draining", self._drained, 30)
        self.outcome.processes = self._installation.children
        self.outcome.observer = self._observer

    def _story_of_a_bad_release(self) -> None:
        self._tell(f"the application answers with {settings.INCUMBENT} only")
        begun = time.time()
        self._until("healthy release", lambda: time.time() - begun > _HEALTHY_S, _HEALTHY_S + 5)
        self._put_weights()
        self._tell(f"the gateway moves {_CANDIDATE_PERCENT} % of the users to {settings.CANDIDATE}")
        self._until("bad release at 20 %", self._decided, _LIMIT_S)
        self._until("incident", lambda: self._receivers.slack and self._receivers.pagerduty, 30)
        self._tell("Slack and PagerDuty have been told")
        self._until("rollback", self._rolled_back, 30)
        self._until("verifying in the telemetry", self._verified, 75)
        self._until("incident resolved", lambda: self._receivers.resolved, 30)

    # What is waited for --------------------------------------------------------------------------------------------

    def _decided(self) -> bool:
        for rubric, state, e_value, threshold, sr_value, pairs, difference, *_ in self._snapshot.verdicts:
            if state == "regressed":
                shift = "" if difference is None else f", mean difference {difference:+.2f}"
                self._tell(
                    f"verdict: {rubric} regressed (e-value {e_value:.3g} of {threshold:.0f}, e-SR {sr_value:.3g}, "
                    f"{pairs} pairs{shift})"
                )
                self.outcome.verdict_rubric = rubric
                return True
        return False

    def _rolled_back(self) -> bool:
        state = self._gateway_state()
        if not state["rollbacks"]:
            return False
        self.outcome.first_bad_answer = state["first_candidate_answer"]
        self.outcome.rollback_call = float(state["rollback_time"])
        self.outcome.rollback_calls = int(state["rollback_calls"])
        self._tell(f"the gateway was told to roll back; all users have {settings.INCUMBENT} again")
        return True

    def _verified(self) -> bool:
        for rollback in self._snapshot.rollbacks:
            if rollback["state"] == "verified":
                self.outcome.verified = rollback["verified_at"] / 1e9
                self._tell(f"verified: {settings.CANDIDATE} has no traffic any more")
                return True
            if rollback["state"] in ("failed", "unknown"):
                raise StartError(f"the rollback was not verified: {rollback['state']} {rollback['detail']}")
        return False

    def _drained(self) -> bool:
        stages = self._snapshot.stages
        idle = all(stage["state"] == "running" and stage["lag"] == 0 for stage in stages)
        return bool(stages) and idle and self._snapshot.counter("sampler", "spans_pending") == 0

    def _until(self, phase: str, condition: Callable[[], Any], limit: float) -> None:
        self._phase = phase
        end = time.time() + limit
        while True:
            for child in getattr(self, "_children", ()):
                if child.name != "support-app":
                    child.check()
            self.look()
            if condition():
                return
            if time.time() > end:
                raise StartError(f"timed out after {limit:.0f} s while: {phase}")
            time.sleep(0.25)

    def look(self) -> Snapshot:
        """Look at the process and show what was seen."""
        self._snapshot = self._observer.look(self._snapshot)
        self._watcher(
            self._snapshot, self._phase, time.time() - self._started, self._story, self._receivers.summaries()
        )
        self.outcome.snapshot = self._snapshot
        return self._snapshot

    # What is done --------------------------------------------------------------------------------------------------

    def _put_weights(self) -> None:
        weights = {settings.INCUMBENT: 100 - _CANDIDATE_PERCENT, settings.CANDIDATE: _CANDIDATE_PERCENT}
        request = Request(  # noqa: S310 - our own http address
            f"{self._gateway}/prompts/support",
            data=json.dumps({"weights": weights}).encode(),
            method="PUT",
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        with urlopen(request, timeout=10):  # noqa: S310
            pass

    def _gateway_state(self) -> dict[str, Any]:
        with urlopen(f"{self._gateway}/prompts/support", timeout=10) as answer:  # noqa: S310
            state: dict[str, Any] = json.load(answer)
        return state

    def _child(self, stack: ExitStack, name: str, arguments: list[str], **environment: str) -> Child:
        child = Child(name, arguments, self._folder, environment)
        stack.callback(child.stop, 40)
        return child

    def _tell(self, text: str) -> None:
        self._story.append(f"{time.time() - self._started:5.1f} s  {text}")


def example_folder() -> Path:
    """Return the folder of the example programs, which stand beside the packages in a source checkout.

    Raises
    ------
    StartError
        driftgate was installed without its examples.
    """
    folder = Path(__file__).resolve().parents[2] / "examples"
    if not (folder / "gateway/gateway.py").is_file():
        raise StartError(
            "the demo needs the example programs: run it from a source checkout with `make demo`"
        )
    return folder


@contextmanager
def customers() -> Iterator[Any]:
    """Import the example's customers module for the length of the block."""
    folder = str(example_folder() / "support_app")
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module("customers")
    finally:
        sys.path.remove(folder)
