"""``driftgate demo``: from an OTLP span to a verified rollback, on this machine."""

from __future__ import annotations

import signal
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from driftgate.demo.observer import Snapshot
    from driftgate.demo.outcome import Outcome

_ASK = (
    "SELECT cohort, rubric, round(mean, 3) AS mean, round(standard_error, 3) AS error, n FROM cohort_means "
    "WHERE view = 'route,prompt_version' AND window_seconds = 900 ORDER BY rubric, cohort"
)


@click.command("demo")
@click.option("--keep", is_flag=True, help="Leave it running afterwards, until Ctrl-C, and keep the data.")
@click.option(
    "--rate",
    type=click.FloatRange(1, 1000),
    default=25.0,
    show_default=True,
    help="Conversations per second of the example application.",
)
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), help="Keep data and logs in this folder."
)
@click.option("--log", "log_url", default="", help="kafka://… to run on: two workers of every stage.")
@click.option("--store", "store_url", default="", help="clickhouse://… for --log.")
@click.option("--store-password", default="", help="Its password by reference, ${env:NAME} or file:/path.")
def command(
    keep: bool, rate: float, folder: Path | None, log_url: str, store_url: str, store_password: str
) -> None:
    """From an OTLP span to a verified rollback, on this machine.

    Starts one `driftgate up`, an example gateway with two prompt versions and an example application with the real
    OpenTelemetry SDK; ships a bad prompt version to 20 % of the users; and watches what driftgate does about it. Only
    the language model is a script. The exit code is 0 only if all of it happened.

    With --log and --store the same happens on Kafka brokers and a ClickHouse server that you have, with a collector and
    two workers of every stage.
    """
    if bool(log_url) != bool(store_url):
        raise click.UsageError("--log and --store go together")
    from rich.console import Console

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    console = Console()
    place = folder or Path(tempfile.mkdtemp(prefix="driftgate-demo-"))
    place.mkdir(parents=True, exist_ok=True)
    if any(place.iterdir()):
        raise click.UsageError(
            f"{place} is not empty: what an earlier run left would be taken for this one's"
        )
    started = time.monotonic()
    with ExitStack() as stack:
        store = {"url": store_url, **({"password": store_password} if store_password else {})}
        outcome = _play(console, place, rate, stack, log_url, store)
        outcome_ok = _summary(console, outcome, time.monotonic() - started)
        if keep:
            _wait_for_ctrl_c(console, outcome)
    console.print(
        f"data, configuration and logs stay in {place}; remove the folder when you have seen enough"
    )
    if not outcome_ok:
        raise click.exceptions.Exit(1)


def _interrupt(number: int, frame: object) -> None:
    """End as Ctrl-C does, so that no child process stays behind."""
    raise KeyboardInterrupt


def _play(
    console: Console, place: Path, rate: float, stack: ExitStack, log_url: str, store: dict[str, str]
) -> Outcome:
    from rich.live import Live

    from driftgate.demo.scenario import Scenario
    from driftgate.demo.screen import draw

    if not console.is_terminal:
        told = 0

        def tell(
            snapshot: Snapshot, phase: str, elapsed: float, story: list[str], payloads: list[str]
        ) -> None:
            nonlocal told
            for line in story[told:]:
                console.print(line, highlight=False)
            told = len(story)

        scenario = Scenario(place, rate, tell, log_url, store)
        scenario.run(stack)
        _look_for_evidence(scenario.outcome)
        return scenario.outcome
    with Live(console=console, refresh_per_second=4) as live:

        def show(*seen: Any) -> None:
            live.update(draw(*seen))

        scenario = Scenario(place, rate, show, log_url, store)
        scenario.run(stack)
        _look_for_evidence(scenario.outcome)
    return scenario.outcome


def _look_for_evidence(outcome: Outcome) -> None:
    """Look for personal data everywhere, and let the doctor read the books."""
    from driftgate.config import load
    from driftgate.demo.evidence import search
    from driftgate.demo.scenario import customers
    from driftgate.doctor import examine

    if outcome.observer is None:
        return
    with customers() as module:
        # Twice as many customers as traces: none can have been missed.
        values = module.personal_values(2 * outcome.snapshot.counter("sampler", "traces_kept") + 1000)
    outcome.findings = search(outcome.observer.sql, outcome.data, values)
    books = examine(load(outcome.config, {}))
    wrong = [finding for finding in books if finding.outcome == "failed"]
    outcome.ledger_balanced = not wrong
    outcome.ledger_text = (
        "; ".join(f"{finding.what}: {finding.detail}" for finding in wrong)
        or f"{len(books)} checks of driftgate doctor"
    )


def _summary(console: Console, outcome: Outcome, seconds: float) -> bool:
    from rich.table import Table

    table = Table(title=f"driftgate demo, {seconds:.0f} s", title_justify="left", box=None, padding=(0, 1))
    table.add_column("")
    table.add_column("what")
    table.add_column("figure")
    for claim, holds, figure in outcome.checks():
        table.add_row("[green]yes[/]" if holds else "[bold red]NO[/]", claim, figure)
    console.print(table)
    if outcome.processes:
        used = [child.usage() for child in outcome.processes]
        cpu, memory = sum(item[0] for item in used), sum(item[1] for item in used)
        console.print(
            f"{len(used)} driftgate processes used {cpu:.0f} CPU seconds and {memory:.0f} MiB",
            highlight=False,
        )
    console.print("Look for yourself (with --keep it goes on running):", highlight=False)
    console.print(f'  driftgate query -c {outcome.config} "{_ASK}"', highlight=False, soft_wrap=True)
    return outcome.succeeded


def _wait_for_ctrl_c(console: Console, outcome: Outcome) -> None:
    for name, address in outcome.endpoints.items():
        if name != "pid":
            console.print(f"{name:10} {address}", highlight=False)
    console.print("running until Ctrl-C")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        console.print("stopping")
