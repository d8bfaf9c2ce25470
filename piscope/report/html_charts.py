"""Bar charts of an analysis: what is drawn, taken from the JSON document by pointer.

Every bar names the number that it draws as a JSON pointer (RFC 6901) into the document
that the page carries, so that a chart can be held to it. A range is drawn as a bar to
what the trace proves and a hatched one on to what it can't exclude.

The figures are plain values for plotly.js; colors are Okabe and Ito's, which people
tell apart whatever colors they see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from piscope.report.render_layout import Grid
from piscope.report.render_words import bounds_text, durations_text
from piscope.report.summary import Bounds

__all__ = ("COLORS", "Bars", "Chart", "Row", "bars", "pointer", "resolve")

COLORS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c")
"""Of series, in their order."""

_ROW_PX, _SERIES_PX, _EDGE_PX, _AXIS_PX, _LINE_PX = 12, 15, 8, 26, 16
_LABEL_LETTERS, _LABEL_LINES = 22, 3


@dataclass(frozen=True, slots=True)
class Row:
    """One group of bars: its label, and a pointer for each series (None: no bar)."""

    label: str
    pointers: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Bars:
    """What a bar chart shows.

    name     its id in the page
    title    what is counted
    series   names of the bars that stand side by side
    rows     the groups
    unit     "" for counts, "ns" for times
    stacked  the bars of a group stand on one another
    colors   of the series
    what     heading of the table's labels; None: another table has the numbers
    """

    name: str
    title: str
    series: tuple[str, ...]
    rows: tuple[Row, ...]
    unit: str = ""
    stacked: bool = False
    colors: tuple[str, ...] = COLORS
    what: str | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure for plotly.js, and the same numbers as a table.

    name    its id in the page
    title   what is shown
    words   the same for those who can't see it
    legend  the series with their colors; empty: there is but one
    figure  {"data": [...], "layout": {...}}
    grid    the numbers; None: another table of the section has them
    strokes of the series that are lines, as CSS calls them; empty: they are bars
    """

    name: str
    title: str
    words: str
    legend: tuple[tuple[str, str], ...]
    figure: dict[str, Any]
    grid: Grid | None
    strokes: tuple[str, ...] = ()

    @property
    def ranges(self) -> bool:
        """Whether some bar is hatched: it is not excluded, nor proven."""
        return any("base" in trace for trace in self.figure["data"])


def pointer(*keys: str | int) -> str:
    """The JSON pointer of a value: `pointer("policies", name, "outcomes", "guest")`."""
    parts = (str(key).replace("~", "~0").replace("/", "~1") for key in keys)
    return "".join(f"/{part}" for part in parts)


def resolve(document: Mapping[str, Any], at: str) -> Any:
    """The value that a JSON pointer names; None where the document has none."""
    value: Any = document
    for part in at.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, list):
            value = value[int(key)]
        elif key in value:
            value = value[key]
        else:
            return None
    return value


def bars(document: Mapping[str, Any], what: Bars) -> Chart | None:
    """The chart of these numbers of the document; None if all of them are 0.

    Rows and series without any number but 0 stay: that they are 0 is told as well.
    """
    values = [
        [_bounds(document, at) if at is not None else None for at in row.pointers]
        for row in what.rows
    ]
    most = max((v.max for row in values for v in row if v is not None), default=0)
    if not most:
        return None
    if what.stacked:
        most = max(sum(v.max for v in row if v is not None) for row in values)
    scale = 10**9 if what.unit == "ns" else 1
    data = []
    for i, name in enumerate(what.series):
        column = [row[i] for row in values]
        pointers = [row.pointers[i] for row in what.rows]
        data += _series(what, i, name, column, pointers, scale)
    return Chart(
        name=what.name,
        title=what.title,
        words=_in_words(what),
        legend=_legend(what) if len(what.series) > 1 else (),
        figure={"data": data, "layout": _layout(what, most / scale, _longest(data))},
        grid=_grid(what, values) if what.what is not None else None,
    )


def _legend(what: Bars) -> tuple[tuple[str, str], ...]:
    colors = (what.colors[i % len(what.colors)] for i in range(len(what.series)))
    return tuple(zip(what.series, colors, strict=True))


def _bounds(document: Mapping[str, Any], at: str) -> Bounds:
    value = resolve(document, at)
    if isinstance(value, dict):
        return Bounds(value["min"], value["max"])
    return Bounds(value or 0, value or 0)


def _series(
    what: Bars,
    index: int,
    name: str,
    column: list[Bounds | None],
    pointers: list[str | None],
    scale: int,
) -> list[dict[str, Any]]:
    """The bars of one series; where it has ranges, the hatched rest of each as well."""
    from html import escape

    color = what.colors[index % len(what.colors)]
    at = [y for y, value in enumerate(column) if value is not None]
    known = [value for value in column if value is not None]
    named = [pointers[y] for y in at]
    texts = [_text(what, value) for value in known]
    labels = [what.rows[y].label for y in at]
    told = [
        escape(f"{label}: {text}" + (f" ({name})" if len(what.series) > 1 else ""))
        for label, text in zip(labels, texts, strict=True)
    ]
    ranges = any(value.min != value.max for value in known)
    proven: dict[str, Any] = {
        "type": "bar",
        "orientation": "h",
        "name": escape(name),
        "y": at,
        "x": [value.min / scale if scale > 1 else value.min for value in known],
        "customdata": named,
        "meta": {"end": "min", "scale": scale},
        "marker": {"color": color, "line": {"width": 0.5}},
        "hovertext": told,
        "hoverinfo": "text",
    }
    if not what.stacked:
        proven["offsetgroup"] = str(index)
        if not ranges:
            proven |= _outside(texts)
    if not ranges or what.stacked:
        return [proven]
    rest = proven | {
        "base": proven["x"],
        "x": [(v.max - v.min) / scale if scale > 1 else v.max - v.min for v in known],
        "meta": {"end": "max", "scale": scale},
        "marker": {
            "color": color,
            "opacity": 0.75,
            "line": {"width": 0.5},
            "pattern": {"shape": "/", "size": 6, "fillmode": "replace"},
        },
        **_outside(texts),
    }
    return [proven, rest]


def _outside(texts: list[str]) -> dict[str, Any]:
    return {"text": texts, "textposition": "outside", "cliponaxis": False}


def _text(what: Bars, value: Bounds) -> str:
    return durations_text(value) if what.unit == "ns" else bounds_text(value)


def _longest(data: list[dict[str, Any]]) -> int:
    """Of the numbers beside the bars, in letters."""
    return max((len(text) for bars in data for text in bars.get("text", ())), default=0)


def _layout(what: Bars, most: float, letters: int) -> dict[str, Any]:
    # the longest bar leaves this share of a narrow chart to its number
    beside = 0.02 if what.stacked else min(0.06 + 0.022 * letters, 0.6)
    several = 1 if what.stacked else len(what.series)
    bottom = (
        _AXIS_PX if what.stacked else 0
    )  # other bars have their numbers beside them
    labels = [_folded(row.label) for row in what.rows]
    lines = max(label.count("<br>") + 1 for label in labels)
    row_px = max(_ROW_PX + several * _SERIES_PX, _EDGE_PX + lines * _LINE_PX)
    inside = _EDGE_PX + len(what.rows) * row_px
    axis = {"fixedrange": True, "zeroline": False}
    return {
        "height": inside + bottom,
        "margin": {"l": 8, "r": 8, "t": 0, "b": bottom},
        "showlegend": False,
        "barmode": "stack" if what.stacked else "group",
        "bargap": 0.3,
        "xaxis": axis
        | {
            "range": [0, most / (1 - beside) or 1],
            "tickformat": "~s" if what.unit == "ns" else ",~r",
            "ticksuffix": "s" if what.unit == "ns" else "",
            "nticks": 5,
            "visible": what.stacked,
        },
        "yaxis": axis
        | {
            "range": [len(what.rows) - 0.5, -0.5],
            "tickmode": "array",
            "tickvals": list(range(len(what.rows))),
            "ticktext": labels,
            "showgrid": False,
            "automargin": True,
            "ticks": "outside",  # unseen ones keep the labels off the bars
            "ticklen": 4,
            "tickcolor": "rgba(0,0,0,0)",
        },
    }


def _folded(label: str) -> str:
    """A label in a few short lines, since what it takes the bars have not."""
    from html import escape
    from textwrap import wrap

    lines = wrap(label, _LABEL_LETTERS) or [""]
    if len(lines) > _LABEL_LINES:
        lines = [*lines[: _LABEL_LINES - 1], f"{lines[_LABEL_LINES - 1][:-1]}\u2026"]
    return "<br>".join(map(escape, lines))


def _in_words(what: Bars) -> str:
    series = f" under {', '.join(what.series)}" if len(what.series) > 1 else ""
    return f"Bar chart: {what.title}{series}. The numbers are in the table."


def _grid(what: Bars, values: Sequence[Sequence[Bounds | None]]) -> Grid:
    grid = Grid((what.what or "", *what.series))
    for row, numbers in zip(what.rows, values, strict=True):
        cells = (
            ""
            if n is None
            else (durations_text(n) if what.unit == "ns" else bounds_text(n))
            for n in numbers
        )
        grid.add(row.label, *cells)
    return grid
