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

    def incident(self, incident_id: str) -> dict[str, Any]:
        """Refuse."""
        del incident_id
        raise _elsewhere()

    def silence(self, incident_id: str, seconds: float, who: str, comment: str) -> None:
        """Refuse."""
        del incident_id, seconds, who, comment
        raise _elsewhere()

    def resolve(self, incident_id: str, who: str, comment: str) -> None:
        """Refuse."""
        del incident_id, who, comment
        raise _elsewhere()

    def kill_switch(self) -> dict[str, Any]:
        """Refuse."""
        raise _elsewhere()

    def set_kill_switch(self, on: bool, who: str) -> None:
        """Refuse."""
        del on, who
        raise _elsewhere()

    def given_up(self) -> list[dict[str, Any]]:
        """Return none."""
        return []

    def send_again(self, message_id: str) -> None:
        """Refuse."""
        del message_id
        raise _elsewhere()

    def gate(self, rollout: str) -> dict[str, Any]:
        """Refuse."""
        del rollout
        raise _elsewhere()


def _elsewhere() -> Permanent:
    return Permanent("unknown_here", "incidents and gates are served by `driftgate worker alerter`")
