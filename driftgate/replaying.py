"""Reproduce verdicts of the past: find what was recorded, choose where its input can be read, and run it again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Literal

import msgspec

from drift.partition import settings_id
from drift.replay import Replay, Replayed, differences
from driftgate.config import Config
from driftgate.recorded_verdicts import Recorded, all_in_store, checked_id, in_log, in_store, one
from driftgate.score_sources import ScoreSource, StoredScores, cut_off, file_scores, log_scores
from driftgate.store_access import StoreReader, store_reader
from stream.errors import DriftgateError, StartError

Origin = Literal["auto", "log", "store"]
Say = Callable[[str], None]


class Archive:
    """The log and the store of one configuration, opened when first needed; used as a context manager.

    ``say`` takes remarks for the person who waits.
    """

    def __init__(self, config: Config, origin: Origin, say: Say) -> None:
        self._config = config
        self._origin = origin
        self._say = say
        self._stack = ExitStack()
        self._store: StoreReader | None = None

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def store(self) -> StoreReader:
        """The store; raises :class:`stream.errors.StartError` where there is none."""
        if self._store is None:
            self._store = self._stack.enter_context(store_reader(self._config))
        return self._store

    def verdict(self, verdict_id: str) -> Recorded:
        """Return the recorded verdict whose id begins with ``verdict_id``.

        Raises
        ------
        DriftgateError
            There is none, or there are several.
        """
        verdict_id = checked_id(verdict_id)
        troubles = []
        for name, found in self._verdicts(
            lambda store: in_store(store, f"startsWith(verdict_id, '{verdict_id}')")
        ):
            try:
                matching = [item for item in found() if verdict_id.encode() in item.raw]
            except StartError as error:
                troubles.append(f"{name}: {error}")
                continue
            if (item := one(matching, verdict_id)) is not None:
                return item
            troubles.append(f"{name}: it is not there")
        raise DriftgateError(f"no verdict {verdict_id}; " + "; ".join(troubles))

    def verdicts(self) -> Iterator[Recorded]:
        """Yield all recorded verdicts of the first place that has any."""
        for _, found in self._verdicts(all_in_store):
            try:
                items = iter(found())
                first = next(items, None)
            except StartError:
                continue
            if first is not None:
                yield first
                yield from items
                return

    def _verdicts(
        self, ask: Callable[[StoreReader], Iterator[Recorded] | list[Recorded]]
    ) -> Iterator[tuple[str, Callable[[], Iterator[Recorded] | list[Recorded]]]]:
        if self._origin != "log":
            yield "store", lambda: ask(self.store)
        if self._origin != "store":
            yield "log", lambda: in_log(self._config)

    def scores(self, before: int | None) -> ScoreSource:
        """Return where the scores are read: the log where it is whole, else whichever reaches further back.

        ``before`` is when the verdict was written, Unix nanoseconds.
        """
        if self._origin == "store":
            return self._checked(StoredScores(self.store, before), "Retention has removed them.")
        log = log_scores(self._config)
        try:
            firsts = log.firsts()
        except StartError:
            if self._origin == "log":
                raise
            return self._checked(StoredScores(self.store, before), "Retention has removed them.")
        missing = cut_off(firsts)
        if firsts and not missing:
            return log
        what = (
            "holds no scores"
            if not firsts
            else f"has lost its beginning (it starts with offsets {_list(missing)})"
        )
        if self._origin == "log":
            self._say(f"The log {what}; what the store keeps is read with --from store.")
            return log
        self._say(f"The log {what}; reading the store instead.")
        try:
            stored = StoredScores(self.store, before)
            reaches = stored.firsts()
        except StartError as error:
            self._say(f"There is no store either: {error}")
            return log
        if sum(reaches.get(number, first) for number, first in firsts.items()) >= sum(missing.values()) > 0:
            self._say("The store reaches back no further than the log, which is read after all.")
            return log
        return self._checked(stored, "Retention has removed them.")

    def _checked(self, source: StoredScores, why: str) -> StoredScores:
        firsts = source.firsts()
        if not firsts:
            raise DriftgateError("the store holds no records of the scores topic (table score_log)")
        if missing := cut_off(firsts):
            self._say(
                f"The store begins with offsets {_list(missing)}: earlier records are missing. {why} Verdicts that rest "
                "on them cannot be reproduced."
            )
        return source


def _list(missing: dict[int, int]) -> str:
    return ", ".join(f"{first} of partition {number}" for number, first in sorted(missing.items()))


def recorded_in(path: Path) -> list[Recorded]:
    """Return the verdicts of a JSONL file.

    Raises
    ------
    StartError
        A line is none.
    """
    found = []
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            found.append(Recorded(line.strip(), 0))
            try:
                _ = found[-1].verdict
            except (msgspec.DecodeError, msgspec.ValidationError) as error:
                raise StartError(
                    f"{path}: line {number} is no verdict; write the file with `driftgate verdicts --all --json`"
                ) from error
    return found


def until(replay: Replay, source: ScoreSource, verdict_id: str) -> Replayed | None:
    """Replay ``source`` until the verdict comes; ``None`` if it never does."""
    for found in replay.records(source.records()):
        if found.verdict.verdict_id == verdict_id:
            return found
    return None


def report(recorded: Recorded, replayed: Replayed | None, config: Config) -> list[str]:
    """Return what differs, one line each; nothing where the verdict was reproduced to the byte."""
    if replayed is None:
        found = ["the replay does not come to this verdict"]
    else:
        found = differences(recorded.raw, replayed.raw)
    ours = settings_id(config.drift)
    theirs = recorded.verdict.settings
    if found and (earlier := recorded.verdict.evidence.earlier_settings):
        found.append(
            f"the settings were changed while its gate ran ({', '.join([*earlier, theirs])}): its evidence rests on all of "
            "them, and no single configuration reproduces it; verdicts from before a change are reproduced with the "
            "configuration of then"
        )
    if found and theirs and ours != theirs:
        found.append(
            f"the verdict was made with other drift settings ({theirs}) than this configuration has ({ours}), or by a version "
            "to which they meant something else"
        )
    return found


class Comparison(msgspec.Struct):
    """All recorded verdicts against all replayed ones."""

    same: int = 0
    different: list[str] = []  # ids
    missing: list[str] = []  # recorded, but not replayed
    extra: int = (
        0  # replayed, but not recorded: the record has been removed, or the stage had not come so far
    )


def compare_all(recorded: Iterator[Recorded], replayed: Iterator[Replayed]) -> Comparison:
    """Compare by id and bytes; of each verdict only a hash is kept."""
    known = {item.verdict.verdict_id: _hash(item.raw) for item in recorded}
    found = Comparison()
    for item in replayed:
        expected = known.pop(item.verdict.verdict_id, None)
        if expected is None:
            found.extra += 1
        elif expected == _hash(item.raw):
            found.same += 1
        else:
            found.different.append(item.verdict.verdict_id)
    found.missing = sorted(known)
    return found


def _hash(raw: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=16).digest()


@contextmanager
def opened(
    config: Config, origin: Origin, path: Path | None, standard_input: IO[bytes], say: Say
) -> Iterator[tuple[Archive, Callable[[int | None], ScoreSource]]]:
    """Give the archive, and a function that returns the scores to replay: those of ``path``, if one is given."""
    with Archive(config, origin, say) as archive:
        if path is None:
            yield archive, archive.scores
        else:
            source = file_scores(path, standard_input)
            yield archive, lambda before: source
