"""The events of one batch: where they lie, whose they are, and when they were."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.sources.event_format import ByteOrder, PageLayout
from piscope.sources.ring_buffer import Entries, Pages, walk
from piscope.sources.trace_dat_batches import Batch, Part

__all__ = ("Located", "locate")

Index = npt.NDArray[np.int64]


@dataclass(slots=True)
class Located:
    """A batch after the walk, in the order of its sub-buffers.

    ts_ns    int64[n]: time of each event
    first    int64[p + 1]: index of each sub-buffer's first event, and n at the end
    page_ns  int64[p]: time that each sub-buffer states
    """

    batch: Batch
    entries: Entries
    pages: Pages
    ts_ns: Index
    first: Index
    page_ns: Index

    def events_of(self, part: Part) -> slice:
        """The events of one lane's part of the batch."""
        return slice(int(self.first[part.first]), int(self.first[part.end]))

    def before(self, part: Part, event: int) -> int | None:
        """The time of the lane's event before the one at index `event`."""
        if event > self.first[part.first]:
            return int(self.ts_ns[event - 1])
        return part.lane.last_ns

    def after(self, part: Part, page: int) -> int | None:
        """The time of the lane's first event, or sub-buffer, after this sub-buffer."""
        event = int(self.first[page + 1])
        if event < self.first[part.end]:
            return int(self.ts_ns[event])
        return part.lane.next_ns


def locate(batch: Batch, layout: PageLayout, order: ByteOrder) -> Located:
    """Walk through a batch, and turn its ticks into times."""
    entries, pages = walk(batch.data, batch.available, layout, batch.page_size, order)
    first = np.zeros(len(pages.ts) + 1, np.int64)
    np.cumsum(pages.events, out=first[1:])
    ts_ns = np.empty(len(entries), np.int64)
    page_ns = np.empty(len(pages.ts), np.int64)
    clock = batch.parts[0].lane.clock if batch.parts else None
    if clock is not None and clock.shift is None:
        # One conversion holds for all pCPUs.
        ts_ns[:] = clock.convert(entries.ts, 0)
        page_ns[:] = clock.convert(pages.ts, 0)
    else:
        for part in batch.parts:
            clock, cpu = part.lane.clock, part.lane.cpu
            events = slice(int(first[part.first]), int(first[part.end]))
            ts_ns[events] = clock.convert(entries.ts[events], cpu)
            own = slice(part.first, part.end)
            page_ns[own] = clock.convert(pages.ts[own], cpu)
    return Located(batch, entries, pages, ts_ns, first, page_ns)
