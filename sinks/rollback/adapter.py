"""What a rollback adapter is: it reads what a gateway says now, and asks it to take a candidate back.

An adapter is one file in this package with one subclass of :class:`RollbackAdapter`. The dispatcher calls ``read`` before
every ``call`` and records what it read before it writes; a call may be repeated after a crash, with the same
``order.idempotency_key``, and must then not take effect twice.
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import msgspec

from sinks.outgoing import Outgoing


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One decision to carry out. ``repeated`` is set when an earlier try may have reached the gateway."""

    rollback_id: str
    incident_id: str
    decision_id: str
    idempotency_key: str
    tenant: str
    rollout: str
    route: str
    arm: str
    incumbent: str
    candidate: str
    prompt_name: str = ""
    reason: str
    repeated: bool = False


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway said before the write."""

    previous: Any = None  # JSON value
    etag: str = ""
    done: bool = False  # the candidate is off already


class Called(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway said to the write."""

    status_code: int
    detail: str = ""


class RollbackAdapter(abc.ABC):
    """One kind of gateway. ``name`` is the ``type`` in the settings of a target."""

    name: ClassVar[str] = ""

    @abc.abstractmethod
    def __init__(self, target: Any, http: Outgoing) -> None:
        """Take the settings of one target and the client to use."""

    @abc.abstractmethod
    def check(self) -> None:
        """Raise :class:`stream.errors.ConfigError` if a secret is missing; called at start."""

    @abc.abstractmethod
    async def read(self, order: Order) -> Reading:
        """Return what the gateway says now.

        Raises
        ------
        Transient
            It cannot be read now.
        Permanent
            It will never be readable, or somebody changed it since the decision (``changed``): nothing may be called.
        """

    @abc.abstractmethod
    async def call(self, order: Order, reading: Reading) -> Called:
        """Take the candidate back if the gateway is still as ``reading`` says.

        Raises
        ------
        Transient
            No answer, or the gateway changed in between: read again and try again.
        Permanent
            The gateway refused.
        """

    @abc.abstractmethod
    def plan(self, order: Order, reading: Reading) -> dict[str, Any]:
        """Return the request that :meth:`call` would send, without secrets, as plain JSON types."""

    @abc.abstractmethod
    def undo(self, order: Order, reading: Reading) -> dict[str, Any] | None:
        """Return the request that would take the rollback back, without secrets; ``None`` if none is configured."""
