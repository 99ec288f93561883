"""What a channel is: it turns a notice into one HTTP request, and an answer into delivered, later, or never.

A channel is one file in this package with one subclass of :class:`Channel`. It does no I/O of its own and keeps no
state; the dispatcher sends, retries and records.
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import msgspec

from sinks.alerts_settings import ChannelSettings
from sinks.outgoing import Reply
from stream.errors import Permanent, Transient


class Notice(msgspec.Struct, kw_only=True):
    """What a message says; frozen when it is first sent, so that every try says the same. Times are Unix nanoseconds."""

    message_id: str  # 32 hex digits, the same for every try
    event: str  # trigger, update, repeat, acknowledge, resolve
    severity: str  # of this message: warn, page, critical
    note: str = ""  # what is new, one sentence
    at: int
    link: str = ""  # to the incident on the web page
    incident_id: str
    tenant: str
    kind: str
    rollout: str
    route: str = ""
    prompt_name: str = ""
    arm: str = ""
    incumbent: str = ""
    candidate: str = ""
    state: str
    incident_severity: str
    summary: str
    resolution: str = ""
    opened_at: int
    resolved_at: int = 0
    acknowledged_by: str = ""
    conditions: list[Finding] = []
    rollbacks: list[Action] = []


class Finding(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What one rubric says."""

    rubric: str
    state: str
    severity: str
    reason: str = ""
    attribution: str = ""  # system, judge, both or unknown; empty where it does not apply
    e_value: float = 1.0
    e_threshold: float = 0.0
    sr_value: float = 0.0
    sr_threshold: float = 0.0
    difference: float | None = None  # candidate minus incumbent over the longest window, else since the start
    candidate_mean: float | None = None
    incumbent_mean: float | None = None
    candidate_n: int = 0
    incumbent_n: int = 0
    worst_trace_ids: list[str] = []


class Action(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How one rollback stands."""

    target: str
    mode: str
    state: str
    detail: str = ""


class Request(msgspec.Struct, frozen=True):
    """One HTTP request, always a POST of JSON."""

    url: str
    body: bytes
    headers: dict[str, str] = {}


class Channel(abc.ABC):
    """One way to tell people. ``name`` is the ``type`` in the settings."""

    name: ClassVar[str] = ""

    def __init__(self, settings: Any) -> None:
        self.settings: ChannelSettings = settings

    @abc.abstractmethod
    def check(self) -> None:
        """Raise :class:`stream.errors.ConfigError` if a secret is missing or cannot be one; called at start."""

    @abc.abstractmethod
    def build(self, notice: Notice, now_ns: int) -> Request | None:
        """Return the request that says ``notice``; ``None`` if this channel has nothing to say about it.

        ``now_ns`` is the time of the attempt. Raises :class:`stream.errors.Permanent` if it can never be said.
        """

    def judge(self, reply: Reply) -> None:
        """Return if the message arrived; raise ``Transient`` or ``Permanent`` if not."""
        judge_status(reply)


def judge_status(reply: Reply) -> None:
    """Judge by status alone: 2xx arrived; 408, 425, 429 and 5xx later; the rest, redirects among them, never.

    Raises
    ------
    Transient
        Try again, not before ``retry_after``.
    Permanent
        The receiver will not take it.
    """
    if 200 <= reply.status < 300:
        return
    reason = f"http_{reply.status}"
    if reply.status in (408, 425, 429) or reply.status >= 500:
        raise Transient(reason, "the receiver asks for another try", retry_after=reply.retry_after() or 0.001)
    raise Permanent(reason, "the receiver refused the message")
