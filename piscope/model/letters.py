"""The alphabet of what a descriptor may meet; each letter is calls of the reference.

A letter is what a timeline can know; some stand for several calls, because a trace
does not show the steps apart (see `apply`). To be read beside `descriptor`, `posting`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple

from piscope.model.descriptor import (
    POSTED_INTR_VECTOR,
    POSTED_INTR_WAKEUP_VECTOR,
    Mode,
    PiDesc,
    Put,
    Step,
    Vcpu,
    pi_post_block,
    pi_pre_block,
    then,
    vmx_vcpu_pi_load,
    vmx_vcpu_pi_put,
)
from piscope.model.policy import Platform, Policy
from piscope.model.posting import (
    post_by_iommu,
    process_notification,
    tdx_vcpu_run,
    vcpu_enter_guest,
    vcpu_outside_guest,
    vm_exit,
    vmx_deliver_posted_interrupt,
    vmx_sync_pir_to_irr,
)

__all__ = ("MAYBE", "Folded", "Letter", "Outcome", "apply", "fold", "moves_ndst")


class Letter(IntEnum):
    """One stimulus of a descriptor.

    LOAD_SAME, LOAD_OTHER    loaded on the pCPU of the last load, or on another one; a
                             first load is LOAD_OTHER
    PUT_why_PREEMPTED|NOT    put; `why` is RUN (any reason but blocking), BLOCK_IF1 or
                             BLOCK_IF0 (blocking, the guest's interrupts not blocked,
                             or blocked)
    POST_HW                  posted by VT-d or by IPI virtualization; in guest mode the
                             CPU takes the notification at once. Where it ends the
                             guest's run instead (L2, APICv inhibited), EXIT goes first
    POST_SW_NEW, _AGAIN      posted by KVM, vector not yet in PIR, or in it already
    POST_SW_EITHER           posted by KVM, not known which
    SYNC                     vmx_sync_pir_to_irr outside the entry path
    ENTER                    sync and VM-entry
    EXIT                     VM-exit
    OBSERVE_ONx_PIRy         a probe read ON=x, and PIR empty (0) or not (1)
    FORGET                   events were lost: any state is possible
    INIT                     a descriptor as KVM creates it
    PRE_BLOCK_IF1, _IF0      up to 5.16 pi_pre_block, before halt-polling
    POST_BLOCK               up to 5.16 pi_post_block
    NOP                      nothing that concerns the descriptor
    MAYBE_POST_SW, MAYBE_SYNC  a post by KVM, a SYNC, or NOP: it is not known which
    """

    LOAD_SAME = 0
    LOAD_OTHER = 1
    PUT_RUN_PREEMPTED = 2
    PUT_RUN_NOT = 3
    PUT_BLOCK_IF1_PREEMPTED = 4
    PUT_BLOCK_IF1_NOT = 5
    PUT_BLOCK_IF0_PREEMPTED = 6
    PUT_BLOCK_IF0_NOT = 7
    POST_HW = 8
    POST_SW_NEW = 9
    POST_SW_AGAIN = 10
    POST_SW_EITHER = 11
    SYNC = 12
    ENTER = 13
    EXIT = 14
    OBSERVE_ON0_PIR0 = 15
    OBSERVE_ON0_PIR1 = 16
    OBSERVE_ON1_PIR0 = 17
    OBSERVE_ON1_PIR1 = 18
    FORGET = 19
    INIT = 20
    PRE_BLOCK_IF1 = 21
    PRE_BLOCK_IF0 = 22
    POST_BLOCK = 23
    NOP = 24
    MAYBE_POST_SW = 25
    MAYBE_SYNC = 26


MAYBE: Mapping[Letter, tuple[Letter, ...]] = MappingProxyType(
    {
        Letter.POST_SW_EITHER: (Letter.POST_SW_NEW, Letter.POST_SW_AGAIN),
        Letter.MAYBE_POST_SW: (Letter.POST_SW_NEW, Letter.NOP),
        Letter.MAYBE_SYNC: (Letter.SYNC, Letter.NOP),
    }
)
"""Letters that stand for one of several others; POST_SW_AGAIN changes nothing."""


_PUT = {
    Letter.PUT_RUN_PREEMPTED: Put(preempted=True),
    Letter.PUT_RUN_NOT: Put(),
    Letter.PUT_BLOCK_IF1_PREEMPTED: Put(preempted=True, blocking=True),
    Letter.PUT_BLOCK_IF1_NOT: Put(blocking=True),
    Letter.PUT_BLOCK_IF0_PREEMPTED: Put(
        preempted=True, blocking=True, irqs_blocked=True
    ),
    Letter.PUT_BLOCK_IF0_NOT: Put(blocking=True, irqs_blocked=True),
}

_OBSERVED = {
    Letter.OBSERVE_ON0_PIR0: (False, False),
    Letter.OBSERVE_ON0_PIR1: (False, True),
    Letter.OBSERVE_ON1_PIR0: (True, False),
    Letter.OBSERVE_ON1_PIR1: (True, True),
}


class Outcome(NamedTuple):
    """What one letter did; each field counts.

    notify_f2, notify_f1  notifications sent (VT-d, IPIv) and KVM's IPIs, by vector
    self_ipi              wakeup vectors sent to itself
    wake                  kvm_vcpu_wake_up() called
    silenced_on, silenced_sn  posts that sent nothing, because of ON or of SN
    silenced_pir          KVM's posts of a vector already in PIR
    absorbed              notifications that the CPU took in guest mode
    pir_scans, locked_ops, list_locks  costs, see `descriptor.Step`
    """

    notify_f2: int = 0
    notify_f1: int = 0
    self_ipi: int = 0
    wake: int = 0
    silenced_on: int = 0
    silenced_sn: int = 0
    silenced_pir: int = 0
    absorbed: int = 0
    pir_scans: int = 0
    locked_ops: int = 0
    list_locks: int = 0


class Folded(NamedTuple):
    """A vCPU's state without the vectors' and the pCPUs' names.

    `nv_f1` is at the same time "is on a wakeup list"; `pir` is "PIR is not empty".
    """

    loaded: bool
    in_guest: bool
    nv_f1: bool
    sn: bool
    on: bool
    pir: bool

    def __str__(self) -> str:
        """As in `guest F2 SN0 ON0 PIR0`."""
        place = "guest" if self.in_guest else "loaded" if self.loaded else "put"
        return (
            f"{place} {'F1' if self.nv_f1 else 'F2'} "
            f"SN{self.sn:d} ON{self.on:d} PIR{self.pir:d}"
        )


# Which vectors and pCPUs stand for the folded ones is of no consequence, as long as
# they differ where a letter says so.
_CPU, _OTHER_CPU = 0, 1
_OLD_VECTOR, _NEW_VECTOR = 0x41, 0x42


def fold(vcpu: Vcpu) -> Folded:
    """The folded form of a vCPU's state."""
    return Folded(
        vcpu.loaded,
        vcpu.mode is Mode.IN_GUEST_MODE,
        vcpu.pi.nv == POSTED_INTR_WAKEUP_VECTOR,
        vcpu.pi.sn,
        vcpu.pi.on,
        vcpu.pi.pir != 0,
    )


def _unfold(state: Folded) -> Vcpu:
    return Vcpu(
        PiDesc(
            pir=1 << _OLD_VECTOR if state.pir else 0,
            on=state.on,
            sn=state.sn,
            nv=POSTED_INTR_WAKEUP_VECTOR if state.nv_f1 else POSTED_INTR_VECTOR,
            ndst=_CPU,
        ),
        cpu=_CPU,
        loaded=state.loaded,
        mode=Mode.IN_GUEST_MODE if state.in_guest else Mode.OUTSIDE_GUEST_MODE,
        wakeup_cpu=_CPU if state.nv_f1 else None,
    )


def apply(
    state: Folded, letter: Letter, policy: Policy, platform: Platform
) -> tuple[Folded, Outcome] | None:
    """What the reference does with a letter; None where the letter is impossible.

    Composites: POST_HW and POST_SW_NEW in guest mode include the CPU's processing.
    Up to 5.16 a put while blocking implies pi_pre_block before it, and ENTER and any
    other put that is not a preemption imply pi_post_block, unless those were given.

    FORGET and the letters of MAYBE have more than one answer and are not accepted here.
    """
    vcpu = _unfold(state)
    if letter is Letter.NOP:
        return state, Outcome()
    if letter is Letter.INIT:
        return fold(Vcpu()), Outcome()
    if letter in _OBSERVED:
        return _observe(state, *_OBSERVED[letter]), Outcome()
    if letter in (Letter.POST_HW, Letter.POST_SW_NEW, Letter.POST_SW_AGAIN):
        return _post(vcpu, letter)
    step = _step(vcpu, letter, policy, platform)
    return None if step is None else (fold(step.vcpu), _outcome(step))


def moves_ndst(state: Folded, policy: Policy, platform: Platform) -> bool:
    """Whether a load on another pCPU makes NDST name that one; False: it stays."""
    step = _step(_unfold(state), Letter.LOAD_OTHER, policy, platform)
    return step is not None and step.vcpu.pi.ndst == _OTHER_CPU


def _observe(state: Folded, on: bool, pir: bool) -> Folded:
    # With SN=0 a bit in PIR without ON is a poster, or pi_load, between two writes:
    # ON follows before anything else can look at it.
    return state._replace(on=on or (pir and not state.sn), pir=pir)


def _post(vcpu: Vcpu, letter: Letter) -> tuple[Folded, Outcome] | None:
    if letter is Letter.POST_HW:
        step = post_by_iommu(vcpu, _NEW_VECTOR)
    elif letter is Letter.POST_SW_NEW:
        step = vmx_deliver_posted_interrupt(vcpu, _NEW_VECTOR)
    elif vcpu.pi.pir:
        step = vmx_deliver_posted_interrupt(vcpu, _OLD_VECTOR)
    else:
        return None
    outcome = _outcome(step)
    if vcpu.mode is Mode.IN_GUEST_MODE and outcome.notify_f2:
        step = process_notification(step.vcpu)
        outcome = outcome._replace(absorbed=1)
    return fold(step.vcpu), outcome


def _step(
    vcpu: Vcpu, letter: Letter, policy: Policy, platform: Platform
) -> Step | None:
    in_guest = vcpu.mode is Mode.IN_GUEST_MODE
    if letter in (Letter.LOAD_SAME, Letter.LOAD_OTHER):
        cpu = _CPU if letter is Letter.LOAD_SAME else _OTHER_CPU
        return None if vcpu.loaded else vmx_vcpu_pi_load(vcpu, cpu, policy, platform)
    if letter is Letter.EXIT:
        if not in_guest:
            return None
        left = vm_exit(vcpu, policy, platform)
        return then(left, vcpu_outside_guest(left.vcpu, policy, platform))
    if not vcpu.loaded or in_guest:
        return None
    if letter in _PUT:
        return _put(vcpu, _PUT[letter], policy, platform)
    if letter is Letter.SYNC:
        return vmx_sync_pir_to_irr(vcpu, policy, platform)
    if letter is Letter.ENTER:
        return _enter(vcpu, policy, platform)
    if letter is Letter.POST_BLOCK:
        return Step(vcpu) if policy.block_in_put else pi_post_block(vcpu)
    assert letter in (Letter.PRE_BLOCK_IF1, Letter.PRE_BLOCK_IF0)
    if policy.block_in_put:
        return Step(vcpu)
    if vcpu.wakeup_cpu is not None:
        return None  # pi_pre_block warns of it
    return pi_pre_block(vcpu, letter is Letter.PRE_BLOCK_IF0, policy, platform)[0]


def _put(vcpu: Vcpu, why: Put, policy: Policy, platform: Platform) -> Step:
    ready = Step(vcpu)
    if not policy.block_in_put:
        if why.blocking and vcpu.wakeup_cpu is None:
            ready, _ = pi_pre_block(vcpu, why.irqs_blocked, policy, platform)
        elif not why.blocking and not why.preempted:
            ready = pi_post_block(vcpu)
    return then(ready, vmx_vcpu_pi_put(ready.vcpu, why, policy, platform))


def _enter(vcpu: Vcpu, policy: Policy, platform: Platform) -> Step:
    ready = Step(vcpu) if policy.block_in_put else pi_post_block(vcpu)
    entered = then(ready, vcpu_enter_guest(ready.vcpu, policy, platform))
    if platform.td_vcpu and entered.vcpu.pi.on:
        notified = then(entered, tdx_vcpu_run(entered.vcpu))
        return then(notified, process_notification(notified.vcpu))
    return entered


def _outcome(step: Step) -> Outcome:
    def count(kind: str, vector: int) -> int:
        return sum(e.kind == kind and e.vector == vector for e in step.effects)

    return Outcome(
        notify_f2=count("notify", POSTED_INTR_VECTOR),
        notify_f1=count("notify", POSTED_INTR_WAKEUP_VECTOR),
        self_ipi=count("self_ipi", POSTED_INTR_WAKEUP_VECTOR),
        wake=sum(e.kind == "wake" for e in step.effects),
        silenced_on=step.silenced == "on",
        silenced_sn=step.silenced == "sn",
        silenced_pir=step.silenced == "pir",
        # A TD's self-IPI 0xF2 is taken by the CPU after TDENTER.
        absorbed=count("self_ipi", POSTED_INTR_VECTOR),
        pir_scans=step.pir_scans,
        locked_ops=step.locked_ops,
        list_locks=step.list_locks,
    )
