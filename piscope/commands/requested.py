"""A trace analyzed as a user asked for, part after part: short ones in one.

opened -> sliced_pipeline.parts_of -> report.tally.Tallies
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import cast

from piscope import pipeline, sliced_pipeline
from piscope.commands.narrowed import Narrowed, parse_moments, resolved
from piscope.commands.opening import is_pipe, opened
from piscope.commands.platform_option import parse_exit_reasons, parse_platform
from piscope.commands.progress import Progress
from piscope.commands.rates_run import Asked, Told, answer
from piscope.commands.selected import selected
from piscope.commands.survey import Survey, survey
from piscope.commands.watched import WatchedSource
from piscope.errors import PiscopeError, UsageError
from piscope.pipeline import Part
from piscope.posted import Posted, parse_posted
from piscope.replay.fastpath import DEFAULT_FASTPATH
from piscope.report.selection import Selection
from piscope.report.summary import Summary
from piscope.report.tally import Tallies
from piscope.sources.raw import Source
from piscope.timeline.user_posts import UserPosts

__all__ = ("Counted", "Request", "checked", "counted", "parts_of_trace")

_BAR_BYTES = 8 << 20
# A file that is read once more only to draw a bar; smaller ones are done by then.


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


@contextmanager
def parts_of_trace(
    trace: str,
    request: Request,
    *,
    quiet: bool,
    outside: bool = False,
    given: UserPosts | None = None,
    at_once: bool = False,
    keep_events: bool = True,
) -> Iterator[tuple[Iterable[Part], Narrowed]]:
    """One trace's analysis in parts, and the instants of `start` and `end`; None: open.

    The events before and behind those instants are not read; with `outside` they are.
    A trace that is short, a pipe, or to be analyzed `at_once` is one part. `given` and
    `keep_events` are as for pipeline.analyze.

    Raises UsageError, and whatever `opened` raises; going through the parts raises
    PiscopeError as pipeline.analyze does.
    """
    moments = parse_moments(request.start, request.end)
    relative = any(m is not None and m.is_relative for m in moments)
    with_bar = not quiet and sys.stderr.isatty()
    readable_once = is_pipe(trace) and not relative
    with ExitStack() as stack:
        source = stack.enter_context(opened(trace, twice=relative))
        seen = Survey()
        if relative or (with_bar and (source.info.size_bytes or 0) >= _BAR_BYTES):
            with Progress(quiet=not with_bar) as counting:
                seen = survey(source, ignore=request.ignore, watch=counting.over)
        first_ns, last_ns = seen.first_ns, seen.last_ns
        start_ns, end_ns = resolved(moments, source, seen)
        least_ns, most_ns = (None, None) if outside else (start_ns, end_ns)
        span_ns = None
        if first_ns is not None and last_ns is not None:
            span_ns = (
                first_ns if least_ns is None else max(least_ns, first_ns),
                last_ns if most_ns is None else min(most_ns, last_ns),
            )
        progress = Progress(span_ns, quiet=not with_bar)
        stack.enter_context(progress)
        parts = sliced_pipeline.parts_of(
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
            start_ns=least_ns,
            end_ns=most_ns,
            tsc_khz=request.tsc_khz,
            slice_rows=sliced_pipeline.SLICE_ROWS,
            whole_rows=(
                None if at_once or readable_once else sliced_pipeline.WHOLE_ROWS
            ),
            keep_events=keep_events,
            progress=progress.begin,
        )
        yield _Named(trace, parts, progress), (start_ns, end_ns)


class _Named:
    """The parts of a trace; an error that it raises meanwhile names it.

    The progress line is gone whenever all have been taken.
    """

    def __init__(self, trace: str, parts: Iterable[Part], progress: Progress) -> None:
        self._trace, self._parts, self._progress = trace, parts, progress

    def __iter__(self) -> Iterator[Part]:
        try:
            yield from self._parts
        except PiscopeError as error:
            error.path = error.path or self._trace
            raise
        except OSError as error:  # not that of a file which is written meanwhile
            path = error.filename or self._trace
            raise PiscopeError(error.strerror or str(error), path=path) from error
        finally:
            self._progress.clear()


@contextmanager
def counted(
    trace: str,
    request: Request,
    selection: Selection,
    told: Told,
    *,
    quiet: bool,
    at_once: bool = False,
    keep_events: bool,
) -> Iterator[Counted]:
    """One trace's parts, as a `checked` request asks for them.

    Raises as `parts_of_trace` does.
    """
    with parts_of_trace(
        trace,
        request,
        quiet=quiet,
        given=told.posts,
        at_once=at_once or told.of_whole,
        keep_events=keep_events,
    ) as (parts, _):
        yield Counted(parts, request, selection, told)


class Counted:
    """The parts of one trace, counted while someone goes through them."""

    def __init__(
        self,
        parts: Iterable[Part],
        request: Request,
        selection: Selection,
        told: Told,
    ) -> None:
        self._parts = parts
        self._request = request
        self._selection = selection
        self._told = told
        self._tallies = Tallies(selection)
        self._whole: pipeline.Analysis | None = None

    def __iter__(self) -> Iterator[Part]:
        for part in self._parts:
            self._tallies.add(part)
            self._whole = part.analysis if part.own.is_whole else None
            yield part
            del part

    def summary(self) -> Summary:
        """What the parts add up to, when all have been taken.

        Raises UsageError for names that the trace does not hold.
        """
        summary = self._tallies.finish()
        if self._whole is not None:
            answer(summary, self._whole, self._told, self._selection)
        request = self._request
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
        return summary

    def mostly_unknown(self, summary: Summary) -> bool:
        """Whether what its vCPUs did is unknown for more than half of their time.

        See report.tally.KnownTime.
        """
        labels = {vcpu.label for vcpu in summary.vcpus}
        return self._tallies.known_time.timeline_unknown(labels)
