"""Consistent probability sampling on the randomness of a trace id, as OpenTelemetry specifies it.

A trace has 56 bits of randomness R: the last seven bytes of its trace id, or ``ot=rv:`` of its trace state. A sampler
has a rejection threshold T and keeps the trace iff R >= T, that is with probability (2**56 - T) / 2**56. T travels as
``ot=th:`` so that whoever counts what was kept knows what one trace stands for. Samplers in a row agree on what they
keep, because R is the same for all of them; each may only raise T.

References
----------
OpenTelemetry specification, "TraceState: Probability Sampling" and "TraceState Handling"; W3C Trace Context §3.3.
"""

from __future__ import annotations

import math
import re

RANGE = 1 << 56
PRECISION = 4  # significant hex digits of a threshold we make; 4 keeps the ratio within 0.01 %

_DIGITS = 14
_TH = re.compile(r"[0-9a-f]{1,14}")
_RV = re.compile(r"[0-9a-f]{14}")
_MAX_VALUE = 256  # longest allowed value of the ot member
_MAX_MEMBERS = 32  # W3C limit


def threshold_of(ratio: float, precision: int = PRECISION) -> int:
    """Return the rejection threshold that keeps about ``ratio`` of all traces.

    Parameters
    ----------
    ratio
        In [0, 1]; below 2**-56 nothing is kept.
    precision
        Significant hex digits, 1..14; leading ``0`` or ``f`` digits do not count, so that the relative error stays
        small near 0 and 1.

    Examples
    --------
    >>> encode(threshold_of(0.01)), encode(threshold_of(0.1)), encode(threshold_of(1.0))
    ('fd70a', 'e666', '0')
    """
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"a sampling ratio lies in [0, 1], got {ratio!r}")
    if ratio == 1.0:
        return 0
    if ratio * RANGE < 1:
        return RANGE
    leading = -min(math.frexp(ratio)[1], math.frexp(1.0 - ratio)[1])
    digits = min(_DIGITS, precision + leading // 4)
    exact = RANGE - round(ratio * RANGE)
    step = 1 << 4 * (_DIGITS - digits)
    rounded = (exact + step // 2) // step * step
    return min(rounded, RANGE - 1)


def probability_of(threshold: int) -> float:
    """Return the probability with which a trace passes ``threshold``, in [0, 1]."""
    return (RANGE - threshold) / RANGE


def randomness(trace_id: bytes, rv: int | None) -> int:
    """Return R of a trace: ``rv`` if its trace state has one, else the low 56 bits of the 16-byte trace id."""
    return int.from_bytes(trace_id[9:], "big") if rv is None else rv


def encode(threshold: int) -> str:
    """Return ``threshold`` (below 2**56) as the value of ``th``: hex digits without trailing zeros."""
    return f"{threshold:014x}".rstrip("0") or "0"


class TraceState:
    """The parts of one W3C trace state that matter to sampling; everything else is passed on as it came."""

    __slots__ = ("_members", "_others", "rv", "th")

    def __init__(self, text: str) -> None:
        self.th: int | None = None
        self.rv: int | None = None
        self._members: list[str] = []
        self._others: list[str] = []
        for member in text.split(",") if text else ():
            key, _, value = member.strip().partition("=")
            if key == "ot":
                self._read(value)
            elif key:
                self._members.append(member.strip())

    def _read(self, value: str) -> None:
        for part in value.split(";"):
            key, _, content = part.partition(":")
            if key == "th":
                if _TH.fullmatch(content):
                    self.th = int(content.ljust(_DIGITS, "0"), 16)
            elif part:
                if key == "rv" and _RV.fullmatch(content):
                    self.rv = int(content, 16)
                self._others.append(part)

    def with_threshold(self, threshold: int | None) -> str:
        """Return the trace state with ``th`` set, or erased for ``None``.

        ``th`` is erased where the probability is unknown: a stale one would make others count wrongly. If there is no
        room for it within the 256 characters of the ``ot`` member, it is left out for the same reason.
        """
        parts = list(self._others)
        if threshold is not None:
            parts.insert(0, f"th:{encode(threshold)}")
            if len(";".join(parts)) > _MAX_VALUE:
                del parts[0]
        members = [f"ot={';'.join(parts)}", *self._members] if parts else self._members
        return ",".join(members[:_MAX_MEMBERS])
