"""Instants of a trace as people write them: `--from` and `--to`.

    24006.249294487   at this time of the trace's clock, in seconds, as trace-cmd
                      and perf print it (a plain count where the clock counts)
    1.5s  +200ms      with a unit or a +: so long after the first event
    -200ms            so long before the end (s, ms, us, ns; s if not said)
    45%               after so much of the trace's length

Instants are exact: digits are never turned into floating point.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from piscope.errors import UsageError

__all__ = ("Moment", "parse_moment")

Unit = Literal["s", "ms", "us", "ns"]

_NS_PER_UNIT: dict[Unit, int] = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_SHAPE = re.compile(r"([+-]?)([0-9]{1,20}(?:\.[0-9]{1,20})?)(s|ms|us|ns|%)?")
_EXPECTED = (
    "expected the clock's seconds (24006.249294), a time after the start (1.5s, 200ms),"
    " before the end (-200ms), or a percentage (45%)"
)


@dataclass(frozen=True, slots=True)
class Moment:
    """An instant, absolute or relative to a trace that is not known yet.

    `value` is in units of the clock's second (anchor "clock"), in `unit` ("start",
    "end"), or in percent ("percent").
    """

    anchor: Literal["clock", "start", "end", "percent"]
    value: Fraction
    unit: Unit | None = None

    @property
    def is_relative(self) -> bool:
        """Whether the trace's first and last instants are needed to resolve it."""
        return self.anchor != "clock"

    def resolve(
        self, first_ns: int | None, last_ns: int | None, *, counts: bool = False
    ) -> int:
        """The instant on the trace's clock, rounded down.

        `first_ns` and `last_ns` are those of the trace's events; None where the
        trace has none, and then the result is 0. `counts`: the clock does not
        count nanoseconds (TraceInfo.ts_unit), and numbers are its counts.

        Raises UsageError for a unit of time on such a clock.
        """
        if counts and self.unit is not None:
            raise UsageError(
                "the trace's clock does not count nanoseconds: give --from and --to as"
                " plain counts or percents"
            )
        scale = 1 if counts else _NS_PER_UNIT[self.unit or "s"]
        if self.anchor == "clock":
            return int(self.value * scale)
        if first_ns is None or last_ns is None:
            return 0
        end_ns = last_ns + 1  # half-open: 100% and -0s include the last event
        if self.anchor == "start":
            return first_ns + int(self.value * scale)
        if self.anchor == "end":
            return end_ns - int(self.value * scale)
        return first_ns + int((end_ns - first_ns) * self.value / 100)


def parse_moment(text: str) -> Moment:
    """The instant that a user wrote.

    Raises UsageError for anything that is not one of the four forms.
    """
    match = _SHAPE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not an instant: {_EXPECTED}")
    sign, digits, unit = match.groups()
    value = Fraction(digits)
    if unit == "%":
        if sign or value > 100:
            raise UsageError(f"{text!r} is not within 0% to 100%")
        return Moment("percent", value)
    if not sign and unit is None:
        return Moment("clock", value)
    anchor: Literal["start", "end"] = "end" if sign == "-" else "start"
    known = next((u for u in _NS_PER_UNIT if u == unit), None)
    return Moment(anchor, value, known)
