"""Thresholds and trace states against OpenTelemetry's specification."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers.sampling.threshold import RANGE, TraceState, encode, probability_of, randomness, threshold_of


@pytest.mark.parametrize(
    ("n", "precision", "digits", "adjusted_count"),
    [
        (1, 3, "0", 1.0),
        (1, 5, "0", 1.0),
        (2, 3, "8", 2.0),
        (2, 4, "8", 2.0),
        (3, 3, "aab", 3.0007326),
        (3, 4, "aaab", 3.0000458),
        (3, 5, "aaaab", 3.0000029),
        (10, 3, "e66", 9.9902439),
        (10, 4, "e666", 9.9993897),
        (10, 5, "e6666", 9.9999619),
        (100, 5, "fd70a4", 100.0000954),
        (1000, 4, "ffbe77", 1000.0128748),
    ],
)
def test_one_in_n_table_of_the_specification(n, precision, digits, adjusted_count):
    threshold = threshold_of(1 / n, precision)
    assert encode(threshold) == digits
    assert 1 / probability_of(threshold) == pytest.approx(adjusted_count, rel=1e-7)


@given(st.floats(min_value=1e-15, max_value=1.0), st.integers(3, 14))
def test_a_threshold_is_close_to_its_ratio(ratio, precision):
    threshold = threshold_of(ratio, precision)
    assert 0 <= threshold < RANGE
    assert probability_of(threshold) == pytest.approx(
        ratio, rel=max(16.0 ** (1 - precision), 1e-1 * 2**-56 / ratio) + 2**-56 / ratio
    )
    assert TraceState(f"ot=th:{encode(threshold)}").th == threshold


def test_the_ends_of_the_range():
    assert threshold_of(1.0) == 0
    assert threshold_of(0.0) == RANGE
    assert probability_of(RANGE) == 0.0
    assert threshold_of(2.0**-56) == RANGE - 1
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="ratio"):
            threshold_of(wrong)


def test_randomness_is_the_last_seven_bytes_or_rv():
    trace_id = bytes.fromhex("ffffffffffffffffff" + "0123456789abcd")
    assert randomness(trace_id, None) == 0x0123456789ABCD
    assert randomness(trace_id, TraceState("x=1,ot=rv:ffffffffffffff").rv) == RANGE - 1


@pytest.mark.parametrize(
    ("text", "th", "rv"),
    [
        ("", None, None),
        ("ot=th:0", 0, None),
        ("ot=th:c;rv:d29d6a7215ced0", 0xC0000000000000, 0xD29D6A7215CED0),
        ("a=b, ot=p:1;th:8 ,c=d", 0x80000000000000, None),
        ("ot=th:fffffffffffffff", None, None),  # 15 digits
        ("ot=th:", None, None),
        ("ot=th:G", None, None),
        ("ot=th:C", None, None),  # upper case is not allowed
        ("ot=rv:1", None, None),
        ("other=th:8", None, None),
    ],
)
def test_reading(text, th, rv):
    state = TraceState(text)
    assert (state.th, state.rv) == (th, rv)


@pytest.mark.parametrize(
    ("text", "threshold", "expected"),
    [
        ("", 0, "ot=th:0"),
        ("a=b", 0x80000000000000, "ot=th:8,a=b"),
        ("a=b,ot=th:4;rv:d29d6a7215ced0;x:y,c=d", 0x80000000000000, "ot=th:8;rv:d29d6a7215ced0;x:y,a=b,c=d"),
        ("ot=th:4,a=b", None, "a=b"),
        ("ot=th:4;rv:d29d6a7215ced0", None, "ot=rv:d29d6a7215ced0"),
        ("ot=th:4", None, ""),
        ("ot=" + "x:" + "y" * 254, 0x80000000000000, "ot=" + "x:" + "y" * 254),  # no room
        (",".join(f"k{n}=v" for n in range(32)), 0, ",".join(["ot=th:0", *(f"k{n}=v" for n in range(31))])),
    ],
)
def test_writing_keeps_what_others_wrote(text, threshold, expected):
    assert TraceState(text).with_threshold(threshold) == expected


@given(st.text(max_size=300), st.one_of(st.none(), st.integers(0, RANGE - 1)))
def test_any_text_can_be_read_and_what_was_written_is_read_back(text, threshold):
    written = TraceState(text).with_threshold(threshold)
    assert TraceState(written).th in (threshold, None)
    assert TraceState(written).rv == TraceState(text).rv
