"""An authority and certificates for tests, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


class Certificate(NamedTuple):
    """Files in PEM."""

    cert: Path
    key: Path


class Authority:
    """Signs certificates."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self.cert, self._key = folder / "ca.pem", folder / "ca.key"
        _openssl(
            "req",
            "-x509",
            *_KEY,
            "-days",
            "2",
            "-subj",
            "/CN=authority",
            "-keyout",
            self._key,
            "-out",
            self.cert,
        )

    def issue(self, common_name: str, alternatives: str = "") -> Certificate:
        """Return a certificate for ``common_name``; ``alternatives`` as openssl spells them (``DNS:a,URI:b``)."""
        number = len(list(self._folder.iterdir()))
        cert, key = self._folder / f"{number}.pem", self._folder / f"{number}.key"
        request, extension = self._folder / f"{number}.csr", self._folder / f"{number}.ext"
        extension.write_text(f"subjectAltName={alternatives}" if alternatives else "")
        _openssl("req", *_KEY, "-subj", f"/O=Test/CN={common_name}", "-keyout", key, "-out", request)
        sign = ("x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self._key, "-days", "2")
        _openssl(*sign, "-extfile", extension, "-out", cert)
        return Certificate(cert, key)


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
