"""Who posted an interrupt, and what tells: the words of POSTS.

Read beside virt/kvm/eventfd.c, arch/x86/kvm/lapic.c and vfio_pci_intrs.c.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = (
    "EVIDENCE",
    "INFERRED",
    "ORIGINS",
    "TARGETS",
    "Evidence",
    "Given",
    "Origin",
    "Target",
)


class _Word(IntEnum):
    @property
    def label(self) -> str:
        """As users read it: `vfio-irq`."""
        return self.name.lower().replace("_", "-")


class Origin(_Word):
    """Who posted; the names are those of POSTS.origin."""

    UNKNOWN = 0
    VFIO = 1
    VHOST = 2
    IRQFD = 3
    EMULATED = 4
    IPI = 5
    TIMER = 6
    SELF = 7


ORIGINS: dict[Origin, str] = {
    Origin.UNKNOWN: "the trace does not tell",
    Origin.VFIO: "an assigned device, its interrupt handled by the host",
    Origin.VHOST: "a vhost worker, or another process that signals an irqfd",
    Origin.IRQFD: "an irqfd's deferred work; who signaled it is not told",
    Origin.EMULATED: "the VMM's device model, or KVM's (IOAPIC, PIT)",
    Origin.IPI: "another vCPU, whose IPI was a VM-exit",
    Origin.TIMER: "the vCPU's local APIC timer",
    Origin.SELF: "the vCPU itself: a self-IPI, a page that is ready",
}
"""What each origin is, for people."""


class Evidence(_Word):
    """What tells the origin; the names are those of POSTS.evidence."""

    NONE = 0
    VFIO_IRQ = 1
    VFIO_IRQ_THREAD = 2
    OTHER_IRQ = 3
    IRQ_CONTEXT = 4
    TIMER_IRQ = 5
    VHOST_THREAD = 6
    OTHER_PROCESS = 7
    IRQFD_INJECT = 8
    KWORKER = 9
    PIT_THREAD = 10
    EVENTFD = 11
    MSI = 12
    IRQ_LINE = 13
    USER_THREAD = 14
    VCPU_IN_USERSPACE = 15
    APIC_IPI = 16
    SELF_IPI = 17
    HYPERCALL = 18
    EXIT_REASON = 19
    PREEMPTION_TIMER = 20
    TIMER_WRITE = 21
    TIMER_WAKEUP = 22
    PENDING_TIMER = 23
    TIMER_VECTOR = 24
    ASYNC_PF = 25
    OWN_THREAD = 26


EVIDENCE: dict[Evidence, str] = {
    Evidence.NONE: "nothing in its context",
    Evidence.VFIO_IRQ: "within irq_handler_entry of a vfio interrupt",
    Evidence.VFIO_IRQ_THREAD: "thread of a vfio interrupt",
    Evidence.OTHER_IRQ: "within irq_handler_entry of an interrupt that is not vfio's",
    Evidence.IRQ_CONTEXT: "in an interrupt, whose is not told",
    Evidence.TIMER_IRQ: "within a timer interrupt of the host",
    Evidence.VHOST_THREAD: "thread vhost-N",
    Evidence.OTHER_PROCESS: "thread of a process that runs no vCPU",
    Evidence.IRQFD_INJECT: "workqueue_execute_start of irqfd_inject",
    Evidence.KWORKER: "thread kworker/N",
    Evidence.PIT_THREAD: "thread kvm-pit/N",
    Evidence.EVENTFD: "MSI by a thread of the VMM, IRQs off: an eventfd",
    Evidence.MSI: "MSI by a thread of the VMM",
    Evidence.IRQ_LINE: "kvm_set_irq or kvm_ioapic_set_irq in the same context",
    Evidence.USER_THREAD: "thread that is no vCPU and none of the kernel's",
    Evidence.VCPU_IN_USERSPACE: "vCPU's thread behind kvm_userspace_exit",
    Evidence.APIC_IPI: "kvm_apic_ipi of that vector since the sender's VM-exit",
    Evidence.SELF_IPI: "kvm_apic_ipi with the vCPU itself as its one target",
    Evidence.HYPERCALL: "kvm_hypercall for IPIs, or exit VMCALL, of the sender",
    Evidence.EXIT_REASON: "sender's VM-exit writes the ICR; no kvm_apic_ipi recorded",
    Evidence.PREEMPTION_TIMER: "own exit PREEMPTION_TIMER",
    Evidence.TIMER_WRITE: "own exit that armed a timer which is due already",
    Evidence.TIMER_WAKEUP: "own thread, woken from its halt by a timer interrupt",
    Evidence.PENDING_TIMER: "own thread behind its halt, or behind a timer interrupt",
    Evidence.TIMER_VECTOR: "own thread, with the vector of its timer",
    Evidence.ASYNC_PF: "own thread behind kvm_async_pf_ready",
    Evidence.OWN_THREAD: "own thread, nothing more",
}
"""What each evidence is, for people."""

INFERRED: frozenset[Evidence] = frozenset(
    {
        Evidence.KWORKER,
        Evidence.USER_THREAD,
        Evidence.EXIT_REASON,
        Evidence.PENDING_TIMER,
        Evidence.TIMER_VECTOR,
    }
)
"""Evidence that leaves another origin possible, if an unlikely one."""


class Given(_Word):
    """Who posted, where a user said so; the names are those of POSTS.given."""

    TRACED = 0  # nobody said: the trace shows it
    VTD = 1
    IPIV = 2
    KVM = 3


class Target(_Word):
    """What tells the target vCPU; the names are those of POSTS.target_by."""

    NONE = 0
    VCPU_ID = 1
    OWN_THREAD = 2
    SAME_VM = 3
    WOKEN = 4
    PIR = 5
    IRTE = 6
    ELIMINATION = 7
    DEVICE = 8
    THREAD = 9


TARGETS: dict[Target, str] = {
    Target.NONE: "several vCPUs have that vcpu_id, or none",
    Target.VCPU_ID: "the only vCPU with that vcpu_id",
    Target.OWN_THREAD: "a vCPU's thread means itself",
    Target.SAME_VM: "the poster's process, or its vhost owner, is that VM",
    Target.WOKEN: "woken by the post",
    Target.PIR: "probes read PIR without the vector at all others",
    Target.IRTE: "kvm_pi_irte_update of its host IRQ",
    Target.ELIMINATION: "all others slept on, and a post would have woken them",
    Target.DEVICE: "other interrupts of the device meant that VM",
    Target.THREAD: "other posts of the thread meant that VM",
}
"""What each evidence of the target is, for people."""
