"""Which window of a recording comes next, and before when nothing comes any more.

A recording in one file has finished rounds in it (perf_order.py). One in a directory
has a file for each of perf's threads and no rounds; an interrupted or edited one may
lack them, too. There, each file is read once before for the oldest time of each
window, and then always that file whose rest is oldest:

    data.0   | 10..19 | 20..31 |          read in the order 10, 12, 20, 25; after the
    data.1     | 12..24 | 25..40 |        first two, nothing is older than 20
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from piscope.sources.perf_losses import LossLog
from piscope.sources.perf_order import RoundClock
from piscope.sources.perf_samples import SampleReader, Samples
from piscope.sources.perf_stream import (
    WINDOW_BYTES,
    Extent,
    Window,
    read_windows,
)

__all__ = ("Schedule",)

Index = npt.NDArray[np.int64]

# Recordings of several files up to this size are held in memory as a whole.
_SMALL_BYTES = 32 << 20
# Rows that wait without a limit for them, until the oldest times are looked up.
_MAX_HELD_ROWS = 1 << 20
_NEVER_NS = (1 << 63) - 1


class _Feed:
    def __init__(self, extent: Extent, losses: LossLog) -> None:
        self.extent = extent
        self.windows = read_windows(extent, losses, WINDOW_BYTES)
        self.next_window = 0
        self.oldest_ns: Index | None = None  # of each window and all behind it

    def rest_ns(self) -> int:
        if self.oldest_ns is None or self.next_window >= len(self.oldest_ns):
            return _NEVER_NS
        return int(self.oldest_ns[self.next_window])


class Schedule:
    """The windows of all extents of a recording, for one pass."""

    def __init__(
        self, extents: list[Extent], reader: SampleReader, losses: LossLog
    ) -> None:
        self._reader = reader
        self._feeds = [_Feed(extent, losses) for extent in extents]
        self._clock = RoundClock()
        self._indexed = False
        sizes = [extent.source.size or 0 for extent in extents]
        if len(extents) > 1 and sum(sizes) > _SMALL_BYTES:
            self._look_up()

    def windows(self) -> Iterator[Window]:
        """All windows; each file's in its order."""
        open_feeds = list(self._feeds)
        while open_feeds:
            feed = (
                min(open_feeds, key=_Feed.rest_ns) if self._indexed else open_feeds[0]
            )
            window = next(feed.windows, None)
            feed.next_window += 1
            if window is None:
                open_feeds.remove(feed)
            else:
                yield window

    def limit_ns(
        self, window: Window, samples: Samples | None, held: int
    ) -> int | None:
        """Nothing older comes behind this window; None: that is not known yet.

        `held` is the number of rows that wait for it.
        """
        if len(self._feeds) == 1 and not self._indexed:
            if samples is None:
                places, ts_ns = np.zeros(0, np.int64), np.zeros(0, np.int64)
            else:
                places, ts_ns = samples.start, samples.ts_ns
            self._clock.add(ts_ns, np.searchsorted(places, window.rounds))
            if held <= _MAX_HELD_ROWS or not self._feeds[0].extent.source.seekable:
                return self._clock.limit_ns
            self._look_up()
        if not self._indexed:
            return None
        return min(feed.rest_ns() for feed in self._feeds)

    # Reads all files once for the oldest time in each window and behind it. A time
    # that damage has thrown back holds up what comes before it: that costs memory,
    # where leaving it out could cost events.
    def _look_up(self) -> None:
        for feed in self._feeds:
            oldest = [
                int(self._reader.times(window).min(initial=_NEVER_NS))
                for window in read_windows(feed.extent, LossLog(), WINDOW_BYTES)
            ]
            times = np.array([*oldest, _NEVER_NS], np.int64)
            feed.oldest_ns = np.minimum.accumulate(times[::-1])[::-1]
        self._indexed = True
