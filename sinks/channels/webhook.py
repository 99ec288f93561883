"""A signed webhook, as Standard Webhooks 1.0.0 describes (github.com/standard-webhooks, spec/standard-webhooks.md).

``webhook-id`` is the same for every try of a message and is what a receiver deduplicates by; ``webhook-timestamp`` is the
time of the try; ``webhook-signature`` holds one ``v1`` HMAC-SHA256 per configured secret, so that secrets can be rotated.
The payload is ``{"type", "timestamp", "data"}`` and stays below 20 KB.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from sinks.alerts_settings import WebhookSettings
from sinks.channels.channel import Channel, Notice, Request
from stream.errors import ConfigError

_LARGEST = 20_000
_PREFIX = "whsec_"
_TYPES = {
    "trigger": "incident.firing",
    "update": "incident.updated",
    "repeat": "incident.repeated",
    "acknowledge": "incident.acknowledged",
    "resolve": "incident.resolved",
}


class WebhookChannel(Channel):
    """See the module."""

    name = "webhook"
    settings: WebhookSettings

    def check(self) -> None:
        """See :meth:`Channel.check`."""
        for secret in self.settings.secrets:
            try:
                signing_key(secret.reveal())
            except ValueError as error:
                raise ConfigError(f"{secret.reference} of channel {self.settings.name!r}: {error}") from error

    def build(self, notice: Notice, now_ns: int) -> Request | None:
        """See :meth:`Channel.build`."""
        message_id = f"msg_{notice.message_id}"
        timestamp = now_ns // 1_000_000_000
        body = encode(notice)
        keys = [signing_key(secret.reveal()) for secret in self.settings.secrets]
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(keys, message_id, timestamp, body),
        }
        return Request(self.settings.url, body, headers)


def signing_key(secret: str) -> bytes:
    """Return the key in a ``whsec_`` secret; raises ``ValueError`` if it has not 24 to 64 bytes."""
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("a signing secret is whsec_ and base64") from error
    if not 24 <= len(key) <= 64:
        raise ValueError(f"a signing secret has 24 to 64 bytes, this one has {len(key)}")
    return key


def sign(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """Return the ``webhook-signature`` header: one signature per key over ``id.timestamp.body``."""
    content = f"{message_id}.{timestamp}.".encode() + body
    return " ".join(
        "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode() for key in keys
    )


def encode(notice: Notice) -> bytes:
    """Return the payload; findings are left out from the end until it fits."""
    moment = datetime.fromtimestamp(notice.at / 1e9, UTC).isoformat().replace("+00:00", "Z")
    data = msgspec.to_builtins(notice)
    data["findings_left_out"] = 0
    while True:
        body = msgspec.json.encode(
            {"type": _TYPES.get(notice.event, "incident.updated"), "timestamp": moment, "data": data}
        )
        if len(body) < _LARGEST or not data["conditions"]:
            return body
        data["conditions"].pop()
        data["findings_left_out"] += 1
