"""`piscope explain`: the story of one notification."""

from __future__ import annotations

import click

from piscope.commands.options import (
    Form,
    form_option,
    ignore_option,
    json_option,
    policies_option,
    posted_option,
    quiet_option,
    tsc_khz_option,
    vm_option,
    width_option,
)

__all__ = ("KINDS", "explain")

KINDS = (
    *("unloaded", "residual", "guest", "host", "unloaded-host", "wrong-vcpu"),
    *("wakeup", "silent-on", "silent-sn", "silent-pir", "software", "latched"),
    *("unknown", "guest-exit"),
)
"""What `--hit` takes; a test holds it to explain.pick.HIT_GROUPS."""


@click.command()
@click.argument("trace")
@click.option(
    "--vcpu",
    "vcpus",
    multiple=True,
    metavar="NAME",
    help="Only notifications for this vCPU: its label (vm0/vcpu1), its vcpu_id in any"
    " VM (1), or its thread (tid:1893). Repeatable.",
)
@vm_option
@click.option(
    "--at",
    "instant",
    metavar="TIME",
    help="The notification nearest to this instant, within 1 ms: seconds of the"
    " trace's clock (24006.249294), time after its first event (1.5s, 200ms), before"
    " its end (-200ms), or 45%.",
)
@click.option(
    "--finding",
    type=click.IntRange(min=0),
    metavar="N",
    help="Row N, from 0, of FINDINGS as `piscope report` writes it; with --policy, of"
    " that policy's rows.",
)
@click.option(
    "--hit",
    type=click.Choice(KINDS),
    metavar="KIND",
    help="A notification that became this: unloaded (unloaded-host or wrong-vcpu),"
    " residual (host), or a word of FINDINGS.hit.",
)
@click.option(
    "--nth",
    type=click.IntRange(min=1),
    metavar="N",
    help="The N-th of --hit, by time; those that only may be one come last."
    "  [default: 1]",
)
@policies_option(
    "The policy that --hit and --finding are about. Repeatable: others to tell"
    " beside it.  [default: preempt-only and suppress-on-put, which a single one is"
    " told beside as well]"
)
@posted_option
@ignore_option
@tsc_khz_option
@form_option
@json_option
@width_option
@quiet_option
def explain(
    trace: str,
    vcpus: tuple[str, ...],
    vms: str | None,
    instant: str | None,
    finding: int | None,
    hit: str | None,
    nth: int | None,
    policies: tuple[str, ...],
    posted: str,
    ignore: tuple[str, ...],
    tsc_khz: int | None,
    form: Form,
    as_json: bool,
    width: int | None,
    quiet: bool,
) -> None:
    """Tell the story of one notification: events, descriptor, and why.

    Say which by --at, --finding or --hit. Told are the events around it with their
    places in the file, the descriptor before and after each step under each policy,
    and the rule, with its source, that decided.

    Exit status: 0 told; 2 there is no such notification, or the trace can't be read.
    """
    from piscope.commands.explain_run import Request, explain_one

    request = Request(
        vms=vms,
        vcpus=vcpus,
        instant=instant,
        finding=finding,
        hit=hit,
        nth=nth,
        policies=policies,
        posted=posted,
        ignore=ignore,
        tsc_khz=tsc_khz,
    )
    explain_one(
        trace, request, form="json" if as_json else form, width=width, quiet=quiet
    )
