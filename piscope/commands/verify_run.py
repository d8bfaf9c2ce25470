"""From the arguments of `piscope verify` to its accounts, trace after trace.

opened -> RenamedSource -> collect -> timeline -> verify -> text, Markdown or JSON
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import click
import numpy as np
import numpy.typing as npt

from piscope.commands.opening import opened
from piscope.commands.printing import echo_report, error_line
from piscope.commands.verify_markdown import account_as_markdown
from piscope.commands.verify_text import account_as_text
from piscope.errors import PiscopeError, TraceFormatError, UnanswerableError, UsageError
from piscope.events.catalog import analysis_fields
from piscope.events.normalize import collect
from piscope.interrupts import Counted, counted_between, read_interrupts, read_tables
from piscope.sources.raw import Source, Wanted
from piscope.tables import Events, Timeline, Vcpu, Vcpus
from piscope.timeline.build import build_timeline
from piscope.timeline.losses import blind_rows, loss_gaps
from piscope.timeline.probes import Probe, probed_vcpus
from piscope.timeline.vcpus import find_vcpus
from piscope.verify.account import SCHEMA_VERSION, Account
from piscope.verify.apic_ids import parse_apic_ids
from piscope.verify.build import Traced
from piscope.verify.build import verify as verify_trace
from piscope.verify.probe_names import ProbeNames, RenamedSource, point_of_event
from piscope.verify.verdict import CANT_TELL, DISAGREES

__all__ = ("Request", "verify_all")

EXIT_NOT_ANALYZED = 2

_MOST_INTERRUPTS_BYTES = 1 << 24
_TRACE_SUFFIXES = {
    ".dat",
    ".data",
    ".txt",
    ".gz",
    ".xz",
    ".zst",
    ".trace",
    ".ftrace",
    ".perf",
}


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asked of each trace.

    policy      name; None: to be found
    names       of the probes and their arguments
    interrupts  files with /proc/interrupts before and after; None: look beside it
    apic_ids    as `0=0,1=2`; None: learned
    xapic       NDST holds those in xAPIC form
    limit       disagreements to list
    tsc_khz     frequency of a raw x86-tsc clock; None: not given
    """

    policy: str | None = None
    names: ProbeNames = ProbeNames()  # noqa: RUF009 - frozen
    interrupts: tuple[str, str] | None = None
    apic_ids: str | None = None
    xapic: bool = False
    limit: int = 10
    tsc_khz: int | None = None


def verify_all(
    traces: Sequence[str],
    request: Request,
    form: Literal["text", "md", "json"],
    width: int | None = None,
) -> int:
    """Print the account of each trace, and give the status.

    The worst counts: 2 for a trace that could not be read, then 1, then 3.

    Raises whatever a trace raises that is the only one, and UsageError for a request
    that makes no sense.
    """
    if request.interrupts and len(traces) > 1:
        raise UsageError("--interrupts belongs to one capture: give one trace")
    if request.xapic and request.apic_ids is None:
        raise UsageError("--xapic says how --apic-ids are to be read: give both")
    if request.apic_ids is not None:
        parse_apic_ids(request.apic_ids, request.xapic)
    accounts: list[Account] = []
    failed = False
    for trace in traces:
        try:
            account = verified(trace, request)
        except (PiscopeError, OSError, MemoryError) as error:
            if len(traces) == 1 or isinstance(error, BrokenPipeError):
                raise
            click.echo(f"piscope: error: {error_line(error, trace)}", err=True)
            failed = True
            continue
        if form == "text":
            _print_account(account, width, first=not accounts)
        accounts.append(account)
    if form == "json":
        values = [account.as_dict() for account in accounts]
        value = values if len(traces) > 1 else values[0]
        click.echo(json.dumps(value, indent=2, allow_nan=False))
    elif form == "md":
        click.echo(account_as_markdown(accounts))
    if failed:
        return EXIT_NOT_ANALYZED
    statuses = {account.status for account in accounts}
    return next((s for s in (DISAGREES, CANT_TELL) if s in statuses), 0)


def verified(trace: str, request: Request) -> Account:
    """The account of one trace; one that piscope can't answer for can't tell.

    Raises PiscopeError where the trace, or a file of the request, can't be read.
    """
    try:
        traced = _traced(trace, request)
    except UnanswerableError as error:
        return _unanswered(trace, request, error)
    apic_ids = (
        None
        if request.apic_ids is None
        else parse_apic_ids(request.apic_ids, request.xapic)
    )
    counted, remark = _counted(trace, request)
    account = verify_trace(
        traced,
        policy=request.policy,
        apic_ids=apic_ids,
        counted=counted,
        limit=request.limit,
    )
    if remark:
        account.remarks.append(remark)
    if counted is not None and traced.timeline is None:
        account.remarks.append("PIN and PIW not compared: the trace has no timeline")
    return account


def _traced(trace: str, request: Request) -> Traced:
    with opened(trace) as source:
        renamed = RenamedSource(source, request.names)
        events = collect(
            cast(Source, renamed), Wanted(analysis_fields()), request.tsc_khz
        )
        recorded, ctl_first = renamed.recorded, renamed.ctl_first
    timeline: Timeline | None = None
    if len(events) and not len(find_vcpus(events)):
        # probes alone: enough to compare, too little for a timeline
        vcpus, blind = _vcpus_of_probes(events), blind_rows(loss_gaps(events))
    else:
        timeline = build_timeline(events)
        vcpus, blind = timeline.vcpus, timeline.blind

    def vcpu_of(name: str) -> npt.NDArray[np.int32]:
        if not len(vcpus):
            return np.full(len(events.rows(name)), -1, np.int32)
        return probed_vcpus(events, vcpus, Probe(name, "", at_return=False))

    return Traced(events, vcpus, timeline, blind, vcpu_of, recorded, ctl_first)


def _vcpus_of_probes(events: Events) -> Vcpus:
    """The threads that the probes hit, where nothing else tells which are vCPUs.

    A thread's vCPU is the one that more than half of its hits are of; a VMM's main
    thread, which only creates vCPUs, has none such unless there is but one.
    """
    tids: list[npt.NDArray[np.int32]] = []
    named: list[npt.NDArray[np.int64]] = []
    for _, name in dict.fromkeys(events.names):
        if point_of_event(name) is None:
            continue
        rows = events.rows(name)
        value = events.column(name, "vcpu", np.int64)
        tids.append(events.tid[rows])
        named.append(np.full(len(rows), -1, np.int64) if value is None else value)
    tid = np.concatenate([np.empty(0, np.int32), *tids])
    value = np.concatenate([np.empty(0, np.int64), *named])
    found: list[Vcpu] = []
    for thread in np.unique(tid[tid > 0]).tolist():
        mine, count = np.unique(value[tid == thread], return_counts=True)
        most = int(np.argmax(count))
        if 2 * int(count[most]) <= int(count.sum()):
            continue
        vcpu_id = int(mine[most]) if 0 <= mine[most] < 1 << 32 else None
        label = f"vcpu{'?' if vcpu_id is None else vcpu_id}[{thread}]"
        comm = events.info.comms.get(thread)
        found.append(
            Vcpu(
                vcpu=len(found),
                tid=thread,
                tgid=events.info.tgids.get(thread),
                vm=None,
                vcpu_id=vcpu_id,
                comm=comm,
                evidence="probe",
                label=label,
            )
        )
    by_tid = np.full(max((v.tid for v in found), default=0) + 2, -1, np.int32)
    for vcpu in found:
        by_tid[vcpu.tid] = vcpu.vcpu
    return Vcpus(found, False, by_tid)


def _unanswered(trace: str, request: Request, error: UnanswerableError) -> Account:
    return Account(
        schema_version=SCHEMA_VERSION,
        trace=trace,
        format="",
        kernel_release=None,
        vcpus=0,
        asked=request.policy,
        policy=None,
        policy_title="",
        platform=None,
        status=CANT_TELL,
        verdict=f"Can't tell: {error.message}.",
        probes={},
        hits=0,
        readings=0,
        unknown_hits=0,
        cuts={},
        transitions=0,
        by_trace=0,
        by_trace_armed=0,
    )


def _counted(trace: str, request: Request) -> tuple[Counted | None, str]:
    """PIN and PIW of the capture, and a remark where a file beside it has none."""
    if request.interrupts is not None:
        tables = [read_interrupts(path) for path in request.interrupts]
        return counted_between(tables, request.interrupts[1]), ""
    beside = _meta_beside(trace)
    if beside is None:
        return None, ""
    try:
        tables = read_tables(_text_of(beside), str(beside))
        return counted_between(tables, str(beside)), ""
    except (PiscopeError, OSError) as error:
        return None, f"PIN and PIW not compared: {error}"


def _meta_beside(trace: str) -> Path | None:
    if trace == "-":
        return None
    path = Path(trace)
    while path.suffix in _TRACE_SUFFIXES:
        path = path.with_suffix("")
        candidate = path.with_name(f"{path.name}.meta.txt")
        if candidate.is_file():
            return candidate
    return None


def _text_of(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(_MOST_INTERRUPTS_BYTES + 1)
    if len(data) > _MOST_INTERRUPTS_BYTES:
        raise TraceFormatError(
            f"more than {_MOST_INTERRUPTS_BYTES} bytes, expected /proc/interrupts",
            path=path,
        )
    return data.decode("utf-8", "replace")


def _print_account(account: Account, width: int | None, *, first: bool) -> None:
    def text_of(columns: int, color: bool) -> str:
        return account_as_text(account, columns, color=color)

    echo_report(text_of, width, first=first)
