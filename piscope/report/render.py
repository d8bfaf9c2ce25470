"""An analysis as text for people: 80 columns or more, the verdict first.

    question and verdict      which question was answered, and what it comes to
    what was analyzed         format, kernel, policy, duration, CPUs, events, losses
    what the vCPUs did        the timeline in percents, puts by reason
    what became of the notifications     outcomes under each policy, difference
    where the removed ones were          VM, vCPU, put reason, pCPU, windows
    which handlers            VM-exit reasons that a fast path would help
    exposure                  how often and how long vCPUs were open to them
    what it costs             PIR scans, locked operations, list locks
    what it could not show    one sentence each

Every number is one of `Summary`, or a share or a rate of those.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from piscope.report.render_exposure import exposure_section
from piscope.report.render_handlers import handler_section
from piscope.report.render_layout import (
    LEAST_COLUMNS,
    as_text,
    columns_within,
    facts,
    heading,
    remarks,
)
from piscope.report.render_markdown import as_markdown
from piscope.report.render_outcomes import cost_section, outcome_section
from piscope.report.render_rates import counters_section, rates_section
from piscope.report.render_removed import removed_section
from piscope.report.render_trace import trace_section, vcpu_section
from piscope.report.render_verdict import verdict
from piscope.report.render_words import printable
from piscope.report.summary import Summary

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ("render", "render_markdown", "sections")


def render(summary: Summary, *, width: int = LEAST_COLUMNS, color: bool = False) -> str:
    """The whole report, ending with a newline, its lines without trailing blanks.

    `width` is taken as 80 to 120 columns; `color` as render_layout.as_text takes it.
    """
    columns = columns_within(width)
    parts = (part for _, part in sections(summary, columns))
    return as_text(parts, columns=columns, color=color)


def render_markdown(summary: Summary) -> str:
    """The same report as Markdown of 80 columns, to be pasted into a mail or a page."""
    return as_markdown(part for _, part in sections(summary, LEAST_COLUMNS))


def sections(
    summary: Summary, width: int
) -> Iterator[tuple[str, Iterator[RenderableType]]]:
    """The report's sections by name, each as the shapes of `render_layout`."""
    yield "opening", _opening(summary)
    yield "trace", trace_section(summary)
    yield "vcpus", vcpu_section(summary, width)
    if summary.policies:
        yield "outcomes", outcome_section(summary, width)
        yield "removed", removed_section(summary, width)
        yield "handlers", handler_section(summary, width)
        yield "exposure", exposure_section(summary, width)
        yield "costs", cost_section(summary, width)
        if summary.rates is not None:
            yield "rates", rates_section(summary, width)
    if summary.counters is not None:
        yield "counters", counters_section(summary, width)
    yield "gaps", _gaps(summary)


def _opening(summary: Summary) -> Iterator[RenderableType]:
    yield heading(f"piscope {summary.piscope_version}: {printable(summary.trace.path)}")
    rows = [
        ("question", f"--posted {summary.question.posted}: {summary.question.text}")
    ]
    if summary.question.replayed_with:
        options = summary.question.replayed_with.items()
        rows.append(("replayed", "; ".join(f"--{k} {v}" for k, v in options)))
    if summary.narrowed:
        rows.append(
            ("only", "; ".join(f"--{k} {v}" for k, v in summary.narrowed.items()))
        )
    yield facts(rows)
    yield facts([("verdict", " ".join(verdict(summary)))], style="bold")


def _gaps(summary: Summary) -> Iterator[RenderableType]:
    yield heading("What this trace could not show")
    yield remarks(summary.cannot_tell or ["nothing: no gap is known"])
