"""What a running process tells about itself: the shape of ``GET /v1/status``."""

from __future__ import annotations

from typing import Any

import msgspec

from driftgate.runtime.stalls import Stall


class StageStatus(msgspec.Struct, frozen=True):
    """One stage."""

    name: str
    state: str
    reason: str
    lag: int
    records: int
    last_progress_ns: int


class WorkerStatus(msgspec.Struct, frozen=True):
    """One process of a collector with several."""

    number: int
    pid: int
    ready: bool
    restarts: int
    receivers: dict[str, float]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The whole process at one moment."""

    version: str
    ready: bool
    time_unix_nano: int
    endpoints: dict[str, str] = {}
    stages: list[StageStatus] = []
    stalled: list[Stall] = []
    ledger: dict[str, dict[str, int]] = {}
    log_end: dict[str, int] = {}
    log_bytes: dict[str, int] = {}
    receivers: dict[str, float] = {}
    workers: list[WorkerStatus] = []
    scorers: dict[str, Any] = {}
    incidents: list[dict[str, Any]] = []
    rollbacks: list[dict[str, Any]] = []
