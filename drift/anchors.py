"""Has the judge changed? Labelled examples (anchors) that it scores again and again say so.

The application has no part in an anchor, so what moves there is the judge. Each anchor is compared with what the same judge
gave it before, which leaves only the judge's own noise; people's labels say how far it is from them.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from drift.change_detector import ChangeDetector
from drift.settings import AnchorSettings, nanos
from stream.records import JudgeEvidence

_MAX_ANCHORS = 2000  # anchors with a baseline of their own
_RECENT = 300  # anchor scores kept to estimate the present shift
_FEW = 20  # the least number of them an estimate is made from
_ROOM = (
    100.0  # evidence is held at so many thresholds, so that it can fall again when the judge is itself again
)
_ONE_SIDED_95 = 1.645


class JudgeMonitor(msgspec.Struct):
    """One judge on one rubric.

    From the first ``learn`` anchor scores each anchor's own mean is taken (the mean of all where one is new). Then, with
    x = (1 + score − expected)/2, one :class:`ChangeDetector` looks for E[x] < 1/2 − tolerance/2 (stricter) and one for
    E[1 − x] < 1/2 − tolerance/2 (more lenient). The tolerance is the margin, or half of it plus the one-sided 95 % error
    of the learned mean where that is more.

    References
    ----------
    Li, Who Drifted: the System or the Judge? arXiv:2606.15474: a second betting e-process on anchors.
    """

    sums: dict[str, tuple[int, float]] = {}  # anchor -> number and sum of the learned scores
    learned: int = 0
    total: float = 0.0  # of score minus label, while learning
    squares: float = 0.0
    ready: bool = False
    tolerance: float = 0.0
    anchors: int = 0  # since it is ready
    lower: ChangeDetector = msgspec.field(default_factory=ChangeDetector)
    higher: ChangeDetector = msgspec.field(default_factory=ChangeDetector)
    recent: list[tuple[int, float, float]] = []  # time, score minus expected, score minus label
    state: str = "warming_up"
    last: int = 0

    def take(self, anchor: str, time_ns: int, score: float, label: float, settings: AnchorSettings) -> None:
        """Take one anchor score; both values in [0, 1]."""
        self.last = max(self.last, time_ns)
        if not self.ready:
            self._learn(anchor, score, label, settings)
            return
        self.anchors += 1
        number, total = self.sums.get(anchor, (0, 0.0))
        expected = total / number if number else label + self.total / self.learned
        change = min(1.0, max(-1.0, score - expected))
        x, least = np.array([0.5 + change / 2]), np.array([0.5 - self.tolerance / 2])
        one = np.ones(1)
        for detector, value in ((self.lower, x), (self.higher, 1.0 - x)):
            detector.update(value, least, one)
            detector.hold(_ROOM * settings.threshold)
        self.recent = [*self.recent[1 - _RECENT :], (time_ns, change, score - label)]

    def _learn(self, anchor: str, score: float, label: float, settings: AnchorSettings) -> None:
        if anchor in self.sums or len(self.sums) < _MAX_ANCHORS:
            number, total = self.sums.get(anchor, (0, 0.0))
            self.sums[anchor] = (number + 1, total + score)
        self.learned += 1
        self.total += score - label
        self.squares += (score - label) ** 2
        if self.learned >= settings.learn:
            mean = self.total / self.learned
            variance = max(0.0, self.squares / self.learned - mean * mean)
            error = math.sqrt(variance / self.learned)
            self.tolerance = max(settings.margin, 0.5 * settings.margin + _ONE_SIDED_95 * error)
            self.ready = True

    def changed(self, settings: AnchorSettings) -> bool:
        """Whether the evidence for a change, in either direction, is at its threshold now."""
        return self.ready and max(self.lower.value, self.higher.value) >= settings.threshold

    def evidence(self, now: int, settings: AnchorSettings, seconds: float | None = None) -> JudgeEvidence:
        """Return what it knows at ``now``; the shift over ``seconds`` (default: ``settings.window``)."""
        window = settings.window if seconds is None else seconds
        late = [item for item in self.recent if item[0] > now - nanos(window)]
        if len(late) < _FEW:
            late = self.recent[-_FEW:]
        shift = error = bias = None
        if len(late) >= _FEW:
            changes = np.array([change for _, change, _ in late])
            shift, bias = float(changes.mean()), float(np.mean([far for _, _, far in late]))
            error = float(changes.std(ddof=1)) / math.sqrt(len(late))
        return JudgeEvidence(
            anchors=self.anchors,
            lower_value=self.lower.value,
            higher_value=self.higher.value,
            threshold=settings.threshold,
            shift=shift,
            shift_error=error,
            bias=bias,
            seconds=round(window),
        )
