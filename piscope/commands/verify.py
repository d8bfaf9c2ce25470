"""`piscope verify`: whether a kernel does what the model says of its policy."""

from __future__ import annotations

from typing import Literal

import click

from piscope.commands.options import tsc_khz_option
from piscope.model.policy import POLICIES

__all__ = ("verify",)


@click.command()
@click.argument("traces", metavar="TRACE...", nargs=-1, required=True)
@click.option(
    "--policy",
    type=click.Choice(tuple(POLICIES)),
    metavar="NAME",
    help="The policy that the kernel should have.  [default: found from the trace]",
)
@click.option(
    "--interrupts",
    nargs=2,
    metavar="BEFORE AFTER",
    help="Copies of /proc/interrupts from before and after the capture, to compare PIN"
    " and PIW.  [default: NAME.meta.txt beside NAME.trace.dat, if it has both]",
)
@click.option(
    "--probe-load",
    metavar="EVENT",
    help="The probe on entry to vmx_vcpu_pi_load.  [default: recognized by name]",
)
@click.option("--probe-load-return", metavar="EVENT", help="On its return.")
@click.option("--probe-put", metavar="EVENT", help="On entry to vmx_vcpu_pi_put.")
@click.option("--probe-put-return", metavar="EVENT", help="On its return.")
@click.option("--probe-sync", metavar="EVENT", help="On entry to vmx_sync_pir_to_irr.")
@click.option(
    "--arg",
    "arguments",
    multiple=True,
    metavar="KEY=NAME",
    help="The probes' name for an argument: ctl, pir (an array, or pir=w{0..3}), pir0"
    " to pir3, ndst, preempted, blocking, vcpu, vcpu_cpu. Repeatable.",
)
@click.option(
    "--apic-ids",
    metavar="CPU=ID,...",
    help="The host's APIC ids, as in 0=0,1=2.  [default: learned from the loads]",
)
@click.option(
    "--xapic", is_flag=True, help="With --apic-ids: NDST holds them in xAPIC form."
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    metavar="N",
    help="How many disagreements to list one by one.",
)
@tsc_khz_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "md", "json"]),
    default="text",
    show_default=True,
    help="An account for people, one Markdown table of all traces, or JSON"
    " (docs/verify.md).",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option(
    "--width",
    type=click.IntRange(min=80),
    metavar="COLUMNS",
    help="Width of the account, 80 to 120.  [default: the terminal's, else 80]",
)
def verify(
    traces: tuple[str, ...],
    policy: str | None,
    interrupts: tuple[str, str] | None,
    probe_load: str | None,
    probe_load_return: str | None,
    probe_put: str | None,
    probe_put_return: str | None,
    probe_sync: str | None,
    arguments: tuple[str, ...],
    apic_ids: str | None,
    xapic: bool,
    limit: int,
    tsc_khz: int | None,
    form: Literal["text", "md", "json"],
    as_json: bool,
    width: int | None,
) -> int:
    """Hold the model against what probes read of the descriptors.

    For captures with probes on vmx_vcpu_pi_load and vmx_vcpu_pi_put that read the
    control word and PIR. Each reading is compared with what the model makes of the
    one before it. Without --policy, the account says which policy the kernel has, and
    whether its VMs need PI wakeup.

    Exit status: 0 all agrees, and with no other policy; 1 something disagrees; 2 a
    trace could not be read; 3 the trace can't tell.
    """
    from piscope.commands.verify_run import Request, verify_all
    from piscope.verify.probe_names import Point, ProbeNames

    names = ProbeNames.of_options(
        {
            Point.LOAD: probe_load,
            Point.LOAD_DONE: probe_load_return,
            Point.SYNC: probe_sync,
            Point.PUT: probe_put,
            Point.PUT_DONE: probe_put_return,
        },
        arguments,
    )
    request = Request(
        policy=policy,
        names=names,
        interrupts=interrupts,
        apic_ids=apic_ids,
        xapic=xapic,
        limit=limit,
        tsc_khz=tsc_khz,
    )
    return verify_all(traces, request, "json" if as_json else form, width)
