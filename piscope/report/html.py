"""An analysis as one page: verdict, charts, timeline, tables, in a single file.

The page loads nothing, and its policy forbids it to: a script runs only if its hash is
named there, so that no name in a trace can become one. plotly.js is in it, compressed;
so are the timelines (`html_strips`). The numbers are those of the JSON document, which
the page carries as well.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from pathlib import PurePath
from typing import Any

from piscope.errors import UsageError
from piscope.report.analyzed import Analyzed
from piscope.report.html_sections import grid_values, opening, page_sections, tiles
from piscope.report.html_strips import BUDGET_BYTES, Packed, TimelineTally
from piscope.report.json_form import as_json
from piscope.report.own_part import AnalyzedPart, WholePart
from piscope.report.render_verdict import verdict
from piscope.report.render_words import printable
from piscope.report.selection import Selection
from piscope.report.summary import Summary

__all__ = ("Page", "render_html", "require_extra")


def require_extra() -> None:
    """Nothing, if what a page is made with is installed.

    Raises UsageError, which says how to install it, if it is not.
    """
    try:
        import jinja2
        import plotly.offline
    except ImportError as e:
        missing = (e.name or "plotly").partition(".")[0]
        raise UsageError(
            f"an HTML page needs {missing}, which is not installed:"
            " pip install 'piscope[html]'"
        ) from None
    del jinja2, plotly


class Page:
    """The page of an analysis that comes in parts."""

    def __init__(
        self, selection: Selection | None = None, *, budget_bytes: int = BUDGET_BYTES
    ) -> None:
        """`budget_bytes` bounds what the timelines take, before base64."""
        self._timeline = TimelineTally(selection)
        self._budget_bytes = budget_bytes

    def add(self, part: AnalyzedPart) -> None:
        """Add what is a part's own; parts come in the order of the trace.

        Raises UsageError where the selection names what the trace does not hold.
        """
        self._timeline.add(part)

    def render(self, summary: Summary) -> str:
        """The page, with the summary of the same parts and selection.

        Raises UsageError where the extra `html` is not installed, and ValueError
        where no part was added.
        """
        budget_bytes = self._budget_bytes
        return _page(summary, self._timeline.pack(summary, budget_bytes=budget_bytes))


def render_html(
    analysis: Analyzed,
    summary: Summary,
    selection: Selection | None = None,
    *,
    budget_bytes: int = BUDGET_BYTES,
) -> str:
    """The page of one analysis and its summary; `selection` is the summary's."""
    page = Page(selection, budget_bytes=budget_bytes)
    page.add(WholePart(analysis))
    return page.render(summary)


def _page(summary: Summary, timeline: Packed | None) -> str:
    require_extra()
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs, get_plotlyjs_version

    page = files("piscope.report") / "page"

    def text_of(name: str) -> str:
        return (page / name).read_text("utf-8")

    document = as_json(summary)
    sections = page_sections(summary, document, timeline=timeline is not None)
    charts = [
        {"name": chart.name, "figure": chart.figure}
        for section in sections
        for chart in section.charts
    ]
    script, plotly_js = text_of("page.js"), get_plotlyjs()
    blocks = {"plotly": zlib.compress(plotly_js.encode(), 9)}
    if timeline is not None:
        blocks |= timeline.blocks
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["grid"] = grid_values
    return environment.from_string(text_of("page.html.j2")).render(
        summary=summary,
        name=printable(PurePath(summary.trace.path).name),
        path=printable(summary.trace.path),
        policy=_policy(script, plotly_js),
        css=Markup(text_of("page.css")),
        verdict=[printable(sentence) for sentence in verdict(summary)],
        tiles=tiles(summary),
        opening=opening(summary),
        sections=sections,
        document_json=_json(document),
        charts_json=_json(charts),
        timeline_json=_json(timeline.about if timeline is not None else None),
        blocks={
            name: Markup(b64encode(data).decode()) for name, data in blocks.items()
        },
        plotly_version=get_plotlyjs_version(),
        script=Markup(script),
    )


def _policy(*scripts: str) -> str:
    """What the page may do: run these scripts, style itself; load nothing at all."""
    digests = (sha256(text.encode()).digest() for text in scripts)
    hashes = [f"'sha256-{b64encode(digest).decode()}'" for digest in digests]
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(hashes)}",
            "style-src 'unsafe-inline'",  # plotly.js styles what it draws
            "img-src data: blob:",  # the timeline is a picture that it makes
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _json(value: Any) -> Any:
    """JSON that ends no element, whatever is in its strings."""
    from markupsafe import Markup

    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("&", "\\u0026"))
