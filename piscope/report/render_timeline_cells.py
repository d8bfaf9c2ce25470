"""What a timeline's characters mean, and the axis of time over them.

Each state has a character of its own, so that a picture without color says the same.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from piscope.report.marks import Mark
from piscope.sources.raw import Array
from piscope.tables import Kind

__all__ = (
    "KIND_CELLS",
    "MARK_CELLS",
    "TAGS",
    "Cell",
    "axis",
    "instant_text",
    "offset_text",
)


class Cell(NamedTuple):
    """How one thing is drawn: a character, its style, and what the legend says."""

    char: str
    style: str
    words: str


KIND_CELLS: dict[Kind, Cell] = {
    Kind.GUEST: Cell("#", "black on green", "guest"),
    Kind.HOST: Cell("=", "black on yellow", "KVM"),
    Kind.HOST_IRQS_OFF: Cell("-", "black on bright_yellow", "KVM, IRQs off"),
    Kind.POLL: Cell("~", "black on cyan", "halt-polling"),
    Kind.USERSPACE: Cell("u", "white on blue", "userspace"),
    Kind.PREEMPTED: Cell("p", "white on magenta", "preempted"),
    Kind.BLOCKED: Cell(".", "", "blocked (HLT)"),
    Kind.ASLEEP: Cell("z", "cyan", "asleep in KVM"),
    Kind.UNKNOWN: Cell("?", "red", "unknown"),
}
"""In the order of the legend."""

MARK_CELLS: dict[Mark, Cell] = {
    Mark.WRONG_VCPU: Cell("X", "bold red", "wrong vCPU: another's guest mode"),
    Mark.UNLOADED_HOST: Cell("S", "bold red", "spurious in the host, vCPU not loaded"),
    Mark.RESIDUAL: Cell("R", "bold yellow", "spurious in the host, vCPU loaded"),
    Mark.WAKEUP: Cell("W", "bold green", "wakeup of the blocked vCPU"),
}
"""Upper case: proven; lower case: not excluded. The worst one of a column is shown."""

TAGS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""How the lines of pCPUs name the vCPUs, in the order in which those are listed."""

_UNITS = ((10**9, "s"), (10**6, "ms"), (10**3, "us"), (1, "ns"))
_AIR = 4  # columns that a label needs beside its digits: `|+`, and two blanks


def axis(edges_ns: Array) -> str:
    """A line of ticks, `|` where each begins, with times since the first column."""
    edges: npt.NDArray[np.int64] = edges_ns - edges_ns[0]
    span, whole = int(edges[-1]), len(edges) - 1
    columns = int(np.count_nonzero(np.diff(edges)))  # the last page may end early
    step = _round_step(span, columns)
    line = [" "] * columns
    for at in range(0, span, step):
        column = int(np.searchsorted(edges, at, side="left"))
        label = "|0" if not at else f"|+{offset_text(at, step)}"
        if column + len(label) <= columns:
            line[column : column + len(label)] = label
        elif column < columns:
            line[column] = "|"
    return "".join(line).ljust(whole)


def _round_step(span: int, columns: int) -> int:
    """1, 2 or 5 times a power of ten: the least whose labels do not touch."""
    power = 1
    while True:
        for digit in (1, 2, 5):
            step = digit * power
            label = offset_text(span // step * step, step)
            if step * columns >= (len(label) + _AIR) * span:
                return step
        power *= 10


def offset_text(at: int, step: int) -> str:
    """A multiple of `step` ns in the unit that suits the step: `200ms`, `1.5s`."""
    unit_ns, unit = next(u for u in _UNITS if step >= u[0])
    whole, part = divmod(at, unit_ns)
    digits = f"{part:0{len(str(unit_ns)) - 1}d}".rstrip("0") if part else ""
    return f"{whole}.{digits}{unit}" if digits else f"{whole}{unit}"


def instant_text(ts_ns: int) -> str:
    """An instant as trace-cmd and perf print it, and as --from takes it."""
    sign, ts_ns = ("-", -ts_ns) if ts_ns < 0 else ("", ts_ns)
    return f"{sign}{ts_ns // 10**9}.{ts_ns % 10**9:09d}"
