"""From the ticks of a trace clock to the time that trace-cmd shows.

    ticks -> TIME_SHIFT (guest to host) -> TSC2NSEC -> + DATE + OFFSET

To be read beside trace-cmd's trace-input.c: timestamp_calc(),
timestamp_host_sync() and timestamp_correction_calc(). Where their 64-bit products
overflow, the true product is given here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ("Clock", "ShiftSample", "TimeShift", "Tsc2Nsec", "ts_unit_of")

Times = npt.NDArray[np.uint64]

_LOW = np.uint64(0xFFFF_FFFF)
_HALF = np.uint64(32)
_WORD = (1 << 64) - 1

# Clocks whose ticks are no time; kernel/trace/trace.c, trace_clocks[] (in_ns = 0),
# and arch/*/include/asm/trace_clock.h. Of "uptime", a tick is a jiffy.
_TICKS: dict[str, Literal["cycles", "counter"]] = {
    "x86-tsc": "cycles",
    "ppc-tb": "cycles",
    "counter": "counter",
    "uptime": "counter",
}


def ts_unit_of(clock: str | None) -> Literal["ns", "cycles", "counter"]:
    """What a tick of the named trace clock is; a clock that is not named is local."""
    return _TICKS.get(clock or "local", "ns")


@dataclass(frozen=True, slots=True)
class Tsc2Nsec:
    """ns = ticks * mult >> shift; a stored offset is not used by trace-cmd either."""

    mult: int
    shift: int


@dataclass(frozen=True, slots=True)
class ShiftSample:
    """From `time` (guest ticks) on: host = (guest * scaling >> fraction) + offset."""

    time: int
    offset: int
    scaling: int
    fraction: int


@dataclass(frozen=True, slots=True)
class TimeShift:
    """A guest's clock seen from the host's, sampled now and then for each vCPU.

    `cpus` has the samples of each pCPU of the (guest) trace, ascending in time.
    """

    interpolate: bool
    cpus: tuple[tuple[ShiftSample, ...], ...]


@dataclass(frozen=True, slots=True)
class Clock:
    """How the ticks of one file become its times."""

    shift: TimeShift | None = None
    tsc: Tsc2Nsec | None = None
    offset_ns: int = 0

    def convert(self, ticks: Times, cpu: int) -> npt.NDArray[np.int64]:
        """int64[n]: the times of `ticks` that were taken on `cpu`.

        Modulo 2**64, as a time beyond 292 years can only be damaged.
        """
        if self.shift is not None and cpu < len(self.shift.cpus):
            ticks = _shifted(ticks, self.shift.cpus[cpu], self.shift.interpolate)
        if self.tsc is not None:
            ticks = _product_shifted(ticks, self.tsc.mult, self.tsc.shift)
        if self.offset_ns:
            ticks = ticks + np.uint64(self.offset_ns & _WORD)
        return ticks.view(np.int64)


# (ticks * factor) >> shift with the whole 128-bit product, in 32-bit pieces.
def _product_shifted(ticks: Times, factor: int, shift: int) -> Times:
    factor &= _WORD
    f_low, f_high = np.uint64(factor & 0xFFFF_FFFF), np.uint64(factor >> 32)
    t_low, t_high = ticks & _LOW, ticks >> _HALF
    low = t_low * f_low
    middle = t_high * f_low + (low >> _HALF)
    carry = t_low * f_high + (middle & _LOW)
    high = t_high * f_high + (middle >> _HALF) + (carry >> _HALF)
    low = (carry << _HALF) | (low & _LOW)
    result: Times = np.zeros_like(ticks)
    if shift == 0:
        result = low
    elif shift < 64:
        result = (low >> np.uint64(shift)) | (high << np.uint64(64 - shift))
    elif shift < 128:
        result = high >> np.uint64(shift - 64)
    return result


def _shifted(
    ticks: Times, samples: tuple[ShiftSample, ...], interpolate: bool
) -> Times:
    if not samples:
        return ticks
    if len(samples) == 1:
        return ticks + np.uint64(samples[0].offset & _WORD)
    times = np.array([s.time for s in samples], np.uint64)
    # Before the first sample the first two hold, and after the last the last two.
    which = np.searchsorted(times, ticks, side="right") - 1
    which = np.clip(which, 0, len(samples) - 2)
    result = np.empty_like(ticks)
    for i in np.unique(which).tolist():
        rows = which == i
        part, start, end = ticks[rows], samples[i], samples[i + 1]
        moved = _product_shifted(part, start.scaling, start.fraction)
        if interpolate:
            moved += _interpolated(part, start, end)
        else:
            moved += np.uint64(start.offset & _WORD)
        result[rows] = moved
    return result


# start.offset + slope * (ticks - start.time), rounded as C's division does.
def _interpolated(ticks: Times, start: ShiftSample, end: ShiftSample) -> Times:
    span, rise = end.time - start.time, end.offset - start.offset
    since = (ticks - np.uint64(start.time)).view(np.int64)
    farthest = int(np.abs(since).max(initial=0)) + 1
    if farthest * abs(rise) + span < 1 << 63:
        product = since * rise + span // 2
    else:
        product = since.astype(object) * rise + span // 2
    quotient = np.abs(product) // span
    offset = start.offset + np.where(product < 0, -quotient, quotient)
    return (offset & _WORD if offset.dtype == object else offset).astype(np.uint64)
