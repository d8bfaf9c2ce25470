"""From the arguments of `piscope timeline` to its pictures, page after page.

opened -> parts -> report.timeline_pages -> render
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from piscope import __version__, pipeline
from piscope.allocator import keep_freed_memory
from piscope.commands.analyze_run import EXIT_CANT_TELL
from piscope.commands.moments import Moment, parse_moment
from piscope.commands.printing import columns_of, echo_text
from piscope.commands.requested import Request, parts_of_trace
from piscope.commands.selected import selected
from piscope.errors import UsageError
from piscope.pipeline import Part
from piscope.posted import Posted
from piscope.report.own_part import ChosenPart
from piscope.report.render_layout import as_text
from piscope.report.render_timeline import Shown, label_cells, opening, page_section
from piscope.report.render_timeline_cells import instant_text
from piscope.report.selection import Selection
from piscope.report.summarize import summarize_losses
from piscope.report.tally import KnownTime
from piscope.report.timeline_pages import Frame, Legend, PagesTally

__all__ = ("View", "draw", "draw_parts")


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
    request = Request(
        policies=(view.policy, _other(view.policy)),
        posted=view.posted,
        ignore=view.ignore,
        start=view.start,
        end=view.end,
        tsc_khz=view.tsc_khz,
    )
    with parts_of_trace(
        trace, request, quiet=quiet, outside=True, keep_events=False
    ) as (parts, moments):
        return draw_parts(parts, view, selection, moments, columns_of(width))


def draw_parts(
    parts: Iterable[Part],
    view: View,
    selection: Selection,
    narrowed_ns: tuple[int | None, int | None],
    width: int,
) -> int:
    """Print the pages of an analysis of all of a trace, and give the exit status.

    The parts are gone through once, and again for every so many further pages;
    `selection` and `narrowed_ns` are what the view's words mean in this trace.

    Raises UsageError for a view that makes no sense.
    """
    drawing: _Drawing | None = None
    for part in parts:
        if drawing is None:
            drawing = _Drawing(part, view, selection, narrowed_ns, width)
        drawing.add(part)
        del part  # not beside the next one
    if drawing is None:
        raise ValueError("a timeline is of at least one part")
    color = sys.stdout.isatty()
    shown = drawing.shown()
    echo_text(as_text([opening(shown, width)], columns=width, color=color))
    while drawing.pages is not None:
        for page in drawing.pages.pages():
            section = page_section(shown, page, width)
            text = as_text([section], columns=width, color=color)
            echo_text(text, first=False)
        if drawing.turn():
            for part in parts:
                drawing.add(part)
                del part
    return EXIT_CANT_TELL if drawing.is_unknown() else 0


class _Drawing:
    """What is drawn of a trace, from its parts.

    pages  those that are being added up; None: there are no more
    """

    def __init__(
        self,
        part: Part,
        view: View,
        selection: Selection,
        narrowed_ns: tuple[int | None, int | None],
        width: int,
    ) -> None:
        timeline, events = part.analysis.timeline, part.analysis.events
        self._selection = selection
        vcpus = np.flatnonzero(selection.of_vcpus(timeline.vcpus)).astype(np.int32)
        begin_ns, finish_ns = timeline.span_ns[0], timeline.span_ns[1] + 1
        start_ns, end_ns = _shown_ns(narrowed_ns, begin_ns, finish_ns, events.info.path)
        window_ns = None
        if view.window is not None:
            window_ns = _parse_window(view.window).resolve(0, finish_ns - begin_ns - 1)
            if window_ns < 1:
                raise UsageError(f"--window {view.window}: expected 1 ns or more")
        rows = [timeline.vcpus.rows[vcpu] for vcpu in vcpus.tolist()]
        other = _other(view.policy)
        self._shown = Shown(
            path=events.info.path,
            version=__version__,
            vcpus=rows,
            policy=view.policy,
            other=other,
            kinds=frozenset(),
            marks=frozenset(),
            undated=0,
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
        room = label_cells((row.label for row in rows), with_tags=view.with_cpus)
        page_ns = window_ns or end_ns - start_ns
        self._frame = Frame(
            vcpus=vcpus,
            start_ns=start_ns,
            end_ns=end_ns,
            page_ns=page_ns,
            columns=min(max(width - room, 1), page_ns),
            policy=view.policy,
            other=other,
            cpus=max(len(events.cpus), 1) if view.with_cpus else 0,
        )
        self._legend: Legend | None = Legend(self._frame)
        self._known_time = KnownTime()
        self.pages: PagesTally | None = PagesTally(self._frame)

    def add(self, part: Part) -> None:
        mine = ChosenPart(part, self._selection)
        if self._legend is not None:
            self._legend.add(mine)
            self._known_time.add(part.analysis.timeline, part.own)
        if self.pages is not None:
            self.pages.add(mine)

    def shown(self) -> Shown:
        """What is the same on all pages, once all parts were added."""
        assert self._legend is not None
        kinds, marks = self._legend.kinds, self._legend.marks
        undated = self._legend.undated
        return replace(self._shown, kinds=kinds, marks=marks, undated=undated)

    def turn(self) -> bool:
        """Whether there are further pages, which the parts are to be added to."""
        assert self.pages is not None
        following = self.pages.following
        self._legend = self.pages = None
        if following < len(self._frame.starts):
            self.pages = PagesTally(self._frame, following)
        return self.pages is not None

    def is_unknown(self) -> bool:
        """Whether what the vCPUs did is unknown for more than half of their time."""
        labels = {vcpu.label for vcpu in self._shown.vcpus}
        return self._known_time.timeline_unknown(labels)


def _other(policy: str) -> str:
    return next(p for p in reversed(pipeline.DEFAULT_POLICIES) if p != policy)


def _shown_ns(
    narrowed_ns: tuple[int | None, int | None], begin_ns: int, end_ns: int, path: str
) -> tuple[int, int]:
    """What is shown of a trace from begin to end.

    Raises UsageError where that is nothing.
    """
    first_ns, last_ns = narrowed_ns
    shown_ns = (
        begin_ns if first_ns is None else max(first_ns, begin_ns),
        end_ns if last_ns is None else min(last_ns, end_ns),
    )
    if shown_ns[0] >= shown_ns[1]:
        raise UsageError(
            "nothing lies between --from and --to: the trace goes from"
            f" {instant_text(begin_ns)} to {instant_text(end_ns - 1)}",
            path=path,
        )
    return shown_ns


def _parse_window(text: str) -> Moment:
    moment = parse_moment(text)
    if moment.anchor == "end":
        raise UsageError(f"--window {text}: expected a length of time (10ms, 250us)")
    return moment
