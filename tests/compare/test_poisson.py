"""The exact test and interval of two rates, against sums and published values."""

from __future__ import annotations

import math
from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piscope.compare.poisson import incomplete_beta, rate_ratio, same_rate


def _tail(n: int, k: int, p: Fraction) -> float:
    """The chance that of n tries at least k succeed, summed exactly."""
    return float(sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1)))


@pytest.mark.parametrize("p", [Fraction(1, 10), Fraction(1, 2), Fraction(9, 10)])
def test_the_tail_is_the_sum(p: Fraction) -> None:
    for n in range(1, 40):
        for k in range(1, n + 1):
            found = incomplete_beta(k, n - k + 1, float(p))
            assert math.isclose(found, _tail(n, k, p), rel_tol=1e-12, abs_tol=1e-15)


def test_ends_of_the_tail() -> None:
    assert incomplete_beta(3, 4, 0) == 0
    assert incomplete_beta(3, 4, 1) == 1


@pytest.mark.parametrize(
    ("counts", "exposures", "interval", "p"),
    [
        # poisson.test(c(20, 10), c(1, 1)) of R
        ((10, 20), (1.0, 1.0), (0.8935, 4.7846), 0.0987),
        # the example of its manual: poisson.test(c(11, 6 + 8 + 7), c(800, 3011))
        ((21, 11), (3011.0, 800.0), (0.8584264, 4.2772659), 0.07967),
    ],
)
def test_published_values(
    counts: tuple[int, int],
    exposures: tuple[float, float],
    interval: tuple[float, float],
    p: float,
) -> None:
    assert rate_ratio(*counts, *exposures) == pytest.approx(interval, rel=1e-3)
    if exposures[0] == exposures[1]:  # elsewhere R takes another two-sided test
        assert same_rate(*counts, *exposures) == pytest.approx(p, abs=1e-4)


def test_nothing_counted_says_nothing() -> None:
    assert rate_ratio(0, 0, 1, 2) == (0, math.inf)
    assert same_rate(0, 0, 1, 2) == 1
    assert rate_ratio(5, 0, 1, 1).min == 0
    assert rate_ratio(0, 5, 1, 1).max == math.inf


COUNT = st.integers(0, 3000)
EXPOSURE = st.floats(1e-3, 1e3)


@given(COUNT, COUNT, EXPOSURE, EXPOSURE)
def test_interval_and_test_say_the_same(a: int, b: int, x: float, y: float) -> None:
    low, high = rate_ratio(a, b, x, y)
    p = same_rate(a, b, x, y)
    assert 0 <= p <= 1
    if p < 0.0499:
        assert not low <= 1 <= high
    if p > 0.0501:
        assert low <= 1 <= high
    if a and b:
        assert low <= (b / y) / (a / x) <= high


@given(COUNT, COUNT, EXPOSURE, EXPOSURE)
def test_the_other_way_round_is_the_inverse(a: int, b: int, x: float, y: float) -> None:
    low, high = rate_ratio(a, b, x, y)
    other = rate_ratio(b, a, y, x)
    assert same_rate(a, b, x, y) == pytest.approx(same_rate(b, a, y, x), rel=1e-6)
    if low and math.isfinite(high):
        assert other.min == pytest.approx(1 / high, rel=1e-6)
        assert other.max == pytest.approx(1 / low, rel=1e-6)


def test_millions_are_no_burden() -> None:
    low, high = rate_ratio(10**8, 10**8 + 100_000, 1, 1)
    assert low < 1.001 < high
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(2e-8), rel=1e-2)
