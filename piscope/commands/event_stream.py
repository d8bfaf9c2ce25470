"""From a trace to a file of its events: what `piscope events` does.

source -> merged by time -> rows that are wanted -> writer
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import click
import numpy as np

from piscope.commands.event_files import Format, format_of, writing
from piscope.commands.losses import loss_lines
from piscope.commands.moments import parse_moment
from piscope.commands.opening import opened
from piscope.commands.progress import Progress
from piscope.commands.selection import Rows, kept, parse_numbers, without_fields
from piscope.commands.survey import Survey, survey
from piscope.errors import UsageError
from piscope.events.merge import merged
from piscope.output import replacing
from piscope.sources.raw import RawChunk, Source, Wanted

__all__ = ("Request", "selected", "write_events")

_BAR_BYTES = 8 << 20
# A file that is surveyed once more only to draw a bar; smaller ones are done by then.


@dataclass(frozen=True, slots=True)
class Request:
    """Which events and fields a user asked for, as it was written.

    patterns, ignore  of event names; absent: names of fields to leave out
    cpus, tids, vcpu_ids   lists such as `0-3,5`; None: all
    start, end        instants as moments.parse_moment reads them; None: open
    limit             the first so many events; None: all
    """

    patterns: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    absent: frozenset[str] = frozenset()
    cpus: str | None = None
    tids: str | None = None
    vcpu_ids: str | None = None
    start: str | None = None
    end: str | None = None
    limit: int | None = None

    @property
    def needs_survey(self) -> bool:
        """Whether the trace must be read once before: for relative times and vCPUs."""
        moments = [parse_moment(t) for t in (self.start, self.end) if t is not None]
        return self.vcpu_ids is not None or any(m.is_relative for m in moments)


def write_events(
    trace: str,
    output: str | None,
    format_: Format | None,
    request: Request,
    *,
    quiet: bool = False,
) -> None:
    """Write the events that are asked for, in time order, in bounded memory.

    `output` None or "-" is standard output. What was lost is told on stderr, unless
    `quiet`.

    Raises UsageError for a request that makes no sense, and what the source raises.
    """
    path = None if output == "-" else output
    if format_ is None:
        format_ = "text" if path is None else format_of(path)
    to_terminal = path is None and sys.stdout.isatty()
    if to_terminal and format_ == "parquet":
        raise UsageError("Parquet is not for a terminal: give -o FILE")
    # On a terminal the lines and the bar would overwrite each other.
    with_bar = not (quiet or to_terminal) and sys.stderr.isatty()
    with ExitStack() as stack:
        source = stack.enter_context(opened(trace, twice=request.needs_survey))
        plan = _plan(source, request, with_bar=with_bar)
        file = (
            sys.stdout.buffer if path is None else stack.enter_context(replacing(path))
        )
        write = stack.enter_context(writing(file, format_, source))
        progress = stack.enter_context(Progress(plan.span_ns, quiet=not with_bar))
        chunks = progress.over(merged(source, plan.wanted))
        for chunk in selected(chunks, source, plan.rows, request):
            write(chunk)
        losses = list(source.losses)
    if not quiet:
        for line in loss_lines(losses):
            click.echo(f"piscope: note: {line}", err=True)


@dataclass(frozen=True, slots=True)
class _Plan:
    wanted: Wanted
    rows: Rows
    span_ns: tuple[int, int] | None


def _plan(source: Source, request: Request, *, with_bar: bool) -> _Plan:
    start = parse_moment(request.start) if request.start is not None else None
    end = parse_moment(request.end) if request.end is not None else None
    cpus = parse_numbers(request.cpus) if request.cpus is not None else None
    tids = parse_numbers(request.tids) if request.tids is not None else None
    vcpu_ids = parse_numbers(request.vcpu_ids) if request.vcpu_ids is not None else None
    seen = Survey()
    long = with_bar and (source.info.size_bytes or 0) >= _BAR_BYTES
    if request.needs_survey or long:
        seen = survey(source, ignore=request.ignore)

    counts = source.info.ts_unit != "ns"
    first_ns, last_ns = seen.first_ns, seen.last_ns
    start_ns = start.resolve(first_ns, last_ns, counts=counts) if start else None
    end_ns = end.resolve(first_ns, last_ns, counts=counts) if end else None
    span_ns = None
    if first_ns is not None and last_ns is not None:
        span_ns = (
            first_ns if start_ns is None else max(start_ns, first_ns),
            last_ns if end_ns is None else min(end_ns, last_ns),
        )
    return _Plan(
        Wanted(
            fields=dict.fromkeys(request.patterns or ("*",)),
            ignore=request.ignore,
            cpus=cpus,
            start_ns=start_ns,
            end_ns=end_ns,
        ),
        Rows(tids, vcpu_ids, seen.vcpu_threads),
        span_ns,
    )


def selected(
    chunks: Iterable[RawChunk], source: Source, rows: Rows, request: Request
) -> Iterator[RawChunk]:
    """The rows of each chunk that are wanted, up to the limit; no empty chunks."""
    left = request.limit
    if left == 0:
        return
    for chunk in chunks:
        mask = rows.mask(chunk, source.events)
        found = np.arange(len(chunk)) if mask is None else np.flatnonzero(mask)
        if left is not None and len(found) > left:
            found = found[:left]
            mask = np.zeros(len(chunk), np.bool_)
            mask[found] = True
        part = chunk if mask is None else kept(chunk, mask)
        if request.absent:
            without_fields(part, request.absent, source.events)
        if len(part):
            yield part
        if left is not None:
            left -= len(part)
            if left == 0:
                return
