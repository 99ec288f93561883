"""What tells the part of one partition from that of another, where something is kept by each of them."""

from __future__ import annotations


def part_of(partition: int) -> list[str]:
    """Return what the part of partition number ``partition`` adds to a name and an id; nothing for the first partition.

    So names and ids are plain where there is one partition only.
    """
    return [f"partition={partition}"] if partition else []
