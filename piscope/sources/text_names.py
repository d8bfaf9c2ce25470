"""Names that kernel texts use for numbers, and numbers that their columns stand for.

A binary record holds `dm=0x100`, its text "LowPrio"; these tables lead back. They
follow the `__print_symbolic` lists of `arch/x86/kvm/trace.h`, and for the flag
columns `trace_print_lat_fmt()` of `kernel/trace/trace_output.c` (both Linux 6.17).
Texts name no event systems either: `system_of` tells those of the known events.
"""

from __future__ import annotations

import re

__all__ = (
    "APIC_REGISTERS",
    "DELIVERY_MODES",
    "SHORTHANDS",
    "TASK_STATE_PREEMPTED",
    "common_flags",
    "exit_reason",
    "plugin_task_state",
    "system_of",
    "task_state",
)

from piscope.events.vmx_exits import FORMER_NAMES, REASON_FLAGS, VmxExit

DELIVERY_MODES: dict[bytes, int] = {
    b"Fixed": 0x000,
    b"LowPrio": 0x100,
    b"SMI": 0x200,
    b"Res3": 0x300,
    b"NMI": 0x400,
    b"INIT": 0x500,
    b"SIPI": 0x600,
    b"ExtINT": 0x700,
}
"""kvm_deliver_mode, at the place of the ICR's and the MSI data's bits 10:8."""

SHORTHANDS: dict[bytes, int] = {
    b"dst": 0x00000,
    b"self": 0x40000,
    b"all": 0x80000,
    b"all-but-self": 0xC0000,
}
"""kvm_apic_dst_shorthand, at the place of the ICR's bits 19:18."""

APIC_REGISTERS: dict[bytes, int] = {
    b"APIC_ID": 0x020,
    b"APIC_LVR": 0x030,
    b"APIC_TASKPRI": 0x080,
    b"APIC_ARBPRI": 0x090,
    b"APIC_PROCPRI": 0x0A0,
    b"APIC_EOI": 0x0B0,
    b"APIC_RRR": 0x0C0,
    b"APIC_LDR": 0x0D0,
    b"APIC_DFR": 0x0E0,
    b"APIC_SPIV": 0x0F0,
    b"APIC_ISR": 0x100,
    b"APIC_TMR": 0x180,
    b"APIC_IRR": 0x200,
    b"APIC_ESR": 0x280,
    b"APIC_ICR": 0x300,
    b"APIC_ICR2": 0x310,
    b"APIC_LVTT": 0x320,
    b"APIC_LVTTHMR": 0x330,
    b"APIC_LVTPC": 0x340,
    b"APIC_LVT0": 0x350,
    b"APIC_LVT1": 0x360,
    b"APIC_LVTERR": 0x370,
    b"APIC_TMICT": 0x380,
    b"APIC_TMCCT": 0x390,
    b"APIC_TDCR": 0x3E0,
    b"APIC_SELF_IPI": 0x3F0,
    b"APIC_EFEAT": 0x400,
    b"APIC_ECTRL": 0x410,
}
"""kvm_trace_symbol_apic: register offsets in the APIC page."""

TASK_STATE_PREEMPTED = 0x100
"""TASK_REPORT_MAX as sched_switch records it: "+" in the text, since v4.14."""

# Letters of sched_switch's print fmt since v4.14.
_TASK_STATES = {
    b"R": 0x00,
    b"S": 0x01,
    b"D": 0x02,
    b"T": 0x04,
    b"t": 0x08,
    b"X": 0x10,
    b"Z": 0x20,
    b"P": 0x40,
    b"I": 0x80,
}
# Those of libtraceevent's plugin, "SDTtZXxW" from bit 0: the order of kernels before
# v4.14. It leaves out every bit above, so that its R may have been R+.
_PLUGIN_TASK_STATES = {
    b"R": 0x00,
    b"S": 0x01,
    b"D": 0x02,
    b"T": 0x04,
    b"t": 0x08,
    b"Z": 0x10,
    b"X": 0x20,
    b"x": 0x40,
    b"W": 0x80,
}


def task_state(text: bytes) -> int | None:
    """sched_switch's `prev_state` from the kernel's letters ("S", "R+", "D|K").

    None: letters that no known kernel prints. Digits (a raw report) are the value.
    Source: include/trace/events/sched.h, sched_switch.
    """
    if text.endswith(b"+"):
        state = _task_state(text[:-1], _TASK_STATES)
        return None if state is None else state | TASK_STATE_PREEMPTED
    return _task_state(text, _TASK_STATES)


def plugin_task_state(text: bytes) -> int | None:
    """The same from the plugin's letters; only bits 0 to 7 can be told.

    Source: write_state() of plugin_sched_switch.c, libtraceevent.
    """
    return _task_state(text, _PLUGIN_TASK_STATES)


def _task_state(text: bytes, states: dict[bytes, int]) -> int | None:
    if text.isdigit():
        return int(text) if len(text) < 10 else None
    state = 0
    for letter in text.split(b"|"):
        bit = states.get(letter)
        if bit is None:
            return None
        state |= bit
    return state


_VMX_REASONS: dict[bytes, int] = {
    **{reason.name.encode(): int(reason) for reason in VmxExit},
    **{name.encode(): int(reason) for name, reason in FORMER_NAMES.items()},
}
_VMX_FLAGS = {name.encode(): bit for name, bit in REASON_FLAGS.items()}
_PLUGIN_UNKNOWN = re.compile(rb"UNKNOWN \((\d{1,10})\)")
_HEX = re.compile(rb"0x[0-9a-f]{1,8}")


def exit_reason(text: bytes) -> tuple[int | None, int | None]:
    """kvm_exit's `exit_reason` and `isa` (1 VMX, 2 SVM) from "HLT", "npf", "0x43".

    None for what the text does not settle: the number of an SVM reason, or of a name
    that is in no table; the isa of a bare number.
    Source: arch/x86/kvm/trace.h, kvm_print_exit_reason; plugin_kvm.c of libtraceevent.
    """
    if (unknown := _PLUGIN_UNKNOWN.fullmatch(text)) is not None:
        return int(unknown[1]) & 0xFFFFFFFF, None
    name, *flags = text.split(b" ")
    bits = 0
    for flag in flags:
        if _HEX.fullmatch(flag):
            bits |= int(flag, 16)
        elif flag in _VMX_FLAGS:
            bits |= _VMX_FLAGS[flag]
        else:
            return None, None
    if _HEX.fullmatch(name):
        return int(name, 16) | bits, None
    if name in _VMX_REASONS:
        return _VMX_REASONS[name] | bits, 1
    # SVM_EXIT_REASONS are lower-case words ("npf", "write_cr0_trap"); the plugin
    # prints the macro's own name ("EXIT_NPF").
    if name.islower() or name.startswith(b"EXIT_"):
        return None, 2
    return None, 1 if name.isupper() else None


# common_flags, enum trace_flag_type of include/linux/trace_events.h.
_IRQS_OFF, _RESCHED_LAZY, _RESCHED, _HARDIRQ = 0x01, 0x02, 0x04, 0x08
_SOFTIRQ, _PREEMPT_RESCHED, _NMI, _BH_OFF = 0x10, 0x20, 0x40, 0x80

_IRQS_COLUMN = {"d": _IRQS_OFF, "D": _IRQS_OFF | _BH_OFF, "b": _BH_OFF, "X": 0x02}
_RESCHED_COLUMN = {
    "N": _RESCHED | _PREEMPT_RESCHED,
    "n": _RESCHED,
    "p": _PREEMPT_RESCHED,
    "B": _RESCHED | _RESCHED_LAZY | _PREEMPT_RESCHED,
    "L": _RESCHED_LAZY | _PREEMPT_RESCHED,
    "b": _RESCHED | _RESCHED_LAZY,
    "l": _RESCHED_LAZY,
}
_CONTEXT_COLUMN = {
    "Z": _NMI | _HARDIRQ,
    "z": _NMI,
    "H": _HARDIRQ | _SOFTIRQ,
    "h": _HARDIRQ,
    "s": _SOFTIRQ,
}


def common_flags(columns: bytes) -> int:
    """The `common_flags` byte that the flag columns of a line show.

        d N h 2 .        irqs-off, need-resched, context, preempt-depth [, migrate]
        d N . h 2 . .    -RT: need-resched-lazy before the context

    Depths are no part of it, and a column that is not known adds no bit.
    Source: trace_print_lat_fmt() of kernel/trace/trace_output.c.
    """
    text = columns.decode("latin-1")
    if len(text) < 4:
        return 0
    context = text[3] if len(text) >= 7 else text[2]
    return (
        _IRQS_COLUMN.get(text[0], 0)
        | _RESCHED_COLUMN.get(text[1], 0)
        | _CONTEXT_COLUMN.get(context, 0)
    )


_IRQ_VECTOR_NAMES = (
    "local_timer|spurious_apic|error_apic|x86_platform_ipi|irq_work|reschedule|"
    "call_function|call_function_single|threshold_apic|deferred_error_apic|thermal_apic"
)
# Prefixes in the order in which they decide.
_SYSTEMS = tuple(
    (system, re.compile(pattern))
    for system, pattern in (
        ("kvmmmu", r"kvm_(tdp_)?mmu_|check_mmio_spte|mark_mmio_spte|fast_page_fault"),
        ("kvmmmu", r"handle_mmio_page_fault"),
        ("kvm", r"kvm_|vcpu_match_mmio"),
        ("sched", r"sched_"),
        ("irq", r"irq_handler_(entry|exit)$|softirq_(raise|entry|exit)$|tasklet_"),
        ("irq_vectors", rf"({_IRQ_VECTOR_NAMES})_(entry|exit)$|vector_"),
        ("raw_syscalls", r"sys_(enter|exit)$"),
        ("syscalls", r"sys_(enter|exit)_"),
        ("ftrace", r"(function|print|funcgraph_entry|funcgraph_exit|kernel_stack)$"),
        ("timer", r"hrtimer_|timer_|tick_stop"),
        ("power", r"cpu_idle|cpu_frequency"),
        ("msr", r"(read|write)_msr|rdpmc"),
    )
)


def system_of(name: str) -> str:
    """The event system of a well-known tracepoint name; "" where it is not known."""
    for system, pattern in _SYSTEMS:
        if pattern.match(name):
            return system
    return ""
