"""From the arguments of `piscope timeline` to its pictures, page after page.

opened -> pipeline.analyze -> strips, marks, lanes -> render
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from piscope import __version__, pipeline
from piscope.allocator import keep_freed_memory
from piscope.commands.analyze_run import EXIT_CANT_TELL
from piscope.commands.moments import Moment, parse_moment
from piscope.commands.printing import columns_of, echo_text
from piscope.commands.requested import Request, parts_of_trace
from piscope.commands.selected import selected
from piscope.errors import UsageError
from piscope.posted import Posted
from piscope.report.cpu_lanes import cpu_lanes
from piscope.report.cpu_stays import LostTimes, cpu_stays
from piscope.report.render_layout import as_text
from piscope.report.render_timeline import (
    Page,
    Shown,
    label_cells,
    opening,
    page_section,
)
from piscope.report.render_timeline_cells import instant_text
from piscope.report.strips import (
    Mark,
    column_edges,
    covered_ns,
    marks,
    strips,
    strips_between,
)
from piscope.report.summarize import summarize_losses
from piscope.report.tally import KnownTime
from piscope.sources.raw import Array
from piscope.tables import Kind

__all__ = ("View", "draw")

_CELLS_AT_ONCE = 1 << 19  # vCPUs x columns whose times are held at once: 38 MB


@dataclass(frozen=True, slots=True)
class View:
    """What a user asked to see, as it was written.

    policy, posted, ignore, tsc_khz   as in `piscope analyze`
    window      length of a page; None: one page
    with_cpus   draw the pCPUs
    vms, vcpus  which vCPUs to draw
    start, end  what to draw; all of the trace is analyzed
    """

    policy: str = "preempt-only"
    window: str | None = None
    with_cpus: bool = False
    posted: Posted = "auto"
    ignore: tuple[str, ...] = ()
    vms: str | None = None
    vcpus: tuple[str, ...] = ()
    start: str | None = None
    end: str | None = None
    tsc_khz: int | None = None


def draw(
    trace: str, view: View, *, width: int | None = None, quiet: bool = False
) -> int:
    """Print the pages of a trace, and give the exit status.

    Raises UsageError for a view that makes no sense, and what the trace raises.
    """
    keep_freed_memory()
    selection = selected(view.vms, view.vcpus)
    if view.window is not None:
        _parse_window(view.window)
    other = next(p for p in reversed(pipeline.DEFAULT_POLICIES) if p != view.policy)
    request = Request(
        policies=(view.policy, other),
        posted=view.posted,
        ignore=view.ignore,
        start=view.start,
        end=view.end,
        tsc_khz=view.tsc_khz,
    )
    with parts_of_trace(trace, request, quiet=quiet, outside=True, at_once=True) as (
        parts,
        (start_ns, end_ns),
    ):
        (part,) = parts
    analysis = part.analysis
    timeline, events = analysis.timeline, analysis.events
    vcpus = np.flatnonzero(selection.of_vcpus(timeline.vcpus))
    rows = [timeline.vcpus.rows[vcpu] for vcpu in vcpus.tolist()]
    begin_ns, finish_ns = timeline.span_ns[0], timeline.span_ns[1] + 1
    start_ns = begin_ns if start_ns is None else max(start_ns, begin_ns)
    end_ns = finish_ns if end_ns is None else min(end_ns, finish_ns)
    if start_ns >= end_ns:
        raise UsageError(
            "nothing lies between --from and --to: the trace goes from"
            f" {instant_text(begin_ns)} to"
            f" {instant_text(finish_ns - 1)}",
            path=trace,
        )
    window_ns = None
    if view.window is not None:
        window_ns = _parse_window(view.window).resolve(0, finish_ns - begin_ns - 1)
        if window_ns < 1:
            raise UsageError(f"--window {view.window}: expected 1 ns or more")
    whole = strips(timeline, start_ns, end_ns, 1, vcpus=vcpus)
    counted = marks(analysis, whole, view.policy, other=other)
    present = whole.time_ns.sum(axis=(0, 1))
    shown = Shown(
        path=events.info.path,
        version=__version__,
        vcpus=rows,
        policy=view.policy,
        other=other,
        kinds=frozenset(kind for kind in Kind if present[kind]),
        marks=frozenset(m for m in Mark if counted.possible[:, :, m].any()),
        undated=int(counted.undated.sum()),
        start_ns=start_ns,
        end_ns=end_ns,
        span_ns=(begin_ns, finish_ns),
        window_ns=window_ns,
        with_cpus=view.with_cpus,
        lost=[
            f"{line.cause}: "
            + ("an unknown number" if line.events is None else f"{line.events:,}")
            for line in summarize_losses(events.losses)
        ],
    )
    color = sys.stdout.isatty()
    width = columns_of(width)
    room = label_cells((row.label for row in rows), with_tags=view.with_cpus)
    echo_text(as_text([opening(shown, width)], columns=width, color=color))
    for page in _pages(analysis, shown, vcpus, max(width - room, 1)):
        text = as_text([page_section(shown, page, width)], columns=width, color=color)
        echo_text(text, first=False)
    known_time = KnownTime()
    known_time.add(timeline, part.own)
    unknown = known_time.timeline_unknown({row.label for row in rows})
    return EXIT_CANT_TELL if unknown else 0


def _parse_window(text: str) -> Moment:
    moment = parse_moment(text)
    if moment.anchor == "end":
        raise UsageError(f"--window {text}: expected a length of time (10ms, 250us)")
    return moment


def _pages(
    analysis: pipeline.Analysis, shown: Shown, vcpus: Array, columns: int
) -> Iterator[Page]:
    timeline = analysis.timeline
    page_ns = shown.window_ns or shown.end_ns - shown.start_ns
    columns = min(columns, page_ns)
    stays = cpu_stays(timeline, analysis.events) if shown.with_cpus else None
    at_once = max(_CELLS_AT_ONCE // (columns * max(len(vcpus), 1)), 1)
    lost = LostTimes(analysis.events, shown.start_ns, shown.end_ns).of_any()
    starts = range(shown.start_ns, shown.end_ns, page_ns)
    for first in range(0, len(starts), at_once):
        batch = starts[first : first + at_once]
        edges = np.concatenate(
            [column_edges(start, start + page_ns, columns)[:-1] for start in batch]
        )
        edges = np.append(edges, batch[-1] + page_ns)
        # behind the end there are columns of no width, which stay empty
        np.minimum(edges, shown.end_ns, out=edges)
        strip = strips_between(timeline, edges, vcpus=vcpus)
        mark = marks(analysis, strip, shown.policy, other=shown.other)
        for page in range(len(batch)):
            part = page * columns, (page + 1) * columns
            own = strip.part(*part)
            yield Page(
                strips=own,
                marks=mark.part(*part),
                lanes=None if stays is None else cpu_lanes(stays, own.edges_ns),
                lost_ns=covered_ns(*lost, own.edges_ns),
            )
