"""The posted-interrupt descriptor, and what load, put and block do to it.

To be read beside arch/x86/kvm/vmx/posted_intr.c: functions of the same names,
statements in the same order. Each takes a vCPU's state and returns the next one with
its effects; nothing is changed in place. `posting` is the other half: who posts, and
who takes what was posted.

    struct pi_desc, 64 bytes
    0        32       33       34       35      36          40         64
    | PIR    | ON SN  | rsvd   | NV     | rsvd  | NDST      | reserved |

Not modeled: cmpxchg retries, and the instants between two writes, but for the one
between clearing SN and scanning PIR in pi_load, which is a function of its own.
Costs are those of the policy's own code, that is of load, put and block; posts and
syncs cost the same under every policy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Literal

from piscope.model.policy import (
    DEFAULT_PLATFORM,
    Platform,
    Policy,
    vmx_needs_pi_wakeup,
)

__all__ = (
    "POSTED_INTR_VECTOR",
    "POSTED_INTR_WAKEUP_VECTOR",
    "Effect",
    "Mode",
    "PiDesc",
    "Put",
    "Step",
    "Vcpu",
    "after_clear_sn",
    "pi_enable_wakeup_handler",
    "pi_post_block",
    "pi_pre_block",
    "pi_wakeup_handler",
    "then",
    "vmx_vcpu_pi_load",
    "vmx_vcpu_pi_load_clear_sn",
    "vmx_vcpu_pi_put",
    "with_pi",
)

# arch/x86/include/asm/irq_vectors.h
POSTED_INTR_VECTOR = 0xF2  # counted as PIN in /proc/interrupts
POSTED_INTR_WAKEUP_VECTOR = 0xF1  # counted as PIW


class Mode(Enum):
    """`vcpu->mode`; EXITING_GUEST_MODE makes no difference to a descriptor."""

    OUTSIDE_GUEST_MODE = 0
    IN_GUEST_MODE = 1


@dataclass(frozen=True, slots=True)
class PiDesc:
    """`struct pi_desc` as KVM creates it, and after.

    pir   bit v is posted vector v, 256 bits
    ndst  destination, here the pCPU's number (KVM writes its APIC id)
    """

    pir: int = 0
    on: bool = False
    # Set at creation: IRTEs may point at a vCPU that has never run.
    sn: bool = True
    nv: int = POSTED_INTR_VECTOR
    ndst: int = 0


@dataclass(frozen=True, slots=True)
class Vcpu:
    """A vCPU as far as its descriptor is concerned.

    cpu         pCPU of the last load (`vcpu->cpu`), None before the first
    loaded      between pi_load and pi_put
    wakeup_cpu  pCPU whose wakeup list it is on (`pre_pcpu` up to 5.16), None: none
    virr        vectors moved to the virtual IRR, bit v is vector v; never cleared here
    """

    pi: PiDesc = PiDesc()
    cpu: int | None = None
    loaded: bool = False
    mode: Mode = Mode.OUTSIDE_GUEST_MODE
    wakeup_cpu: int | None = None
    virr: int = 0


@dataclass(frozen=True, slots=True)
class Put:
    """Why a vCPU is put.

    preempted     `vcpu->preempted`: switched out while runnable
    blocking      kvm_vcpu_is_blocking()
    irqs_blocked  vmx_interrupt_blocked(): the guest's IF is 0, or an STI/MOV SS shadow
    """

    preempted: bool = False
    blocking: bool = False
    irqs_blocked: bool = False


@dataclass(frozen=True, slots=True)
class Effect:
    """What leaves the descriptor: an interrupt message, or a task to wake.

    notify    `vector` is sent to `cpu`
    self_ipi  `vector` is sent to `cpu`, which is this one
    wake      kvm_vcpu_wake_up() or kvm_vcpu_kick() is called for the vCPU
    """

    kind: Literal["notify", "self_ipi", "wake"]
    vector: int = 0
    cpu: int = 0


Silence = Literal["on", "sn", "pir"]
"""Why a post sent nothing: ON was set, SN was set, or (KVM) its PIR bit was set."""


@dataclass(frozen=True, slots=True)
class Step:
    """The state that an operation left, what it sent, and what it cost.

    pir_scans   times all of PIR was read
    locked_ops  LOCK-prefixed operations on the descriptor
    list_locks  times a wakeup list's lock was taken
    """

    vcpu: Vcpu
    effects: tuple[Effect, ...] = ()
    silenced: Silence | None = None
    pir_scans: int = 0
    locked_ops: int = 0
    list_locks: int = 0


def with_pi(vcpu: Vcpu, **pi: Any) -> Vcpu:
    """The vCPU with fields of its descriptor replaced."""
    return replace(vcpu, pi=replace(vcpu.pi, **pi))


def then(first: Step, second: Step) -> Step:
    """Both steps as one: the second's state, both steps' effects and costs."""
    return Step(
        second.vcpu,
        first.effects + second.effects,
        second.silenced or first.silenced,
        first.pir_scans + second.pir_scans,
        first.locked_ops + second.locked_ops,
        first.list_locks + second.list_locks,
    )


# Load and put ------------------------------------------------------------------


def vmx_vcpu_pi_load(
    vcpu: Vcpu, cpu: int, policy: Policy, platform: Platform = DEFAULT_PLATFORM
) -> Step:
    """The vCPU is loaded on a pCPU: notifications go there, and nothing is lost.

    Bits that were posted while SN was set have no ON; the scan of PIR after SN was
    cleared finds them. No IPI is sent: the vCPU syncs before it enters the guest.

    Source: posted_intr.c, same name.
    """
    cleared, scan = vmx_vcpu_pi_load_clear_sn(vcpu, cpu, policy, platform)
    return then(cleared, after_clear_sn(cleared.vcpu)) if scan else cleared


def vmx_vcpu_pi_load_clear_sn(
    vcpu: Vcpu, cpu: int, policy: Policy, platform: Platform = DEFAULT_PLATFORM
) -> tuple[Step, bool]:
    """`vmx_vcpu_pi_load` up to the label after_clear_sn, and whether it gets there.

    A hardware post between the two sees SN=0, and may notify although an older,
    suppressed bit is still without ON.

    Source: posted_intr.c, vmx_vcpu_pi_load.
    """
    loaded = replace(vcpu, cpu=cpu, loaded=True)
    same_cpu = vcpu.cpu == cpu
    pi = vcpu.pi

    if not policy.block_in_put:
        # Up to 5.16: NV and the list belong to pi_pre_block and pi_post_block, and
        # NDST must keep naming the pCPU whose list the vCPU is on.
        if not pi.sn and same_cpu:
            return Step(loaded), False
        if pi.nv == POSTED_INTR_WAKEUP_VECTOR or same_cpu:
            return Step(with_pi(loaded, sn=False), locked_ops=1), True
        return Step(with_pi(loaded, ndst=cpu, sn=False), locked_ops=1), True

    if not platform.apicv or not platform.irqchip_in_kernel:
        return Step(loaded), False

    # What the load leaves in SN: only the hypothetical policy keeps it until entry.
    sn = policy.suppress_at_exit and vmx_needs_pi_wakeup(platform)

    if pi.nv != POSTED_INTR_WAKEUP_VECTOR and same_cpu:
        if sn:
            return Step(loaded), False
        return Step(with_pi(loaded, sn=False), locked_ops=1), pi.sn

    list_locks = 0
    if pi.nv == POSTED_INTR_WAKEUP_VECTOR:
        loaded = replace(loaded, wakeup_cpu=None)  # list_del, lock of the old pCPU
        list_locks = 1
    loaded = with_pi(loaded, ndst=cpu, sn=sn, nv=POSTED_INTR_VECTOR)
    return Step(loaded, locked_ops=1, list_locks=list_locks), not sn


def after_clear_sn(vcpu: Vcpu) -> Step:
    """Give ON to bits that were posted while notifications were suppressed.

    Source: posted_intr.c, vmx_vcpu_pi_load, label after_clear_sn.
    """
    # smp_mb__after_atomic(): a post before SN was cleared is seen by this scan, and
    # one after it has set ON itself.
    if vcpu.pi.pir:
        return Step(with_pi(vcpu, on=True), pir_scans=1, locked_ops=1)
    return Step(vcpu, pir_scans=1)


def vmx_vcpu_pi_put(
    vcpu: Vcpu, why: Put, policy: Policy, platform: Platform = DEFAULT_PLATFORM
) -> Step:
    """The vCPU leaves its pCPU: be woken by posts, or be left alone by them.

    A blocking vCPU sleeps until someone wakes it, so its notifications move to the
    wakeup vector. Any other vCPU is still runnable, or is in userspace; it reads PIR
    when it is next loaded, and a notification in between would only interrupt
    whatever runs on that pCPU by then.

    Kernels before "KVM: VMX: Suppress PI notifications whenever the vCPU is put"
    (6737557442e5, v6.17) went quiet on preemption only, and armed the wakeup vector
    even then.

    Source: posted_intr.c, same name.
    """
    put = Step(replace(vcpu, loaded=False))
    if not vmx_needs_pi_wakeup(platform):
        return put

    arm = (
        policy.block_in_put
        and why.blocking
        and not why.irqs_blocked
        and (policy.arm_when_preempted or not why.preempted)
    )
    if arm:
        put = then(put, pi_enable_wakeup_handler(put.vcpu, policy))

    suppress = (policy.sn_when_preempted and why.preempted) or (
        policy.sn_on_every_put and not arm
    )
    # suppress_at_exit: SN is set already, but before the first VM-exit.
    if suppress and not (policy.suppress_at_exit and put.vcpu.pi.sn):
        put = then(put, Step(with_pi(put.vcpu, sn=True), locked_ops=1))
    return put


def pi_enable_wakeup_handler(vcpu: Vcpu, policy: Policy) -> Step:
    """Let a blocked vCPU's notifications wake it: wakeup list first, then NV.

    A post between the vCPU's last look and here has spent its notification on the
    ordinary vector; the self-IPI raises it again as a wakeup, because the scheduler
    can't be called from sched_out. NDST already names this pCPU.

    Source: posted_intr.c, same name.
    """
    assert vcpu.cpu is not None, "a vCPU that blocks has been loaded"
    listed = replace(vcpu, wakeup_cpu=vcpu.cpu)
    armed = Step(
        with_pi(listed, nv=POSTED_INTR_WAKEUP_VECTOR), locked_ops=1, list_locks=1
    )
    if policy.suppress_at_exit:
        # ON says nothing about bits posted under SN (review of the RFC), and the
        # wakeup handler looks at ON: scan, as pi_load does.
        armed = then(armed, after_clear_sn(with_pi(armed.vcpu, sn=False)))
    if armed.vcpu.pi.on:
        ipi = Effect("self_ipi", POSTED_INTR_WAKEUP_VECTOR, vcpu.cpu)
        armed = then(armed, Step(armed.vcpu, (ipi,)))
    return armed


def pi_wakeup_handler(
    listed: Iterable[tuple[int, Vcpu]],
) -> tuple[int, ...]:
    """Vector 0xF1 arrived: which of this pCPU's listed vCPUs are woken.

    The handler does not know for which of them the vector was sent; it wakes every
    one with ON, and leaves list, NV and ON as they are. `listed` is (vCPU, state) in
    list order; the vCPUs woken are in the same order.

    Source: posted_intr.c, same name.
    """
    return tuple(number for number, vcpu in listed if vcpu.pi.on)


# Blocking up to 5.16 -----------------------------------------------------------


def pi_pre_block(
    vcpu: Vcpu,
    irqs_blocked: bool,
    policy: Policy,
    platform: Platform = DEFAULT_PLATFORM,
) -> tuple[Step, bool]:
    """Up to 5.16: the wakeup vector, from before halt-polling; True: do not block.

    Source: posted_intr.c up to 5.16, same name.
    """
    if not vmx_needs_pi_wakeup(platform):
        return Step(vcpu), False
    if policy.pre_block_checks_if and irqs_blocked:
        return Step(vcpu), False
    assert vcpu.cpu is not None, "a vCPU that blocks has been loaded"
    listed = replace(vcpu, wakeup_cpu=vcpu.cpu)
    armed = Step(
        with_pi(listed, ndst=vcpu.cpu, nv=POSTED_INTR_WAKEUP_VECTOR),
        locked_ops=1,
        list_locks=1,
    )
    if armed.vcpu.pi.on:
        return then(armed, pi_post_block(armed.vcpu)), True
    return armed, False


def pi_post_block(vcpu: Vcpu) -> Step:
    """Up to 5.16: back to the ordinary vector once the vCPU no longer blocks.

    NV first, list second. Neither ON nor PIR is looked at: the sync before VM-entry
    follows.

    Source: posted_intr.c up to 5.16, same name (and __pi_post_block).
    """
    if vcpu.wakeup_cpu is None:
        return Step(vcpu)
    assert vcpu.cpu is not None, "a vCPU on a wakeup list has been loaded"
    back = with_pi(vcpu, ndst=vcpu.cpu, nv=POSTED_INTR_VECTOR)
    return Step(replace(back, wakeup_cpu=None), locked_ops=1, list_locks=1)
