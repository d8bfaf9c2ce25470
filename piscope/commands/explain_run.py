"""From the arguments of `piscope explain` to its account.

analyzed -> one finding is picked -> account -> the events around it are read
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import cast

import click

from piscope import pipeline, sliced_pipeline
from piscope.allocator import keep_freed_memory
from piscope.commands.explain_events import near_events
from piscope.commands.moments import Moment, parse_moment
from piscope.commands.opening import opened
from piscope.commands.options import Form
from piscope.commands.printing import echo_report, echo_text
from piscope.commands.progress import Progress
from piscope.commands.selected import selected
from piscope.commands.survey import survey
from piscope.commands.watched import WatchedSource
from piscope.errors import UsageError
from piscope.explain.account import Account
from piscope.explain.build import account_of, near_account
from piscope.explain.numbers import Numbers
from piscope.explain.pick import AtInstant, ByRow, NthOfKind, Picker
from piscope.explain.render_text import account_as_markdown, account_as_text
from piscope.pipeline import Part
from piscope.posted import Posted
from piscope.sources.raw import Source

__all__ = ("Request", "explain_one")


@dataclass(frozen=True, slots=True)
class Request:
    """Which notification a user asked for, as it was written.

    One of instant, finding and hit is given; the others are None.

    nth       of --hit, from 1; None: the first
    vms       a list such as `0-3,5`; None: all
    vcpus     labels, vcpu_ids, `tid:N`; empty: all
    policies  names; empty: the default two
    posted    which posts to replay as hardware's, as replay.posted reads it
    ignore    patterns of events to treat as absent
    tsc_khz   frequency of a raw x86-tsc clock; None: not given
    """

    instant: str | None = None
    finding: int | None = None
    hit: str | None = None
    nth: int | None = None
    vms: str | None = None
    vcpus: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    posted: Posted = "auto"
    ignore: tuple[str, ...] = ()
    tsc_khz: int | None = None

    @property
    def replayed(self) -> tuple[str, ...]:
        """The policies to replay: a single one is told beside the default two."""
        asked = tuple(dict.fromkeys(self.policies))
        if len(asked) > 1:
            return asked
        return tuple(dict.fromkeys((*asked, *pipeline.DEFAULT_POLICIES)))


def explain_one(
    trace: str,
    request: Request,
    *,
    form: Form = "terminal",
    width: int | None = None,
    quiet: bool = False,
) -> None:
    """Print the account of one notification.

    Raises UsageError where none is meant, or several ways to choose are given, and
    what the trace raises.
    """
    keep_freed_memory()
    moment = _checked(request)
    try:
        account = _account(trace, request, moment, quiet=quiet)
    except UsageError as error:
        error.path = error.path or trace
        raise
    if form == "json":
        click.echo(json.dumps(account.as_dict(), indent=2, allow_nan=False))
    elif form == "md":
        echo_text(account_as_markdown(account))
    else:
        echo_report(
            lambda columns, color: account_as_text(account, width=columns, color=color),
            width,
        )


def _checked(request: Request) -> Moment | None:
    given = [
        name
        for name, value in (
            ("--at", request.instant),
            ("--finding", request.finding),
            ("--hit", request.hit),
        )
        if value is not None
    ]
    if not given:
        raise UsageError(
            "which notification? give --at TIME (with --vcpu), --hit KIND, or"
            " --finding N"
        )
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)}: only one of them")
    if request.nth is not None and request.hit is None:
        raise UsageError(f"--nth is for --hit, not for {given[0]}")
    if request.finding is not None and (request.vcpus or request.vms is not None):
        raise UsageError("--finding names one row: give no --vcpu or --vm with it")
    return parse_moment(request.instant) if request.instant is not None else None


def _account(
    trace: str, request: Request, moment: Moment | None, *, quiet: bool
) -> Account:
    with ExitStack() as stack:
        source = stack.enter_context(opened(trace, twice=True))
        picker = _picker(source, moment, request)
        progress = stack.enter_context(Progress(quiet=quiet))
        watched = cast(Source, WatchedSource(source, progress))
        parts = sliced_pipeline.parts_of(
            watched,
            policies=request.replayed,
            posted=request.posted,
            ignore=request.ignore,
            tsc_khz=request.tsc_khz,
            slice_rows=sliced_pipeline.SLICE_ROWS,
            whole_rows=sliced_pipeline.WHOLE_ROWS,
            progress=progress.begin,
        )
        for part in parts:
            picker.add(part)
            del part
        picked = picker.picked()
        numbers = Numbers()
        part = _nth(parts, picked.part, numbers)
        analysis = part.analysis
        account = account_of(analysis, picked)
        near = near_account(analysis, picked, account)
        account = numbers.of_report(account, part, picked.index)
        progress.begin("its events")
        account.events = near_events(
            watched,
            analysis.events,
            near,
            ignore=request.ignore,
            tsc_khz=request.tsc_khz,
        )
    return account


def _nth(parts: Iterable[Part], nth: int, numbers: Numbers) -> Part:
    """That part; the ones before it are counted."""
    for i, part in enumerate(parts):
        if i == nth:
            return part
        numbers.add(part)
        del part
    raise AssertionError("the part is gone that was there before")


def _picker(source: Source, moment: Moment | None, request: Request) -> Picker:
    selection = selected(request.vms, request.vcpus)
    if request.finding is not None:
        return ByRow(request.finding, request.policies[0] if request.policies else None)
    if request.hit is not None:
        policy = request.replayed[0]
        return NthOfKind(request.hit, request.nth or 1, policy, selection)
    assert moment is not None
    assert request.instant is not None
    ts_ns = _instant(source, moment, request)
    return AtInstant(ts_ns, selection, request.instant)


def _instant(source: Source, moment: Moment, request: Request) -> int:
    first_ns = last_ns = None
    if moment.is_relative:
        seen = survey(source, ignore=request.ignore)
        first_ns, last_ns = seen.first_ns, seen.last_ns
    counts = source.info.ts_unit != "ns"
    instant = moment.resolve(first_ns, last_ns, counts=counts)
    if source.info.ts_unit == "cycles" and request.tsc_khz is not None:
        return instant * 10**6 // request.tsc_khz
    return instant
