"""The ratio of two rates from two counts: exact interval and test, and no library.

Of n = a + b events in all, b fall to the second capture; if both have the same rate, b
is binomial with the second capture's share of the exposure. The interval of that share
(Clopper and Pearson) becomes that of the ratio, and the test is the one that belongs to
it: twice the smaller tail.

Source: J. Przyborowski, H. Wilenski, Biometrika 31 (1940); C. Clopper, E. Pearson,
Biometrika 26 (1934); the continued fraction is that of the incomplete beta function,
Abramowitz and Stegun 26.5.8.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

__all__ = (
    "CONFIDENCE",
    "Interval",
    "greatest_ratio",
    "incomplete_beta",
    "least_ratio",
    "rate_ratio",
    "same_rate",
)

CONFIDENCE = 0.95

_TINY = 1e-300
_MOST_TERMS = 100_000  # about the square root of the counts is needed
_BISECTIONS = 52


class Interval(NamedTuple):
    """Least and greatest; `max` may be infinite."""

    min: float
    max: float


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularized incomplete beta function I_x(a, b), for a, b > 0.

    It is the chance that of a + b - 1 tries with chance x at least a succeed.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges fast
        return 1 - incomplete_beta(b, a, 1 - x)
    log_front = (
        math.lgamma(a + b)
        - math.lgamma(a)
        - math.lgamma(b)
        + a * math.log(x)
        + b * math.log1p(-x)
    )
    return math.exp(log_front) * _fraction(a, b, x) / a


def _fraction(a: float, b: float, x: float) -> float:
    # Lentz's method, two terms a turn.
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > _TINY else _TINY)
    result = d
    for m in range(1, _MOST_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 + term * d
            d = 1 / (d if abs(d) > _TINY else _TINY)
            c = 1 + term / c
            c = c if abs(c) > _TINY else _TINY
            result *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return result


def same_rate(a: int, b: int, exposure_a: float, exposure_b: float) -> float:
    """The p-value of counts as far apart as these, if both have one rate.

    Exposures are positive. 1 where nothing was counted.
    """
    n = a + b
    if not n:
        return 1.0
    share = exposure_b / (exposure_a + exposure_b)
    at_least = incomplete_beta(b, n - b + 1, share) if b else 1.0
    at_most = incomplete_beta(n - b, b + 1, 1 - share) if a else 1.0
    return min(1.0, 2 * min(at_least, at_most))


def rate_ratio(
    a: int, b: int, exposure_a: float, exposure_b: float, confidence: float = CONFIDENCE
) -> Interval:
    """The interval of the second rate divided by the first.

    0 to infinity where nothing was counted.
    """
    exposures = exposure_a, exposure_b
    return Interval(
        least_ratio(a, b, *exposures, confidence),
        greatest_ratio(a, b, *exposures, confidence),
    )


def least_ratio(
    a: int, b: int, exposure_a: float, exposure_b: float, confidence: float = CONFIDENCE
) -> float:
    """The lower end of `rate_ratio`."""
    if not b:
        return 0.0
    tail = (1 - confidence) / 2
    share = _where(lambda p: incomplete_beta(b, a + 1, p), tail)
    return exposure_a / exposure_b * share / (1 - share)


def greatest_ratio(
    a: int, b: int, exposure_a: float, exposure_b: float, confidence: float = CONFIDENCE
) -> float:
    """The upper end of `rate_ratio`; infinite where the first count is 0."""
    least = least_ratio(b, a, exposure_b, exposure_a, confidence)
    return 1 / least if least else math.inf


def _where(rising: Callable[[float], float], value: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if rising(middle) < value:
            low = middle
        else:
            high = middle
    return (low + high) / 2
