"""What could not be scanned, kept encrypted instead of dropped. The collector has the public key and can open nothing.

A quarantined item is a record on the topic ``quarantine``: spans (or log records) of one request that failed for one reason,
with their resources and scopes, as zstd-compressed ``TracesData`` (``LogsData``), sealed (:mod:`collector.sealed`). Its
headers are part of what is sealed: who changes one makes the item unreadable. It is written in the same append as the rest
of its request, so the ledger is exact.

Bounds: an item has at most ``max_item_bytes``, all together at most ``max_bytes_per_hour`` of a process, so that nobody fills
the log with what cannot be scanned. What does not fit is refused, as without a quarantine. Retention is the log's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import zstandard
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from collector.cut import Item, Shape, assemble, chunks
from collector.sealed import PrivateKey, PublicKey
from collector.settings import QuarantineSettings
from stream.errors import Permanent
from stream.records import HEADER_POLICY_VERSION, HEADER_TENANT, TOPIC_QUARANTINE, TOPIC_SPANS
from stream.stage import Headers, Output

HEADER_REASON = "reason"
HEADER_SIGNAL = "signal"  # "traces" or "logs"
HEADER_COUNT = "count"  # spans or log records in the item
HEADER_KEY = "key"  # name of the key pair that opens it

# Only what failed in redaction: a span without an id has no use for anybody.
REASONS = frozenset(
    {
        "too_large",
        "string_too_long",
        "too_deep",
        "too_many_candidates",
        "unstable",
        "scan_failed",
        "scan_timeout",
    }
)
_VERSION = b"driftgate quarantine 1"
# An item of 4 MiB holds no more than this; a larger one was not made by us.
_MOST_PLAIN_BYTES = 1 << 30
_HOUR_S = 3600.0


class Quarantine:
    """Seals what could not be scanned. Thread-safe.

    Parameters
    ----------
    settings
        Public key and bounds.
    clock
        Seconds that only ever grow.

    Raises
    ------
    ConfigError
        The public key is none.
    """

    def __init__(self, settings: QuarantineSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._key = PublicKey(settings.public_key)
        self._lock = threading.Lock()
        self._clock = clock
        self._left = float(settings.max_bytes_per_hour)
        self._refilled = clock()

    def seal(
        self, items: Sequence[Item], shape: Shape, *, reason: str, tenant: str, policy_version: str
    ) -> tuple[list[Output], int]:
        """Return the sealed records of ``items``, and how many of the items are in them; the others did not fit."""
        outputs: list[Output] = []
        kept = 0
        for chunk in chunks(list(items), self._settings.max_item_bytes):
            plain = zstandard.ZstdCompressor().compress(assemble(chunk, shape))
            headers: Headers = (
                (HEADER_TENANT, tenant.encode()),
                (HEADER_POLICY_VERSION, policy_version.encode()),
                (HEADER_REASON, reason.encode()),
                (HEADER_SIGNAL, b"traces" if shape.topic == TOPIC_SPANS else b"logs"),
                (HEADER_COUNT, str(len(chunk)).encode()),
                (HEADER_KEY, self._key.id.encode()),
            )
            if len(plain) > self._settings.max_item_bytes or not self._take(len(plain)):
                continue
            sealed = self._key.seal(plain, _about(headers))
            outputs.append(Output(topic=TOPIC_QUARANTINE, value=sealed, headers=headers))
            kept += len(chunk)
        return outputs, kept

    def _take(self, size: int) -> bool:
        most = float(self._settings.max_bytes_per_hour)
        with self._lock:
            now = self._clock()
            self._left = min(most, self._left + (now - self._refilled) * most / _HOUR_S)
            self._refilled = now
            if self._left < size:
                return False
            self._left -= size
            return True


def unseal(value: bytes, headers: Headers, key: PrivateKey) -> TracesData | LogsData:
    """Return what an item of the topic ``quarantine`` holds.

    Raises
    ------
    Permanent
        ``not_ours``: it is sealed for another key, or was changed.
    """
    known = dict(headers)
    try:
        plain = zstandard.ZstdDecompressor().decompress(
            key.open(value, _about(headers)), max_output_size=_MOST_PLAIN_BYTES
        )
        if known.get(HEADER_SIGNAL) == b"logs":
            return LogsData.FromString(plain)
        return TracesData.FromString(plain)
    except zstandard.ZstdError as error:
        raise Permanent("not_ours", "its content cannot be read") from error


def _about(headers: Headers) -> bytes:
    return b"\n".join((_VERSION, *(name.encode() + b"=" + value for name, value in headers)))
