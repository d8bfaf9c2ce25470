"""The kernel's events that a simulated host emits, and rows of them, column by column.

Which fields an event has, and where, is the kernel's: `kernels/` holds format texts of
real ones, as tracefs printed them. Here is only which of the fields the machine sets;
what it does not set is 0, but for the names of tasks, which follow from their tids.
"""

from __future__ import annotations

from array import array
from enum import IntEnum

__all__ = (
    "FIELDS",
    "HARDIRQ",
    "HEADER_COLUMNS",
    "IRQS_OFF",
    "PROBES",
    "SYSCALLS",
    "E",
    "Recorder",
)

# TRACE_FLAG_*, include/linux/trace_events.h
IRQS_OFF, HARDIRQ = 0x01, 0x08


class E(IntEnum):
    """An event; the member's name is the kernel's."""

    kvm_entry = 0
    kvm_exit = 1
    kvm_apic_accept_irq = 2
    kvm_apicv_accept_irq = 3
    kvm_msi_set_irq = 4
    kvm_apic_ipi = 5
    kvm_msr = 6
    kvm_pio = 7
    kvm_page_fault = 8
    kvm_userspace_exit = 9
    kvm_fpu = 10
    kvm_vcpu_wakeup = 11
    kvm_halt_poll_ns = 12
    sched_switch = 13
    sched_waking = 14
    sched_wakeup = 15
    sched_migrate_task = 16
    irq_handler_entry = 17
    irq_handler_exit = 18
    local_timer_entry = 19
    local_timer_exit = 20
    reschedule_entry = 21
    reschedule_exit = 22
    sys_enter_ioctl = 23
    sys_exit_ioctl = 24
    pi_load = 25
    pi_load_done = 26
    pi_put = 27
    pi_put_done = 28
    pi_wakeup = 29


_PID = ("vcpu", "vcpu_cpu", "ctl", "pir0", "pir1", "pir2", "pir3")
_ACCEPT = ("apicid", "vec")

FIELDS: dict[E, tuple[str, ...]] = {
    E.kvm_entry: ("vcpu_id", "rip"),
    E.kvm_exit: ("exit_reason", "guest_rip", "intr_info", "vcpu_id", "isa"),
    E.kvm_apic_accept_irq: _ACCEPT,
    E.kvm_apicv_accept_irq: _ACCEPT,
    E.kvm_msi_set_irq: ("address", "data"),
    E.kvm_apic_ipi: ("icr_low", "dest_id"),
    E.kvm_msr: ("write", "ecx", "data"),
    E.kvm_pio: ("rw", "port", "size", "count", "val"),
    E.kvm_page_fault: ("vcpu_id", "guest_rip", "fault_address", "error_code"),
    E.kvm_userspace_exit: ("reason",),
    E.kvm_fpu: ("load",),
    E.kvm_vcpu_wakeup: ("ns", "waited", "valid"),
    E.kvm_halt_poll_ns: ("grow", "vcpu_id", "new", "old"),
    E.sched_switch: ("prev_pid", "prev_state", "next_pid"),
    E.sched_waking: ("pid", "target_cpu"),
    E.sched_wakeup: ("pid", "target_cpu"),
    E.sched_migrate_task: ("pid", "orig_cpu", "dest_cpu"),
    E.irq_handler_entry: ("irq", "name"),
    E.irq_handler_exit: ("irq", "ret"),
    E.local_timer_entry: ("vector",),
    E.local_timer_exit: ("vector",),
    E.reschedule_entry: ("vector",),
    E.reschedule_exit: ("vector",),
    E.sys_enter_ioctl: ("__syscall_nr", "fd", "cmd"),
    E.sys_exit_ioctl: ("__syscall_nr", "ret"),
    E.pi_load: ("cpu", *_PID),
    E.pi_load_done: _PID,
    E.pi_put: ("preempted", "blocking", *_PID),
    E.pi_put_done: _PID,
    E.pi_wakeup: (),
}
"""The fields that the machine sets, in the order in which it gives them."""

PROBES = frozenset({E.pi_load, E.pi_load_done, E.pi_put, E.pi_put_done, E.pi_wakeup})
SYSCALLS = frozenset({E.sys_enter_ioctl, E.sys_exit_ioctl})

HEADER_COLUMNS = 4  # ts_ns, cpu, tid, flags


class Recorder:
    """The clock, and the events since the last `take`, each kind in time order.

    `now` is the instant, in ns; every event is at one of its own, so that the order
    of all things is that of their instants. `comms` and `tgids` are by tid, `strings`
    the texts that fields refer to by number.
    """

    def __init__(self, start_ns: int) -> None:
        self.now = start_ns
        self.rows = [array("Q") for _ in E]
        self.comms: dict[int, str] = {0: "<idle>"}
        self.tgids: dict[int, int] = {}
        self.strings: list[str] = []
        self._numbers: dict[str, int] = {}

    def emit(self, event: int, cpu: int, tid: int, flags: int, *fields: int) -> int:
        """Record an event now; its instant."""
        self.now = now = self.now + 1
        self.rows[event].extend((now, cpu, tid, flags, *fields))
        return now

    def stamp(self) -> int:
        """An instant of its own for what leaves no event."""
        self.now += 1
        return self.now

    def string(self, text: str) -> int:
        """The number of a text."""
        if text not in self._numbers:
            self._numbers[text] = len(self.strings)
            self.strings.append(text)
        return self._numbers[text]

    def waiting(self) -> int:
        """How many words of rows there are to take."""
        return sum(map(len, self.rows))

    def take(self) -> list[array[int]]:
        """The rows since the last time, by event: header columns, then fields."""
        rows, self.rows = self.rows, [array("Q") for _ in E]
        return rows
