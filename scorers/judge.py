"""A rubric that a language model judges, through litellm, at any OpenAI-compatible endpoint.

What can go wrong has a name. A score is *skipped* with ``judge_blocked:<why>`` while the judge cannot be asked: no key,
no money, the endpoint refused key, bill or model, it asked for a long wait, or it failed too often in a row. It is
*failed* when the judge was asked and gave nothing to use: ``unparsable``, ``timeout``, ``rate_limited``,
``unavailable``, ``too_long``, ``content_filter``, ``bad_request``. :meth:`Judge.status` shows blocks and spending.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from scorers.api import Answer, Failed, Score, Scorer, Skipped
from scorers.judging.budget import Budget
from scorers.judging.cache import AnswerCache
from scorers.judging.client import ModelClient, ModelFault, Reply
from scorers.judging.gate import Gate
from scorers.judging.prompt import Prompt, build, system_message
from scorers.judging.reply import read
from scorers.judging.rubrics import JUDGE_RUBRICS
from scorers.settings import JudgeSettings
from stream.interaction import Interaction
from stream.records import Evaluator, stable_id

BLOCKED = "judge_blocked"
_RETRYABLE = frozenset(("rate_limited", "timeout", "unavailable"))
_BLOCKING = frozenset(("auth", "billing", "model_unavailable"))
_LEAP_NS = 86_400 * 10**9  # further back than this no clock goes unless it was wrong before


class _Bill(msgspec.Struct):
    """What the calls for one score cost so far."""

    usd: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0


class JudgeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the web page and ``doctor`` show about a judge."""

    rubric: str
    model: str
    evaluator: str
    blocked: str = ""  # reason, "" when it may be asked
    detail: str = ""
    blocked_until_unix_nano: int = 0
    spent_usd_today: float = 0.0
    budget_usd_per_day: float | None = None
    price_known: bool | None = None  # None: not asked yet
    calls: int = 0
    cache_hits: int = 0


class Judge(Scorer):
    """One judge rubric with its model, budget, gate and cache. The stage tells it the time with :meth:`tick`."""

    def __init__(self, settings: JudgeSettings) -> None:
        super().__init__()
        self.settings = settings
        self.rubric = JUDGE_RUBRICS[settings.rubric]
        self.name = settings.name or self.rubric.name
        self.version = self.rubric.version
        self.target = settings.target
        self.budget = Budget(settings.budget_usd_per_day)
        self._now_ns = 0
        self._system = system_message(self.rubric, settings.policy)
        self._client = ModelClient(settings)
        self._gate = Gate(settings.breaker_failures, settings.breaker_pause)
        self._cache = AnswerCache(settings.cache_entries)
        self._levels = frozenset(level for level, _ in self.rubric.levels)
        self._plain = settings.structured_output == "text"
        self._ready = False
        self._prices: tuple[float, float] | None = None
        self._calls = 0
        self._slots: tuple[Any, asyncio.Semaphore] | None = None

    def evaluator(self) -> Evaluator:
        """Rubric, model, and a hash of everything else that shapes the answers."""
        shaping = (
            self._system,
            self.settings.temperature,
            self.settings.samples,
            self.settings.max_block_chars,
        )
        return Evaluator(
            id=self.rubric.name,
            kind="judge",
            version=self.version,
            model=self.settings.model,
            prompt_hash=stable_id(*(str(part) for part in shaping))[:12],
        )

    def tick(self, now_ns: int) -> None:
        """Tell the time, Unix nanoseconds: budgets turn over and blocks end by it."""
        if 0 < now_ns < self._now_ns - _LEAP_NS:
            self._now_ns = now_ns  # the clock was wrong, and so is the end of every block
            self._gate.succeeded()
        self.budget.corrected(now_ns)
        self._now_ns = max(self._now_ns, now_ns)
        self.budget.at(self._now_ns)

    def status(self) -> JudgeStatus:
        """Return the present state."""
        reason = self._gate.blocked(self._now_ns)
        return JudgeStatus(
            rubric=self.name,
            model=self.settings.model,
            evaluator=self.evaluator().identity,
            blocked=reason,
            detail=self._gate.detail if reason else "",
            blocked_until_unix_nano=self._gate.until_ns if reason else 0,
            spent_usd_today=self.budget.spent,
            budget_usd_per_day=self.budget.limit,
            price_known=(self._prices is not None) if self._ready else None,
            calls=self._calls,
            cache_hits=self._cache.hits,
        )

    async def score(self, interaction: Interaction) -> Answer:
        """Judge one interaction."""
        if reason := self.rubric.missing(interaction):
            return Skipped(reason)
        prompt = build(self.rubric, self._system, interaction, self.settings.max_block_chars)
        return await self._cache.get(prompt.key, lambda: self._judged(prompt))

    async def score_again(self, interaction: Interaction) -> Answer:
        """Judge one interaction whatever is remembered of it: a remembered answer says nothing about the model of today."""
        if reason := self.rubric.missing(interaction):
            return Skipped(reason)
        return await self._judged(
            build(self.rubric, self._system, interaction, self.settings.max_block_chars)
        )

    async def _judged(self, prompt: Prompt) -> Answer:
        async with self._slot():
            if reason := self._gate.enter(self._now_ns):
                return Skipped(f"{BLOCKED}:{reason}")
            try:
                if not self._ready:
                    # In a thread, because importing litellm takes seconds.
                    blocked = await asyncio.to_thread(self._prepared)
                    if blocked is not None:
                        return blocked
                return await self._sampled(prompt)
            finally:
                self._gate.leave()

    def _slot(self) -> asyncio.Semaphore:
        loop = asyncio.get_running_loop()
        if self._slots is None or self._slots[0] is not loop:
            self._slots = (loop, asyncio.Semaphore(self.settings.concurrency))
        return self._slots[1]

    def _prepared(self) -> Skipped | None:
        """Find key and prices before the first call."""
        reason, detail = self._client.missing()
        if not reason:
            self._prices = self._client.prices()
            explicit = "budget_usd_per_day" in self.settings.model_fields_set
            if self._prices is None and explicit and self.budget.limit is not None:
                reason = "price_unknown"
                detail = "a budget needs input_usd_per_million and output_usd_per_million for this model"
        if reason:
            return self._block(reason, self.settings.blocked_pause, detail)
        self._ready = True
        return None

    def _block(self, reason: str, seconds: float, detail: str) -> Skipped:
        self._gate.block(reason, self._now_ns, seconds, detail)
        return Skipped(f"{BLOCKED}:{reason}")

    async def _sampled(self, prompt: Prompt) -> Answer:
        """Ask as often as configured and take the mean."""
        bill = _Bill()
        values: list[float] = []
        explanation = ""
        for sample in range(self.settings.samples):
            answer = await self._once(prompt, sample, bill)
            if isinstance(answer, Skipped) and bill.input_tokens + bill.output_tokens:
                # It was asked and paid, and only a failed score says what it cost.
                return Failed(
                    answer.reason, answer.explanation, bill.usd, bill.input_tokens, bill.output_tokens
                )
            if not isinstance(answer, tuple):
                return answer
            level, why = answer
            values.append((level - self.rubric.low) / (self.rubric.high - self.rubric.low))
            explanation = explanation or why
        value = sum(values) / len(values)
        label = str(level) if len(set(values)) == 1 else ""
        return Score(value, label, explanation, "", bill.usd, bill.input_tokens, bill.output_tokens)

    async def _once(self, prompt: Prompt, sample: int, bill: _Bill) -> tuple[int, str] | Skipped | Failed:
        last = "unparsable"
        for attempt in range(self.settings.attempts):
            try:
                reply = await self._paid(prompt, bill)
            except ModelFault as fault:
                last = fault.reason
                if fault.reason in _BLOCKING:
                    return self._block(fault.reason, self.settings.blocked_pause, fault.detail)
                if fault.reason == "schema_refused" and self.settings.structured_output == "auto":
                    self._plain = True
                    continue
                if fault.reason not in _RETRYABLE:
                    return self._failed(
                        fault.reason.replace("schema_refused", "bad_request"), fault.detail, bill
                    )
                wait = self._wait(fault, attempt, f"{prompt.key}/{sample}")
                if wait > self.settings.max_wait:
                    return self._block(fault.reason, wait, f"the endpoint asked to wait {wait:g} s")
                if attempt + 1 < self.settings.attempts:
                    await asyncio.sleep(wait)
            else:
                if reply is None:
                    return self._unaffordable(prompt)
                answer = read(reply.text, self._levels)
                if answer is not None:
                    self._gate.succeeded()
                    return answer
                last = "unparsable"
        return self._failed(last, f"{self.settings.attempts} attempts", bill)

    def _failed(self, reason: str, detail: str, bill: _Bill) -> Failed:
        self._gate.failed(self._now_ns, f"{reason}: {detail}")
        return Failed(reason, detail, bill.usd, bill.input_tokens, bill.output_tokens)

    def _wait(self, fault: ModelFault, attempt: int, key: str) -> float:
        if fault.retry_after is not None:
            return fault.retry_after
        # Spread by content, so that many failing calls do not come back together; no randomness.
        spread = 0.5 + int(stable_id(key, str(attempt))[:8], 16) / 2**33
        return float(min(self.settings.max_wait, self.settings.backoff * 2**attempt * spread))

    async def _paid(self, prompt: Prompt, bill: _Bill) -> Reply | None:
        """Ask once and count the money; ``None`` when there is not enough left."""
        into, out = self._prices or (0.0, 0.0)
        estimate = self._estimate(prompt)
        if not self.budget.reserve(estimate):
            return None
        spent = 0.0
        try:
            self._calls += 1
            reply = await self._client.ask(prompt, self._response_format())
            spent = reply.input_tokens * into + reply.output_tokens * out
            bill.usd += spent
            bill.input_tokens += reply.input_tokens
            bill.output_tokens += reply.output_tokens
            return reply
        finally:
            self.budget.settle(estimate, spent)

    def _estimate(self, prompt: Prompt) -> float:
        into, out = self._prices or (0.0, 0.0)
        # Three characters per token is pessimistic for most languages, which is what a reservation should be.
        return (len(prompt.system) + len(prompt.user)) / 3 * into + self.settings.max_output_tokens * out

    def _unaffordable(self, prompt: Prompt) -> Skipped:
        if not self.budget.exhausted(self._estimate(prompt)):
            return Skipped(f"{BLOCKED}:budget")  # other calls under way hold the rest; they may cost less
        seconds = (self.budget.next_day_ns() - self._now_ns) / 1e9
        detail = f"spent {self.budget.spent:.4f} of {self.budget.limit} USD today"
        return self._block("budget", seconds, detail)

    def _response_format(self) -> dict[str, Any] | None:
        if self._plain:
            return None
        if self.settings.structured_output == "json_object":
            return {"type": "json_object"}
        schema = {
            "type": "object",
            "properties": {
                "explanation": {"type": "string"},
                "score": {"type": "integer", "enum": sorted(self._levels)},
            },
            "required": ["explanation", "score"],
            "additionalProperties": False,
        }
        return {"type": "json_schema", "json_schema": {"name": "grade", "strict": True, "schema": schema}}
