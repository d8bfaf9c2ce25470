"""`piscope posts`: who posted each interrupt, to which vCPU."""

from __future__ import annotations

import click

from piscope.commands.options import (
    Form,
    form_option,
    from_option,
    ignore_option,
    json_option,
    quiet_option,
    to_option,
    tsc_khz_option,
    vcpu_option,
    vm_option,
    width_option,
)

__all__ = ("posts",)


@click.command()
@click.argument("traces", metavar="TRACE...", nargs=-1, required=True)
@click.option("--list", "listed", is_flag=True, help="Each post, one a line.")
@click.option(
    "--coverage",
    is_flag=True,
    help="One row a trace: of how many posts the origin is known.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Write each post to FILE; its suffix (.parquet, .csv, .jsonl) chooses the"
    " format. The file appears when it is complete.",
)
@click.option(
    "--origin",
    "origins",
    metavar="WORDS",
    help="Only posts of these origins, with commas: vfio, vhost, irqfd, emulated, ipi,"
    " timer, self, unknown.",
)
@ignore_option
@vm_option
@vcpu_option
@from_option
@to_option
@click.option(
    "-n", "--limit", type=click.IntRange(min=0), metavar="N", help="List the first N."
)
@tsc_khz_option
@form_option
@json_option
@width_option
@quiet_option
def posts(
    traces: tuple[str, ...],
    listed: bool,
    coverage: bool,
    output: str | None,
    origins: str | None,
    ignore: tuple[str, ...],
    vms: str | None,
    vcpus: tuple[str, ...],
    start: str | None,
    end: str | None,
    limit: int | None,
    tsc_khz: int | None,
    form: Form,
    as_json: bool,
    width: int | None,
    quiet: bool,
) -> int:
    """Say who posted each interrupt: device, vhost, IPI, timer.

    An interrupt that KVM accepted for a vCPU was posted by somebody, and the context
    on that pCPU tells: the handler of a vfio interrupt, a vhost worker, an irqfd's
    work, the VMM, a vCPU that sent an IPI, the timer. What it does not tell is
    "unknown". Posts by hardware leave no event at all.

    Exit status: 0 counted; 2 a trace could not be read; 3 it shows no post, or the
    origin of none.
    """
    from piscope.commands.posts_run import Request, run_posts

    request = Request(
        origins=origins,
        vms=vms,
        vcpus=vcpus,
        ignore=ignore,
        start=start,
        end=end,
        limit=limit,
        tsc_khz=tsc_khz,
    )
    return run_posts(
        traces,
        request,
        listed=listed,
        coverage=coverage,
        output=output,
        form="json" if as_json else form,
        width=width,
        quiet=quiet,
    )
