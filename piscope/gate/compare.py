"""Numbers against limits: kept, broken, or not to be told.

A number is a range, and the limit is one too where it hangs on the baseline's number:

    max         |------now------|  L              kept: the worst case keeps it
                              L |---now---|       broken: the best case breaks it
                       |---now--L---|             cannot tell

    increase    kept only if neither end rose above the same end of the baseline by
                more than the percentage; broken if even the least of now is above
                what the greatest of then allows

so that an unchanged trace keeps every relative limit, however wide its ranges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from piscope.gate.findings import Verdict
from piscope.gate.limits import Limit
from piscope.gate.metrics import METRICS, ZERO, Range

__all__ = ("WORST_FIRST", "Number", "total", "verdict_of")

WORST_FIRST = (
    Verdict.NOT_ANALYZED,
    Verdict.BROKEN,
    Verdict.CANNOT_TELL,
    Verdict.KEPT,
)
"""The order in which findings are told; of several verdicts the first counts."""

_S = 1e9  # ns


@dataclass(frozen=True, slots=True)
class Number:
    """A number and what it may be divided by; of one trace, or of several."""

    count: Range
    duration_ns: int
    entries: int

    def by(self, measure: str) -> Range | None:
        """Divided as a limit's measure says; None where that would be by 0."""
        if not measure:
            return self.count
        divisor = self.duration_ns / _S if measure == "per_second" else self.entries
        if not divisor:
            return None
        return Range(self.count.min / divisor, self.count.max / divisor)


def verdict_of(limit: Limit, now: Number | None, was: Number | None) -> Verdict:
    """One number against one limit; all that the limit says must be kept."""
    each = []
    value = now.by(limit.measure) if now is not None else None
    if now is None or value is None:
        each.append(Verdict.CANNOT_TELL)
    else:
        if limit.max is not None:
            each.append(_below(value, limit.max))
        if limit.min is not None:
            each.append(_below(Range(-value.max, -value.min), -limit.min))
        if limit.increase_percent is not None:
            each.append(_increase(limit, now, was))
    worst = min(each, key=WORST_FIRST.index)
    if worst is Verdict.CANNOT_TELL and limit.cannot_tell_passes:
        return Verdict.KEPT
    return worst


def _below(value: Range, most: float) -> Verdict:
    if value.max <= most:
        return Verdict.KEPT
    return Verdict.BROKEN if value.min > most else Verdict.CANNOT_TELL


def _increase(limit: Limit, now: Number, was: Number | None) -> Verdict:
    value = now.by(limit.measure)
    before = was.by(limit.measure) if was is not None else None
    if value is None or before is None or limit.increase_percent is None:
        return Verdict.CANNOT_TELL
    factor = 1 + limit.increase_percent / 100
    allowed = Range(*(end * factor if factor else 0.0 for end in before))
    noise = limit.noise_below
    least = now.count.min <= noise or _within(value.min, allowed.min)
    most = now.count.max <= noise or _within(value.max, allowed.max)
    if least and most:
        return Verdict.KEPT
    if now.count.min > noise and not _within(value.min, allowed.max):
        return Verdict.BROKEN
    return Verdict.CANNOT_TELL


def _within(value: float, most: float) -> bool:
    # Both come from the same divisions; the last bit is no regression.
    return value <= most or math.isclose(value, most, rel_tol=1e-12)


def total(limit: Limit, numbers: Sequence[Number | None]) -> Number | None:
    """Of several traces; None where one of them has none, or there are no traces."""
    there = [number for number in numbers if number is not None]
    if not there or len(there) < len(numbers):
        return None
    count = ZERO
    for number in there:
        if METRICS[limit.value.metric].total == "max":
            count = Range(
                max(count.min, number.count.min), max(count.max, number.count.max)
            )
        else:
            count = count.plus(number.count)
    return Number(
        count, sum(n.duration_ns for n in there), sum(n.entries for n in there)
    )
