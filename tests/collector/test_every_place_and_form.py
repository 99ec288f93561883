"""Each entity in every place of OTLP and every form: nothing leaks, and everything else is as it was sent.

``DRIFTGATE_PLANTED_CASES`` sets how many cases are drawn; nightly runs set a million or more, and
``DRIFTGATE_PLANTED_SEED`` to draw others.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from planted import DIGITS, FORMS, PLACES, Form, Place, Value, add, groups, request, values

from collector.ingest import Ingest

CASES = int(os.environ.get("DRIFTGATE_PLANTED_CASES", "110000"))
SEED = int(os.environ.get("DRIFTGATE_PLANTED_SEED", "5"))
_BATCH = 100


class Case(NamedTuple):
    """One value in one form in one place."""

    value: Value
    form: Form
    place: Place

    @property
    def text(self) -> str:
        return self.form.write(self.value.text)

    def __str__(self) -> str:
        return f"{self.value.entity} {self.value.text!r} as {self.form.name} in {self.place.name}"


def cases(found: list[Value], count: int) -> Iterator[Case]:
    """Each value in each form and each form in each place come first; then what is drawn, always the same."""
    r = random.Random(SEED)
    made = 0
    for form in FORMS:
        fitting = [value for value in found if not form.digits_only or value.entity in DIGITS]
        for value in fitting:
            yield Case(value, form, r.choice(PLACES))
            made += 1
        for place in PLACES:
            yield Case(r.choice(fitting), form, place)
            made += 1
    digits = [value for value in found if value.entity in DIGITS]
    while made < count:
        form = r.choice(FORMS)
        yield Case(r.choice(digits if form.digits_only else found), form, r.choice(PLACES))
        made += 1


def check(ingest: Ingest, signal: str, batch: list[Case]) -> list[str]:
    """Send ``batch`` as one request, check everything about the answer, and return the texts with their forms undone."""
    sent = request(signal)
    for number, case in enumerate(batch):
        case.place.put(add(sent, number), case.text)
    ingested = getattr(ingest, signal)(sent.SerializeToString())
    assert ingested.accepted == len(batch), ingested.message
    (output,) = ingested.outputs
    received = request(signal)
    received.ParseFromString(output.value)
    expected = request(signal)
    texts = []
    for number, (case, group) in enumerate(zip(batch, groups(received), strict=True)):
        text = case.place.get(group)
        inner = case.form.undo(text)
        texts.append(inner)
        assert case.value.core not in inner, f"leak: {case}: {text!r}"
        # Only what was redacted differs: the form around it and the rest of the text are as they were.
        if case.form.exact and (case.form.ends_secrets or "[SECRET]" not in inner):
            assert inner == case.value.clean, f"changed: {case}: {text!r}"
        case.place.put(add(expected, number), text)
    assert received == expected
    again = getattr(ingest, signal)(output.value)
    assert again.redactions == {}
    assert again.outputs[0].value == output.value
    return texts


@pytest.mark.timeout(7200)
def test_nothing_leaks_and_nothing_is_corrupted() -> None:
    ingest = Ingest()
    found = values(ingest.engine, drawn=1500)
    waiting: dict[str, list[Case]] = {"traces": [], "logs": []}
    count = 0
    for case in cases(found, CASES):
        batch = waiting[case.place.signal]
        batch.append(case)
        count += 1
        if len(batch) == _BATCH:
            check(ingest, case.place.signal, batch)
            batch.clear()
    for signal, batch in waiting.items():
        check(ingest, signal, batch)
    assert count >= CASES


def test_neighbours_do_not_hide_each_other() -> None:
    """Two values side by side, also of one kind and where one pattern reaches into the other: both are gone."""
    ingest = Ingest()
    found = values(ingest.engine, drawn=1500)
    r = random.Random(SEED + 1)
    separators = [" ", "  ", ", ", "; ", "\n", "\t", " | ", " and ", ","]
    for _ in range(max(50, CASES // 2000)):
        batch = []
        cores = []
        for _ in range(_BATCH):
            first, second = r.choice(found), r.choice(found)
            text = first.text + r.choice(separators) + second.text
            form = r.choice([form for form in FORMS if not form.digits_only])
            place = r.choice([place for place in PLACES if place.signal == "traces"])
            batch.append(Case(first._replace(text=text), form._replace(exact=False), place))
            cores.append(second.core)
        received = check(ingest, "traces", batch)
        for case, core, text in zip(batch, cores, received, strict=True):
            assert core not in text, f"leak of {core}: {case}: {text!r}"
