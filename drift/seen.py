"""Remembers the ids of scores, so that a redelivered one is applied once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from drift.observations import Ints

_CHUNK = 1024
_PREFIX = "seen/"


def id_hash(*parts: str) -> int:
    """Return a 64-bit hash of text parts (BLAKE2b over their lengths and UTF-8)."""
    return id_hashes(["".join(map(framed, parts))])[0]


def id_hashes(texts: Iterable[str]) -> list[int]:
    """Return the hash of each text; :func:`id_hash` of parts is that of their :func:`framed` texts one after another."""
    empty = hashlib.blake2b(digest_size=8)
    digests = []
    for text in texts:
        digest = empty.copy()
        digest.update(text.encode("utf-8", "surrogatepass"))
        digests.append(digest.digest())
    hashes: list[int] = np.frombuffer(b"".join(digests), dtype=">u8").tolist()
    return hashes


def framed(part: str) -> str:
    """Return ``part`` with its length in front."""
    return f"{len(part)}:{part}"


class _Bucket:
    """Ids of one stretch of event time, and their order."""

    __slots__ = ("ids", "order")

    def __init__(self) -> None:
        self.ids: set[int] = set()
        self.order: list[int] = []


class SeenIds:
    """Ids by bucket of event time.

    A redelivered score has the time it had before, and a score older than the clock's horizon is late whatever its id:
    so ids need to be remembered only until the horizon has passed their bucket. Saved in chunks of 1,024 ids, so that a
    batch rewrites at most one chunk per bucket beside the ones it fills.
    """

    def __init__(self, step: int) -> None:
        self._step = step
        self._buckets: dict[int, _Bucket] = {}
        self._saved: dict[int, int] = {}  # bucket -> ids already in the saved state
        self._dropped: list[tuple[int, int]] = []  # bucket, number of its saved ids

    def add(self, time_ns: int, key: int) -> bool:
        """Remember ``key``; return False if it was there already."""
        bucket = self._bucket(time_ns // self._step)
        if key in bucket.ids:
            return False
        bucket.ids.add(key)
        bucket.order.append(key)
        return True

    def add_all(self, times: Ints, keys: Sequence[int]) -> list[int]:
        """Remember ``keys`` with their event times (Unix nanoseconds, shape (n,)); return the rows that were there already."""
        indices = times // self._step
        present = np.unique(indices).tolist()
        if len(present) == 1:
            bucket = self._bucket(present[0])
            before = len(bucket.ids)
            if bucket.ids.isdisjoint(keys):
                bucket.ids.update(keys)
                if len(bucket.ids) == before + len(keys):
                    bucket.order += keys
                    return []
                bucket.ids.difference_update(keys)  # one of them comes twice
        return [
            row
            for row, (time, key) in enumerate(zip(times.tolist(), keys, strict=True))
            if not self.add(time, key)
        ]

    def _bucket(self, index: int) -> _Bucket:
        bucket = self._buckets.get(index)
        if bucket is None:
            bucket = self._buckets[index] = _Bucket()
        return bucket

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
            saved, count = self._saved.get(index, 0), len(bucket.order)
            if count == saved:
                continue
            # Only from the chunk on that is not full: the cost of a batch must not grow with what a bucket holds.
            start = saved // _CHUNK * _CHUNK
            keys = np.array(bucket.order[start:], dtype=np.uint64)
            for place in range(start, count, _CHUNK):
                part = keys[place - start : place - start + _CHUNK]
                out[f"{_PREFIX}{index}/{place // _CHUNK}"] = part.tobytes()
            self._saved[index] = count
        return out

    def restore(self, state: Mapping[str, bytes]) -> None:
        """Take over saved state."""
        # In the order they were filled: the last chunk of a bucket is the one still being written.
        places = sorted(
            (int(index), int(chunk))
            for index, chunk in (key[len(_PREFIX) :].split("/") for key in state if key.startswith(_PREFIX))
        )
        for index, chunk in places:
            bucket = self._bucket(index)
            ids = np.frombuffer(state[f"{_PREFIX}{index}/{chunk}"], dtype=np.uint64).tolist()
            bucket.ids.update(ids)
            bucket.order += ids
            self._saved[index] = len(bucket.order)
