"""Which posted-interrupt behavior a kernel has: switches, policies, and the platform.

To be read beside arch/x86/kvm/vmx/posted_intr.c of the releases named below and
kvm_sched_out() of virt/kvm/kvm_main.c. A policy is a set of switches; a release
only chooses a default, since distributions port patches back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from piscope.errors import UsageError

__all__ = (
    "DEFAULT_PLATFORM",
    "POLICIES",
    "SWITCHES",
    "Gate",
    "Platform",
    "Policy",
    "PreemptedRule",
    "SchedOut",
    "gate_of_release",
    "kvm_sched_out_preempted",
    "policy_named",
    "policy_of_release",
    "preempted_rule_of_release",
    "vmx_needs_pi_wakeup",
)

Gate = Literal["5.10", "5.15", "6.0", "6.15", "6.17"]
"""Release whose condition decides if `vmx_vcpu_pi_put` does anything at all."""

PreemptedRule = Literal["5.10", "5.14", "6.11", "6.12"]
"""First release of the condition under which a switched-out vCPU is `preempted`."""


@dataclass(frozen=True, slots=True)
class Policy:
    """When a kernel suppresses notifications and when it redirects them to 0xF1.

    `SWITCHES` documents each switch with the patch that introduced it.
    """

    name: str
    title: str
    releases: str
    sn_when_preempted: bool = True
    sn_on_every_put: bool = False
    arm_when_preempted: bool = True
    block_in_put: bool = True
    pre_block_checks_if: bool = True
    test_and_clear_sn_at_load: bool = True
    wakeup_handler_kicks: bool = False
    suppress_at_exit: bool = False
    more_fastpath: bool = False


SWITCHES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "sn_when_preempted": (
            "pi_put sets SN if the vCPU was preempted",
            "with VT-d posting; present in 5.10, the oldest release read",
        ),
        "sn_on_every_put": (
            "pi_put sets SN whenever it does not arm the wakeup vector",
            "6737557442e5 (KVM: VMX: Suppress PI notifications whenever the vCPU is "
            "put, 20250404193923.1413163-24-seanjc@google.com), v6.17",
        ),
        "arm_when_preempted": (
            "a blocking vCPU arms the wakeup vector even if it was also preempted",
            "d76fb40637fc, v5.17; ended by 6737557442e5, v6.17",
        ),
        "block_in_put": (
            "pi_put arms the wakeup vector and pi_load disarms it; without it "
            "pi_pre_block and pi_post_block do, around halt-polling too",
            "d76fb40637fc (KVM: VMX: Handle PI descriptor updates during vcpu_load/"
            "put), v5.17",
        ),
        "pre_block_checks_if": (
            "pi_pre_block leaves a vCPU alone whose interrupts are blocked "
            "(vmx_interrupt_blocked)",
            "present in v5.15, absent in v5.10; first release in between not verified",
        ),
        "test_and_clear_sn_at_load": (
            "a load on the same pCPU does one locked test-and-clear of SN; without "
            "it SN is read first, and no locked operation follows if it is 0",
            "load rework of v5.17",
        ),
        "wakeup_handler_kicks": (
            "pi_wakeup_handler calls kvm_vcpu_kick, not kvm_vcpu_wake_up",
            "up to v5.16 (5.15.85 read)",
        ),
        "suppress_at_exit": (
            "hypothetical: SN is set after VM-exit with IRQs off and cleared before "
            "VM-entry; sync and blocking look at PIR",
            "after Chao Gao's RFC of June 2022 and its review; not merged",
        ),
        "more_fastpath": (
            "hypothetical: chosen exit reasons keep IRQs off until re-entry, so that "
            "hardware absorbs a latched notification",
            "extends EXIT_FASTPATH_REENTER_GUEST; no such patch",
        ),
    }
)

_ALL = (
    Policy(
        "legacy-5.10",
        "SN on preemption; wakeup vector from pre_block on, whatever the guest's IF",
        "up to 5.14 (5.11 to 5.14 not verified)",
        block_in_put=False,
        pre_block_checks_if=False,
        test_and_clear_sn_at_load=False,
        wakeup_handler_kicks=True,
    ),
    Policy(
        "legacy-5.15",
        "SN on preemption; wakeup vector from pre_block on, if the guest has IF=1",
        "5.15, 5.16",
        block_in_put=False,
        test_and_clear_sn_at_load=False,
        wakeup_handler_kicks=True,
    ),
    Policy(
        "preempt-only",
        "SN on preemption; wakeup vector when a blocking vCPU is put",
        "5.17 to 6.16",
    ),
    Policy(
        "suppress-on-put",
        "SN on every put that does not arm the wakeup vector",
        "6.17 and later",
        sn_on_every_put=True,
        arm_when_preempted=False,
    ),
    Policy(
        "suppress-at-exit",
        "SN from VM-exit to VM-entry, but for a blocked vCPU",
        "hypothetical",
        sn_on_every_put=True,
        arm_when_preempted=False,
        suppress_at_exit=True,
    ),
    Policy(
        "more-fastpath",
        "suppress-on-put, and more exits keep IRQs off until re-entry",
        "hypothetical",
        sn_on_every_put=True,
        arm_when_preempted=False,
        more_fastpath=True,
    ),
    Policy(
        "no-suppression",
        "SN only until the first load",
        "hypothetical",
        sn_when_preempted=False,
    ),
)

POLICIES: Mapping[str, Policy] = MappingProxyType({p.name: p for p in _ALL})


def policy_named(name: str) -> Policy:
    """The policy of that name.

    Raises UsageError, naming the policies that exist, for any other name.
    """
    if name not in POLICIES:
        raise UsageError(f"no policy {name!r}: expected one of {', '.join(POLICIES)}")
    return POLICIES[name]


@dataclass(frozen=True, slots=True)
class Platform:
    """What host and VM offer; the default is a VM that needs PI wakeup.

    apicv             module parameter enable_apicv
    irqchip_in_kernel the VM's local APICs are KVM's
    vtd_posting       irq_remapping_cap(IRQ_POSTING_CAP), and from 6.17 on the module
                      parameter enable_device_posted_irqs as well
    assigned_device   kvm_arch_has_assigned_device(); 6.17: nr_possible_bypass_irqs
    apicv_active      APICv is not inhibited for the vCPU (tested by 5.10 only)
    ipiv              IPI virtualization, module parameter enable_ipiv
    td_vcpu           a vCPU of a TDX guest: PIR moves by hardware only
    gate, preempted_rule  the kernel's conditions, by the release that has them
    """

    apicv: bool = True
    irqchip_in_kernel: bool = True
    vtd_posting: bool = True
    assigned_device: bool = True
    apicv_active: bool = True
    ipiv: bool = False
    td_vcpu: bool = False
    gate: Gate = "6.17"
    preempted_rule: PreemptedRule = "6.12"


DEFAULT_PLATFORM = Platform()


def vmx_needs_pi_wakeup(platform: Platform) -> bool:
    """Whether `vmx_vcpu_pi_put` does anything for a vCPU of this platform.

    Source: posted_intr.c, vmx_needs_pi_wakeup (6.0+) and vmx_can_use_vtd_pi; 5.10
    has the condition inline.
    """
    if platform.gate == "5.10":
        return (
            platform.assigned_device and platform.vtd_posting and platform.apicv_active
        )
    vmx_can_use_vtd_pi = (
        platform.irqchip_in_kernel
        and platform.apicv
        and platform.assigned_device
        and platform.vtd_posting
    )
    if platform.gate == "5.15":
        return vmx_can_use_vtd_pi
    # enable_ipiv is cleared at module load without enable_apicv.
    vmx_can_use_ipiv = platform.irqchip_in_kernel and platform.apicv and platform.ipiv
    if platform.gate != "6.0":
        # A TD vCPU can't use IPI virtualization (TDX series, v6.15).
        vmx_can_use_ipiv = vmx_can_use_ipiv and not platform.td_vcpu
    return vmx_can_use_ipiv or vmx_can_use_vtd_pi


@dataclass(frozen=True, slots=True)
class SchedOut:
    """What the scheduler knows of a vCPU thread as it is switched out.

    on_rq            the thread stays on its run queue
    task_running     its state is TASK_RUNNING (sched_switch prints R or R+)
    delayed_dequeue  it sleeps, though EEVDF still has it on the run queue (6.12+)
    wants_to_run     it is inside KVM_RUN, and without run->immediate_exit
    """

    on_rq: bool
    task_running: bool
    delayed_dequeue: bool = False
    wants_to_run: bool = True


def kvm_sched_out_preempted(out: SchedOut, rule: PreemptedRule) -> bool:
    """Whether KVM marks a vCPU `preempted` that the scheduler switches out.

    Source: virt/kvm/kvm_main.c, kvm_sched_out; `on_rq` since 3ba9f93b1236 (5.14),
    wants_to_run since about 6.11, task_is_runnable since 6.12.
    """
    if rule == "5.10":
        return out.task_running
    if rule == "5.14":
        return out.on_rq
    if rule == "6.11":
        return out.on_rq and out.wants_to_run
    return out.on_rq and not out.delayed_dequeue and out.wants_to_run


_RELEASE = re.compile(r"\s*(\d{1,3})\.(\d{1,3})(?![\d])")


def _version(release: str) -> tuple[int, int]:
    found = _RELEASE.match(release)
    if not found:
        raise UsageError(
            f"kernel release {release[:80]!r} does not begin with MAJOR.MINOR; "
            "name the policy instead"
        )
    return int(found[1]), int(found[2])


def policy_of_release(release: str) -> str:
    """The policy of an upstream kernel with that `uname -r`.

    A distribution may have ported 6737557442e5 back, which no release string tells.

    Raises UsageError if the text does not begin with two numbers.
    """
    version = _version(release)
    if version >= (6, 17):
        return "suppress-on-put"
    if version >= (5, 17):
        return "preempt-only"
    return "legacy-5.15" if version >= (5, 15) else "legacy-5.10"


def gate_of_release(release: str) -> Gate:
    """The condition of `vmx_needs_pi_wakeup` in a kernel with that `uname -r`.

    Raises UsageError if the text does not begin with two numbers.
    """
    version = _version(release)
    newest_first: tuple[tuple[tuple[int, int], Gate], ...] = (
        ((6, 17), "6.17"),
        ((6, 15), "6.15"),
        ((6, 0), "6.0"),
        ((5, 15), "5.15"),
    )
    return next((gate for first, gate in newest_first if version >= first), "5.10")


def preempted_rule_of_release(release: str) -> PreemptedRule:
    """The condition of `preempted` in a kernel with that `uname -r`.

    Raises UsageError if the text does not begin with two numbers.
    """
    version = _version(release)
    newest_first: tuple[tuple[tuple[int, int], PreemptedRule], ...] = (
        ((6, 12), "6.12"),
        ((6, 11), "6.11"),
        ((5, 14), "5.14"),
    )
    return next((rule for first, rule in newest_first if version >= first), "5.10")
