"""What holds for all tests: in CI a skipped test is a failed one, and no property test is failed by a slow machine."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest
from hypothesis import settings

# Built on the profile that hypothesis has chosen by then, its own one for CI where CI is set. The default deadline of 200 ms
# fails an example that happened to run beside something else.
settings.register_profile("driftgate", parent=settings(), deadline=None)
settings.load_profile("driftgate")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where CI is set; elsewhere ``-ra`` lists it."""
    report = yield
    if os.environ.get("CI") == "true" and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and in CI nothing may be: {report.longrepr}"
    return report
