"""All configured scorers together: every interaction before every scorer, one record each.

The books of the panel: expected = scored + skipped + failed. For each interaction that is one per trace scorer, and
one per LLM span for a span scorer (one skipped record with the reason ``no_llm_span`` when there is none).
"""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from scorers.answers import settled
from scorers.api import Answer, Failed, Score, Skipped
from scorers.judge import Judge
from scorers.plugin_thread import PluginBusy, PluginExit, PluginThread
from scorers.registry import Entry, build
from scorers.settings import ScorersSettings
from stream.interaction import Interaction
from stream.records import Evaluator, Lane, ScoreRecord, ScoreStatus, stable_id

_FRAMES = 3


def _raised(error: BaseException) -> Failed:
    """Name the class and the place in the code; what an exception says may be made of data."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).parent != Path(__file__).parent
        and "asyncio" not in Path(frame.filename).parts
    ]
    places = [f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in frames[-_FRAMES:]]
    return Failed(error.__class__.__name__, f"raised at {', '.join(places)}" if places else "")


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """One kept trace: its interaction, its LLM spans (for span scorers), and how it was sampled."""

    interaction: Interaction
    spans: Sequence[Interaction] = ()
    time_unix_nano: int = 0
    lane: Lane = "uniform"
    policy: str = ""
    probability: float | None = 1.0
    source: int = 0  # index of the record it came from


class _Job(msgspec.Struct):
    ticket: Ticket
    entry: Entry
    interaction: Interaction | None  # None: nothing for this scorer in the trace


class Panel:
    """Runs the scorers. One panel serves one event loop at a time."""

    def __init__(self, settings: ScorersSettings, base: Path | None = None) -> None:
        self.entries = build(settings, base)
        self.judges = [entry.scorer for entry in self.entries if isinstance(entry.scorer, Judge)]
        self.needs_spans = any(entry.target == "span" for entry in self.entries)
        self.needs_loop = any(entry.asynchronous for entry in self.entries)
        self._concurrency = settings.concurrency
        self._room: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None
        self._threads = {
            id(entry): PluginThread(entry.rubric, entry.timeout) for entry in self.entries if entry.plugin
        }

    def close(self) -> None:
        """Let the plug-in threads end; idempotent."""
        for thread in self._threads.values():
            thread.close()

    def score_now(self, tickets: Sequence[Ticket]) -> list[tuple[Ticket, ScoreRecord]]:
        """Score without an event loop; only for a panel that does not need one."""
        return [(job.ticket, _record(job, self._inline(job))) for job in self._jobs(tickets)]

    async def score(self, tickets: Sequence[Ticket]) -> list[tuple[Ticket, ScoreRecord]]:
        """Score all tickets; records come in the order of tickets and scorers, whoever answers first."""
        room = self._shared_room()
        jobs = self._jobs(tickets)
        answers: list[Answer | asyncio.Task[Answer]] = []
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                if job.entry.asynchronous and job.interaction is not None:
                    answers.append(group.create_task(self._within(room, job)))
                else:
                    answers.append(self._inline(job))
        return [
            (job.ticket, _record(job, answer.result() if isinstance(answer, asyncio.Task) else answer))
            for job, answer in zip(jobs, answers, strict=True)
        ]

    def _shared_room(self) -> asyncio.Semaphore:
        """Return what holds the limit for all batches that are scored at the same time."""
        loop = asyncio.get_running_loop()
        if self._room is None or self._room[0] is not loop:
            self._room = (loop, asyncio.Semaphore(self._concurrency))
        return self._room[1]

    async def again(self, jobs: Sequence[tuple[Entry, Interaction]]) -> list[Answer]:
        """Score single interactions anew, past every cache; answers come in the order of the jobs."""
        room = self._shared_room()
        made = [_Job(Ticket(interaction=found), entry, found) for entry, found in jobs]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._within(room, job, fresh=True)) for job in made]
        return [task.result() for task in tasks]

    def _jobs(self, tickets: Sequence[Ticket]) -> list[_Job]:
        jobs: list[_Job] = []
        for ticket in tickets:
            for entry in self.entries:
                if entry.target == "trace":
                    jobs.append(_Job(ticket, entry, ticket.interaction))
                elif ticket.spans:
                    jobs.extend(_Job(ticket, entry, span) for span in ticket.spans)
                else:
                    jobs.append(_Job(ticket, entry, None))
        return jobs

    def _inline(self, job: _Job) -> Answer:
        if job.interaction is None:
            return Skipped("no_llm_span")
        try:
            return settled(job.entry.scorer.score(job.interaction), job.entry.scorer.labels)
        except Exception as error:  # noqa: BLE001 - a scorer's failure is a recorded result, never the stage's
            return _raised(error)

    async def _within(self, room: asyncio.Semaphore, job: _Job, fresh: bool = False) -> Answer:
        scorer = job.entry.scorer
        interaction = job.interaction
        async with room:
            try:
                if fresh and isinstance(scorer, Judge) and interaction is not None:
                    raw: Any = await scorer.score_again(interaction)
                elif job.entry.plugin:
                    raw = await self._plugin(job.entry, interaction)
                else:
                    raw = scorer.score(interaction)  # type: ignore[arg-type]
                    if inspect.isawaitable(raw):
                        raw = await raw
                return settled(
                    raw, scorer.labels
                )  # here, because a number or a text may be of its own making
            except PluginBusy:
                return Skipped("scorer_blocked:timeout", "an earlier call still runs")
            except PluginExit as error:
                return Failed(str(error))
            except TimeoutError:
                return Failed("timeout")
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                return _raised(error)  # nobody cancelled us: the plug-in cancelled something of its own
            except (Exception, SystemExit) as error:  # noqa: BLE001 - as above
                return _raised(error)

    async def _plugin(self, entry: Entry, interaction: Any) -> Any:
        score = entry.scorer.score
        raw: Any
        if inspect.iscoroutinefunction(score):
            raw = score(interaction)
        else:
            raw = await self._threads[id(entry)].call(lambda: score(interaction))
        if not inspect.isawaitable(raw):
            return raw
        async with asyncio.timeout(entry.timeout):
            return await raw


def _record(job: _Job, answer: Answer) -> ScoreRecord:
    found = job.interaction or job.ticket.interaction
    evaluator = job.entry.evaluator
    if isinstance(answer, Score) and answer.version:
        evaluator = msgspec.structs.replace(evaluator, version=answer.version)
    return record(found, job.ticket, job.entry.rubric, evaluator, answer)


def record(
    interaction: Interaction, ticket: Ticket, rubric: str, evaluator: Evaluator, answer: Answer
) -> ScoreRecord:
    """Return the score record of one answer. Its id depends on what was scored and by whom, not on the answer."""
    status: ScoreStatus = "scored"
    value: float | None = None
    label = reason = ""
    cost, into, out = 0.0, 0, 0
    if isinstance(answer, Score):
        value, label = answer.value, answer.label
    elif isinstance(answer, Skipped):
        status, reason = "skipped", answer.reason
    else:
        status, reason = "failed", answer.reason
    if not isinstance(answer, Skipped):
        cost, into, out = answer.cost_usd, answer.input_tokens, answer.output_tokens
    return ScoreRecord(
        score_id=stable_id(
            interaction.tenant, interaction.trace_id, interaction.span_id, rubric, evaluator.identity
        ),
        tenant=interaction.tenant,
        time_unix_nano=ticket.time_unix_nano,
        trace_id=interaction.trace_id,
        span_id=interaction.span_id,
        unit_id=interaction.unit_id,
        rubric=rubric,
        evaluator=evaluator,
        status=status,
        value=value,
        label=label,
        explanation=answer.explanation,
        reason=reason,
        cost_usd=cost,
        input_tokens=into,
        output_tokens=out,
        lane=ticket.lane,
        policy=ticket.policy,
        probability=ticket.probability,
        cohort=interaction.cohort(),
    )
