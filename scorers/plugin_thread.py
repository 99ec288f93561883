"""Runs a user's synchronous scorer where it can hang without stopping the stage."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class PluginBusy(Exception):  # noqa: N818 - named for what it is
    """An earlier call has run over its time limit and still runs."""


class PluginExit(Exception):  # noqa: N818 - named for what it is
    """The plug-in tried to end the process; the message names how."""


class PluginThread:
    """One daemon thread for one plug-in: its calls never overlap, and a call that hangs is given up.

    A thread cannot be killed. So while a call that was given up still runs, further calls are refused at once.
    """

    def __init__(self, name: str, timeout: float) -> None:
        self._name = name
        self._timeout = timeout
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._hanging: Future[Any] | None = None
        self._turn: tuple[Any, asyncio.Lock] | None = None

    async def call(self, function: Callable[[], Any]) -> Any:
        """Return what ``function`` returns, or raise what it raises.

        Raises
        ------
        TimeoutError
            It took longer than the limit.
        PluginBusy
            See there.
        PluginExit
            See there.
        """
        async with self._lock():
            if self._hanging is not None:
                if not self._hanging.done():
                    raise PluginBusy(self._name)
                self._hanging = None
            future: Future[Any] = Future()
            self._start()
            self._calls.put((future, function))
            wrapped = asyncio.wrap_future(future)
            wrapped.add_done_callback(_looked_at)
            try:
                return await asyncio.wait_for(asyncio.shield(wrapped), self._timeout)
            except TimeoutError:
                if not future.done():
                    self._hanging = future
                raise

    def close(self) -> None:
        """Let the thread end after the call it is in; idempotent."""
        self._calls.put(None)
        self._thread = None

    def _lock(self) -> asyncio.Lock:
        loop = asyncio.get_running_loop()
        if self._turn is None or self._turn[0] is not loop:
            self._turn = (loop, asyncio.Lock())
        return self._turn[1]

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"scorer-{self._name}", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while (item := self._calls.get()) is not None:
            future, function = item
            try:
                future.set_result(function())
            except Exception as error:  # noqa: BLE001 - somebody else's code; the caller gets what it raised
                future.set_exception(error)
            except BaseException as error:  # noqa: BLE001 - sys.exit() in a plug-in ends the call, not the process
                future.set_exception(PluginExit(error.__class__.__name__))


def _looked_at(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()  # of a call that was given up nobody else asks
