"""What lost events do to the vCPUs' lives: marks after which a state is unknown.

cpu 0   ---x  x x                 events lost from s to e
           s........e
a vCPU on cpu 0 at s               unknown from s on, until an event tells again
a vCPU on no pCPU between s and e  unknown: it may have run on cpu 0 unseen
a vCPU on cpu 1                    goes on: it can't leave cpu 1 unseen

Without sched_switch a thread may leave a pCPU unseen, unless it is in its guest.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Array, Loss
from piscope.tables import Events
from piscope.timeline.lifecycle import Mark

__all__ = (
    "Gap",
    "Marked",
    "blind_rows",
    "hidden_windows",
    "loss_gaps",
    "loss_marks",
    "merged_marks",
    "unplaced_losses",
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


LEAST_WINDOW_NS = 500
"""No vCPU is put and loaded again, or exits and enters with IRQs on, in less.

A VM-exit and the entry behind it take that much by themselves.
"""


def hidden_windows(events: Events) -> int:
    """How many windows may lie in what the trace lost, where it tells the place.

    Each takes a lost event at least, and LEAST_WINDOW_NS of a pCPU whose events were
    lost. Losses without a place or a number may hide that many anywhere.
    """
    if not len(events):
        return 0
    if events.scope is None:
        first_ns, last_ns = int(events.ts_ns[0]), int(events.ts_ns[-1])
        pcpus = len(events.cpus)
    else:
        first_ns, last_ns = events.scope.whole.span_ns
        pcpus = len(events.scope.whole.cpus)
    places: dict[tuple[int | None, int, int], list[Loss]] = {}
    for loss in events.losses:
        placed = loss.start_ns is not None or loss.end_ns is not None
        if loss.cause in (*_ELSEWHERE, "cpustat-mismatch"):
            continue
        if not placed and (loss.count is not None or loss.cause == "overwritten"):
            continue  # those of `unplaced_losses`; before the trace's first event
        start_ns = first_ns if loss.start_ns is None else max(loss.start_ns, first_ns)
        end_ns = last_ns if loss.end_ns is None else min(loss.end_ns, last_ns)
        places.setdefault((loss.cpu, start_ns, end_ns), []).append(loss)
    total = 0
    for (cpu, start_ns, end_ns), losses in places.items():
        span_ns = max(end_ns - start_ns, 0) * (pcpus if cpu is None else 1)
        counts = [x.count for x in losses if x.count is not None]
        # what a wrapped buffer overwrote is what its first sub-buffer misses
        told = len(counts) == len(losses) or any(
            x.cause == "overwritten" and x.count is not None for x in losses
        )
        room = span_ns // LEAST_WINDOW_NS + 1
        total += min(sum(counts), room) if told else room
    return total


def loss_marks(
    gaps: list[Gap],
    own: Marked,
    cpu: Array,
    stays: npt.NDArray[np.bool_],
    vcpus: int,
) -> Marked:
    """The marks that the gaps add to the lanes.

    Takes the lanes' own marks by lane and row, their pCPUs, and whether the thread
    `stays` there until its next mark: it could not leave without one. A mark added at
    a row comes before the lane's own one there. One is added to a lane where a gap
    begins, and in a gap right behind each of the lane's marks; but none where the
    thread stays on a pCPU that lost nothing.
    """
    row, lane, _ = own
    bounds = np.searchsorted(lane, np.arange(vcpus + 1))
    rows: list[Array] = [row[:0]]
    lanes: list[Array] = [lane[:0]]
    for gap_cpu in dict.fromkeys(gap[0] for gap in gaps):
        of_cpu = blind_rows([gap for gap in gaps if gap[0] == gap_cpu])
        first, last = of_cpu[:, 0], of_cpu[:, 1]
        concerned = ~stays if gap_cpu is not None else np.ones(len(row), np.bool_)
        concerned |= cpu == gap_cpu
        for vcpu in range(vcpus):
            mine = slice(bounds[vcpu], bounds[vcpu + 1])
            if mine.start == mine.stop:
                continue
            prev = np.searchsorted(row[mine], first, side="left") - 1
            at = np.flatnonzero(np.diff(prev, prepend=-2))  # the first since a mark
            # before its first mark a vCPU is where that shows it
            here = np.where(
                prev[at] >= 0,
                concerned[mine][prev[at]],
                gap_cpu is None or cpu[mine.start] == gap_cpu,
            )
            rows.append(first[at[here]])
            lanes.append(np.full(int(here.sum()), vcpu, np.int32))
        which = np.flatnonzero(concerned)
        begun = np.searchsorted(first, row[which], side="right") - 1
        inside = which[(begun >= 0) & (row[which] < last[begun])]
        rows.append(row[inside] + 1)
        lanes.append(lane[inside])
    at_rows, of_lanes = np.concatenate(rows), np.concatenate(lanes)
    return at_rows, of_lanes, np.full(len(at_rows), Mark.LOST, np.uint8)


def merged_marks(first: Marked, second: Marked) -> Marked:
    """All marks by lane, then row; of one row those of `first` come first.

    The marks of each are in the order of their rows.
    """
    sides = [_by_lane(first), _by_lane(second)]
    if not len(sides[1][0]):
        return sides[0]
    span = int(max(side[0].max(initial=0) for side in sides)) + 1
    keys = [lane.astype(np.int64) * span + row for row, lane, _ in sides]
    # where the second side's marks go; those of the first take what is left
    to = np.searchsorted(keys[0], keys[1], side="right") + np.arange(len(keys[1]))
    is_first = np.ones(len(keys[0]) + len(keys[1]), np.bool_)
    is_first[to] = False
    del keys

    def joined(column: int, dtype: npt.DTypeLike) -> Array:
        whole = np.empty(len(is_first), dtype)
        whole[is_first] = sides[0][column]
        whole[to] = sides[1][column]
        return whole

    return joined(0, np.int64), joined(1, np.int32), joined(2, np.uint8)


def _by_lane(marked: Marked) -> Marked:
    row, lane, mark = marked
    lane_falls = lane[1:] < lane[:-1]
    row_falls = row[1:] < row[:-1]
    if not lane_falls.any():
        row_falls &= lane[1:] == lane[:-1]
        if not row_falls.any():
            return marked
    if row_falls.any():
        order = np.lexsort((row, lane))
    else:
        order = np.argsort(lane.astype(np.uint16), kind="stable")
    return row[order], lane[order], mark[order]
