"""From the arguments of `piscope analyze` to its reports, trace after trace.

opened -> pipeline.analyze -> summarize -> render, or JSON
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from typing import cast

import click

from piscope import pipeline
from piscope.allocator import keep_freed_memory
from piscope.commands.narrowed import parse_moments, resolved
from piscope.commands.opening import opened
from piscope.commands.options import Form
from piscope.commands.platform_option import parse_exit_reasons, parse_platform
from piscope.commands.printing import echo_report, echo_text, error_line
from piscope.commands.progress import Progress
from piscope.commands.rates_run import Asked, Told, answer
from piscope.commands.selected import selected
from piscope.commands.survey import Survey, survey
from piscope.commands.watched import WatchedSource
from piscope.errors import PiscopeError, UsageError
from piscope.output import replacing
from piscope.parts import Own
from piscope.posted import Posted, parse_posted
from piscope.replay.fastpath import DEFAULT_FASTPATH
from piscope.report.html import render_html, require_extra
from piscope.report.json_form import as_json
from piscope.report.perfetto import write_perfetto
from piscope.report.perfetto_tracks import definitions
from piscope.report.render import render, render_markdown
from piscope.report.selection import Selection
from piscope.report.summarize import summarize
from piscope.report.summary import Summary
from piscope.report.tally import KnownTime
from piscope.sources.raw import Source
from piscope.tables import Timeline
from piscope.timeline.user_posts import UserPosts

__all__ = ("Request", "analysis_of", "analyze_all", "timeline_unknown")

EXIT_NOT_ANALYZED = 2
EXIT_CANT_TELL = 3

_BAR_BYTES = 8 << 20
# A file that is read once more only to draw a bar; smaller ones are done by then.
_LONG_READ_S = 0.5
# What took so long to read will take a while in the later stages too.


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asked of each trace, as it was written.

    policies     names; empty: the default two
    fastpath     exit reasons for more-fastpath; None: the default
    platform     NAME=VALUE each; empty: a VM that needs PI wakeup
    posted       which posts to replay as hardware's, as replay.posted reads it
    ignore       patterns of events to treat as absent
    vms, cpus    lists such as `0-3,5`; None: all
    vcpus        labels, vcpu_ids, `tid:N`; empty: all
    start, end   instants as moments.parse_moment reads them; None: open
    tsc_khz      frequency of a raw x86-tsc clock; None: not given
    asked        posts that the user gives, rates, counters
    """

    policies: tuple[str, ...] = ()
    fastpath: str | None = None
    platform: tuple[str, ...] = ()
    posted: Posted = "auto"
    ignore: tuple[str, ...] = ()
    vms: str | None = None
    vcpus: tuple[str, ...] = ()
    cpus: str | None = None
    start: str | None = None
    end: str | None = None
    tsc_khz: int | None = None
    asked: Asked = Asked()  # noqa: RUF009 - frozen


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
            summary, analysis = analyzed(
                trace,
                request,
                selection,
                told,
                quiet=quiet,
                keep_events=html is not None or perfetto is not None,
            )
            if html is not None:
                with replacing(html) as file:
                    file.write(render_html(analysis, summary, selection).encode())
            if perfetto is not None:
                with replacing(perfetto) as file:
                    compressed = perfetto.endswith(".gz")
                    write_perfetto(file, analysis, selection, compressed=compressed)
        except (PiscopeError, OSError, MemoryError) as error:
            if len(traces) == 1 or isinstance(error, BrokenPipeError):
                raise
            click.echo(f"piscope: error: {error_line(error, trace)}", err=True)
            failed = True
            continue
        if form != "json":
            _print_report(summary, form, width, first=not summaries)
        summaries.append(summary)
        labels = {vcpu.label for vcpu in summary.vcpus}
        unknown |= timeline_unknown(analysis.timeline, labels)
        del analysis  # not beside that of the next trace
    if form == "json":
        values = [as_json(summary) for summary in summaries]
        value = values if len(traces) > 1 else values[0]
        click.echo(json.dumps(value, indent=2, allow_nan=False))
    if failed:
        return EXIT_NOT_ANALYZED
    return EXIT_CANT_TELL if unknown else 0


def checked(request: Request, traces: tuple[str, ...]) -> tuple[Selection, Told]:
    """What a request asks of every trace.

    Raises UsageError for one that makes no sense for any.
    """
    selection = selected(request.vms, request.vcpus, request.cpus)
    parse_moments(request.start, request.end)
    narrowed = request.start is not None or request.end is not None
    told = request.asked.read(traces, narrowed=narrowed)
    parse_platform(request.platform)
    parse_posted(request.posted)
    if request.fastpath is not None:
        parse_exit_reasons(request.fastpath)
        if "more-fastpath" not in request.policies:
            raise UsageError(
                "--fastpath is for the policy more-fastpath: add --policy more-fastpath"
            )
    return selection, told


def timeline_unknown(timeline: Timeline, labels: Collection[str]) -> bool:
    """Whether what these vCPUs did is unknown for more than half of their time.

    See report.tally.KnownTime.
    """
    known_time = KnownTime()
    known_time.add(timeline, Own(0, 0))
    return known_time.timeline_unknown(labels)


def analyzed(
    trace: str,
    request: Request,
    selection: Selection,
    told: Told,
    *,
    quiet: bool,
    keep_events: bool,
) -> tuple[Summary, pipeline.Analysis]:
    """One trace's summary and analysis, as a `checked` request asks for them.

    Raises PiscopeError as pipeline.analyze does.
    """
    analysis, _ = analysis_of(
        trace, request, quiet=quiet, given=told.posts, keep_events=keep_events
    )
    summary = summarize(analysis, selection)
    answer(summary, analysis, told, selection)
    for name, text in (("from", request.start), ("to", request.end)):
        if text is not None:
            summary.narrowed[name] = text
    for name, text in (
        ("fastpath", request.fastpath),
        ("platform", ", ".join(request.platform)),
        ("posts", request.asked.posts),
    ):
        if text:
            summary.question.replayed_with[name] = text
    return summary, analysis


def analysis_of(
    trace: str,
    request: Request,
    *,
    quiet: bool,
    whole: bool = False,
    given: UserPosts | None = None,
    keep_events: bool = True,
) -> tuple[pipeline.Analysis, tuple[int | None, int | None]]:
    """One trace's analysis, and the instants of `start` and `end`; None: open.

    The events before and behind those instants are not read; with `whole` they are.
    `keep_events` as for pipeline.analyze.
    """
    moments = parse_moments(request.start, request.end)
    relative = any(m is not None and m.is_relative for m in moments)
    with_bar = not quiet and sys.stderr.isatty()
    with ExitStack() as stack:
        source = stack.enter_context(opened(trace, twice=relative))
        seen = Survey()
        if relative or (with_bar and (source.info.size_bytes or 0) >= _BAR_BYTES):
            with Progress(quiet=not with_bar) as counting:
                seen = survey(source, ignore=request.ignore, watch=counting.over)
        first_ns, last_ns = seen.first_ns, seen.last_ns
        start_ns, end_ns = resolved(moments, source, seen)
        narrowed_ns = (None, None) if whole else (start_ns, end_ns)
        span_ns = None
        if first_ns is not None and last_ns is not None:
            least_ns, most_ns = narrowed_ns
            span_ns = (
                first_ns if least_ns is None else max(least_ns, first_ns),
                last_ns if most_ns is None else min(most_ns, last_ns),
            )
        progress = _Stages(span_ns, quiet=not with_bar)
        stack.enter_context(progress)
        analysis = pipeline.analyze(
            cast(Source, WatchedSource(source, progress)),
            policies=tuple(dict.fromkeys(request.policies))
            or pipeline.DEFAULT_POLICIES,
            posted=request.posted,
            fastpath=(
                DEFAULT_FASTPATH
                if request.fastpath is None
                else parse_exit_reasons(request.fastpath)
            ),
            platform=parse_platform(request.platform),
            given=given,
            ignore=request.ignore,
            start_ns=narrowed_ns[0],
            end_ns=narrowed_ns[1],
            tsc_khz=request.tsc_khz,
            keep_events=keep_events,
            progress=progress.begin,
        )
    return analysis, (start_ns, end_ns)


class _Stages(Progress):
    """A bar while the trace is read, then the names of the stages that follow."""

    def begin(self, stage: str) -> None:
        if not self._active or time.monotonic() - self._started_s < _LONG_READ_S:
            return
        self._shown_s = time.monotonic()
        self._stream.write(f"\r\x1b[K{self._done:,} events, {stage}")
        self._stream.flush()


def _print_report(
    summary: Summary, form: Form, width: int | None, *, first: bool
) -> None:
    if form == "md":
        echo_text(render_markdown(summary), first=first)
        return

    def text_of(columns: int, color: bool) -> str:
        return render(summary, width=columns, color=color)

    echo_report(text_of, width, first=first)
