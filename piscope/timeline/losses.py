"""What lost events do to the vCPUs' lives: marks after which a state is unknown.

cpu 0   ---x  x x                 events lost from s to e
           s........e
a vCPU on cpu 0 at s               unknown from s on, until an event tells again
a vCPU on no pCPU between s and e  unknown: it may have run on cpu 0 unseen
a vCPU on cpu 1                    goes on: it can't leave cpu 1 unseen
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Array
from piscope.tables import Events, Vcpus
from piscope.timeline.lifecycle import Mark

__all__ = ("Gap", "loss_gaps", "loss_marks", "sorted_marks", "unplaced_losses")

_OUT = (
    Mark.OUT_RUNNABLE,
    Mark.OUT_RUNNABLE_HALT,
    Mark.OUT_SLEEP,
    Mark.OUT_BLOCK,
)

Gap = tuple[int | None, int, int]
"""(pCPU or None for all, first row after the loss began, first row after it)."""

# Causes that say nothing of what the trace's own span holds.
_ELSEWHERE = ("unparsed-line", "unknown-event", "sub-sampled")


def loss_gaps(events: Events) -> list[Gap]:
    """The stretches of rows over which events of a pCPU are missing.

    A pCPU whose buffer wrapped begins later than the others: it is a gap from the
    trace's first event to its own first one.
    """
    gaps: list[Gap] = []
    for loss in events.losses:
        if loss.cause in _ELSEWHERE or loss.cause == "cpustat-mismatch":
            continue
        if loss.start_ns is None and loss.end_ns is None:
            continue
        first = (
            0
            if loss.start_ns is None
            else int(np.searchsorted(events.ts_ns, loss.start_ns, side="right"))
        )
        last = (
            len(events)
            if loss.end_ns is None
            else int(np.searchsorted(events.ts_ns, loss.end_ns, side="left"))
        )
        if loss.cause == "overwritten" and loss.start_ns is None:
            first = 0
        gaps.append((loss.cpu, first, max(first, last)))
    return gaps


def unplaced_losses(events: Events) -> int | None:
    """How many events are missing at places that the trace does not tell.

    None: their number is not known either, so that nothing is certain.
    """
    total = 0
    for loss in events.losses:
        if loss.cause in (*_ELSEWHERE, "overwritten"):
            continue
        if loss.start_ns is None and loss.end_ns is None:
            if loss.count is None:
                return None
            total += loss.count
    return total


def loss_marks(
    gaps: list[Gap], row: Array, lane: Array, mark: Array, cpu: Array, vcpus: Vcpus
) -> tuple[Array, Array, Array]:
    """(row, lane, mark) of the marks that the gaps add to the lanes.

    Takes the lanes' own marks, sorted by lane and row. A mark added at a row comes
    before the lane's own one there.
    """
    rows: list[Array] = []
    lanes: list[Array] = []
    marks: list[Array] = []

    def add(at: Array, which: Array, what: Array) -> None:
        rows.append(at.astype(np.int64))
        lanes.append(which.astype(np.int32))
        marks.append(what.astype(np.uint8))

    everyone = np.arange(len(vcpus))
    span = int(row.max(initial=0)) + 2
    key = lane.astype(np.int64) * span + row
    for gap_cpu, first, last in gaps:
        prev = np.searchsorted(key, everyone * span + first, side="left") - 1
        known = prev >= 0
        known &= lane[np.maximum(prev, 0)] == everyone if len(lane) else False
        here = known & (gap_cpu is None)
        if len(lane):
            here |= known & (cpu[np.maximum(prev, 0)] == gap_cpu)
        what = np.where(here, Mark.LOST_HERE, Mark.LOST_ELSEWHERE)
        add(np.full(len(everyone), first), everyone, what)
        inside = (row >= first) & (row < last) & np.isin(mark, _OUT)
        if gap_cpu is not None:
            inside &= cpu != gap_cpu
        # right behind the switch-out
        at = row[inside] + 1
        add(at, lane[inside], np.full(len(at), Mark.LOST_ELSEWHERE))
    if not rows:
        empty = np.empty(0, np.int64)
        return empty, empty.astype(np.int32), empty.astype(np.uint8)
    return np.concatenate(rows), np.concatenate(lanes), np.concatenate(marks)


def sorted_marks(
    parts: list[tuple[Array, Array, Array]],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """All marks by lane, then row; of one row, in the order of `parts`."""
    row, lane, mark = (np.concatenate(x) for x in zip(*parts, strict=True))
    order = np.argsort(row, kind="stable")
    order = order[np.argsort(lane[order].astype(np.uint16), kind="stable")]
    return row[order], lane[order], mark[order]
