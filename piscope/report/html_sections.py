"""The report's sections as a page's template reads them.

The same shapes that the terminal shows (`render_layout`), from the same functions, so
that no number is said twice; beside them the charts of the section.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from piscope.report.html_charts import Chart, pointer
from piscope.report.html_figures import charts_of
from piscope.report.render import sections
from piscope.report.render_layout import (
    MOST_COLUMNS,
    Facts,
    Grid,
    Heading,
    Note,
    Picture,
    Remarks,
    Sheet,
    as_text,
)
from piscope.report.render_verdict import hidden_windows
from piscope.report.render_words import bounds_text, printable, share_text
from piscope.report.summary import Bounds, Summary

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ("Section", "Tile", "opening", "page_sections", "tiles")


@dataclass(slots=True)
class Section:
    """A section of the page.

    name     its id
    heading  its title
    short    the same for the list of sections
    parts    what the terminal shows as well, as plain values with a `kind`
    charts   beside it
    """

    name: str
    heading: str
    short: str
    parts: list[dict[str, Any]] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)

    @property
    def layout(self) -> str:
        """Whether charts and parts stand side by side: not where a table is wide."""
        grids = (part["grid"] for part in self.parts if part["kind"] == "grid")
        wide = any(len(grid["headings"]) > _MOST_BESIDE for grid in grids)
        return "beside" if self.charts and self.parts and not wide else "alone"

    @property
    def small(self) -> bool:
        """Whether the charts are so small that two fit side by side."""
        return len(self.charts) > 1 and not any(c.legend for c in self.charts)


@dataclass(frozen=True, slots=True)
class Tile:
    """One number that stands under the verdict.

    pointer  of the number in the JSON document; empty: it is no single one
    warning  it makes the others less sure
    """

    label: str
    value: str
    pointer: str = ""
    warning: bool = False


_SHORT = {
    "trace": "What was analyzed",
    "vcpus": "vCPUs",
    "outcomes": "Outcomes",
    "removed": "Removed",
    "handlers": "Residual, by exit reason",
    "exposure": "Exposure",
    "costs": "Costs",
    "rates": "At a rate",
    "counters": "What the kernel counted",
    "gaps": "What it can't show",
}
_ORDER = (
    *("outcomes", "removed", "timeline", "vcpus", "handlers", "rates", "counters"),
    *("exposure", "costs"),
)
"""What comes first, and in which order; the others follow as in the report."""
_MOST_BESIDE = 8  # columns of a table that leaves room for a chart beside it
_LAST = ("trace", "quality", "gaps")


def page_sections(
    summary: Summary, document: Mapping[str, Any], *, timeline: bool
) -> list[Section]:
    """All sections but the opening, in the page's order.

    `timeline`: there is one to be drawn.
    """
    made = []
    for name, shapes in sections(summary, MOST_COLUMNS):
        if name == "opening":
            continue
        section = _section(name, shapes)
        section.charts = charts_of(name, document)
        if name == "removed" and section.charts:
            # its lists of groups are the charts' tables
            section.parts = [p for p in section.parts if p["kind"] != "facts"]
        if section.charts:
            # there is a better picture than one of letters
            section.parts = [p for p in section.parts if p["kind"] != "picture"]
        if section.parts or section.charts:
            made.append(section)
    if timeline:
        made.append(Section("timeline", "Timeline of the vCPUs", "Timeline"))
    made.append(_quality(summary))
    return sorted(made, key=lambda section: _place(section.name))


def _place(name: str) -> int:
    if name in _ORDER:
        return _ORDER.index(name)
    return len(_ORDER) + (1 + _LAST.index(name) if name in _LAST else 0)


def opening(summary: Summary) -> list[dict[str, Any]]:
    """The question, and what the report was narrowed to."""
    _, shapes = next(sections(summary, MOST_COLUMNS))
    parts = _section("opening", shapes).parts
    for part in parts:
        if part["kind"] == "facts":
            part["rows"] = [row for row in part["rows"] if row[0] != "verdict"]
    return [part for part in parts if part.get("rows", True)]


def _section(name: str, shapes: Iterable[RenderableType]) -> Section:
    section = Section(name, "", "")
    for shape in shapes:
        if isinstance(shape, Heading) and not section.heading:
            section.heading = shape.text
        else:
            section.parts += _part(shape)
    section.short = _SHORT.get(name, section.heading)
    return section


def _part(shape: RenderableType) -> Iterator[dict[str, Any]]:
    match shape:
        case Note(text):
            if text:
                yield {"kind": "note", "text": printable(text)}
        case Heading(text):
            yield {"kind": "heading", "text": text}
        case Facts(rows):
            yield {"kind": "facts", "rows": list(_labeled(rows))}
        case Remarks(texts):
            yield {"kind": "remarks", "texts": [printable(text) for text in texts]}
        case Picture(lines):
            yield {"kind": "picture", "text": "\n".join(map(printable, lines))}
        case Sheet(grid):
            yield {"kind": "grid", "grid": grid_values(grid)}
        case _:
            text = as_text([[shape]], columns=MOST_COLUMNS, color=False)
            yield {"kind": "text", "text": text}


def _labeled(rows: Iterable[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    """Each label with its texts; those without a label belong to the one before."""
    found: list[tuple[str, list[str]]] = []
    for label, text in rows:
        if label or not found:
            found.append((label, []))
        found[-1][1].append(printable(text))
    yield from found


def grid_values(grid: Grid) -> dict[str, Any]:
    """A table as plain values; a row whose other cells are empty is a title."""
    return {
        "headings": [_heading(title) for title in grid.headings],
        "left": grid.left,
        "rows": [
            {"depth": depth, "cells": cells, "title": not any(cells[1:])}
            for depth, cells, _ in grid.rows
            if any(cells)
        ],
    }


def _heading(title: str) -> str:
    """A heading that was broken into lines, as one."""
    return printable(title.replace("-\n", "").replace("\n", " "))


def tiles(summary: Summary) -> list[Tile]:
    """The numbers under the verdict, then those that say how good the data are."""
    made = []
    policies = list(summary.policies.values())
    if summary.removed is not None:
        gone = summary.removed
        made += [
            _tile(f"removed by {gone.after}, known", gone.total, "removed", "total"),
            _tile(
                "IRQs of the host among them", gone.host_irqs, "removed", "host_irqs"
            ),
        ]
    if policies:
        first = policies[0]
        at = ("policies", first.name)
        made += [
            _tile(
                f"wrong vCPU, known, under {first.name}",
                first.known["wrong_vcpu"],
                *(*at, "known", "wrong_vcpu"),
            ),
            _tile(
                f"residual, known, under {first.name}",
                first.known["residual_notifications"],
                *(*at, "known", "residual_notifications"),
            ),
            _tile(
                f"to vCPUs not loaded, with all that {first.name} can't exclude",
                first.unloaded_notifications,
                *(*at, "unloaded_notifications"),
            ),
        ]
    return [*made, *_data_tiles(summary)]


def _tile(label: str, value: Bounds, *keys: str) -> Tile:
    return Tile(label, bounds_text(value), pointer(*keys))


def _data_tiles(summary: Summary) -> Iterator[Tile]:
    losses = summary.trace.losses
    known = sum(loss.events or 0 for loss in losses)
    unknown = any(loss.events is None for loss in losses)
    text = f"{known:,}{' and more' if unknown and known else ''}"
    text = "unknown number" if unknown and not known else text
    yield Tile(
        "events lost, as far as told", text if losses else "none", "", bool(losses)
    )
    whole = sum(sum(v.time_ns.values()) for v in summary.vcpus)
    part = sum(v.time_ns.get("unknown", 0) for v in summary.vcpus)
    share = share_text(part, whole)
    yield Tile("of the vCPUs' time unknown", f"{share} %", "", 2 * part > whole)


def _quality(summary: Summary) -> Section:
    """How good the data are: what was lost, is unknown, or contradicts itself."""
    grid = Grid(("", "how much", "of"))
    for loss in summary.trace.losses:
        events = "unknown" if loss.events is None else f"{loss.events:,}"
        places = f" in {loss.times:,} places" if loss.times > 1 else ""
        words = f"events lost{places}: {loss.cause.replace('-', ' ')}"
        grid.add(words, events, f"{summary.trace.events:,} read")
    if not summary.trace.losses:
        grid.add("events lost, as far as the trace tells", "0", "")
    whole = sum(sum(v.time_ns.values()) for v in summary.vcpus)
    part = sum(v.time_ns.get("unknown", 0) for v in summary.vcpus)
    grid.add("vCPUs' time that is unknown", f"{share_text(part, whole)} %", "")
    puts = sum(sum(v.puts.values()) for v in summary.vcpus)
    unsure = sum(v.uncertain_puts for v in summary.vcpus)
    grid.add("puts of uncertain reason or instant", f"{unsure:,}", f"{puts:,} puts")
    question = summary.question
    if question.no_target:
        grid.add("posts whose vCPU is not told", f"{question.no_target:,}", "")
    if question.not_posted:
        grid.add("interrupts that never were posted", f"{question.not_posted:,}", "")
    known = question.as_hardware + question.as_software + question.from_windows
    for policy in summary.policies.values():
        grid.add(policy.name, "", "")
        cells = (f"{policy.not_certain:,}", f"{known:,} posts")
        grid.add("posts whose outcome is open", *cells, depth=1)
        windows = f"{policy.exposure.windows.max:,} seen"
        cells = (f"up to {hidden_windows(policy):,}", windows)
        grid.add("open windows that no event shows", *cells, depth=1)
        if policy.lost_windows:
            cells = (f"up to {policy.lost_windows:,}", "")
            grid.add("of them in what the trace lost", *cells, depth=2)
        cells = (f"{policy.contradictions:,}", "")
        grid.add("events that contradict those before them", *cells, depth=1)
    part_ = {"kind": "grid", "grid": grid_values(grid)}
    return Section("quality", "Quality of the data", "Quality of the data", [part_])
