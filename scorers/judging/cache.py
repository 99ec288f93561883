"""Answers by content: the same content is judged once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from scorers.api import Answer, Failed, Score, Skipped


class AnswerCache:
    """The last ``limit`` scores, and the calls under way: who asks the same meanwhile waits for that answer.

    Only scores are remembered. An answer that was not paid for again costs nothing.
    """

    def __init__(self, limit: int) -> None:
        self.hits = 0
        self._limit = limit
        self._known: OrderedDict[str, Score] = OrderedDict()
        self._running: dict[str, asyncio.Future[Answer]] = {}

    async def get(self, key: str, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Return the answer for ``key``, asking if it is not known."""
        if self._limit == 0:
            return await ask()
        if (known := self._known.get(key)) is not None:
            self._known.move_to_end(key)
            self.hits += 1
            return known
        running = self._running.get(key)
        if running is not None and running.get_loop() is asyncio.get_running_loop():
            self.hits += 1
            return free(await asyncio.shield(running))
        return await self._lead(key, ask)

    async def _lead(self, key: str, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._running[key] = future
        answer: Answer = Failed("interrupted")
        try:
            answer = await ask()
        finally:
            self._running.pop(key, None)
            if not future.done():
                future.set_result(answer)
        if isinstance(answer, Score):
            self._known[key] = Score(answer.value, answer.label, answer.explanation)
            if len(self._known) > self._limit:
                self._known.popitem(last=False)
        return answer


def free(answer: Answer) -> Answer:
    """Return ``answer`` without its cost, which whoever asked first has paid."""
    if isinstance(answer, Score):
        return Score(answer.value, answer.label, answer.explanation)
    if isinstance(answer, Failed):
        return Failed(answer.reason, answer.explanation)
    return Skipped(answer.reason, answer.explanation)
