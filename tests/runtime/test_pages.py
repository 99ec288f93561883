"""Recorded verdicts and scores are read in pages that fit the query endpoint's limits, however large their rows are."""

from __future__ import annotations

import base64
import re
from typing import Any

import msgspec
import pytest

from driftgate.recorded_verdicts import all_in_store
from driftgate.score_sources import StoredScores
from stream.errors import DriftgateError
from stream.records import Verdict


class Narrow:
    """A store of 50 verdicts and 50 records of scores whose answers hold at most ``fits`` rows."""

    def __init__(self, fits: int) -> None:
        self._fits = fits
        self.asked: list[int] = []

    def rows(self, sql: str) -> list[dict[str, Any]]:
        if "GROUP BY partition" in sql:
            return [{"partition": 0, "first": 0}]
        limit = int(sql.rpartition(" ")[2])
        self.asked.append(limit)
        found = self._scores(sql) if "score_log" in sql else self._verdicts(sql)
        if len(found[:limit]) > self._fits:
            raise DriftgateError("Code: 396. Limit for result exceeded. (TOO_MANY_ROWS_OR_BYTES)")
        return found[:limit]

    def _scores(self, sql: str) -> list[dict[str, Any]]:
        (after,) = re.findall(r"offset > toInt64\((-?\d+)\)", sql)
        raw = base64.b64encode(b"{}").decode()
        return [
            {"offset": str(number), "at": "1", "timed": 1, "bytes": raw}
            for number in range(int(after) + 1, 50)
        ]

    def _verdicts(self, sql: str) -> list[dict[str, Any]]:
        (after,) = re.findall(r"toInt64\((\d+)\)", sql)
        return [{"bytes": _verdict(number), "at": "1"} for number in range(int(after) + 1, 51)]


def _verdict(number: int) -> str:
    one = Verdict(
        verdict_id=f"{number:032x}", kind="canary", time_unix_nano=number, rollout="r", rubric="q", state="ok"
    )
    return base64.b64encode(msgspec.json.encode(one)).decode()


@pytest.mark.parametrize("fits", [1, 10, 25, 50, 1000])
def test_everything_is_read_whatever_fits(fits: int) -> None:
    assert [one.verdict.time_unix_nano for one in all_in_store(Narrow(fits))] == list(range(1, 51))
    store = Narrow(fits)
    assert [record.offset for record in StoredScores(store).records()] == list(range(50))
    assert len(store.asked) < 70  # what did not fit is not tried again for every page


def test_a_row_that_does_not_fit_is_told_and_not_tried_for_ever() -> None:
    with pytest.raises(DriftgateError, match="TOO_MANY_ROWS_OR_BYTES"):
        list(all_in_store(Narrow(0)))
