"""`piscope exits`: why guests stopped running, how often, and for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from piscope.report.summarize_exits import Sort

__all__ = ("exits",)


@click.command()
@click.argument("trace")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Write long-format rows (one number each) to FILE.csv or FILE.parquet instead"
    " of the report. The file appears when it is complete.",
)
@click.option(
    "--sort",
    type=click.Choice(("count", "time", "max")),
    default="time",
    show_default=True,
    help="Order of the reasons: most exits, most time, or longest exit first.",
)
@click.option(
    "--outliers",
    type=click.IntRange(min=0, max=10_000),
    default=5,
    show_default=True,
    metavar="N",
    help="How many exits to list that took longest against their reason's median.",
)
@click.option("--vm", "vms", metavar="LIST", help="Only these VMs, by number.")
@click.option(
    "--vcpu",
    "vcpus",
    multiple=True,
    metavar="NAME",
    help="Only this vCPU: its label (vm0/vcpu1), its vcpu_id in any VM (1), or its"
    " thread (tid:1893). Repeatable.",
)
@click.option(
    "--ignore",
    multiple=True,
    metavar="PATTERN",
    help="As if the trace did not hold these events. Repeatable.",
)
@click.option(
    "--from",
    "start",
    metavar="TIME",
    help="Only from this instant on: seconds of the trace's clock (24006.249294), time"
    " after its first event (1.5s, 200ms), before its end (-200ms), or 45%.",
)
@click.option("--to", "end", metavar="TIME", help="Only before this instant.")
@click.option(
    "--tsc-khz",
    type=click.IntRange(min=1, max=100_000_000),
    metavar="KHZ",
    help="Frequency of the TSC, for a trace whose x86-tsc clock is raw.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--width",
    type=click.IntRange(min=80),
    metavar="COLUMNS",
    help="Width of the report, 80 to 120.  [default: the terminal's, else 80]",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
def exits(
    trace: str,
    output: str | None,
    sort: Sort,
    outliers: int,
    vms: str | None,
    vcpus: tuple[str, ...],
    ignore: tuple[str, ...],
    start: str | None,
    end: str | None,
    tsc_khz: int | None,
    as_json: bool,
    width: int | None,
    quiet: bool,
) -> int:
    """Count VM-exits by reason, time them, and tell each vCPU's budget.

    Counts and times are those of `perf kvm stat report`, from any format and of any
    x86 host; a pair that may lie across lost events is left out, and counted.

    Exit status: 0 analyzed; 2 the trace could not be.
    """
    from piscope.commands.exits_run import Request, run_exits

    request = Request(
        sort=sort,
        outliers=outliers,
        vms=vms,
        vcpus=vcpus,
        ignore=ignore,
        start=start,
        end=end,
        tsc_khz=tsc_khz,
    )
    run_exits(trace, request, output=output, as_json=as_json, width=width, quiet=quiet)
    return 0
