"""How an error is told to an OTLP sender: gRPC code, HTTP status, ``google.rpc.Status``, and when to try again.

OTLP specification 1.11, "Failures" and "OTLP/HTTP Throttling": what may be retried carries a delay, what may not does not.
"""

from __future__ import annotations

import math

import msgspec
from google.protobuf.duration_pb2 import Duration
from google.rpc.code_pb2 import (
    INVALID_ARGUMENT,
    PERMISSION_DENIED,
    RESOURCE_EXHAUSTED,
    UNAUTHENTICATED,
    UNAVAILABLE,
    UNIMPLEMENTED,
)
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status

from stream.errors import Permanent, Transient

_PERMANENT = {
    "unauthenticated": (UNAUTHENTICATED, 401),
    "forbidden": (PERMISSION_DENIED, 403),
    "too_large": (RESOURCE_EXHAUSTED, 413),
    "unsupported_media_type": (INVALID_ARGUMENT, 415),
    "unimplemented": (UNIMPLEMENTED, 404),
    "not_found": (UNIMPLEMENTED, 404),
    "method_not_allowed": (UNIMPLEMENTED, 405),
}
# Reasons for which HTTP says "you are too many"; for the others it says "we are not well".
_TOO_MANY = frozenset(("overloaded", "rate_limited"))
METRICS_MESSAGE = "driftgate takes traces and logs, not metrics; leave the metrics exporter of your SDK off"
PROFILES_MESSAGE = (
    "driftgate takes traces and logs, not profiles; leave the profiles exporter of your SDK off"
)


class Answer(msgspec.Struct, frozen=True):
    """An error as OTLP says it. ``retry_after`` is in seconds, ``None`` if the same request will never be accepted."""

    code: int
    http: int
    message: str
    retry_after: float | None = None

    def status(self) -> Status:
        """Return the ``google.rpc.Status``, with ``RetryInfo`` if there is a delay and ``BadRequest`` for bad data."""
        status = Status(code=self.code, message=self.message)
        if self.retry_after is not None:
            delay = Duration()
            delay.FromNanoseconds(int(self.retry_after * 1e9))
            status.details.add().Pack(RetryInfo(retry_delay=delay))
        elif self.code == INVALID_ARGUMENT:
            status.details.add().Pack(
                BadRequest(field_violations=[BadRequest.FieldViolation(description=self.message)])
            )
        return status

    @property
    def retry_after_header(self) -> str:
        """Whole seconds for ``Retry-After``, at least one."""
        return str(max(1, math.ceil(self.retry_after or 0)))


def answer(error: Permanent | Transient) -> Answer:
    """Return what the sender is told about ``error``."""
    message = str(error)
    if isinstance(error, Transient):
        # gRPC has one code for "later", by the specification.
        return Answer(UNAVAILABLE, 429 if error.reason in _TOO_MANY else 503, message, error.retry_after)
    code, http = _PERMANENT.get(error.reason, (INVALID_ARGUMENT, 400))
    return Answer(code, http, message)
