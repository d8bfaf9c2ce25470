"""How the events outside KVM are worded, and the way to any event's wording.

To be read beside include/trace/events/{sched,irq}.h, arch/x86/include/asm/trace/
irq_vectors.h, kernel/trace/trace_{syscalls,functions,output}.c, and for the plugins
plugin_sched_switch.c and plugin_function.c of libtraceevent.
"""

from __future__ import annotations

from piscope.sources.text_decode import (
    looked_up,
    read_once,
    signed_hexadecimals,
    strings,
)
from piscope.sources.text_forms import (
    EventText,
    Form,
    TextField,
    comm,
    decimal,
    hexadecimal,
)
from piscope.sources.text_kvm import KVM_EVENTS
from piscope.sources.text_names import plugin_task_state, task_state

__all__ = ("EVENTS", "event_text")

_WAKEUP = EventText(
    (
        comm("comm"),
        decimal("pid", "i4"),
        decimal("prio", "i4"),
        decimal("success", "i4"),
        decimal("target_cpu", "i4"),
    ),
    (
        Form("comm={comm:comm} pid={pid:d} prio={prio:d} target_cpu={target_cpu:d}"),
        Form(
            "comm={comm:comm} pid={pid:d} prio={prio:d} success={success:d}"
            " target_cpu={target_cpu:d}"
        ),
        Form("{comm:comm}:{pid:d} [{prio:d}] CPU:{target_cpu:d}", when="plugins"),
        Form(
            "{comm:comm}:{pid:d} [{prio:d}] success={success:d} CPU:{target_cpu:d}",
            when="plugins",
        ),
        Form("{comm:comm}:{pid:d} [{prio:d}]", when="plugins"),
    ),
)

_SOFTIRQ = EventText((decimal("vec", "u4"),), (Form("vec={vec:d}"),))
EVENTS: dict[str, EventText] = {
    **KVM_EVENTS,
    "sched_switch": EventText(
        (
            comm("prev_comm"),
            decimal("prev_pid", "i4"),
            decimal("prev_prio", "i4"),
            TextField("prev_state", "i8", ("prev_state",), read_once(task_state)),
            TextField("prev_state", "i8", ("letters",), read_once(plugin_task_state)),
            comm("next_comm"),
            decimal("next_pid", "i4"),
            decimal("next_prio", "i4"),
        ),
        (
            Form(
                "prev_comm={prev_comm:comm} prev_pid={prev_pid:d}"
                " prev_prio={prev_prio:d} prev_state={prev_state:state} ==>"
                " next_comm={next_comm:comm} next_pid={next_pid:d}"
                " next_prio={next_prio:d}"
            ),
            Form(
                "{prev_comm:comm}:{prev_pid:d} [{prev_prio:d}] {letters:state} ==>"
                " {next_comm:comm}:{next_pid:d} [{next_prio:d}]",
                when="plugins",
            ),
            # report -R: the state as a number, and no arrow
            Form(
                "prev_comm={prev_comm:comm} prev_pid={prev_pid:d}"
                " prev_prio={prev_prio:d} prev_state={prev_state:state}"
                " next_comm={next_comm:comm} next_pid={next_pid:d}"
                " next_prio={next_prio:d}"
            ),
        ),
    ),
    "sched_waking": _WAKEUP,
    "sched_wakeup": _WAKEUP,
    "sched_wakeup_new": _WAKEUP,
    "sched_migrate_task": EventText(
        (
            comm("comm"),
            decimal("pid", "i4"),
            decimal("prio", "i4"),
            decimal("orig_cpu", "i4"),
            decimal("dest_cpu", "i4"),
        ),
        (
            Form(
                "comm={comm:comm} pid={pid:d} prio={prio:d} orig_cpu={orig_cpu:d}"
                " dest_cpu={dest_cpu:d}"
            ),
        ),
    ),
    "irq_handler_entry": EventText(
        (decimal("irq", "i4"), TextField("name", "O", ("name",), strings)),
        (Form("irq={irq:d} name={name:rest}"),),
    ),
    "irq_handler_exit": EventText(
        (
            decimal("irq", "i4"),
            TextField(
                "ret", "i4", ("ret",), looked_up({b"handled": 1, b"unhandled": 0})
            ),
        ),
        (Form("irq={irq:d} ret={ret:w}"),),
    ),
    "softirq_raise": _SOFTIRQ,
    "softirq_entry": _SOFTIRQ,
    "softirq_exit": _SOFTIRQ,
    "sys_enter_ioctl": EventText(
        (hexadecimal("fd", "u8"), hexadecimal("cmd", "u8"), hexadecimal("arg", "u8")),
        (Form("fd: {fd:x}, cmd: {cmd:x}, arg: {arg:x}"),),
    ),
    # function tracer and trace_marker: symbols where a record has addresses
    "function": EventText(
        (
            TextField("ip", "O", ("ip",), strings),
            TextField("parent_ip", "O", ("parent_ip",), strings),
        ),
        (
            Form("{ip:symbol} <-- {parent_ip:rest}"),
            Form("{ip:symbol} <-{parent_ip:rest}"),
            Form("{ip:symbol}", when="plugins", hidden=("parent_ip",)),
        ),
    ),
    "print": EventText(
        (
            TextField("ip", "O", ("ip",), strings),
            TextField("buf", "O", ("buf",), strings),
        ),
        (Form("{ip:symbol}: {buf:rest}"),),
    ),
    "tracing_mark_write": EventText(
        (TextField("buf", "O", ("buf",), strings),), (Form("{buf:rest}"),)
    ),
}
"""The events whose wording is known, by the name that the text gives them."""

_VECTOR = EventText((decimal("vector", "i4"),), (Form("vector={vector:d}"),))
_SYS_EXIT = EventText(
    (TextField("ret", "i8", ("ret",), signed_hexadecimals),), (Form("{ret:x}"),)
)


def event_text(name: str, system: str) -> EventText | None:
    """The wording of an event, or None where only `key=value` can be hoped for."""
    if system == "irq_vectors":
        return _VECTOR
    if system == "syscalls" and name.startswith("sys_exit_"):
        return _SYS_EXIT
    return EVENTS.get(name)
