"""Put the story of a verdict together from what was recorded and what a replay shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from driftgate.config import Config
from driftgate.recorded_verdicts import Recorded, one
from driftgate.replaying import Archive, recorded_in, report
from driftgate.score_sources import ScoreSource
from driftgate.verdict_story import Reader, Story, same_stream
from stream.errors import DriftgateError, StartError
from stream.records import Verdict


def tell(
    config: Config,
    archive: Archive,
    source_of: Callable[[int | None], ScoreSource],
    verdict_id: str,
    expect: Path | None,
    say: Callable[[str], None],
) -> Story:
    """Return the story of the verdict whose id begins with ``verdict_id``.

    Raises
    ------
    DriftgateError
        There is no such verdict.
    """
    recorded = _recorded(archive, verdict_id, expect)
    verdict = recorded.verdict
    reader = Reader(verdict, config.drift)
    try:
        source = source_of(recorded.log_time or None)
        replayed = reader.read(source.records())
    except (StartError, DriftgateError) as error:
        say(f"The input cannot be read again: {error}")
        reader.story.history = _recorded_history(archive, verdict_id, expect, recorded)
        return reader.story
    story = reader.story
    story.source = source.name
    story.differences = report(recorded, replayed, config)
    if replayed is None:
        # What the replay did come to belongs to another course of events.
        story.history = _recorded_history(archive, verdict_id, expect, recorded)
        story.arms, story.left, story.scores = {}, {}, 0
    return story


def _recorded(archive: Archive, verdict_id: str, expect: Path | None) -> Recorded:
    if expect is None:
        return archive.verdict(verdict_id)
    found = one(recorded_in(expect), verdict_id)
    if found is None:
        raise DriftgateError(f"no verdict {verdict_id} in {expect}")
    return found


def _recorded_history(
    archive: Archive, verdict_id: str, expect: Path | None, recorded: Recorded
) -> list[Verdict]:
    verdict = recorded.verdict
    items = archive.verdicts() if expect is None else iter(recorded_in(expect))
    history = {
        item.verdict.verdict_id: item.verdict
        for item in items
        if same_stream(item.verdict, verdict) and item.verdict.time_unix_nano <= verdict.time_unix_nano
    }
    return sorted(history.values(), key=lambda one: one.time_unix_nano)
