"""Remembers the ids of scores, so that a redelivered one is applied once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

_CHUNK = 1024
_PREFIX = "seen/"


def id_hash(*parts: str) -> int:
    """Return a 64-bit hash of text parts (BLAKE2b over their lengths and UTF-8)."""
    text = "".join([f"{len(part)}:{part}" for part in parts])
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


class SeenIds:
    """Ids by bucket of event time.

    A redelivered score has the time it had before, and a score older than the clock's horizon is late whatever its id:
    so ids need to be remembered only until the horizon has passed their bucket. Saved in chunks of 1,024 ids, so that a
    batch rewrites at most one chunk per bucket beside the ones it fills.
    """

    def __init__(self, step: int) -> None:
        self._step = step
        self._buckets: dict[int, dict[int, None]] = {}
        self._saved: dict[int, int] = {}  # bucket -> ids already in the saved state
        self._dropped: list[tuple[int, int]] = []  # bucket, number of its saved ids

    def add(self, time_ns: int, key: int) -> bool:
        """Remember ``key``; return False if it was there already."""
        bucket = self._buckets.setdefault(time_ns // self._step, {})
        if key in bucket:
            return False
        bucket[key] = None
        return True

    def forget_before(self, horizon: int) -> None:
        """Drop the buckets that end at or before ``horizon``."""
        for index in [index for index in self._buckets if (index + 1) * self._step <= horizon]:
            del self._buckets[index]
            if saved := self._saved.pop(index, 0):
                self._dropped.append((index, saved))

    def save(self) -> dict[str, bytes | None]:
        """Return the state that changed since the last call."""
        out: dict[str, bytes | None] = {}
        for index, count in self._dropped:
            for chunk in range((count - 1) // _CHUNK + 1):
                out[f"{_PREFIX}{index}/{chunk}"] = None
        self._dropped.clear()
        for index, bucket in self._buckets.items():
            saved = self._saved.get(index, 0)
            if len(bucket) == saved:
                continue
            keys = np.fromiter(bucket, dtype=np.uint64, count=len(bucket))
            for chunk in range(saved // _CHUNK, (len(bucket) - 1) // _CHUNK + 1):
                part = keys[chunk * _CHUNK : (chunk + 1) * _CHUNK]
                out[f"{_PREFIX}{index}/{chunk}"] = part.tobytes()
            self._saved[index] = len(bucket)
        return out

    def restore(self, state: Mapping[str, bytes]) -> None:
        """Take over saved state."""
        # In the order they were filled: the last chunk of a bucket is the one still being written.
        places = sorted(
            (int(index), int(chunk))
            for index, chunk in (key[len(_PREFIX) :].split("/") for key in state if key.startswith(_PREFIX))
        )
        for index, chunk in places:
            bucket = self._buckets.setdefault(index, {})
            ids = np.frombuffer(state[f"{_PREFIX}{index}/{chunk}"], dtype=np.uint64)
            bucket.update(dict.fromkeys(ids.tolist()))
            self._saved[index] = len(bucket)
