"""Who posts into a descriptor, and who takes out what was posted.

To be read beside VT-d 5.2.3, the SDM's "Posted-Interrupt Processing", vmx.c and
x86.c. Same form as `descriptor`: a vCPU's state in, the next one and its effects out.
"""

from __future__ import annotations

from dataclasses import replace

from piscope.model.descriptor import (
    POSTED_INTR_VECTOR,
    Effect,
    Mode,
    PiDesc,
    Step,
    Vcpu,
    after_clear_sn,
    then,
    with_pi,
)
from piscope.model.policy import (
    DEFAULT_PLATFORM,
    Platform,
    Policy,
    vmx_needs_pi_wakeup,
)

__all__ = (
    "pi_apicv_pre_state_restore",
    "pi_has_pending_interrupt",
    "post_by_iommu",
    "post_by_ipi_virtualization",
    "process_notification",
    "tdx_vcpu_run",
    "vcpu_enter_guest",
    "vcpu_outside_guest",
    "vm_exit",
    "vmx_deliver_posted_interrupt",
    "vmx_sync_pir_to_irr",
)


def post_by_iommu(vcpu: Vcpu, vector: int, urgent: bool = False) -> Step:
    """A device's interrupt meets a posted-mode IRTE: one atomic read-modify-write.

    ON is the only memory of a notification that was sent, so a second post before ON
    is cleared is silent, and so is any post under SN that is not urgent (Linux never
    programs URG).

    Source: VT-d 5.2.3, "Interrupt-Posting Hardware Operation".
    """
    pi = vcpu.pi
    posted = with_pi(vcpu, pir=pi.pir | 1 << vector)
    if pi.on:
        return Step(posted, silenced="on")
    if pi.sn and not urgent:
        return Step(posted, silenced="sn")
    return Step(with_pi(posted, on=True), (Effect("notify", pi.nv, pi.ndst),))


def post_by_ipi_virtualization(vcpu: Vcpu, vector: int) -> Step:
    """A guest's IPI is posted by the sender's CPU, as the IOMMU would do it.

    That the condition is ON=0 and SN=0 is taken from the patch's discussion; the SDM's
    own pseudo-code was not read.

    Source: "KVM: VMX: enable IPI virtualization", v6.0; SDM, "IPI Virtualization".
    """
    return post_by_iommu(vcpu, vector)


def vmx_deliver_posted_interrupt(
    vcpu: Vcpu, vector: int, by_running_vcpu: bool = False
) -> Step:
    """KVM posts an interrupt: to a guest by IPI, to anyone else by waking the task.

    SN is neither looked at nor changed, yet ON is set, so that later hardware posts
    are silent until the next sync. `by_running_vcpu`: the poster is the target's own
    thread (kvm_get_running_vcpu), which needs no IPI.

    Source: vmx.c, same name, and kvm_vcpu_trigger_posted_interrupt.
    """
    if vcpu.pi.pir >> vector & 1:
        return Step(vcpu, silenced="pir")
    posted = with_pi(vcpu, pir=vcpu.pi.pir | 1 << vector)
    if posted.pi.on:
        return Step(posted, silenced="on")
    posted = with_pi(posted, on=True)
    if posted.mode is Mode.IN_GUEST_MODE:
        if by_running_vcpu:
            return Step(posted)
        assert posted.cpu is not None, "a vCPU in guest mode has been loaded"
        return Step(posted, (Effect("notify", POSTED_INTR_VECTOR, posted.cpu),))
    return Step(posted, (Effect("wake"),))


# Taking what was posted --------------------------------------------------------


def _harvest(vcpu: Vcpu) -> Vcpu:
    # kvm_apic_update_irr(): PIR is moved, word by word.
    return replace(
        vcpu,
        pi=replace(vcpu.pi, on=False, pir=0),
        virr=vcpu.virr | vcpu.pi.pir,
    )


def pi_has_pending_interrupt(pi: PiDesc) -> bool:
    """Whether anything is posted, with or without a notification.

    Source: posted_intr.c, same name.
    """
    return pi.on or (pi.sn and pi.pir != 0)


def vmx_sync_pir_to_irr(
    vcpu: Vcpu, policy: Policy, platform: Platform = DEFAULT_PLATFORM
) -> Step:
    """Move PIR to the virtual IRR, if ON says that there is something.

    Only ON is tested: a bit without ON is invisible. A TD's PIR is moved by hardware
    only.

    Source: vmx.c, same name.
    """
    if platform.td_vcpu:
        return Step(vcpu)
    ready = Step(vcpu)
    if policy.suppress_at_exit and vcpu.pi.sn:
        if vcpu.mode is Mode.IN_GUEST_MODE:
            # The entry path, IRQs off: posts notify again from here on.
            cleared = Step(with_pi(vcpu, sn=False), locked_ops=1)
            ready = then(cleared, after_clear_sn(cleared.vcpu))
        else:
            ready = Step(vcpu, pir_scans=0 if vcpu.pi.on else 1)
            if pi_has_pending_interrupt(vcpu.pi):
                return then(ready, Step(_harvest(vcpu)))
    if ready.vcpu.pi.on:
        return then(ready, Step(_harvest(ready.vcpu)))
    return ready


def process_notification(vcpu: Vcpu) -> Step:
    """The CPU, in guest mode, takes vector 0xF2: posted-interrupt processing.

    ON is cleared whatever it was, in the descriptor of the vCPU that runs, even if
    the notification was meant for another. SN and NV are not looked at.

    Source: SDM vol. 3, "Posted-Interrupt Processing".
    """
    return Step(_harvest(vcpu))


def vcpu_enter_guest(
    vcpu: Vcpu, policy: Policy, platform: Platform = DEFAULT_PLATFORM
) -> Step:
    """The entry path with IRQs off: mode first, then the sync.

    In this order, a KVM poster that sees the old mode has set PIR and ON before the
    sync, and one that sees the new mode sends an IPI.

    Source: x86.c, same name.
    """
    entering = replace(vcpu, mode=Mode.IN_GUEST_MODE)
    return vmx_sync_pir_to_irr(entering, policy, platform)


def tdx_vcpu_run(vcpu: Vcpu) -> Step:
    """A TD is entered with ON set: only hardware can move PIR, so notify ourselves.

    The self-IPI is sent with IRQs off and is processed after TDENTER.

    Source: arch/x86/kvm/vmx/tdx.c, same name.
    """
    if not vcpu.pi.on:
        return Step(vcpu)
    assert vcpu.cpu is not None, "a vCPU that runs has been loaded"
    return Step(vcpu, (Effect("self_ipi", POSTED_INTR_VECTOR, vcpu.cpu),))


def vm_exit(vcpu: Vcpu, policy: Policy, platform: Platform = DEFAULT_PLATFORM) -> Step:
    """The guest was left, IRQs are off; only suppress_at_exit does anything here.

    Source: hypothetical, see `policy.SWITCHES`.
    """
    if policy.suppress_at_exit and vmx_needs_pi_wakeup(platform) and not vcpu.pi.sn:
        return Step(with_pi(vcpu, sn=True), locked_ops=1)
    return Step(vcpu)


def vcpu_outside_guest(
    vcpu: Vcpu, policy: Policy, platform: Platform = DEFAULT_PLATFORM
) -> Step:
    """The run loop is done with the guest, or gives up an entry after its sync.

    Source: x86.c, vcpu_enter_guest.
    """
    outside = replace(vcpu, mode=Mode.OUTSIDE_GUEST_MODE)
    # An entry that is given up has cleared SN, as a VM-exit finds it.
    return vm_exit(outside, policy, platform)


def pi_apicv_pre_state_restore(vcpu: Vcpu) -> Step:
    """LAPIC reset or KVM_SET_LAPIC: posted bits are discarded.

    Source: posted_intr.c, same name; vmx_apicv_post_state_restore in older trees.
    """
    return Step(with_pi(vcpu, on=False, pir=0))
