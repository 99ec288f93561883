"""Whether a judge may be asked now: circuit breaker, refused keys and bills, and requests to wait."""

from __future__ import annotations


class Gate:
    """Open, or blocked with a reason until a time. After that time one call probes; its success opens the gate.

    Parameters
    ----------
    failures
        Consecutive failures that block.
    pause_s
        For how long.
    """

    def __init__(self, failures: int, pause_s: float) -> None:
        self.reason = ""
        self.detail = ""
        self.until_ns = 0
        self._failures = failures
        self._pause_s = pause_s
        self._row = 0
        self._probing = False

    def enter(self, now_ns: int) -> str:
        """Return why not, or "" to go on; whoever goes on must call ``succeeded``, ``failed``, ``block`` or ``leave``."""
        if not self.reason:
            return ""
        if now_ns < self.until_ns or self._probing:
            return self.reason
        self._probing = True
        return ""

    def blocked(self, now_ns: int) -> str:
        """Return the reason that holds at ``now_ns``, without entering."""
        return self.reason if now_ns < self.until_ns else ""

    def succeeded(self) -> None:
        """The endpoint answered properly."""
        self.reason = self.detail = ""
        self.until_ns = self._row = 0
        self._probing = False

    def failed(self, now_ns: int, detail: str) -> None:
        """A score could not be had."""
        self._row += 1
        if self._row >= self._failures or self._probing:
            self.block("circuit_open", now_ns, self._pause_s, detail)
        self._probing = False

    def block(self, reason: str, now_ns: int, seconds: float, detail: str) -> None:
        """Block for ``seconds``."""
        self.reason, self.detail = reason, detail
        self.until_ns = now_ns + int(seconds * 1e9)
        self._probing = False

    def leave(self) -> None:
        """The call ended without telling anything about the endpoint."""
        self._probing = False
