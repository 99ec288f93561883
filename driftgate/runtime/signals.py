"""Runs a process until somebody asks it to stop, and sees to it that it does."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable

_INTERRUPTED = 130
_OVERDUE = 1
_ANOTHER_S = 0.5  # signals closer than this are one


async def until_signal(
    run: Callable[[asyncio.Event], Awaitable[None]], grace: float, margin: float = 10.0
) -> None:
    """Await ``run(stop)``; SIGTERM and SIGINT set ``stop``.

    The same signal again ends the process at once, and so does a stop that takes longer than ``grace`` and ``margin`` seconds:
    a step of the start may hang in code that is not ours. Nothing is lost by it, as nothing is by a kill.
    """
    stop = asyncio.Event()
    overdue = threading.Timer(grace + margin, _leave, (_OVERDUE, f"it did not stop within {grace:g} s"))
    overdue.daemon = True
    loop = asyncio.get_running_loop()

    first: dict[int, float] = {}

    def asked(number: int) -> None:
        # Ctrl-C often comes twice for one keystroke: from the terminal, and from a parent that passes it on.
        if loop.time() - first.setdefault(number, loop.time()) >= _ANOTHER_S:
            _leave(_INTERRUPTED, "asked twice")
        if not stop.is_set():
            stop.set()
            overdue.start()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked, number)
    try:
        await run(stop)
    finally:
        overdue.cancel()


def _leave(code: int, why: str) -> None:
    """End the process without unwinding; a timer's thread can do no other."""
    sys.stderr.write(f"driftgate: ended at once: {why}; what was in hand is taken up at the next start\n")
    sys.stderr.flush()
    os._exit(code)
