"""From an open trace to whose posts it holds: a shorter arrow.

sources -> events -> timeline -> report
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.events.catalog import analysis_fields
from piscope.events.normalize import collect
from piscope.replay.hidden_posts import window_posts
from piscope.replay.recognize import learned_of, posting_by_hardware
from piscope.report.posts_report import PostsReport, count_posts
from piscope.report.selection import Selection
from piscope.sources.raw import Source, Wanted
from piscope.tables import Events, Timeline
from piscope.timeline.build import build_timeline

__all__ = ("PostsFound", "find_trace_posts")


@dataclass(frozen=True, slots=True)
class PostsFound:
    """A trace's posts: `which` (indices into timeline.posts) are those asked for."""

    events: Events
    timeline: Timeline
    which: npt.NDArray[np.int64]
    report: PostsReport


def find_trace_posts(
    source: Source,
    *,
    selection: Selection | None = None,
    origins: frozenset[int] | None = None,
    ignore: tuple[str, ...] = (),
    start_ns: int | None = None,
    end_ns: int | None = None,
    tsc_khz: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> PostsFound:
    """Find the posts of one open trace, and count them.

    `selection` narrows them to targets, `origins` to origins.Origin, `start_ns` and
    `end_ns` to an interval, half-open: what lies before it is read, and tells.

    Raises UnanswerableError for a trace without vCPUs of an Intel host, UsageError
    where the selection names what it does not hold.
    """
    progress("reading")
    events = collect(source, Wanted(analysis_fields(), ignore=ignore), tsc_khz)
    progress("timeline")
    timeline = build_timeline(events)
    posts = timeline.posts
    keep = np.ones(len(posts), np.bool_)
    if selection is not None and (selection.vms is not None or selection.vcpus):
        chosen = np.append(selection.of_vcpus(timeline.vcpus), False)
        keep &= chosen[posts.vcpu]
    if origins is not None:
        keep &= np.isin(posts.origin, sorted(origins))
    if start_ns is not None:
        keep &= posts.ts_ns >= start_ns
    if end_ns is not None:
        keep &= posts.ts_ns < end_ns
    which = np.flatnonzero(keep)
    probed = posting_by_hardware(learned_of(timeline.windows, None)) is not None
    unseen = int(window_posts(timeline).hidden.sum()) if probed else None
    report = count_posts(events, timeline, which, unseen)
    begin_ns, last_ns = timeline.span_ns
    first_ns = begin_ns if start_ns is None else max(start_ns, begin_ns)
    end_ns = last_ns if end_ns is None else min(end_ns, last_ns)
    report.duration_ns = max(end_ns - first_ns, 0)
    return PostsFound(events, timeline, which, report)
