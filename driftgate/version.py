"""The version of the installed package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """Return the version, ``"0"`` when driftgate runs from a folder that was never installed."""
    try:
        return version("driftgate")
    except PackageNotFoundError:
        return "0"
