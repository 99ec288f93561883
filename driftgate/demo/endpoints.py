"""Stand-ins for Slack and PagerDuty that enforce the documented limits and keep what they accept."""

from __future__ import annotations

import asyncio
import secrets
import threading
from concurrent.futures import Future
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from sinks.testing import PagerDutyEndpoint, SlackEndpoint


class Receivers:
    """Both endpoints on a loop of their own thread; use as a context manager."""

    def __init__(self) -> None:
        self.pagerduty_key = secrets.token_hex(16)
        self._slack = SlackEndpoint()
        self._pagerduty = PagerDutyEndpoint(self.pagerduty_key)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="demo-receivers", daemon=True)
        self._stack = AsyncExitStack()

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._start()).result(20)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._stack.aclose()).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _run(self, work: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _start(self) -> None:
        await self._stack.enter_async_context(self._slack)
        await self._stack.enter_async_context(self._pagerduty)

    @property
    def slack_url(self) -> str:
        """The webhook's URL; in life it is a secret."""
        return self._slack.url

    @property
    def pagerduty_url(self) -> str:
        """Where events go."""
        return self._pagerduty.url

    @property
    def hosts(self) -> list[str]:
        """``host:port`` of both, for ``allow_hosts``."""
        return [self._slack.host, self._pagerduty.host]

    @property
    def slack(self) -> list[dict[str, Any]]:
        """Messages that were accepted."""
        return list(self._slack.messages)

    @property
    def pagerduty(self) -> list[dict[str, Any]]:
        """Events that were accepted."""
        return list(self._pagerduty.events)

    @property
    def resolved(self) -> bool:
        """Whether PagerDuty was told that it is over."""
        return any(event["event_action"] == "resolve" for event in self.pagerduty)

    def summaries(self) -> list[str]:
        """Return one line per payload, oldest first within each receiver."""
        lines = [f"Slack      {message['text']}" for message in self.slack]
        for event in self.pagerduty:
            summary = event.get("payload", {}).get("summary", "")
            lines.append(f"PagerDuty  {event['event_action']} {event['dedup_key'][:12]}… {summary}")
        return [line.replace("\n", " ")[:160] for line in lines]
