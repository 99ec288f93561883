"""Anchors: examples with people's labels that judges score again and again, so that a changed judge shows.

A file of JSON lines, each ``{"id": "a1", "interaction": {...}, "labels": {"groundedness": 0.75}}``; the interaction has the
fields of :class:`stream.interaction.Interaction`, a label lies in [0, 1]. After every ``1/rate`` scores that a judge gave
to traces of the uniform lane it scores the next anchor that has a label for its rubric, past its cache. Anchors take turns
in an order that is another one in every round, made from hashes.

The scores are marked (``anchor``, ``reference``), belong to no cohort and have no probability, so nothing takes them for
the application's. They go to the partition of the score they follow, so that a judge is watched wherever its scores are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from scorers.api import Answer
from scorers.panel import Ticket, record
from scorers.registry import Entry
from stream.errors import ConfigError
from stream.interaction import Interaction
from stream.records import ScoreRecord, stable_id

POLICY = "anchor"
_MAX_LINE = 4 << 20
_MAX_ANCHORS = 10_000
_ROUNDING = 1e-9  # ten times .1 is a little less than 1


class Anchor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One labelled example."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    interaction: Interaction
    labels: dict[str, Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]]


class Turn(msgspec.Struct):
    """How far a rubric has come: anchors owed, and anchors scored so far."""

    owed: float = 0.0
    done: int = 0


class Due(msgspec.Struct, frozen=True):
    """One anchor to score now, after the score ``after`` of ``ticket``."""

    entry: Entry
    anchor: Anchor
    ticket: Ticket
    after: ScoreRecord
    number: int


class Anchors:
    """The anchors of each judged rubric, and whose turn it is.

    Raises
    ------
    ConfigError
        The file cannot be read, a line is no anchor, an id occurs twice, or no configured judge has a label in it.
    """

    def __init__(self, path: Path, rate: float, entries: Sequence[Entry]) -> None:
        self._rate = rate
        anchors = load(path)
        self._entries = {entry.rubric: entry for entry in entries if entry.evaluator.kind == "judge"}
        self._by_rubric = {
            rubric: found
            for rubric in self._entries
            if (found := [anchor for anchor in anchors if rubric in anchor.labels])
        }
        if not self._by_rubric:
            raise ConfigError(
                f"scorers.anchors: {path.name} has no label for any judged rubric "
                f"({', '.join(sorted(self._entries)) or 'none is configured'})"
            )
        self._orders: dict[str, tuple[int, list[int]]] = {}

    def due(
        self, scored: Sequence[tuple[Ticket, ScoreRecord]], partition: int, turns: dict[str, Turn]
    ) -> list[Due]:
        """Return the anchors to score after ``scored``, all of one partition; ``turns`` moves on."""
        out: list[Due] = []
        for ticket, given in scored:
            if given.status != "scored" or given.lane != "uniform" or given.rubric not in self._by_rubric:
                continue
            turn = turns.setdefault(given.rubric, Turn())
            turn.owed += self._rate
            number = 0
            while turn.owed >= 1.0 - _ROUNDING:
                turn.owed -= 1.0
                anchor = self._next(given.rubric, partition, turn.done)
                out.append(Due(self._entries[given.rubric], anchor, ticket, given, number))
                turn.done += 1
                number += 1
        return out

    def _next(self, rubric: str, partition: int, done: int) -> Anchor:
        anchors = self._by_rubric[rubric]
        around, place = divmod(done, len(anchors))
        name = f"{rubric}/{partition}"
        known = self._orders.get(name)
        if known is None or known[0] != around:
            # Another order in every round: a file sorted by label would make stretches of easy and of hard ones.
            order = sorted(range(len(anchors)), key=lambda one: stable_id(name, str(around), anchors[one].id))
            known = self._orders[name] = (around, order)
        return anchors[known[1][place]]


def anchor_record(due: Due, answer: Answer) -> ScoreRecord:
    """Return the score record of one anchor."""
    anchor = due.anchor
    made = record(anchor.interaction, due.ticket, due.entry.rubric, due.after.evaluator, answer)
    return msgspec.structs.replace(
        made,
        score_id=stable_id("anchor", due.after.score_id, anchor.id, str(due.number)),
        tenant=due.after.tenant,
        trace_id="",
        span_id="",
        unit_id=f"anchor-{anchor.id}",
        lane="triage",
        policy=POLICY,
        probability=None,
        cohort={},
        anchor=anchor.id,
        reference=anchor.labels[due.entry.rubric],
    )


def load(path: Path) -> list[Anchor]:
    """Return the anchors in ``path``; see :class:`Anchors` for errors."""
    decoder = msgspec.json.Decoder(Anchor)
    found: dict[str, Anchor] = {}
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                if len(line) > _MAX_LINE or len(found) >= _MAX_ANCHORS:
                    raise ConfigError(
                        f"scorers.anchors: {path.name}, line {number}: at most {_MAX_ANCHORS} anchors of "
                        f"{_MAX_LINE} bytes"
                    )
                try:
                    anchor = decoder.decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    # msgspec names the field that does not fit, never its value.
                    raise ConfigError(f"scorers.anchors: {path.name}, line {number}: {error}") from error
                if anchor.id in found:
                    raise ConfigError(f"scorers.anchors: {path.name}, line {number}: the id occurs twice")
                found[anchor.id] = anchor
    except OSError as error:
        raise ConfigError(f"scorers.anchors: {path} cannot be read: {error.strerror}") from error
    if not found:
        raise ConfigError(f"scorers.anchors: {path.name} holds no anchor")
    return list(found.values())
