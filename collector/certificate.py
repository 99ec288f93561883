"""The names in a client certificate that TLS has verified, as ``tenants[].certificates`` spells them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# gRPC's names of the properties of a verified peer.
_GRPC = {"x509_common_name": "CN", "peer_dns": "DNS", "peer_uri": "URI", "peer_email": "EMAIL"}
# Python's names of the kinds of alternative names.
_SSL = {"DNS": "DNS", "URI": "URI", "email": "EMAIL"}


def names_of_context(context: Mapping[str, Iterable[bytes]]) -> frozenset[str]:
    """Return the names in gRPC's authentication context; none without TLS or without a certificate."""
    return frozenset(
        f"{kind}={value.decode('utf-8', 'replace')}"
        for key, kind in _GRPC.items()
        for value in context.get(key, ())
    )


def names_of_peer(certificate: Mapping[str, Any] | None) -> frozenset[str]:
    """Return the names in what ``ssl`` tells about the peer's certificate."""
    if not certificate:
        return frozenset()
    found = {
        f"CN={value}" for part in certificate.get("subject", ()) for key, value in part if key == "commonName"
    }
    found |= {
        f"{_SSL[kind]}={value}" for kind, value in certificate.get("subjectAltName", ()) if kind in _SSL
    }
    return frozenset(found)
