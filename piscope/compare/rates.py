"""Ranges of two captures divided, subtracted, set against each other, and judged.

a   |-----|                   rises: beyond the ranges, and beyond chance
b            |------|

a   |-----------|             open: any difference may be the range's
b         |----------|
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from piscope.compare.account import PERS, Rate, Span, Spread, Verdict
from piscope.compare.poisson import CONFIDENCE, greatest_ratio, least_ratio, same_rate
from piscope.gate.metrics import Range

__all__ = ("Exposures", "compared", "spread")


@dataclass(frozen=True, slots=True)
class Exposures:
    """What a capture's numbers are divided by."""

    duration_ns: int
    exits: int
    entries: int

    def of(self, per: str) -> float:
        """How many of those units the capture holds."""
        if per == "second":
            return self.duration_ns / 1e9
        return (self.exits if per == "1000_exits" else self.entries) / 1000


def spread(number: Range) -> Spread:
    """The range with an infinite end as None."""
    return Spread(number.min, None if math.isinf(number.max) else number.max)


def compared(
    a: Range, b: Range, of_a: Exposures, of_b: Exposures, *, is_count: bool
) -> list[Rate]:
    """The rates of two numbers, for each thing that both can be divided by."""
    return [
        _rate(per, a, b, of_a.of(per), of_b.of(per), is_count=is_count)
        for per in PERS
        if of_a.of(per) > 0 and of_b.of(per) > 0
    ]


def _rate(
    per: str, a: Range, b: Range, by_a: float, by_b: float, *, is_count: bool
) -> Rate:
    ra, rb = Range(a.min / by_a, a.max / by_a), Range(b.min / by_b, b.max / by_b)
    confidence = p = least_p = None
    if is_count:
        confidence = _confidence(a, b, by_a, by_b)
        p, least_p = _p(a, b, by_a, by_b), _least_p(a, b, by_a, by_b)
    return Rate(
        per=per,
        a=spread(ra),
        b=spread(rb),
        difference=Span(_finite(rb.min - ra.max), _finite(rb.max - ra.min)),
        ratio=_ratio(ra, rb),
        confidence=confidence,
        p=p,
        verdict=_verdict(ra, rb, p, least_p),
    )


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _ratio(a: Range, b: Range) -> Span | None:
    if not a.max:
        return None
    least = 0.0 if math.isinf(a.max) else b.min / a.max
    return Span(least, _finite(b.max / a.min) if a.min else None)


def _confidence(a: Range, b: Range, by_a: float, by_b: float) -> Span:
    """From the lowest interval that the ranges allow to the highest."""
    low = 0.0
    if math.isfinite(a.max):
        low = least_ratio(int(a.max), int(b.min), by_a, by_b)
    high = math.inf
    if math.isfinite(b.max):
        high = greatest_ratio(int(a.min), int(b.max), by_a, by_b)
    return Span(low, _finite(high))


def _p(a: Range, b: Range, by_a: float, by_b: float) -> float:
    """The greatest that the ranges allow: at those ends that lie closest."""
    if b.min / by_b > a.max / by_a:
        return same_rate(int(a.max), int(b.min), by_a, by_b)
    if b.max / by_b < a.min / by_a:
        return same_rate(int(a.min), int(b.max), by_a, by_b)
    if a.min == a.max and b.min == b.max:
        return same_rate(int(a.min), int(b.min), by_a, by_b)
    return 1.0


def _least_p(a: Range, b: Range, by_a: float, by_b: float) -> float:
    """The least that the ranges allow: at those ends that lie farthest apart."""
    if math.isinf(a.max) or math.isinf(b.max):
        return 0.0
    return min(
        same_rate(int(a.min), int(b.max), by_a, by_b),
        same_rate(int(a.max), int(b.min), by_a, by_b),
    )


def _verdict(a: Range, b: Range, p: float | None, least_p: float | None) -> Verdict:
    exact = a.min == a.max and b.min == b.max
    if exact and math.isclose(a.min, b.min, rel_tol=1e-12):
        return "same"
    apart = b.min > a.max or b.max < a.min
    if p is None or least_p is None:
        return "differs" if apart else "open"
    if least_p > 1 - CONFIDENCE:
        return "noise"
    if not apart or p > 1 - CONFIDENCE:
        return "open"
    return "rises" if b.min > a.max else "falls"
