"""Events whose times can't be right, and events that are not in their time's place.

The events of one pCPU are in time order in its ring buffer. A clock that is not
quite monotonic may step back a little; a damaged time stamp is off by any amount:

    stamps of sub-buffers   100  110  9999  130  140
                                      ^^^^ alone, so it is this one that is wrong
"""

from __future__ import annotations

from itertools import pairwise, zip_longest

import numpy as np
import numpy.typing as npt

from piscope.sources.loss_log import LossLog
from piscope.sources.raw import Loss
from piscope.sources.trace_dat_batches import Part
from piscope.sources.trace_dat_located import Located

__all__ = ("backward_steps", "in_time_order", "misplaced_events")

Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# No clock of a pCPU steps back this far: a second, or 2**30 ticks.
_FAR = 1 << 30


def misplaced_events(located: Located, log: LossLog) -> Mask | None:
    """bool[n]: events that lie far from where their neighbors say; None: none do.

    These are all events of a sub-buffer whose own stamp is out of place, and those
    after a damaged delta, which lie behind the beginning of the next sub-buffer, or
    before that of their own. Both are noted in the log, with their number.
    """
    wrong: Mask | None = None
    for part in located.batch.parts:
        stamps = located.page_ns[part.first : part.end]
        has_events = located.pages.events[part.first : part.end] > 0
        following = _following(located, part)
        # The usual case, at the cost of a few comparisons per sub-buffer: the last
        # event of each is between its own stamp and the next one's, or nearly, and no
        # stamp is far behind the one before.
        last = located.first[part.first + 1 : part.end + 1] - 1
        ends = located.ts_ns[last[has_events]]
        before = part.lane.last_ns
        start = stamps[0] if before is None else before
        steps = np.diff(stamps, prepend=start)
        if (
            not (ends - _FAR > following[has_events]).any()
            and not (ends + _FAR < stamps[has_events]).any()
            and not (steps < -_FAR).any()
            and (len(ends) == 0 or int(stamps.min()) >= 0)
        ):
            continue
        if wrong is None:
            wrong = np.zeros(len(located.ts_ns), np.bool_)
        _judge_part(located, part, wrong, log)
    return wrong if wrong is not None and bool(wrong.any()) else None


# int64: the stamp of the sub-buffer after each of a lane's part of a batch.
def _following(located: Located, part: Part) -> Index:
    following = np.empty(part.end - part.first, np.int64)
    following[:-1] = located.page_ns[part.first + 1 : part.end]
    next_ns = part.lane.next_ns
    # A last sub-buffer without a stamp (all zero) is unused, and says nothing.
    known = next_ns is not None and next_ns >= (part.lane.last_ns or 0)
    following[-1] = next_ns if known and next_ns is not None else (1 << 63) - 1
    following[following == 0] = (1 << 63) - 1
    return following


def _judge_part(located: Located, part: Part, wrong: Mask, log: LossLog) -> None:
    lane = part.lane
    pages = [
        page for page in range(part.first, part.end) if located.pages.events[page] > 0
    ]
    stamps = [int(located.page_ns[page]) for page in pages]
    good: list[int] = []
    reached = lane.last_ns
    for i, (page, stamp) in enumerate(zip(pages, stamps, strict=True)):
        after = stamps[i + 1] if i + 1 < len(stamps) else lane.next_ns
        ahead = (
            after is not None
            and stamp - after > _FAR
            and (reached is None or after >= reached)
        )
        behind = (
            reached is not None
            and reached - stamp > _FAR
            and (after is None or after >= reached)
        )
        if ahead or behind or stamp < 0:
            _drop(located, part, page, int(located.first[page]), wrong, log)
            continue
        good.append(page)
        reached = stamp
    # Of the others, what lies far behind the next good sub-buffer's beginning, or
    # before its own.
    for page, next_page in zip_longest(good, good[1:]):
        stamp = int(located.page_ns[page])
        limit = lane.next_ns if next_page is None else int(located.page_ns[next_page])
        events = located.ts_ns[located.first[page] : located.first[page + 1]]
        off = events < stamp - _FAR
        if limit is not None and limit >= stamp:
            off |= events > limit + _FAR
        late = np.flatnonzero(off)
        if len(late):
            _drop(located, part, page, int(located.first[page] + late[0]), wrong, log)


def _drop(
    located: Located, part: Part, page: int, event: int, wrong: Mask, log: LossLog
) -> None:
    end = int(located.first[page + 1])
    wrong[event:end] = True
    log.add(
        Loss(
            "damaged",
            cpu=part.lane.cpu,
            count=end - event,
            detail=f"{end - event} events of the sub-buffer at byte "
            f"{located.batch.places[page]} have impossible times",
        )
    )


def in_time_order(located: Located, rows: Index) -> Index:
    """The rows (indices of events), each lane's by time; equal times as they were.

    `rows` itself, where they have that order.
    """
    bounds = [int(located.first[p.first]) for p in located.batch.parts]
    cuts = np.searchsorted(rows, [*bounds, len(located.ts_ns)])
    result = rows
    for start, end in pairwise(cuts.tolist()):
        times = located.ts_ns[rows[start:end]]
        if bool((times[1:] < times[:-1]).any()):
            if result is rows:
                result = rows.copy()
            result[start:end] = rows[start:end][np.argsort(times, kind="stable")]
    return result


def backward_steps(located: Located, part: Part, wrong: Mask | None) -> tuple[int, int]:
    """How often a lane's time goes back in a batch, and by how much at most, in ns."""
    own = located.events_of(part)
    times = located.ts_ns[own]
    if wrong is not None:
        times = times[~wrong[own]]
    before = part.lane.last_ns
    first = len(times) > 0 and before is not None and int(times[0]) < before
    if not first and not bool((times[1:] < times[:-1]).any()):
        return 0, 0
    steps = np.diff(times, prepend=times[0] if before is None else before)
    back = steps[steps < 0]
    return len(back), -int(back.min(initial=0))
