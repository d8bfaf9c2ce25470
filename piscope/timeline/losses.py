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

__all__ = (
    "Gap",
    "Marked",
    "blind_rows",
    "loss_gaps",
    "loss_marks",
    "merged_marks",
    "unplaced_losses",
)

_OUT = (
    Mark.OUT_RUNNABLE,
    Mark.OUT_RUNNABLE_HALT,
    Mark.OUT_SLEEP,
    Mark.OUT_BLOCK,
)

Gap = tuple[int | None, int, int]
"""(pCPU or None for all, first row after the loss began, first row after it)."""

Marked = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.uint8]]
"""(row, lane, mark) of some marks."""

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


def blind_rows(gaps: list[Gap]) -> npt.NDArray[np.int64]:
    """int64[n, 2]: the gaps of all pCPUs as one; see Timeline.blind."""
    rows: list[list[int]] = []
    for _, first, last in sorted(gaps, key=lambda gap: gap[1:]):
        if rows and first <= rows[-1][1]:
            rows[-1][1] = max(rows[-1][1], last)
        else:
            rows.append([first, last])
    return np.array(rows, np.int64).reshape(-1, 2)


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


def merged_marks(first: Marked, second: Marked) -> Marked:
    """All marks by lane, then row; of one row those of `first` come first.

    The marks of each are in the order of their rows.
    """
    sides = [_by_lane(first), _by_lane(second)]
    if not len(sides[1][0]):
        return sides[0]
    span = int(max(side[0].max(initial=0) for side in sides)) + 1
    keys = [lane.astype(np.int64) * span + row for row, lane, _ in sides]
    # where each side's marks go, between those of the other
    to = [
        np.arange(len(keys[0])) + np.searchsorted(keys[1], keys[0], side="left"),
        np.arange(len(keys[1])) + np.searchsorted(keys[0], keys[1], side="right"),
    ]

    def joined(column: int, dtype: npt.DTypeLike) -> Array:
        whole = np.empty(len(to[0]) + len(to[1]), dtype)
        for place, side in zip(to, sides, strict=True):
            whole[place] = side[column]
        return whole

    return joined(0, np.int64), joined(1, np.int32), joined(2, np.uint8)


def _by_lane(marked: Marked) -> Marked:
    row, lane, mark = marked
    if not len(row) or (np.diff(lane) >= 0).all():
        by_row = row
        if len(row) and ((np.diff(lane) == 0) & (np.diff(row) < 0)).any():
            order = np.lexsort((row, lane))
            by_row, lane, mark = row[order], lane[order], mark[order]
        return by_row, lane, mark
    if (np.diff(row) < 0).any():
        order = np.lexsort((row, lane))
    else:
        order = np.argsort(lane.astype(np.uint16), kind="stable")
    return row[order], lane[order], mark[order]
