"""Options that several commands have, each written once.

They say the same everywhere: what a trace is narrowed to, and how it is printed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args

import click

from piscope.model.policy import POLICIES

__all__ = (
    "Form",
    "fastpath_option",
    "form_option",
    "from_option",
    "ignore_option",
    "json_option",
    "platform_option",
    "policies_option",
    "posted_option",
    "quiet_option",
    "to_option",
    "tsc_khz_option",
    "vcpu_option",
    "vm_option",
    "width_option",
)

_F = TypeVar("_F", bound=Callable[..., Any])

Form = Literal["terminal", "md", "json"]

form_option = click.option(
    "--format",
    "form",
    type=click.Choice(get_args(Form)),
    default="terminal",
    show_default=True,
    help="A report for people, Markdown of 80 columns, or JSON.",
)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="The same as --format json."
)

vm_option = click.option(
    "--vm", "vms", metavar="LIST", help="Only these VMs, by number."
)

vcpu_option = click.option(
    "--vcpu",
    "vcpus",
    multiple=True,
    metavar="NAME",
    help="Only this vCPU: its label (vm0/vcpu1), its vcpu_id in any VM (1), or its"
    " thread (tid:1893). Repeatable.",
)

ignore_option = click.option(
    "--ignore",
    multiple=True,
    metavar="PATTERN",
    help="As if the trace did not hold these events. Repeatable.",
)


def policies_option(meaning: str) -> Callable[[_F], _F]:
    """`--policy NAME`, repeatable; what several of them mean is the command's own."""
    return click.option(
        "--policy",
        "policies",
        multiple=True,
        type=click.Choice(tuple(POLICIES)),
        metavar="NAME",
        help=meaning,
    )


posted_option = click.option(
    "--posted",
    default="auto",
    show_default=True,
    metavar="WORDS",
    help="Which of KVM's posts to replay as hardware's. msi: what if a device had"
    " posted each MSI itself; vfio: interrupts of assigned devices that the host"
    " handled; vhost, irqfd, emulated: what if that device were passed through; ipi:"
    " what if IPI virtualization had delivered the IPIs; several with commas; none:"
    " the posts as they were; auto: vfio where the trace has such, else msi.",
)

fastpath_option = click.option(
    "--fastpath",
    metavar="REASONS",
    help="VM-exit reasons that the policy more-fastpath keeps IRQs off for, by name or"
    " number.  [default: EPT_MISCONFIG,IO_INSTRUCTION]",
)

platform_option = click.option(
    "--platform",
    multiple=True,
    metavar="NAME=VALUE",
    help="What the replayed host and VM offer, where it is not a VM that needs PI"
    " wakeup: assigned_device, vtd_posting, ipiv, apicv, apicv_active,"
    " irqchip_in_kernel or td_vcpu = yes or no; gate = 5.10, 5.15, 6.0, 6.15 or 6.17,"
    " the kernel whose rule decides whether PI wakeup is needed; preempted_rule ="
    " 5.10, 5.14, 6.11 or 6.12, whose rule decides what is preempted. Repeatable.",
)

from_option = click.option(
    "--from",
    "start",
    metavar="TIME",
    help="Only from this instant on: seconds of the trace's clock (24006.249294), time"
    " after its first event (1.5s, 200ms), before its end (-200ms), or 45%.",
)

to_option = click.option(
    "--to", "end", metavar="TIME", help="Only before this instant."
)

tsc_khz_option = click.option(
    "--tsc-khz",
    type=click.IntRange(min=1, max=100_000_000),
    metavar="KHZ",
    help="Frequency of the TSC, for a trace whose x86-tsc clock is raw.",
)

width_option = click.option(
    "--width",
    type=click.IntRange(min=80),
    metavar="COLUMNS",
    help="Width of the report, 80 to 120.  [default: the terminal's, else 80]",
)

quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
