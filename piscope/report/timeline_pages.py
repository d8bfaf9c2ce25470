"""The pages of `piscope timeline`, added up part by part.

    Frame     what is drawn: vCPUs, time, columns, policies
    Legend    which kinds and marks occur anywhere in it
    PagesTally  some pages that follow one another, as many as memory is given for

Parts are added in the order of the trace. What is held is as large as the pages are,
however many events they show.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.report.cpu_lanes import LanesTally
from piscope.report.cpu_stays import CpuStays, LostTimes, cpu_stays
from piscope.report.marks import Mark, MarksTally
from piscope.report.own_part import ChosenPart
from piscope.report.render_timeline import Page
from piscope.report.strips import StripsTally, column_edges, covered_ns
from piscope.tables import Kind

__all__ = ("Frame", "Legend", "PagesTally")

_CELLS_AT_ONCE = 1 << 20  # lines x columns that are held at once, of 84 bytes
_LINES_OF_CPU = 4  # of a vCPU's, what a pCPU's takes


@dataclass(frozen=True, slots=True)
class Frame:
    """What is drawn of a trace.

    vcpus          int32[v]  numbers of VCPUS, in order
    start_ns, end_ns  half-open
    page_ns        of each page; the last one may end early
    columns        of each page
    policy, other  whose notifications are marked, and which one may not send them
    cpus           how many pCPUs are drawn, more or less
    """

    vcpus: npt.NDArray[np.int32]
    start_ns: int
    end_ns: int
    page_ns: int
    columns: int
    policy: str
    other: str
    cpus: int

    @property
    def starts(self) -> range:
        """Where each page begins."""
        return range(self.start_ns, self.end_ns, self.page_ns)

    @property
    def pages_at_once(self) -> int:
        """For how many of them there is memory; one anyway."""
        lines = len(self.vcpus) + _LINES_OF_CPU * self.cpus
        return max(_CELLS_AT_ONCE // (self.columns * max(lines, 1)), 1)


class Legend:
    """What occurs anywhere in a frame."""

    def __init__(self, frame: Frame) -> None:
        edges_ns = np.array([frame.start_ns, frame.end_ns])
        self._strips = StripsTally(frame.vcpus, edges_ns)
        self._marks = MarksTally(frame.vcpus, edges_ns, frame.policy, other=frame.other)

    def add(self, part: ChosenPart) -> None:
        """Count what is a part's own."""
        self._strips.add(part.intervals())
        self._marks.add(part)

    @property
    def kinds(self) -> frozenset[Kind]:
        """Those that took any time."""
        present = self._strips.strips().time_ns.sum(axis=(0, 1))
        return frozenset(kind for kind in Kind if present[kind])

    @property
    def marks(self) -> frozenset[Mark]:
        """Those of any notification."""
        possible = self._marks.marks().possible
        return frozenset(mark for mark in Mark if possible[:, :, mark].any())

    @property
    def undated(self) -> int:
        """How many notifications are known by their window only."""
        return int(self._marks.marks().undated.sum())


class PagesTally:
    """The pages of a frame from the one of that number on."""

    def __init__(self, frame: Frame, first: int = 0) -> None:
        self._frame = frame
        self._starts = frame.starts[first : first + frame.pages_at_once]
        self.following = first + len(self._starts)
        edges_ns = np.concatenate(
            [
                column_edges(start, start + frame.page_ns, frame.columns)[:-1]
                for start in self._starts
            ]
        )
        self._edges_ns = np.append(edges_ns, self._starts[-1] + frame.page_ns)
        # behind the end there are columns of no width, which stay empty
        np.minimum(self._edges_ns, frame.end_ns, out=self._edges_ns)
        self._strips = StripsTally(frame.vcpus, self._edges_ns)
        self._marks = MarksTally(
            frame.vcpus, self._edges_ns, frame.policy, other=frame.other
        )
        self._lost: npt.NDArray[np.int64] | None = None
        self._by_switch: dict[int, bool] = {}
        self._lanes = [
            LanesTally(self._edges_ns[self._columns(page, end=1)])
            for page in range(len(self._starts))
        ]

    def add(self, part: ChosenPart) -> None:
        """Add up what is a part's own."""
        frame, events = self._frame, part.analysis.events
        self._strips.add(part.intervals())
        self._marks.add(part)
        if self._lost is None:  # each part tells of all losses
            lost = LostTimes(events, frame.start_ns, frame.end_ns).of_any()
            self._lost = covered_ns(*lost, self._edges_ns)
        if frame.cpus:
            self._add_stays(cpu_stays(part.analysis.timeline, events, part.own))

    def _add_stays(self, stays: dict[int, CpuStays]) -> None:
        """To the pages that they may touch."""
        self._by_switch |= {cpu: found.by_switch for cpu, found in stays.items()}
        some = [found for found in stays.values() if len(found.tid)]
        if not some:
            return
        begin_ns = min(int(found.begin_ns.min()) for found in some)
        end_ns = max(int(found.end_ns.max()) for found in some)
        first, last = (
            max((ns - self._starts[0]) // self._frame.page_ns, -1)
            for ns in (begin_ns, end_ns)
        )
        for lanes in self._lanes[max(first, 0) : last + 1]:
            lanes.add(stays)

    def pages(self) -> Iterator[Page]:
        """What was added, page by page.

        Raises ValueError where nothing was.
        """
        if self._lost is None:
            raise ValueError("pages are of at least one part")
        cpus = dict(sorted(self._by_switch.items()))
        for page, lanes in enumerate(self._lanes):
            columns = self._columns(page)
            yield Page(
                strips=self._strips.strips(columns),
                marks=self._marks.marks(columns),
                lanes=lanes.lanes(cpus) if self._frame.cpus else None,
                lost_ns=self._lost[columns],
            )

    def _columns(self, page: int, *, end: int = 0) -> slice:
        first = page * self._frame.columns
        return slice(first, first + self._frame.columns + end)
