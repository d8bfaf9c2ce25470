"""Batches of sub-buffers, filled from all pCPUs so that their times keep together.

    lane 0  |==batch 1==|==batch 2==|
    lane 1  |==batch 1=====|=batch 2=|
    lane 2  |=batch 1=|==batch 2===|
                      ^ watermark after batch 1

The lanes that are furthest behind are advanced first, so that a consumer who sorts
by time holds back about one batch. A batch is wide however many pCPUs there are,
since the walk through it costs as much for few sub-buffers as for many.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.sources.event_format import ByteOrder, PageLayout
from piscope.sources.raw import Loss
from piscope.sources.trace_dat_clock import Clock
from piscope.sources.trace_dat_lanes import PageReader

__all__ = ("Batch", "Lane", "Part", "batches", "watermark_ns")

Bytes = npt.NDArray[np.uint8]
Index = npt.NDArray[np.int64]

_BATCH_BYTES = 2048 * 4096
_LEAST_PAGES = 16
# What all lanes together may hold of decompressed data between batches.
_HELD_BYTES = 1 << 26
# Shares of a batch that are dealt out at a time, for each lane.
_DEALS = 4


@dataclass(slots=True, eq=False)
class Lane:
    """One pCPU's data of one buffer, and how far they have been read.

    events    events found so far, which is the next one's seq
    first_ns  time of the first event; None: none yet
    last_ns   time of the last event so far; None: none yet
    next_ns   time stamp of the next sub-buffer; None: there is none
    page_ns   what a sub-buffer spans, by the last batch; 0: none was read yet
    missed_known   events that sub-buffers' flags count as lost
    missed_inside  whether some were lost after its first event
    missing_bytes  data that the file should have, behind what it has
    """

    buffer: str
    cpu: int
    page_size: int
    pages: PageReader
    clock: Clock
    events: int = 0
    first_ns: int | None = None
    last_ns: int | None = None
    next_ns: int | None = None
    page_ns: int = 0
    missed_known: int = 0
    missed_inside: bool = False
    missing_bytes: int = 0
    done: bool = False

    def look_ahead(self, layout: PageLayout, order: ByteOrder) -> None:
        """Set `next_ns`, and `done` where nothing is left."""
        head = self.pages.peek(layout.ts_offset + 8)
        self.done = not head
        self.next_ns = None
        if len(head) == layout.ts_offset + 8:
            ticks = int.from_bytes(head[layout.ts_offset :], order)
            stamp = np.array([ticks], np.uint64)
            self.next_ns = int(self.clock.convert(stamp, self.cpu)[0])

    @property
    def reached_ns(self) -> int:
        """No event that is left lies before this, if the lane's times ascend."""
        if self.last_ns is not None:
            return self.last_ns
        return 0 if self.next_ns is None else self.next_ns


@dataclass(frozen=True, slots=True)
class Part:
    """The sub-buffers [first, end) of a batch, which are one lane's."""

    lane: Lane
    first: int
    end: int


@dataclass(slots=True)
class Batch:
    """Sub-buffers of one size from several lanes; valid until the next is asked for.

    data       uint8[p * page_size]
    available  int64[p]: bytes of each that the file has
    places     int64[p]: byte of each in the file
    gaps       what could not be read, each before that sub-buffer of that part
    """

    page_size: int
    data: Bytes
    available: Index
    places: Index
    parts: list[Part]
    gaps: list[tuple[Part, int, Loss]]


def batches(
    lanes: Sequence[Lane], layout: PageLayout, order: ByteOrder
) -> Iterator[Batch]:
    """All sub-buffers of the lanes, each lane's in order.

    The consumer sets `events`, `first_ns`, `last_ns` and `page_ns` of each part's lane
    before it asks for the next batch; `done` and `next_ns` are set here.
    """
    for lane in lanes:
        lane.look_ahead(layout, order)
        lane.pages.release(_HELD_BYTES // len(lanes))
    live = [lane for lane in lanes if not lane.done]
    data = np.zeros(0, np.uint8)
    data_page_size = 0
    while live:
        size = min(live, key=lambda lane: lane.reached_ns).page_size
        if size != data_page_size:
            data = np.zeros(_pages_in_batch(size) * size, np.uint8)
            data_page_size = size
        batch = _fill(data, [lane for lane in live if lane.page_size == size])
        for part in batch.parts:
            part.lane.look_ahead(layout, order)
            part.lane.pages.release(_HELD_BYTES // len(lanes))
        yield batch
        live = [lane for lane in live if not lane.done]


def watermark_ns(lanes: Sequence[Lane]) -> int:
    """The time before which no lane has events left."""
    behind = (lane.reached_ns for lane in lanes if not lane.done)
    return min(behind, default=(1 << 63) - 1)


def _pages_in_batch(page_size: int) -> int:
    return max(_LEAST_PAGES, _BATCH_BYTES // page_size)


# Sub-buffers that each lane gets of a batch. They are dealt out, always to the lane
# that is furthest behind, as far as the usual span of its sub-buffers tells; where
# that is not known yet, evenly.
def _shares(lanes: list[Lane], room: int) -> list[int]:
    shares = [0] * len(lanes)
    left = room
    if any(lane.page_ns == 0 for lane in lanes):
        grain = max(1, room // len(lanes))
        for i in sorted(range(len(lanes)), key=lambda i: lanes[i].reached_ns):
            shares[i] = min(grain, left)
            left -= shares[i]
        return shares
    grain = max(1, room // (_DEALS * len(lanes)))
    heap = [(lane.reached_ns, i) for i, lane in enumerate(lanes)]
    heapq.heapify(heap)
    while left > 0:
        at, i = heap[0]
        dealt = min(grain, left)
        shares[i] += dealt
        left -= dealt
        heapq.heapreplace(heap, (at + dealt * lanes[i].page_ns, i))
    return shares


def _fill(data: Bytes, lanes: list[Lane]) -> Batch:
    size = lanes[0].page_size
    room = len(data) // size
    shares = _shares(lanes, room)
    parts: list[Part] = []
    available: list[Index] = []
    places: list[Index] = []
    gaps: list[tuple[Part, int, Loss]] = []
    filled = 0
    for lane, share in zip(lanes, shares, strict=True):
        if share == 0:
            continue
        read = lane.pages.read(data[filled * size : (filled + share) * size])
        part = Part(lane, filled, filled + len(read.available))
        gaps += [(part, filled + page, loss) for page, loss in read.gaps]
        if part.first == part.end:
            lane.done = True
            continue
        parts.append(part)
        available.append(read.available)
        places.append(read.places)
        filled = part.end
    none = [np.zeros(0, np.int64)]
    return Batch(
        page_size=size,
        data=data[: filled * size],
        available=np.concatenate(available or none),
        places=np.concatenate(places or none),
        parts=parts,
        gaps=gaps,
    )
