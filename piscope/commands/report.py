"""`piscope report`: an analysis with all its tables as files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from piscope.commands.options import (
    fastpath_option,
    from_option,
    ignore_option,
    platform_option,
    policies_option,
    posted_option,
    quiet_option,
    to_option,
    tsc_khz_option,
    vcpu_option,
    vm_option,
)

if TYPE_CHECKING:
    from piscope.commands.requested import Counted
    from piscope.report.summary import Summary

__all__ = ("report",)


@click.command()
@click.argument("traces", metavar="TRACE...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="DIR",
    help="The directory to write. It appears when it is complete; an older report"
    " there is replaced, anything else is left alone.",
)
@policies_option(
    "A policy to replay. Repeatable.  [default: preempt-only and suppress-on-put]"
)
@fastpath_option
@platform_option
@posted_option
@click.option("--no-events", is_flag=True, help="Without the table EVENTS.")
@ignore_option
@vm_option
@vcpu_option
@from_option
@to_option
@tsc_khz_option
@quiet_option
def report(
    traces: tuple[str, ...],
    output: str,
    policies: tuple[str, ...],
    fastpath: str | None,
    platform: tuple[str, ...],
    posted: str,
    no_events: bool,
    ignore: tuple[str, ...],
    vms: str | None,
    vcpus: tuple[str, ...],
    start: str | None,
    end: str | None,
    tsc_khz: int | None,
    quiet: bool,
) -> None:
    """Write every table of an analysis as Parquet, with its summary as JSON.

    `piscope schema` documents the tables; DIR/manifest.json lists them. Several traces
    give one dataset, partitioned by trace: DIR/FINDINGS/trace=NAME/. --vm and --vcpu
    narrow the summary; the tables hold every vCPU.
    """
    from piscope.allocator import keep_freed_memory
    from piscope.commands.requested import Request, checked, counted
    from piscope.report_directory import write_dataset, write_report

    options = {
        "policies": list(policies),
        "fastpath": fastpath,
        "platform": list(platform),
        "posted": posted,
        "ignore": list(ignore),
        "vms": vms,
        "vcpus": list(vcpus),
        "from": start,
        "to": end,
        "tsc_khz": tsc_khz,
    }
    request = Request(
        policies=policies,
        fastpath=fastpath,
        platform=platform,
        posted=posted,
        ignore=ignore,
        vms=vms,
        vcpus=vcpus,
        start=start,
        end=end,
        tsc_khz=tsc_khz,
    )
    keep_freed_memory()
    selection, told = checked(request, traces)

    def each() -> Iterator[tuple[Counted, Callable[[], Summary]]]:
        for trace in traces:
            with counted(
                trace, request, selection, told, quiet=quiet, keep_events=True
            ) as parts:
                yield parts, parts.summary

    events = not no_events
    if len(traces) > 1:
        write_dataset(each(), output, options=options, events=events)
        return
    for parts, summary in each():
        write_report(parts, summary, output, options=options, events=events)
