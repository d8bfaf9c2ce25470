"""`piscope timeline`: what each vCPU did and what notifications hit, as a picture."""

from __future__ import annotations

import click

from piscope.commands.options import (
    from_option,
    ignore_option,
    posted_option,
    quiet_option,
    to_option,
    tsc_khz_option,
    vcpu_option,
    vm_option,
)
from piscope.model.policy import POLICIES

__all__ = ("timeline",)


@click.command()
@click.argument("trace")
@click.option(
    "--policy",
    type=click.Choice(tuple(POLICIES)),
    default="preempt-only",
    show_default=True,
    metavar="NAME",
    help="The policy whose notifications are marked, as `piscope model policies` lists"
    " them.",
)
@click.option(
    "--window",
    metavar="TIME",
    help="One picture for each stretch of this length (10ms, 250us, 1.5s), one after"
    " the other, instead of one of everything.",
)
@click.option("--cpus", "with_cpus", is_flag=True, help="Draw the pCPUs too.")
@posted_option
@ignore_option
@vm_option
@vcpu_option
@from_option
@to_option
@tsc_khz_option
@click.option(
    "--width",
    type=click.IntRange(min=60, max=2000),
    metavar="COLUMNS",
    help="Width of the picture.  [default: the terminal's, else 80]",
)
@quiet_option
def timeline(
    trace: str,
    policy: str,
    window: str | None,
    with_cpus: bool,
    posted: str,
    ignore: tuple[str, ...],
    vms: str | None,
    vcpus: tuple[str, ...],
    start: str | None,
    end: str | None,
    tsc_khz: int | None,
    width: int | None,
    quiet: bool,
) -> int:
    """Draw what each vCPU did, and what notifications to it hit.

    All of the trace is read, also with --from and --to, so that what a vCPU does at
    the left edge is known.

    Exit status: 0 drawn; 2 the trace could not be analyzed; 3 what the vCPUs did is
    unknown for more than half of their time.
    """
    from piscope.commands.timeline_run import View, draw

    view = View(
        policy=policy,
        window=window,
        with_cpus=with_cpus,
        posted=posted,
        ignore=ignore,
        vms=vms,
        vcpus=vcpus,
        start=start,
        end=end,
        tsc_khz=tsc_khz,
    )
    return draw(trace, view, width=width, quiet=quiet)
