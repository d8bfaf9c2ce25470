"""From the arguments of `piscope analyze` to its reports, trace after trace.

requested.counted -> summary -> render, or JSON
"""

from __future__ import annotations

import json
from contextlib import ExitStack

import click

from piscope.allocator import keep_freed_memory
from piscope.commands.options import Form
from piscope.commands.printing import echo_report, echo_text, error_line
from piscope.commands.rates_run import Told
from piscope.commands.requested import Request, checked, counted
from piscope.errors import PiscopeError, UsageError
from piscope.output import replacing
from piscope.report.html import Page, require_extra
from piscope.report.json_form import as_json
from piscope.report.perfetto import PerfettoFile
from piscope.report.perfetto_tracks import definitions
from piscope.report.render import render, render_markdown
from piscope.report.selection import Selection
from piscope.report.summary import Summary

__all__ = ("EXIT_CANT_TELL", "analyze_all")

EXIT_NOT_ANALYZED = 2
EXIT_CANT_TELL = 3


def analyze_all(
    traces: tuple[str, ...],
    request: Request,
    *,
    form: Form = "terminal",
    html: str | None = None,
    perfetto: str | None = None,
    width: int | None = None,
    quiet: bool = False,
) -> int:
    """Print the report of each trace, or all as one JSON value, and give the status.

    `html` and `perfetto` are files to write as well, of the only trace.

    Of several traces one that fails costs a line on stderr and leaves the others.
    JSON is an object for one trace and a list for several, without those that failed.

    Raises whatever a trace raises that is the only one, and UsageError for a request
    that makes no sense for any trace.
    """
    keep_freed_memory()
    selection, told = checked(request, traces)
    if html is not None:
        if len(traces) > 1:
            raise UsageError(f"--html is for one trace, not for {len(traces)}")
        require_extra()
    if perfetto is not None:
        if len(traces) > 1:
            raise UsageError(f"--perfetto is for one trace, not for {len(traces)}")
        definitions()
    summaries: list[Summary] = []
    failed = unknown = False
    for trace in traces:
        try:
            summary, is_unknown = _analyzed(
                trace, request, selection, told, html, perfetto, quiet=quiet
            )
            unknown |= is_unknown
        except (PiscopeError, OSError, MemoryError) as error:
            if len(traces) == 1 or isinstance(error, BrokenPipeError):
                raise
            click.echo(f"piscope: error: {error_line(error, trace)}", err=True)
            failed = True
            continue
        if form != "json":
            _print_report(summary, form, width, first=not summaries)
        summaries.append(summary)
    if form == "json":
        values = [as_json(summary) for summary in summaries]
        value = values if len(traces) > 1 else values[0]
        click.echo(json.dumps(value, indent=2, allow_nan=False))
    if failed:
        return EXIT_NOT_ANALYZED
    return EXIT_CANT_TELL if unknown else 0


def _analyzed(
    trace: str,
    request: Request,
    selection: Selection,
    told: Told,
    html: str | None,
    perfetto: str | None,
    *,
    quiet: bool,
) -> tuple[Summary, bool]:
    """Write what is to be written of one trace; its summary, and if it is unknown."""
    with ExitStack() as stack:
        page = None if html is None else Page(selection)
        events = None
        if perfetto is not None:
            file = stack.enter_context(replacing(perfetto))
            compressed = perfetto.endswith(".gz")
            events = stack.enter_context(
                PerfettoFile(file, selection, compressed=compressed)
            )
        parts = stack.enter_context(
            counted(
                trace,
                request,
                selection,
                told,
                quiet=quiet,
                keep_events=events is not None,
            )
        )
        for part in parts:
            for taker in (page, events):
                if taker is not None:
                    taker.add(part)
            del part
        summary = parts.summary()
        if events is not None:
            events.finish()
        if html is not None and page is not None:
            with replacing(html) as written:
                written.write(page.render(summary).encode())
        return summary, parts.mostly_unknown(summary)


def _print_report(
    summary: Summary, form: Form, width: int | None, *, first: bool
) -> None:
    if form == "md":
        echo_text(render_markdown(summary), first=first)
        return

    def text_of(columns: int, color: bool) -> str:
        return render(summary, width=columns, color=color)

    echo_report(text_of, width, first=first)
