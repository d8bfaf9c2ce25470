"""From the arguments of `piscope compare` to its report: analyzed twice, set side by
side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import click

from piscope import pipeline, sliced_pipeline
from piscope.allocator import keep_freed_memory
from piscope.commands.opening import is_pipe, opened
from piscope.commands.options import Form
from piscope.commands.printing import echo_report, echo_text
from piscope.commands.progress import Progress
from piscope.commands.watched import WatchedSource
from piscope.compare.account import Pair
from piscope.compare.build import account_of, pairs_of
from piscope.compare.render_text import account_as_markdown, account_as_text
from piscope.errors import PiscopeError, UsageError
from piscope.events.catalog import CATALOG
from piscope.posted import Posted
from piscope.report.summary import Summary
from piscope.report.tally import Tallies
from piscope.sources.raw import Source

__all__ = ("Request", "compare_two")

EXIT_CANT_TELL = 3


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asked for, as it was written.

    policies  names; empty: those of the captured kernels
    posted    which posts to replay as hardware's
    ignore    patterns of events to treat as absent
    tsc_khz   frequency of raw x86-tsc clocks; None: not given
    """

    policies: tuple[str, ...] = ()
    posted: Posted = "auto"
    ignore: tuple[str, ...] = ()
    tsc_khz: int | None = None


@dataclass(frozen=True, slots=True)
class _Analyzed:
    summary: Summary
    events: list[str]
    unknown: float
    mostly_unknown: bool


def compare_two(
    paths: tuple[str, str],
    request: Request,
    *,
    form: Form = "terminal",
    width: int | None = None,
    quiet: bool = False,
) -> int:
    """Print the comparison of two captures, and give the exit status.

    Raises what a capture raises, with its path.
    """
    keep_freed_memory()
    if paths[0] == paths[1] == "-":
        raise UsageError("standard input can be one of the captures, not both")
    a, b = (_analyzed(path, request, quiet=quiet) for path in paths)
    asked = tuple(dict.fromkeys(request.policies))
    pairs = [Pair(name, name) for name in asked] or pairs_of(a.summary, b.summary)
    account = account_of(
        a.summary, b.summary, (a.events, b.events), (a.unknown, b.unknown), pairs
    )
    if form == "json":
        click.echo(json.dumps(account.as_dict(), indent=2, allow_nan=False))
    elif form == "md":
        echo_text(account_as_markdown(account))
    else:
        echo_report(
            lambda columns, color: account_as_text(account, width=columns, color=color),
            width,
        )
    unknown = a.mostly_unknown or b.mostly_unknown
    return EXIT_CANT_TELL if unknown or account.cannot_tell else 0


def _analyzed(path: str, request: Request, *, quiet: bool) -> _Analyzed:
    asked = tuple(dict.fromkeys(request.policies))

    def policies(captured: str | None) -> tuple[str, ...]:
        chosen = asked or pipeline.DEFAULT_POLICIES
        third = captured is not None and not asked and captured not in chosen
        return (str(captured), *chosen) if third else chosen

    tallies, counts = Tallies(), {}
    whole_rows = None if is_pipe(path) else sliced_pipeline.WHOLE_ROWS
    try:
        with opened(path) as source, Progress(quiet=quiet) as progress:
            for part in sliced_pipeline.parts_of(
                cast(Source, WatchedSource(source, progress)),
                policies=policies,
                posted=request.posted,
                ignore=request.ignore,
                tsc_khz=request.tsc_khz,
                slice_rows=sliced_pipeline.SLICE_ROWS,
                whole_rows=whole_rows,
                keep_events=False,
                progress=progress.begin,
            ):
                tallies.add(part)
                counts = part.analysis.events.counts
                del part
    except PiscopeError as error:
        error.path = error.path or path
        raise
    summary = tallies.finish()
    labels = {vcpu.label for vcpu in summary.vcpus}
    seen_ns = sum(sum(vcpu.time_ns.values()) for vcpu in summary.vcpus)
    unknown_ns = sum(vcpu.time_ns.get("unknown", 0) for vcpu in summary.vcpus)
    return _Analyzed(
        summary=summary,
        events=_read_events(counts),
        unknown=unknown_ns / seen_ns if seen_ns else 0.0,
        mostly_unknown=tallies.known_time.timeline_unknown(labels),
    )


def _read_events(counts: Mapping[str, int]) -> list[str]:
    """Names of the recorded tracepoints that the analysis reads, sorted; no probes."""
    known = {tracepoint.name for tracepoint in CATALOG}
    names = {key.rpartition(":")[2] for key, count in counts.items() if count}
    return sorted(names & known)
