"""Every error driftgate raises on purpose.

    DriftgateError
    ├── ConfigError            the configuration cannot be used; nothing was started
    ├── StartError             the machine cannot run it: a port, a folder, a missing extra
    ├── Permanent              this input will never work: dead letter, never retried
    └── Transient              it may work later: retried after ``retry_after`` seconds
        └── Unavailable        a dependency is down: pause, hold commits, alarm

The one bit that decides retry or drop is the class, set where the error is understood.
"""

from __future__ import annotations


class DriftgateError(Exception):
    """Base of all errors raised on purpose; the message names the cause and, where there is one, the fix."""


class ConfigError(DriftgateError):
    """The configuration cannot be used."""


class StartError(DriftgateError):
    """The process cannot start: an occupied port, a corrupt folder, a missing extra."""


class Permanent(DriftgateError):  # noqa: N818 - named for what it decides
    """This input will never be accepted.

    Parameters
    ----------
    reason
        A short machine-readable word (``"undecodable"``, ``"too_large"``) used as a metric label;
        it never contains data.
    detail
        A sentence for people; it never contains data either.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class Transient(DriftgateError):  # noqa: N818 - named for what it decides
    """It may work later.

    Parameters
    ----------
    reason
        As in :class:`Permanent`.
    retry_after
        Seconds to wait before the next try, > 0.
    """

    def __init__(self, reason: str, detail: str = "", *, retry_after: float = 1.0) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.retry_after = retry_after


class Unavailable(Transient):
    """A dependency is down: stop consuming, hold commits and raise the alarm; nothing goes to dead letters."""
