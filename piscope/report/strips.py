"""The vCPUs' lives at the width of a picture: shares of time, per column.

    edges_ns   |  column 0  |  column 1       | ...     as many as there are pixels
    time_ns     guest 900 ns   userspace 1000 ns        exact, by Kind
                host  100 ns

No interval is drawn or skipped for being short: each adds its own ns to its columns, so
that a column's shares are true however many intervals it holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Array
from piscope.tables import Intervals, Kind, Timeline

__all__ = (
    "Strips",
    "StripsTally",
    "column_edges",
    "covered_ns",
    "strips",
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

    def coarser(self, by: int) -> Strips:
        """The same with each `by` columns as one; they have to come out even."""
        shape = (len(self.vcpus), self.columns // by, by)
        return Strips(
            self.vcpus,
            self.edges_ns[::by],
            self.time_ns.reshape(*shape, len(Kind)).sum(axis=2),
            self.uncertain_ns.reshape(shape).sum(axis=2),
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
    which = np.arange(len(timeline.vcpus)) if vcpus is None else vcpus
    tally = StripsTally(which, column_edges(start_ns, end_ns, columns))
    tally.add(timeline.intervals)
    return tally.strips()


class StripsTally:
    """Strips of intervals that come part by part.

    A cell's time takes 4 bytes, or 8 where columns are wider than 4.29 s.
    """

    def __init__(self, vcpus: Array, edges_ns: Array) -> None:
        """See Strips; the edges are two at least."""
        self._vcpus = np.asarray(vcpus, np.int32)
        self._edges_ns = np.asarray(edges_ns, np.int64)
        shape = (len(self._vcpus), len(self._edges_ns) - 1)
        wide = int(np.diff(self._edges_ns).max()) >> 32
        dtype: type[np.integer[Any]] = np.int64 if wide else np.uint32
        self._time_ns = np.zeros((*shape, len(Kind)), dtype)
        self._uncertain_ns = np.zeros(shape, dtype)

    def add(self, intervals: Intervals) -> None:
        """Add some intervals, in the order of INTERVALS; those of others are left out.

        No two overlap, be it that they are added at different times.
        """
        i = intervals
        span_ns = int(self._edges_ns[0]), int(self._edges_ns[-1])
        firsts = np.searchsorted(i.vcpu, self._vcpus, side="left").tolist()
        lasts = np.searchsorted(i.vcpu, self._vcpus, side="right").tolist()
        for line, (first, last) in enumerate(zip(firsts, lasts, strict=True)):
            for at in _chunks(i.start_ns, i.end_ns, first, last, *span_ns):
                self._add(line, i, at)

    def _add(self, line: int, i: Intervals, at: slice) -> None:
        begin, end = i.start_ns[at], i.end_ns[at]
        low = int(np.searchsorted(self._edges_ns, begin[0], side="right")) - 1
        high = int(np.searchsorted(self._edges_ns, end[-1], side="left"))
        columns = slice(max(low, 0), min(high, len(self._edges_ns) - 1))
        edges = self._edges_ns[columns.start : columns.stop + 1]
        if len(edges) < 2:
            return
        time_ns = self._time_ns[line, columns]
        kind, unsure = i.kind[at], ~i.certain[at]
        for k in np.flatnonzero(np.bincount(kind, minlength=len(Kind))).tolist():
            _add_to(time_ns[:, k], _time_of(begin, end, kind == k, edges))
        unsure &= kind != Kind.UNKNOWN
        if unsure.any():
            uncertain_ns = self._uncertain_ns[line, columns]
            _add_to(uncertain_ns, _time_of(begin, end, unsure, edges))

    def strips(self, columns: slice = slice(None)) -> Strips:
        """What was added, in these columns."""
        return self._of(slice(None), columns)

    def strips_of(self, line: int) -> Strips:
        """What was added, of the vCPU on this line."""
        return self._of(slice(line, line + 1), slice(None))

    def _of(self, lines: slice, columns: slice) -> Strips:
        first, last, _ = columns.indices(len(self._edges_ns) - 1)
        return Strips(
            self._vcpus[lines],
            self._edges_ns[first : last + 1],
            self._time_ns[lines, first:last].astype(np.int64),
            self._uncertain_ns[lines, first:last].astype(np.int64),
        )


def _add_to(sums: npt.NDArray[Any], more: npt.NDArray[np.int64]) -> None:
    sums += more.astype(sums.dtype)


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
