"""`piscope exits`: why guests stopped running, how often, and for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from piscope.commands.options import (
    from_option,
    ignore_option,
    quiet_option,
    to_option,
    tsc_khz_option,
    vcpu_option,
    vm_option,
    width_option,
)

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
@vm_option
@vcpu_option
@ignore_option
@from_option
@to_option
@tsc_khz_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@width_option
@quiet_option
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
