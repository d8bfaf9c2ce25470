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
from piscope.sources.loss_log import LossLog
from piscope.sources.trace_dat_clock import Clock
from piscope.sources.trace_dat_lanes import PageReader

__all__ = ("Batch", "Lane", "Part", "batches")

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

    events   events found so far, which is the next one's seq
    last_ns  time of the last event so far; None: none yet
    page_ns  what a sub-buffer spans, by the last batch
    """

    buffer: str
    cpu: int
    page_size: int
    pages: PageReader
    clock: Clock
    events: int = 0
    first_ns: int | None = None
    last_ns: int | None = None
    page_ns: int = 1
    done: bool = False

    def next_ts(self, layout: PageLayout, order: ByteOrder) -> int | None:
        """The time stamp of the next sub-buffer, in ticks; None: there is none."""
        head = self.pages.peek(layout.ts_offset + 8)
        if len(head) < layout.ts_offset + 8:
            return None
        return int.from_bytes(head[layout.ts_offset :][:8], order)


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
    """

    page_size: int
    data: Bytes
    available: Index
    places: Index
    parts: list[Part]


def batches(
    lanes: Sequence[Lane], layout: PageLayout, order: ByteOrder
) -> Iterator[Batch]:
    """All sub-buffers of the lanes; between batches, `done` and `last_ns` are true.

    The consumer sets `events`, `last_ns` and `page_ns` of each part's lane before it
    asks for the next batch.
    """
    live = list(lanes)
    # The time reached: the last event's, or before it the first sub-buffer's stamp.
    reached: dict[int, int] = {}
    for lane in live:
        ticks = lane.next_ts(layout, order)
        lane.done = ticks is None
        if ticks is not None:
            stamp = np.array([ticks], np.uint64)
            reached[id(lane)] = int(lane.clock.convert(stamp, lane.cpu)[0])
            lane.last_ns = None
    live = [lane for lane in live if not lane.done]
    if not live:
        return
    buffers: dict[int, Bytes] = {}
    while live:
        for lane in live:
            if lane.last_ns is not None:
                reached[id(lane)] = lane.last_ns
        size = min(live, key=lambda lane: reached[id(lane)]).page_size
        if size not in buffers:
            buffers = {size: np.zeros(_pages_in_batch(size) * size, np.uint8)}
        batch = _fill(
            buffers[size], [la for la in live if la.page_size == size], reached
        )
        for part in batch.parts:
            lane = part.lane
            lane.done = lane.next_ts(layout, order) is None
            lane.pages.release(_HELD_BYTES // len(lanes))
        yield batch
        live = [lane for lane in live if not lane.done]


def watermark_ns(lanes: Sequence[Lane]) -> int | None:
    """The time before which no lane has events left; None: unknown."""
    behind = [lane.last_ns for lane in lanes if not lane.done]
    if any(time is None for time in behind):
        return None
    return min((t for t in behind if t is not None), default=(1 << 63) - 1)


def _pages_in_batch(page_size: int) -> int:
    return max(_LEAST_PAGES, _BATCH_BYTES // page_size)


# Deal the batch's room out to the lanes, always to the one that is furthest behind
# as far as its sub-buffers' usual span tells, and read each lane's share at once.
def _fill(data: Bytes, lanes: list[Lane], reached: dict[int, int]) -> Batch:
    size = lanes[0].page_size
    room = len(data) // size
    grain = max(1, room // (_DEALS * len(lanes)))
    shares = [0] * len(lanes)
    heap = [(reached[id(lane)], i) for i, lane in enumerate(lanes)]
    heapq.heapify(heap)
    left = room
    while left > 0:
        at, i = heap[0]
        shares[i] += min(grain, left)
        left -= min(grain, left)
        heapq.heapreplace(heap, (at + grain * lanes[i].page_ns, i))
    parts: list[Part] = []
    available: list[Index] = []
    places: list[Index] = []
    filled = 0
    for lane, share in zip(lanes, shares, strict=True):
        if share == 0:
            continue
        read = lane.pages.read(data[filled * size : (filled + share) * size])
        count = len(read.available)
        if count:
            parts.append(Part(lane, filled, filled + count))
            available.append(read.available)
            places.append(read.places)
            filled += count
    none = [np.zeros(0, np.int64)]
    return Batch(
        page_size=size,
        data=data[: filled * size],
        available=np.concatenate(available or none),
        places=np.concatenate(places or none),
        parts=parts,
    )


def reader_losses(lanes: Sequence[Lane], log: LossLog) -> None:
    """Add what the lanes' readers could not read."""
    for lane in lanes:
        for loss in lane.pages.losses.rows:
            log.add(loss)
