"""From the arguments of `piscope compare` to its report: analyzed twice, set side by
side."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import cast

import click

from piscope import pipeline
from piscope.allocator import keep_freed_memory
from piscope.commands.analyze_run import timeline_unknown
from piscope.commands.opening import opened
from piscope.commands.options import Form
from piscope.commands.printing import echo_report, echo_text
from piscope.commands.progress import Progress
from piscope.commands.watched import WatchedSource
from piscope.compare.account import Pair
from piscope.compare.build import account_of, pairs_of
from piscope.compare.render_text import account_as_markdown, account_as_text
from piscope.errors import PiscopeError, UsageError
from piscope.events.catalog import CATALOG
from piscope.model.policy import POLICIES
from piscope.pipeline import Analysis
from piscope.posted import Posted
from piscope.report.summarize import summarize
from piscope.report.summary import Summary
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
    policies = tuple(dict.fromkeys(request.policies)) or pipeline.DEFAULT_POLICIES
    try:
        analysis = _analysis(path, request, policies, quiet=quiet)
    except PiscopeError as error:
        error.path = error.path or path
        raise
    summary = summarize(analysis)
    labels = {vcpu.label for vcpu in summary.vcpus}
    seen_ns = sum(sum(vcpu.time_ns.values()) for vcpu in summary.vcpus)
    unknown_ns = sum(vcpu.time_ns.get("unknown", 0) for vcpu in summary.vcpus)
    return _Analyzed(
        summary=summary,
        events=_read_events(analysis),
        unknown=unknown_ns / seen_ns if seen_ns else 0.0,
        mostly_unknown=timeline_unknown(analysis.timeline, labels),
    )


def _analysis(
    path: str, request: Request, policies: tuple[str, ...], *, quiet: bool
) -> Analysis:
    # Which policy the kernel has is known only afterwards, and may be a third.
    with opened(path, twice=not request.policies) as source:
        while True:
            with Progress(quiet=quiet) as progress:
                analysis = pipeline.analyze(
                    cast(Source, WatchedSource(source, progress)),
                    policies=policies,
                    posted=request.posted,
                    ignore=request.ignore,
                    tsc_khz=request.tsc_khz,
                )
            own = analysis.captured.policy
            if request.policies or own is None or own in policies:
                return analysis
            assert own in POLICIES
            policies = (own, *policies)


def _read_events(analysis: Analysis) -> list[str]:
    """Names of the recorded tracepoints that the analysis reads, sorted; no probes."""
    known = {tracepoint.name for tracepoint in CATALOG}
    names = {
        key.rpartition(":")[2] for key, count in analysis.events.counts.items() if count
    }
    return sorted(names & known)
