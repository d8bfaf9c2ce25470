"""The vCPUs' lives at the width of a picture: shares of time and marks, per column.

    edges_ns   |  column 0  |  column 1       | ...     as many as there are pixels
    time_ns     guest 900 ns   userspace 1000 ns        exact, by Kind
                host  100 ns
    Marks       3 unloaded     1 wakeup                 notifications, by Mark

No interval is drawn or skipped for being short: each adds its own ns to its columns, so
that a column's shares are true however many intervals it holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from piscope.outcomes import Hit
from piscope.report.analyzed import UNLOADED, Analyzed, removed_by
from piscope.sources.raw import Array
from piscope.tables import Kind, Timeline

__all__ = (
    "Mark",
    "Marks",
    "Strips",
    "column_edges",
    "covered_ns",
    "marks",
    "strips",
    "strips_between",
)

_CHUNK = 1 << 20  # intervals at a time, which bounds the memory that is needed


@dataclass(slots=True)
class Strips:
    """What each vCPU did in each column.

    vcpus         int32[v]  which vCPUs, as numbers of VCPUS
    edges_ns      int64[columns + 1]  column i is edges_ns[i] <= t < edges_ns[i + 1]
    time_ns       int64[v, columns, len(Kind)]  time of each Kind; what the trace's
                  intervals do not cover (before its first instant, say) is in none
    uncertain_ns  int64[v, columns]  of the time of known kinds: in intervals whose kind
                  or end the trace leaves open
    """

    vcpus: npt.NDArray[np.int32]
    edges_ns: npt.NDArray[np.int64]
    time_ns: npt.NDArray[np.int64]
    uncertain_ns: npt.NDArray[np.int64]

    @property
    def columns(self) -> int:
        """How many columns there are."""
        return len(self.edges_ns) - 1

    def part(self, first: int, last: int) -> Strips:
        """The columns from `first` up to `last`, without that one."""
        return Strips(
            self.vcpus,
            self.edges_ns[first : last + 1],
            self.time_ns[:, first:last],
            self.uncertain_ns[:, first:last],
        )

    def shares(self) -> npt.NDArray[np.float64]:
        """float64[v, columns, len(Kind)]: `time_ns` as shares of each column's width.

        Zero throughout where a column is narrower than 1 ns.
        """
        width = np.maximum(np.diff(self.edges_ns), 1)
        shares: npt.NDArray[np.float64] = self.time_ns / width[:, None]
        return shares

    def dominant(self) -> npt.NDArray[np.int8]:
        """int8[v, columns]: the Kind with most time, the lower of equals; -1: no time.

        UNKNOWN is only named where it has more time than any other.
        """
        known_first = np.roll(self.time_ns, -1, axis=2)
        most = (np.argmax(known_first, axis=2) + 1) % len(Kind)
        empty = self.time_ns.sum(axis=2) == 0
        return np.where(empty, -1, most).astype(np.int8)


def column_edges(start_ns: int, end_ns: int, columns: int) -> npt.NDArray[np.int64]:
    """int64[columns + 1]: ascending from start to end, as even as whole ns allow.

    Raises ValueError for no column, or an end before the start.
    """
    if columns < 1:
        raise ValueError(f"{columns} columns, expected at least 1")
    if end_ns < start_ns:
        raise ValueError(f"from {start_ns} to {end_ns}: the end is before the start")
    step, rest = divmod(end_ns - start_ns, columns)
    i = np.arange(columns + 1, dtype=np.int64)
    edges: npt.NDArray[np.int64] = start_ns + i * step + i * rest // columns
    return edges


def strips(
    timeline: Timeline,
    start_ns: int,
    end_ns: int,
    columns: int,
    *,
    vcpus: Array | None = None,
) -> Strips:
    """The exact time of each kind, for each vCPU and each of `columns` columns.

    `vcpus` are numbers of VCPUS in the order wanted; None: all. Time and memory grow
    with the intervals and with vCPUs x columns, not with their product.

    Raises ValueError as `column_edges` does.
    """
    return strips_between(
        timeline, column_edges(start_ns, end_ns, columns), vcpus=vcpus
    )


def strips_between(
    timeline: Timeline, edges_ns: Array, *, vcpus: Array | None = None
) -> Strips:
    """The same for columns of any width: `edges_ns` are ascending, two at least."""
    i = timeline.intervals
    edges = np.asarray(edges_ns, np.int64)
    start_ns, end_ns, columns = int(edges[0]), int(edges[-1]), len(edges) - 1
    which = np.arange(len(timeline.vcpus)) if vcpus is None else vcpus
    time_ns = np.zeros((len(which), columns, len(Kind)), np.int64)
    uncertain_ns = np.zeros((len(which), columns), np.int64)
    firsts = np.searchsorted(i.vcpu, which, side="left").tolist()
    lasts = np.searchsorted(i.vcpu, which, side="right").tolist()
    for line, (first, last) in enumerate(zip(firsts, lasts, strict=True)):
        for at in _chunks(i.start_ns, i.end_ns, first, last, start_ns, end_ns):
            begin, end = i.start_ns[at], i.end_ns[at]
            kind, unsure = i.kind[at], ~i.certain[at]
            for k in np.flatnonzero(np.bincount(kind, minlength=len(Kind))).tolist():
                time_ns[line, :, k] += _time_of(begin, end, kind == k, edges)
            unsure &= kind != Kind.UNKNOWN
            if unsure.any():
                uncertain_ns[line] += _time_of(begin, end, unsure, edges)
    return Strips(np.asarray(which, np.int32), edges, time_ns, uncertain_ns)


def _chunks(
    begins: Array, ends: Array, first: int, last: int, start_ns: int, end_ns: int
) -> Iterator[slice]:
    """The rows first to last that touch start to end, so many at a time."""
    low = first + int(np.searchsorted(ends[first:last], start_ns, side="right"))
    high = first + int(np.searchsorted(begins[first:last], end_ns, side="left"))
    for at in range(low, high, _CHUNK):
        yield slice(at, min(at + _CHUNK, high))


def _time_of(
    begin_ns: Array, end_ns: Array, which: npt.NDArray[np.bool_], edges: Array
) -> npt.NDArray[np.int64]:
    at = np.flatnonzero(which)
    return covered_ns(begin_ns[at], end_ns[at], edges)


def covered_ns(
    begin_ns: Array, end_ns: Array, edges_ns: Array
) -> npt.NDArray[np.int64]:
    """int64[columns]: how much of each column the stretches cover.

    The stretches are half-open, ascending, and do not overlap.
    """
    if not len(begin_ns):
        return np.zeros(len(edges_ns) - 1, np.int64)
    length = end_ns - begin_ns
    before = np.cumsum(length) - length
    at = np.searchsorted(begin_ns, edges_ns, side="right") - 1
    last = np.maximum(at, 0)
    inside = np.minimum(edges_ns - begin_ns[last], length[last])
    covered: npt.NDArray[np.int64] = np.diff(
        np.where(at >= 0, before[last] + inside, 0)
    )
    return covered


class Mark(IntEnum):
    """The notifications that a picture marks, by what they hit."""

    UNLOADED_HOST = 0  # an IRQ in the host, the vCPU not loaded
    WRONG_VCPU = 1  # taken in another vCPU's guest mode
    WAKEUP = 2  # wakes the blocked vCPU
    RESIDUAL = 3  # an IRQ in the host, the vCPU loaded
    REMOVED = 4  # one of the first two that the other policy does not send

    @property
    def label(self) -> str:
        """The mark as users read it: `unloaded-host`."""
        return self.name.lower().replace("_", "-")


_HIT_OF_MARK = {
    Mark.UNLOADED_HOST: Hit.UNLOADED_HOST,
    Mark.WRONG_VCPU: Hit.WRONG_VCPU,
    Mark.WAKEUP: Hit.WAKEUP,
    Mark.RESIDUAL: Hit.HOST,
}


@dataclass(slots=True)
class Marks:
    """How many notifications of each Mark are in each column, under one policy.

    Only those of known posts; `Summary` counts those that merely can't be excluded.
    A post that only probes betray has no instant but a window of the vCPU; it is
    placed where that window begins.

    certain   int64[v, columns, len(Mark)]  what the trace proves
    possible  int64[v, columns, len(Mark)]  those, and what it does not exclude
    undated   int64[v, columns]  of all notifications that may be any of these: known
              by their window only
    """

    certain: npt.NDArray[np.int64]
    possible: npt.NDArray[np.int64]
    undated: npt.NDArray[np.int64]

    def part(self, first: int, last: int) -> Marks:
        """The columns from `first` up to `last`, without that one."""
        at = slice(first, last)
        return Marks(self.certain[:, at], self.possible[:, at], self.undated[:, at])


def marks(
    analysis: Analyzed,
    strip: Strips,
    policy: str,
    *,
    other: str | None = None,
    which: npt.NDArray[np.bool_] | None = None,
) -> Marks:
    """Count a policy's notifications in the columns of `strip`, by target vCPU.

    `other` is the policy that may not send some of them; None: nothing is REMOVED.
    `which` (bool[findings]) narrows what is counted.

    Raises KeyError for a policy that was not replayed.
    """
    found = analysis.results[policy].findings
    stimuli = analysis.stimuli
    line_of = np.full(len(analysis.timeline.vcpus) + 1, -1, np.int64)
    line_of[strip.vcpus] = np.arange(len(strip.vcpus))
    line = line_of[stimuli.vcpu[found.stimulus]]
    column = (
        np.searchsorted(strip.edges_ns, stimuli.ts_ns[found.stimulus], side="right") - 1
    )
    inside = (line >= 0) & (column >= 0) & (column < strip.columns)
    if which is not None:
        inside &= which
    cell = line * strip.columns + column
    shape = (len(strip.vcpus), strip.columns)

    def count(what: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        cells = cell[what & inside]
        return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)

    certain = np.zeros((*shape, len(Mark)), np.int64)
    possible = np.zeros_like(certain)
    for mark, hit in _HIT_OF_MARK.items():
        certain[:, :, mark] = count(found.surely(hit))
        possible[:, :, mark] = count(found.maybe(hit))
    if other is not None:
        surely, maybe = removed_by(found, analysis.results[other].findings, *UNLOADED)
        certain[:, :, Mark.REMOVED] = count(surely)
        possible[:, :, Mark.REMOVED] = count(maybe)
    undated = stimuli.post[found.stimulus] < 0
    undated &= found.maybe(*_HIT_OF_MARK.values())
    return Marks(certain, possible, count(undated))
