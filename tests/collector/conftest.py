"""Receivers that end with the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from receiving import Start, starting


@pytest.fixture
def start() -> Iterator[Start]:
    """Start receivers with the given settings; they are stopped at the end of the test."""
    with starting() as begin:
        yield begin
