"""What the administration port answers about incidents in a process that has none."""

from __future__ import annotations

from typing import Any

from stream.errors import Permanent


class NoOperations:
    """Incidents, acknowledgements and gates belong to the alerter's process."""

    def incidents(self) -> list[dict[str, Any]]:
        """Return none."""
        return []

    def acknowledge(self, incident_id: str, who: str) -> None:
        """Refuse."""
        del incident_id, who
        raise _elsewhere()

    def approve(self, incident_id: str, who: str) -> None:
        """Refuse."""
        del incident_id, who
        raise _elsewhere()

    def gate(self, rollout: str) -> dict[str, Any]:
        """Refuse."""
        del rollout
        raise _elsewhere()


def _elsewhere() -> Permanent:
    return Permanent("unknown_here", "incidents and gates are served by `driftgate worker alerter`")
