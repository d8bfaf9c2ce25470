"""From an open trace to whose posts it holds, part by part.

sources -> sliced_pipeline.parts_of -> report.posts_tally
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope import sliced_pipeline
from piscope.pipeline import Part
from piscope.replay.hidden_posts import window_posts
from piscope.report.posts_report import PostsReport
from piscope.report.posts_tally import PostsTally
from piscope.report.selection import Selection
from piscope.sources.raw import Source
from piscope.tables import Timeline

__all__ = ("PartPosts", "TracePosts", "find_trace_posts")


@dataclass(frozen=True, slots=True)
class PartPosts:
    """A part's own posts.

    own     int64[n]  indices into its timeline.posts
    chosen  bool[n]   those that are asked for
    """

    part: Part
    own: npt.NDArray[np.int64]
    chosen: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Asked:
    """Which posts are asked for, as for `find_trace_posts`."""

    selection: Selection
    origins: frozenset[int] | None
    start_ns: int | None
    end_ns: int | None

    def of(
        self, timeline: Timeline, which: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """bool[which]: those of these posts."""
        posts = timeline.posts
        chosen = np.ones(len(which), np.bool_)
        if self.selection.vms is not None or self.selection.vcpus:
            of_vcpus = np.append(self.selection.of_vcpus(timeline.vcpus), False)
            chosen &= of_vcpus[posts.vcpu[which]]
        if self.origins is not None:
            chosen &= np.isin(posts.origin[which], sorted(self.origins))
        if self.start_ns is not None:
            chosen &= posts.ts_ns[which] >= self.start_ns
        if self.end_ns is not None:
            chosen &= posts.ts_ns[which] < self.end_ns
        return chosen

    def duration_ns(self, span_ns: tuple[int, int]) -> int:
        """How much of that time is asked for."""
        first_ns, last_ns = span_ns
        if self.start_ns is not None:
            first_ns = max(first_ns, self.start_ns)
        if self.end_ns is not None:
            last_ns = min(last_ns, self.end_ns)
        return max(last_ns - first_ns, 0)


class TracePosts:
    """The posts of one trace, counted while someone goes through its parts.

    A part is gone when the caller lets go of it.
    """

    def __init__(self, parts: Iterable[Part], asked: _Asked) -> None:
        """See `find_trace_posts`."""
        self._parts, self._asked = parts, asked
        self._tally = PostsTally()
        self._duration_ns = 0
        self._unseen: int | None = None

    def __iter__(self) -> Iterator[PartPosts]:
        self._tally, self._unseen = PostsTally(), None
        for part in self._parts:
            yield self._counted(part)
            del part

    def report(self) -> PostsReport:
        """What the parts that have been taken add up to.

        Raises ValueError before the first one.
        """
        return self._tally.finish(self._duration_ns, self._unseen)

    def report_of_all(self) -> PostsReport:
        """Go through all parts, and report them."""
        deque(self, maxlen=0)
        return self.report()

    def _counted(self, part: Part) -> PartPosts:
        analysis, own = part.analysis, part.own
        timeline = analysis.timeline
        mine = np.flatnonzero(own.posts(timeline.posts))
        chosen = self._asked.of(timeline, mine)
        self._tally.add(analysis.events, timeline, mine[chosen])
        self._duration_ns = self._asked.duration_ns(timeline.span_ns)
        if analysis.posting_by_hardware is not None:  # probes tell
            hidden = window_posts(timeline).hidden & own.windows(timeline.windows)
            self._unseen = (self._unseen or 0) + int(hidden.sum())
        return PartPosts(part, mine, chosen)


def find_trace_posts(
    source: Source,
    *,
    selection: Selection | None = None,
    origins: frozenset[int] | None = None,
    ignore: tuple[str, ...] = (),
    start_ns: int | None = None,
    end_ns: int | None = None,
    tsc_khz: int | None = None,
    slice_rows: int = sliced_pipeline.SLICE_ROWS,
    whole_rows: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> TracePosts:
    """The posts of one open trace, in parts as sliced_pipeline.parts_of makes them.

    `selection` narrows them to targets, `origins` to origins.Origin, `start_ns` and
    `end_ns` to an interval, half-open: what lies before it is read, and tells. A trace
    that can be read only once has to be one part: `whole_rows` None.

    Going through them raises UnanswerableError for a trace without vCPUs of an Intel
    host, UsageError where the selection names what it does not hold.
    """
    parts = sliced_pipeline.parts_of(
        source,
        policies=(),
        posted="none",
        ignore=ignore,
        tsc_khz=tsc_khz,
        slice_rows=slice_rows,
        whole_rows=whole_rows,
        keep_events=False,
        progress=progress,
    )
    asked = _Asked(selection or Selection(), origins, start_ns, end_ns)
    return TracePosts(parts, asked)
