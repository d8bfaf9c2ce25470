"""The tracepoints that piscope reads, their fields, and what each is needed for.

Field names are the kernel's. A field that a kernel lacks is absent, not an error;
the format description in the trace decides, never a version number.

Read beside arch/x86/kvm/trace.h, include/trace/events/{kvm,sched,irq}.h and
arch/x86/include/asm/trace/irq_vectors.h (5.10 to 6.18).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = (
    "CATALOG",
    "PROBES",
    "QUESTIONS",
    "Question",
    "Tracepoint",
    "analysis_fields",
)

Question = Literal[
    "timeline",
    "put-reason",
    "userspace",
    "posts",
    "msi",
    "origin",
    "pcpu",
    "exits",
    "descriptor",
]

QUESTIONS: dict[Question, str] = {
    "timeline": "when each vCPU was in the guest, in KVM, preempted or asleep",
    "put-reason": "why a vCPU was put: blocking, preempted, asleep",
    "userspace": "when a vCPU was unloaded because it ran in userspace",
    "posts": "which interrupts KVM posted, to which vCPU",
    "msi": "which of them a posting device would have posted itself",
    "origin": "which device, thread, IPI or timer posted",
    "pcpu": "what ran on the pCPU that a notification hit",
    "exits": "VM-exit reasons and the time each took",
    "descriptor": "what ON, SN, NV, NDST and PIR really were (probes)",
}
"""What a user can ask of a trace, in the order in which `piscope check` answers."""


@dataclass(frozen=True, slots=True)
class Tracepoint:
    """One tracepoint: its fields that piscope decodes, and the questions it serves.

    `essential` lists the questions that can't be answered at all without it.
    """

    system: str
    name: str
    fields: tuple[str, ...]
    needed_for: tuple[Question, ...]
    essential: tuple[Question, ...] = ()

    @property
    def key(self) -> str:
        """`system:name`."""
        return f"{self.system}:{self.name}"


CATALOG: tuple[Tracepoint, ...] = (
    # --- arch/x86/kvm/trace.h
    Tracepoint(
        "kvm",
        "kvm_entry",
        ("vcpu_id",),
        ("timeline", "pcpu", "exits"),
        ("timeline", "pcpu", "exits"),
    ),
    Tracepoint(
        "kvm",
        "kvm_exit",
        ("exit_reason", "isa", "intr_info", "info2", "vcpu_id"),
        ("timeline", "put-reason", "exits"),
        ("timeline", "put-reason", "exits"),
    ),
    Tracepoint(
        "kvm",
        "kvm_apicv_accept_irq",
        ("apicid", "dm", "tm", "vec"),
        ("posts",),
        ("posts",),
    ),
    # Before kvm_apicv_accept_irq (5.15) the accept is all there is of a post.
    Tracepoint("kvm", "kvm_apic_accept_irq", ("apicid", "dm", "tm", "vec"), ("posts",)),
    # texts print the vector, not the data word that holds it
    Tracepoint(
        "kvm", "kvm_msi_set_irq", ("address", "data", "vector"), ("msi",), ("msi",)
    ),
    Tracepoint("kvm", "kvm_apic_ipi", ("icr_low", "dest_id"), ("origin",)),
    Tracepoint("kvm", "kvm_apic", ("rw", "reg", "val"), ()),
    Tracepoint("kvm", "kvm_msr", ("write", "ecx", "data"), ()),
    Tracepoint("kvm", "kvm_hypercall", ("nr",), ()),
    Tracepoint("kvm", "kvm_hv_send_ipi", (), ()),
    Tracepoint("kvm", "kvm_hv_send_ipi_ex", (), ()),
    Tracepoint("kvm", "kvm_async_pf_ready", (), ()),
    Tracepoint("kvm", "kvm_pio", (), ()),
    Tracepoint("kvm", "kvm_mmio", (), ()),
    Tracepoint("kvm", "kvm_page_fault", (), ()),
    Tracepoint("kvm", "kvm_eoi", ("apicid", "vector"), ()),
    Tracepoint("kvm", "kvm_inj_virq", ("vector", "irq"), ()),
    Tracepoint(
        "kvm",
        "kvm_pi_irte_update",
        ("host_irq", "vcpu_id", "gsi", "gvec", "pi_desc_addr", "set"),
        ("origin",),
    ),
    Tracepoint("kvm", "kvm_apicv_inhibit_changed", (), ()),
    # --- include/trace/events/kvm.h
    Tracepoint(
        "kvm", "kvm_userspace_exit", ("reason", "errno"), ("userspace",), ("userspace",)
    ),
    Tracepoint("kvm", "kvm_fpu", ("load",), ("userspace",)),
    Tracepoint(
        "kvm", "kvm_vcpu_wakeup", ("ns", "waited", "valid"), ("timeline", "put-reason")
    ),
    Tracepoint("kvm", "kvm_halt_poll_ns", ("vcpu_id",), ()),
    Tracepoint("kvm", "kvm_set_irq", ("gsi", "level"), ("origin",)),
    Tracepoint("kvm", "kvm_ioapic_set_irq", ("e", "vector"), ("origin",)),
    # --- include/trace/events/sched.h
    Tracepoint(
        "sched",
        "sched_switch",
        ("prev_pid", "prev_state", "next_pid"),
        ("timeline", "put-reason", "pcpu"),
        ("put-reason", "pcpu"),
    ),
    Tracepoint("sched", "sched_waking", ("pid",), ("put-reason",)),
    Tracepoint("sched", "sched_wakeup", ("pid",), ("put-reason",)),
    # --- include/trace/events/irq.h
    Tracepoint("irq", "irq_handler_entry", ("irq", "name"), ("origin",)),
    Tracepoint("irq", "irq_handler_exit", ("irq",), ("origin",)),
    # --- arch/x86/include/asm/trace/irq_vectors.h
    Tracepoint("irq_vectors", "local_timer_entry", (), ("origin",)),
    Tracepoint("irq_vectors", "local_timer_exit", (), ("origin",)),
    # what else may wake a thread from an interrupt: the rest is 0xF1's
    *(
        Tracepoint("irq_vectors", f"{name}_{end}", (), ())
        for name in (
            "reschedule",
            "call_function",
            "call_function_single",
            "irq_work",
        )
        for end in ("entry", "exit")
    ),
    # --- include/trace/events/timer.h; nothing that local_timer_entry does not tell
    Tracepoint("timer", "hrtimer_expire_entry", (), ()),
    Tracepoint("timer", "hrtimer_expire_exit", (), ()),
    # --- include/trace/events/workqueue.h: who queued what a kworker does
    Tracepoint("workqueue", "workqueue_queue_work", ("work",), ()),
    Tracepoint("workqueue", "workqueue_execute_start", ("work",), ()),
    # --- include/trace/events/syscalls.h (generated)
    Tracepoint("syscalls", "sys_enter_ioctl", ("cmd",), ("userspace",)),
    Tracepoint("syscalls", "sys_exit_ioctl", ("ret",), ("userspace",)),
)

PROBES: tuple[str, ...] = (
    "*pi_load*",
    "*pi_put*",
    "*pi_wakeup*",
    "*pi_enable_wakeup*",
)
"""Names of events that users set on vmx_vcpu_pi_load and vmx_vcpu_pi_put.

Kprobes, fprobes or the function tracer; what each one carries is read from its
fields (piscope/timeline/probes.py).
"""


def analysis_fields() -> dict[str, tuple[str, ...] | None]:
    """The events and fields that `piscope analyze` decodes, as sources.raw.Wanted.

    Probes are decoded with all their fields.
    """
    wanted: dict[str, tuple[str, ...] | None] = {t.key: t.fields for t in CATALOG}
    wanted.update(dict.fromkeys(PROBES))
    wanted["ftrace:function"] = ("ip", "parent_ip")
    wanted["ftrace:print"] = ("buf",)  # trace_marker: piscope.events.markers
    return wanted
