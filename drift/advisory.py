"""Second opinions without a baseline: has the distribution of scores moved? They advise and never raise an alarm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

AdvisoryName = Literal["adwin", "page_hinkley"]

_DIFFERENCE, _LAMBDA = 0.005, 20.0
"""Page-Hinkley's settings for scores in [0, 1]: river's 50 needs hundreds of units for a drop of .2."""


class Advisory(msgspec.Struct):
    """River's ADWIN (defaults) and Page-Hinkley (mean down, lambda 20), with a state that can be saved.

    Their error rates are not controlled, and sampling weights are not taken into account. A single NaN would blind both for
    ever, so values that are not finite are left out.

    The state is held as values and put into fresh detectors per call: nothing that a crash could lose lives in river.
    """

    adwin: bytes = b""
    page_hinkley: tuple[float, float, float, float] | None = None  # n, mean, sum, its minimum or maximum
    moved: dict[AdvisoryName, int] = {}  # event time of the last detection, Unix nanoseconds

    def update(self, names: Sequence[AdvisoryName], items: Iterable[tuple[int, float]]) -> None:
        """Give (time, value) pairs, in order, to the detectors called ``names``."""
        finite = [(time, value) for time, value in items if math.isfinite(value)]
        if "adwin" in names:
            self._adwin(finite)
        if "page_hinkley" in names:
            self._page_hinkley(finite)

    def _adwin(self, items: Iterable[tuple[int, float]]) -> None:
        from river.drift import ADWIN

        detector: Any = ADWIN()  # type: ignore[no-untyped-call]
        if self.adwin:
            detector._helper.__setstate__(self.adwin)
        for time, value in items:
            detector.update(value)
            if detector.drift_detected:
                self.moved["adwin"] = time
        self.adwin = bytes(detector._helper.__getstate__())

    def _page_hinkley(self, items: Iterable[tuple[int, float]]) -> None:
        from river.drift import PageHinkley
        from river.stats import Mean

        detector: Any = PageHinkley(delta=_DIFFERENCE, threshold=_LAMBDA, mode="down")
        if self.page_hinkley is not None:
            n, mean, detector._sum_decrease, detector._max_decrease = self.page_hinkley
            detector._x_mean = Mean._from_state(n, mean)
        for time, value in items:
            detector.update(value)
            if detector.drift_detected:
                self.moved["page_hinkley"] = time
                detector._reset()
        self.page_hinkley = (
            float(detector._x_mean.n),
            float(detector._x_mean.get()),
            float(detector._sum_decrease),
            float(detector._max_decrease),
        )

    def text(self, since: int) -> str:
        """Return a clause about detections at or after ``since``, or nothing."""
        recent = sorted(name for name, time in self.moved.items() if time >= since)
        return f"; {' and '.join(recent)}: the scores moved within a day (advice only)" if recent else ""
