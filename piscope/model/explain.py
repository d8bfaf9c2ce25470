"""Where each rule of the model comes from: kernel function, patch, or specification.

Data, one entry per rule; a test holds each to a function of the model. Caveats say
what was not read at its source.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ("RULES", "Rule")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the model.

    name      kebab-case, never renamed
    function  where the model has it, as module.function in piscope.model
    caveat    what about it is not verified, or None
    """

    name: str
    rule: str
    function: str
    source: str
    caveat: str | None = None


_POSTED_INTR = "arch/x86/kvm/vmx/posted_intr.c"
_VMX = "arch/x86/kvm/vmx/vmx.c"

RULES = (
    Rule(
        "fresh-descriptor",
        "A descriptor is created with PIR empty, ON=0, SN=1, NV=0xF2: an IRTE may "
        "point at a vCPU that has never run.",
        "descriptor.PiDesc",
        f"{_VMX}, vmx_vcpu_create",
    ),
    Rule(
        "put-is-gated",
        "Put does nothing unless the VM needs PI wakeup: an assigned device with VT-d "
        "posting, or IPI virtualization (6.0+).",
        "policy.vmx_needs_pi_wakeup",
        f"{_POSTED_INTR}, vmx_needs_pi_wakeup and vmx_can_use_vtd_pi",
    ),
    Rule(
        "put-suppresses",
        "Put sets SN: on preemption up to 6.16; from 6.17 on whenever the wakeup "
        "vector is not armed.",
        "descriptor.vmx_vcpu_pi_put",
        f"{_POSTED_INTR}, vmx_vcpu_pi_put; 6737557442e5 (KVM: VMX: Suppress PI "
        "notifications whenever the vCPU is put), v6.17",
        "no tagged tree of 6.17 was read: the release rests on pull requests; "
        "distributions may have ported the patch back",
    ),
    Rule(
        "block-arms-wakeup",
        "A blocking vCPU whose guest takes interrupts goes on the wakeup list and gets "
        "NV=0xF1; if ON is set, a self-IPI 0xF1 repeats the spent notification.",
        "descriptor.pi_enable_wakeup_handler",
        f"{_POSTED_INTR}, pi_enable_wakeup_handler; d76fb40637fc, v5.17",
    ),
    Rule(
        "pre-block-arms-wakeup",
        "Up to 5.16 NV is 0xF1 from before halt-polling until after the block.",
        "descriptor.pi_pre_block",
        f"{_POSTED_INTR} up to 5.16, pi_pre_block and __pi_post_block",
        "when between 5.10 and 5.15 the guest's IF came to be tested is not verified",
    ),
    Rule(
        "load-restores",
        "Load takes the vCPU off its list, writes NDST, clears SN and sets NV=0xF2; on "
        "the same pCPU and off every list it clears SN only.",
        "descriptor.vmx_vcpu_pi_load",
        f"{_POSTED_INTR}, vmx_vcpu_pi_load",
    ),
    Rule(
        "load-scans",
        "After SN was cleared, PIR is scanned and ON set if anything is in it; no IPI. "
        "A hardware post between the two may notify.",
        "descriptor.after_clear_sn",
        f"{_POSTED_INTR}, vmx_vcpu_pi_load, label after_clear_sn",
    ),
    Rule(
        "wakeup-handler",
        "0xF1 wakes every vCPU on this pCPU's list that has ON, and changes nothing.",
        "descriptor.pi_wakeup_handler",
        f"{_POSTED_INTR}, pi_wakeup_handler",
    ),
    Rule(
        "iommu-posts",
        "VT-d sets the PIR bit; if ON=0 and (URG or SN=0) it sets ON and sends NV to "
        "NDST, all in one atomic access.",
        "posting.post_by_iommu",
        "VT-d specification, 5.2.3",
        "read in translation and quotation",
    ),
    Rule(
        "ipiv-posts",
        "IPI virtualization posts like VT-d, without any trace event.",
        "posting.post_by_ipi_virtualization",
        "KVM: VMX: enable IPI virtualization, v6.0; SDM, IPI Virtualization",
        "the SDM's pseudo-code of the notification's condition was not read",
    ),
    Rule(
        "kvm-posts",
        "KVM sets PIR, then ON, returning early if either was set; it sends 0xF2 only "
        "to a vCPU in guest mode and wakes the task otherwise. SN plays no part.",
        "posting.vmx_deliver_posted_interrupt",
        f"{_VMX}, vmx_deliver_posted_interrupt and kvm_vcpu_trigger_posted_interrupt",
    ),
    Rule(
        "sync-tests-on",
        "The sync looks at ON alone; if set, it clears ON and then moves PIR.",
        "posting.vmx_sync_pir_to_irr",
        f"{_VMX}, vmx_sync_pir_to_irr",
    ),
    Rule(
        "cpu-processes",
        "In guest mode the CPU takes 0xF2 without a VM-exit: it clears ON and moves "
        "PIR of the vCPU that runs, whomever the notification was meant for.",
        "posting.process_notification",
        "SDM vol. 3, Posted-Interrupt Processing",
    ),
    Rule(
        "mode-before-sync",
        "The entry path writes vcpu->mode before it syncs, with IRQs off.",
        "posting.vcpu_enter_guest",
        "arch/x86/kvm/x86.c, vcpu_enter_guest",
    ),
    Rule(
        "tdx-self-ipi",
        "A TD is never synced by software: with ON set, KVM sends itself 0xF2 just "
        "before TDENTER.",
        "posting.tdx_vcpu_run",
        "arch/x86/kvm/vmx/tdx.c, tdx_vcpu_run",
    ),
    Rule(
        "reset-discards",
        "A LAPIC reset or KVM_SET_LAPIC zeroes PIR and ON; the bits are lost.",
        "posting.pi_apicv_pre_state_restore",
        f"{_POSTED_INTR}, pi_apicv_pre_state_restore",
        "the callers were not read",
    ),
    Rule(
        "one-irr-bit",
        "A pCPU latches one interrupt per vector; several notifications before it is "
        "taken are one interrupt.",
        "lapic.Host",
        "SDM vol. 3, local APIC, IRR",
    ),
    Rule(
        "irqs-off-latch",
        "With IRQs off a notification waits: for IRQs on (a host IRQ), or for a "
        "VM-entry on that pCPU (processed there).",
        "lapic.Host",
        "SDM vol. 3, Posted-Interrupt Processing; x86.c, vcpu_enter_guest",
    ),
    Rule(
        "inhibited-exits",
        "In L2, or with APICv inhibited, 0xF2 is an external-interrupt exit.",
        "lapic.Host",
        f"{_VMX}, vmx_refresh_apicv_exec_ctrl; nested.c (vmcs02's vector)",
        "inferred in part",
    ),
    Rule(
        "preempted",
        "vcpu->preempted is set if the thread is switched out while runnable; from "
        "about 6.11 on only within KVM_RUN without immediate_exit.",
        "policy.kvm_sched_out_preempted",
        "virt/kvm/kvm_main.c, kvm_sched_out; 3ba9f93b1236 (5.14)",
        "the releases of the later conditions are approximate",
    ),
    Rule(
        "suppress-at-exit",
        "Hypothetical: SN from VM-exit to VM-entry, where it is cleared and PIR "
        "scanned; polling and blocking look at PIR.",
        "posting.vm_exit",
        "RFC by Chao Gao, June 2022, and Kevin Tian's review; not merged",
    ),
)
