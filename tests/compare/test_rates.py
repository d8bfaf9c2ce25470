"""Ranges against ranges: what may be chance, what the traces leave open."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piscope.compare.account import PERS
from piscope.compare.rates import Exposures, compared
from piscope.gate.metrics import Range

SECOND = Exposures(duration_ns=10**9, exits=1000, entries=1000)


def _verdict(a: Range, b: Range, *, is_count: bool = True) -> str:
    return compared(a, b, SECOND, SECOND, is_count=is_count)[0].verdict


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        (Range(250, 252), Range(0, 0), "falls"),
        (Range(0, 0), Range(250, 252), "rises"),
        (Range(100, 100), Range(104, 104), "noise"),
        (Range(100, 101), Range(102, 104), "noise"),
        (Range(0, 231), Range(0, 0), "open"),
        (Range(100, 100), Range(100, 400), "open"),
        (Range(100, 100), Range(120, 400), "open"),
        (Range(100, 100), Range(200, 400), "rises"),
        (Range(5, 5), Range(5, 5), "same"),
        (Range(0, 0), Range(0, 0), "same"),
        (Range(0, 0), Range(3, 3), "noise"),
        (Range(0, 0), Range(0, math.inf), "open"),
        (Range(300, 300), Range(0, math.inf), "open"),
    ],
)
def test_verdicts(a: Range, b: Range, verdict: str) -> None:
    assert _verdict(a, b) == verdict


def test_times_are_not_judged_by_chance() -> None:
    assert _verdict(Range(5, 6), Range(1, 2), is_count=False) == "differs"
    assert _verdict(Range(5, 6), Range(6, 7), is_count=False) == "open"
    rate = compared(Range(5, 6), Range(1, 2), SECOND, SECOND, is_count=False)[0]
    assert rate.p is None
    assert rate.confidence is None


def test_rates_are_divided_by_each_capture_own() -> None:
    short = Exposures(duration_ns=5 * 10**8, exits=2000, entries=0)
    rates = compared(Range(10, 10), Range(10, 20), SECOND, short, is_count=True)
    assert [rate.per for rate in rates] == ["second", "1000_exits"]
    assert (rates[0].a.min, rates[0].b.min, rates[0].b.max) == (10, 20, 40)
    assert (rates[1].a.min, rates[1].b.max) == (10, 10)
    difference, ratio = rates[0].difference, rates[0].ratio
    assert (difference.min, difference.max) == (10, 30)
    assert ratio is not None
    assert (ratio.min, ratio.max) == (2, 4)
    assert set(PERS) >= {rate.per for rate in rates}


COUNTS = st.integers(0, 500)
ONCE = Exposures(duration_ns=10**9, exits=0, entries=0)


@settings(max_examples=60)
@given(COUNTS, COUNTS, COUNTS, COUNTS, st.data())
def test_whatever_the_ranges_hold_is_within(
    a: int, more_a: int, b: int, more_b: int, data: st.DataObject
) -> None:
    first, second = Range(a, a + more_a), Range(b, b + more_b)
    whole = compared(first, second, ONCE, ONCE, is_count=True)[0]
    x = data.draw(st.integers(a, a + more_a))
    y = data.draw(st.integers(b, b + more_b))
    one = compared(Range(x, x), Range(y, y), ONCE, ONCE, is_count=True)[0]
    assert whole.difference.min is not None
    assert whole.difference.max is not None
    assert whole.difference.min <= y - x <= whole.difference.max
    assert whole.p is not None
    assert one.p is not None
    assert whole.p >= one.p - 1e-9
    assert whole.confidence is not None
    assert one.confidence is not None
    assert (whole.confidence.min or 0) <= (one.confidence.min or 0) + 1e-9
    if whole.confidence.max is not None:
        assert one.confidence.max is not None
        assert whole.confidence.max >= one.confidence.max - 1e-9
    # a verdict holds for every number that the ranges allow
    if whole.verdict in ("rises", "falls"):
        assert one.verdict == whole.verdict
    if whole.verdict == "noise":
        assert one.verdict in ("noise", "same")
