"""The timeline as text: a line for each vCPU, a character for each column of time.

                  |0          |+200ms     |+400ms
    vm0/vcpu0     ##=#uu###pp##?###......###       what it did longest there
      notified        S S   X                      what notifications to it hit
      not sure           ??                        the trace leaves half of it open
    cpu0          000000001110+....0.000           whose thread the pCPU ran

Below stand the same numbers, exact, as shares of the time shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from piscope.report.cpu_lanes import CpuLanes
from piscope.report.marks import Mark, Marks
from piscope.report.render_layout import Grid, facts, heading, note
from piscope.report.render_timeline_cells import (
    KIND_CELLS,
    MARK_CELLS,
    TAGS,
    Cell,
    axis,
    instant_text,
)
from piscope.report.render_words import (
    KIND_HEADINGS,
    bounds_text,
    duration_text,
    printable,
    share_text,
)
from piscope.report.strips import Strips
from piscope.report.summary import Bounds
from piscope.sources.raw import Array
from piscope.tables import Kind, Vcpu

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ("Page", "Shown", "label_cells", "opening", "page_section")

_INDENT = "  "
_NOTIFIED, _NOT_SURE, _LOST = "notified", "not sure", "lost"
_LEAST_LABEL = len(_INDENT) + len(_NOTIFIED)
_MOST_LABEL = 24
_TAG = 2  # a blank and the tag
_LEGEND = 14  # columns of a fact's label, as render_layout.facts has


@dataclass(slots=True)
class Shown:
    """What is the same on all pages.

    path, version  of the trace and of piscope
    vcpus          that are drawn, in order
    policy, other  whose notifications are marked, and which one may not send them
    kinds, marks   that occur anywhere in what is shown, for the legend
    undated        notifications whose instant is not known
    start_ns, end_ns  what is shown, of the trace's own span
    window_ns      of each page; None: there is one
    with_cpus      the pCPUs are drawn
    lost           one clause for each cause of loss
    """

    path: str
    version: str
    vcpus: Sequence[Vcpu]
    policy: str
    other: str
    kinds: frozenset[Kind]
    marks: frozenset[Mark]
    undated: int
    start_ns: int
    end_ns: int
    span_ns: tuple[int, int]
    window_ns: int | None
    with_cpus: bool
    lost: Sequence[str]


@dataclass(slots=True)
class Page:
    """One window of time.

    strips, marks  of the vCPUs of `Shown`, in their order
    lanes          of the pCPUs; None: not wanted
    lost_ns        int64[columns]: time in which some pCPU's events were lost
    """

    strips: Strips
    marks: Marks
    lanes: CpuLanes | None
    lost_ns: npt.NDArray[np.int64]


def label_cells(labels: Iterable[str], *, with_tags: bool) -> int:
    """How wide the column of labels is, with its indent and the gap behind it."""
    longest = max((len(printable(label)) for label in labels), default=0)
    longest = min(max(longest, _LEAST_LABEL), _MOST_LABEL)
    return 2 * len(_INDENT) + longest + (_TAG if with_tags else 0)


def opening(shown: Shown, width: int) -> Iterator[RenderableType]:
    """What is shown, and what its characters mean."""
    yield heading(f"piscope {shown.version}: {printable(shown.path)}")
    rows = [
        ("shows", _extent(shown)),
        ("marks", _what_is_marked(shown)),
        *(("" if i else "lost", text) for i, text in enumerate(shown.lost)),
    ]
    yield facts(rows)
    states = [KIND_CELLS[k] for k in KIND_CELLS if k in shown.kinds]
    yield _legend("states", states, width)
    marks = [MARK_CELLS[m] for m in MARK_CELLS if m in shown.marks]
    if marks:
        yield _legend("notified", marks, width)
        said = "upper case: proven; lower case: not excluded; worst of the column"
        if shown.undated:
            said += (
                f"; {shown.undated:,} of them left no event, and stand where the"
                " window begins in which the probes betray them"
            )
        yield facts([("", said)])
    if shown.with_cpus:
        yield _legend("pCPUs", _CPU_CELLS, width)


_CPU_CELLS = (
    Cell(TAGS[0], "", "the vCPU with that tag"),
    Cell(".", "", "idle"),
    Cell("+", "", "another task"),
    Cell("?", "red", "unknown"),
)


def _what_is_marked(shown: Shown) -> str:
    what = f"notifications under {shown.policy}"
    return what if shown.marks else f"{what}: none is known that interrupted anything"


def _extent(shown: Shown) -> str:
    begin_ns, end_ns = shown.span_ns
    whole = (shown.start_ns, shown.end_ns) == (begin_ns, end_ns)
    first = instant_text(shown.start_ns)
    last = instant_text(shown.end_ns)
    length = duration_text(shown.end_ns - shown.start_ns)
    of = "" if whole else f" of {duration_text(end_ns - begin_ns)}"
    paged = f", {duration_text(shown.window_ns)} a page" if shown.window_ns else ""
    return f"{length}{of}, from {first} to {last}{paged}"


def _legend(title: str, cells: Sequence[Cell], width: int) -> RenderableType:
    from rich.text import Text

    text = Text(f"{_INDENT}{title}".ljust(_LEGEND), no_wrap=True, overflow="crop")
    used = _LEGEND
    for i, cell in enumerate(cells):
        if i and used + len(cell.words) + 5 > width:
            text.append("\n".ljust(_LEGEND + 1))
            used = _LEGEND
        elif i:
            text.append("   ")
            used += 3
        text.append(cell.char, cell.style)
        text.append(f" {cell.words}")
        used += len(cell.words) + 2
    return text


def page_section(shown: Shown, page: Page, width: int) -> Iterator[RenderableType]:
    """One window: its picture, then its numbers."""
    edges = page.strips.edges_ns
    room = width - page.strips.columns
    if shown.window_ns is not None:
        first, last = (instant_text(int(edges[i])) for i in (0, -1))
        yield heading(f"From {first} to {last}")
    yield _line("", [(axis(edges), "")], room)
    if (page.lost_ns > 0).any():
        cells = [("!", "red") if ns > 0 else (" ", "") for ns in page.lost_ns.tolist()]
        yield _line(_INDENT + _LOST, cells, room)
    lines = enumerate(shown.vcpus)
    for vm, members in groupby(lines, key=lambda line: line[1].vm):
        yield _line(_vm_name(vm, shown.vcpus), [], room)
        for line, vcpu in members:
            yield from _vcpu_lines(shown, page, line, vcpu, room)
    if page.lanes is not None:
        yield _line("pCPUs", [], room)
        yield from _cpu_lines(shown, page.lanes, np.diff(edges), room)
    yield note("")
    yield _shares(shown, page.strips).render(width)
    counted = _notifications(shown, page.marks)
    if counted is not None:
        yield note("")
        yield counted.render(width)


def _vm_name(vm: int | None, vcpus: Sequence[Vcpu]) -> str:
    if vm is None:
        return "VM not known"
    tgid = next((v.tgid for v in vcpus if v.vm == vm and v.tgid is not None), None)
    return f"vm{vm}" + (f", process {tgid}" if tgid is not None else "")


def _line(label: str, cells: Sequence[tuple[str, str]], room: int) -> RenderableType:
    from rich.text import Text

    text = Text(no_wrap=True, overflow="crop")
    text.append(f"{printable(label):{room}}" if cells else printable(label))
    for style, run in groupby(cells, key=lambda cell: cell[1]):
        text.append("".join(char for char, _ in run), style or None)
    return text


def _vcpu_lines(
    shown: Shown, page: Page, line: int, vcpu: Vcpu, room: int
) -> Iterator[RenderableType]:
    strips = page.strips
    cells_left = room - 2 * len(_INDENT) - (_TAG if shown.with_cpus else 0)
    label = _cut(vcpu.label, cells_left)
    if shown.with_cpus:
        label = f"{label:{cells_left}} {_tag(line)}"
    cells = [
        (" ", "") if kind < 0 else KIND_CELLS[Kind(kind)][:2]
        for kind in strips.dominant()[line].tolist()
    ]
    yield _line(_INDENT + label, cells, room)
    cells = _mark_cells(page.marks, line)
    if any(char != " " for char, _ in cells):
        yield _line(2 * _INDENT + _NOTIFIED, cells, room)
    known_ns = strips.time_ns[line, :, Kind.UNKNOWN + 1 :].sum(axis=1)
    unsure = (strips.uncertain_ns[line] * 2 >= known_ns) & (known_ns > 0)
    # where most of it is unknown the line above says so
    unsure &= strips.dominant()[line] != Kind.UNKNOWN
    if unsure.any():
        cells = [("?", "red") if it else (" ", "") for it in unsure.tolist()]
        yield _line(2 * _INDENT + _NOT_SURE, cells, room)


def _mark_cells(marks: Marks, line: int) -> list[tuple[str, str]]:
    columns = marks.certain.shape[1]
    cells = [(" ", "")] * columns
    for mark in reversed(MARK_CELLS):
        char, style, _ = MARK_CELLS[mark]
        for column in np.flatnonzero(marks.possible[line, :, mark]).tolist():
            proven = marks.certain[line, column, mark] > 0
            cells[column] = (char if proven else char.lower(), style)
    return cells


def _cpu_lines(
    shown: Shown, lanes: CpuLanes, width_ns: Array, room: int
) -> Iterator[RenderableType]:
    line_of = {vcpu.vcpu: line for line, vcpu in enumerate(shown.vcpus)}
    times = np.stack([lanes.vcpu_ns, lanes.idle_ns, lanes.other_ns, lanes.open_ns])
    longest = np.argmax(times, axis=0)
    for row, cpu in enumerate(lanes.cpus.tolist()):
        cells = []
        for column, what in enumerate(longest[row].tolist()):
            if not width_ns[column]:
                cells.append((" ", ""))
            elif what == 0:
                line = line_of.get(int(lanes.vcpu[row, column]))
                # a vCPU that is not shown is one more task
                cells.append(("+", "") if line is None else _tag_cell(line))
            else:
                cells.append(_CPU_CELLS[what][:2])
        yield _line(f"{_INDENT}cpu{cpu}", cells, room)


_TAG_STYLES = ("green", "cyan", "magenta", "yellow", "blue")


def _tag(line: int) -> str:
    return TAGS[line] if line < len(TAGS) else "*"


def _tag_cell(line: int) -> tuple[str, str]:
    return _tag(line), _TAG_STYLES[line % len(_TAG_STYLES)]


def _cut(label: str, cells: int) -> str:
    label = printable(label)
    return label if len(label) <= cells else f"{label[: cells - 3]}..."


def _shares(shown: Shown, strips: Strips) -> Grid:
    kinds = [k for k in KIND_CELLS if k in shown.kinds]
    grid = Grid(
        (
            "percent of time",
            *(KIND_HEADINGS[kind.label] for kind in kinds),
            "not\nsure",
        )
    )
    by_kind = strips.time_ns.sum(axis=1)
    unsure = strips.uncertain_ns.sum(axis=1)
    for line, vcpu in enumerate(shown.vcpus):
        whole = int(by_kind[line].sum())
        shares = (share_text(int(by_kind[line, kind]), whole) for kind in kinds)
        grid.add(vcpu.label, *shares, share_text(int(unsure[line]), whole))
    return grid


_COUNTED = {
    Mark.UNLOADED_HOST: "host,\nnot loaded",
    Mark.WRONG_VCPU: "wrong\nvCPU",
    Mark.RESIDUAL: "host,\nloaded",
    Mark.WAKEUP: "wakeup",
}


def _notifications(shown: Shown, marks: Marks) -> Grid | None:
    least, most = marks.certain.sum(axis=1), marks.possible.sum(axis=1)
    if not most.any():
        return None
    names = (*_COUNTED.values(), f"not sent by\n{shown.other}")
    grid = Grid(("notifications", *names))
    for line, vcpu in enumerate(shown.vcpus):
        ranges = (
            bounds_text(Bounds(int(least[line, mark]), int(most[line, mark])))
            for mark in (*_COUNTED, Mark.REMOVED)
        )
        if most[line].any():
            grid.add(vcpu.label, *ranges)
    return grid
