"""`piscope analyze`: what notifications hit, and what another policy would change."""

from __future__ import annotations

import click

from piscope.commands.options import (
    Form,
    fastpath_option,
    form_option,
    from_option,
    ignore_option,
    json_option,
    platform_option,
    policies_option,
    posted_option,
    quiet_option,
    to_option,
    tsc_khz_option,
    vcpu_option,
    vm_option,
    width_option,
)

__all__ = ("analyze",)


@click.command()
@click.argument("traces", metavar="TRACE...", nargs=-1, required=True)
@policies_option(
    "A policy to replay, as `piscope model policies` lists them. Repeatable; the"
    " first one is compared with each other.  [default: preempt-only and"
    " suppress-on-put]"
)
@fastpath_option
@platform_option
@posted_option
@click.option(
    "--posts",
    metavar="FILE",
    help="Posts that you know of and the trace does not show: CSV or Parquet with ts_ns"
    " (of the trace's clock), vcpu, vector and maybe agent. For one TRACE.",
)
@click.option(
    "--interrupts",
    nargs=2,
    metavar="BEFORE AFTER",
    help="Copies of /proc/interrupts from before and after the recording: PIN and PIW"
    " are held against the replay, and the rate of unseen posts is estimated.",
)
@click.option(
    "--rate",
    metavar="HZ",
    help="What posts by hardware, that many a second to each vCPU, would come to; or"
    " NAME=HZ,... with vCPUs, VMs (vm0) or parts of a device's name.",
)
@click.option(
    "--rate-curve",
    metavar="LOW:HIGH",
    help="The same over a range of rates, as in 10:100k; LOW:HIGH:POINTS for so many.",
)
@click.option(
    "--sender",
    "senders",
    multiple=True,
    metavar="NAME",
    help="Posts at a rate are IPIs of this vCPU, sent while it is in guest mode."
    " Repeatable.  [default: those of devices, at any time]",
)
@ignore_option
@vm_option
@vcpu_option
@click.option(
    "--cpu",
    "cpus",
    metavar="LIST",
    help="Only notifications to these pCPUs, as in 0-3,5.",
)
@from_option
@to_option
@tsc_khz_option
@form_option
@json_option
@click.option(
    "--html",
    metavar="FILE",
    help="Also write a page with charts and the vCPUs' timeline, in one file that needs"
    " no network (needs piscope[html]). For one TRACE.",
)
@click.option(
    "--perfetto",
    metavar="FILE",
    help="Also write a trace for ui.perfetto.dev: the vCPUs' states, the pCPUs, posts"
    " and notifications (needs piscope[perfetto]); compressed if FILE ends in .gz. For"
    " one TRACE.",
)
@width_option
@quiet_option
def analyze(
    traces: tuple[str, ...],
    policies: tuple[str, ...],
    fastpath: str | None,
    platform: tuple[str, ...],
    posted: str,
    posts: str | None,
    interrupts: tuple[str, str] | None,
    rate: str | None,
    rate_curve: str | None,
    senders: tuple[str, ...],
    ignore: tuple[str, ...],
    vms: str | None,
    vcpus: tuple[str, ...],
    cpus: str | None,
    start: str | None,
    end: str | None,
    tsc_khz: int | None,
    form: Form,
    as_json: bool,
    html: str | None,
    perfetto: str | None,
    width: int | None,
    quiet: bool,
) -> int:
    """Say what posted-interrupt notifications hit, under two policies.

    Each trace is analyzed for itself, and one that can't be read does not keep the
    others from it.

    Exit status: 0 analyzed; 2 a trace could not be; 3 what the vCPUs did is unknown
    for more than half of their time.
    """
    from piscope.commands.analyze_run import analyze_all
    from piscope.commands.rates_run import Asked
    from piscope.commands.requested import Request

    request = Request(
        policies=policies,
        fastpath=fastpath,
        platform=platform,
        posted=posted,
        ignore=ignore,
        vms=vms,
        vcpus=vcpus,
        cpus=cpus,
        start=start,
        end=end,
        tsc_khz=tsc_khz,
        asked=Asked(posts, interrupts, rate, rate_curve, senders),
    )
    return analyze_all(
        traces,
        request,
        form="json" if as_json else form,
        html=html,
        perfetto=perfetto,
        width=width,
        quiet=quiet,
    )
