"""The curve of `--rate-curve`: expected host IRQs over the rate of posts.

A line at what the trace proves, one at what it can't exclude, and what lies between
them shaded. As with bars, each line names by JSON pointer the numbers that it draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from piscope.report.html_charts import COLORS, Chart, pointer, resolve

__all__ = ("curve_chart",)

_HEIGHT_PX = 340
_DASHES = {"solid": "solid", "dash": "dashed", "dot": "dotted"}
"""Of lines: as plotly.js calls them, and as CSS does."""


def curve_chart(document: Mapping[str, Any]) -> Chart | None:
    """The chart of the JSON document's `rates.curve`; None if it has none."""
    curve = (document.get("rates") or {}).get("curve")
    if curve is None or len(curve["rates_hz"]) < 2:
        return None
    named: list[tuple[str, tuple[str, ...]]] = [
        (name, ("host_irqs", name)) for name in curve["host_irqs"]
    ]
    if curve["removed"] is not None:
        named.append(("removed", ("removed",)))
    data = []
    for i, (name, keys) in enumerate(named):
        data += _line(document, name, ("rates", "curve", *keys), i)
    return Chart(
        name="rate-curve",
        title="Expected IRQs of the host, by posts a second to each vCPU",
        words="Line chart: expected IRQs of the host over the rate of posts, for each"
        " policy. The numbers are in the table.",
        legend=tuple((name, _color(i)) for i, (name, _) in enumerate(named)),
        figure={"data": data, "layout": _layout()},
        grid=None,
        strokes=tuple(_DASHES[_dash(i)] for i in range(len(named))),
    )


def _color(index: int) -> str:
    return COLORS[index % len(COLORS)]


def _dash(index: int) -> str:
    return list(_DASHES)[index % len(_DASHES)]


def _line(
    document: Mapping[str, Any], name: str, keys: tuple[str, ...], index: int
) -> list[dict[str, Any]]:
    from html import escape

    at_x = pointer("rates", "curve", "rates_hz")
    rates = resolve(document, at_x)
    lines = []
    for end in ("min", "max"):
        at_y = pointer(*keys, end)
        numbers = resolve(document, at_y)
        lines.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": escape(name),
                "x": rates,
                "y": numbers,
                "meta": {"x": at_x, "y": at_y},
                "line": {
                    "color": _color(index),
                    "width": 2,
                    "dash": _dash(index),
                },
                "hovertext": [
                    escape(f"{name}, {x:,.4g} posts a second: {y:,.1f}")
                    for x, y in zip(rates, numbers, strict=True)
                ],
                "hoverinfo": "text",
            }
        )
    if lines[0]["y"] == lines[1]["y"]:
        return lines[1:]
    lines[1] |= {"fill": "tonexty", "fillcolor": f"{_color(index)}33"}
    return lines


def _layout() -> dict[str, Any]:
    axis = {"fixedrange": True, "zeroline": False, "automargin": True}
    return {
        "height": _HEIGHT_PX,
        "margin": {"l": 8, "r": 16, "t": 8, "b": 30},
        "showlegend": False,
        "xaxis": axis
        | {
            "type": "log",
            "dtick": 1,
            "tickformat": "~s",
            "title": {"text": "posts a second to each vCPU", "standoff": 6},
        },
        "yaxis": axis | {"rangemode": "tozero", "tickformat": ",~r"},
    }
