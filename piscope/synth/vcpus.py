"""A vCPU thread: KVM_RUN, the guest, exits and halts, and what each does to it.

To be read beside vcpu_enter_guest, vcpu_run and kvm_arch_vcpu_ioctl_run in
arch/x86/kvm/x86.c, and kvm_vcpu_halt in virt/kvm/kvm_main.c: events in their order.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Callable
from itertools import accumulate
from math import log
from typing import TYPE_CHECKING, TypeVar

from piscope.events.vmx_exits import VmxExit
from piscope.model.descriptor import Put
from piscope.model.policy import (
    SchedOut,
    kvm_sched_out_preempted,
    preempted_rule_of_release,
)
from piscope.synth.events import IRQS_OFF, E
from piscope.synth.halts import Halts
from piscope.synth.machine import Machine
from piscope.synth.pcpu import (
    GUEST,
    KERNEL,
    OFF,
    SLEEP,
    TASK_INTERRUPTIBLE,
    TASK_UNINTERRUPTIBLE,
    USER,
    YIELD,
    Irq,
    Pcpu,
    Thread,
    Work,
)
from piscope.synth.scenario import Exit, Vm
from piscope.tables import PutReason

if TYPE_CHECKING:
    from piscope.synth.posters import Posters

__all__ = ("Guest",)

T = TypeVar("T")

_KVM_EXIT_IO, _KVM_EXIT_MMIO = 2, 6  # include/uapi/linux/kvm.h
_KVM_RUN, _KVM_GET_REGS, _NR_IOCTL = 0xAE80, 0x8090AE81, 16
_ICR, _TSC_DEADLINE, _RIP = 0x830, 0x6E0, 0xFFFFFFFF81000000
_INTR_INFO_VALID, _ISA_VMX = 1 << 31, 1

# Exits whose handler emits an event of its own.
_TOLD = (VmxExit.IO_INSTRUCTION, VmxExit.MSR_WRITE, VmxExit.EPT_VIOLATION)

# What KVM itself takes between two events, about.
_STEP_NS = 250


class Guest:
    """One vCPU and its thread.

    on_put, on_load  are told of each put (why) and each load
    """

    def __init__(
        self,
        machine: Machine,
        posters: Posters,
        name: str,
        vm: Vm,
        vcpu_id: int,
        thread: tuple[int, tuple[int, ...]],
    ) -> None:
        self.machine, self.posters, self.name = machine, posters, name
        self.recorder = machine.recorder
        self.vm, self.vcpu_id = vm, vcpu_id
        capture = machine.scenario.capture
        self.random = random.Random(f"{capture.seed}/{name}")
        self.others: list[Guest] = []
        self.thread = Thread(*thread, self._life())
        self.thread.sched_out, self.thread.sched_in = self._sched_out, self._sched_in
        self.probes = capture.probes
        self.syscalls = capture.syscalls
        self.rule = preempted_rule_of_release(capture.release)
        self.rip = _RIP + 0x1000 * vcpu_id
        self.halts = Halts(self)
        self.in_run = False
        self.on_put: Callable[[Guest, PutReason], None] = lambda *_: None
        self.on_load: Callable[[Guest], None] = lambda _: None
        self._plan()

    def _plan(self) -> None:
        kinds: list[tuple[float, Callable[[], Work]]] = []
        for one in self.vm.exit:
            kinds.append((one.every_us, self._exit_of(one)))
        for ipi in self.vm.ipi:
            send = self._send_ipiv if ipi.via == "ipiv" else self._send_ipi
            kinds.append((ipi.every_us, _bound(send, ipi.vectors)))
        if self.vm.halt.every_us:
            kinds.append((self.vm.halt.every_us, self._halt))
        self.kinds = [what for _, what in kinds]
        self.until = list(accumulate(1 / every_us for every_us, _ in kinds))
        self.every_ns = 1000 / self.until[-1] if kinds else 0.0

    def _exit_of(self, one: Exit) -> Callable[[], Work]:
        handle = self._handle_in_kvm
        if one.fastpath:
            handle = self._fastpath
        elif one.userspace_us:
            handle = self._handle_in_userspace
        return _bound(handle, one)

    # The thread ----------------------------------------------------------------

    @property
    def pcpu(self) -> Pcpu:
        """Where the thread is, or was last."""
        return self.machine.pcpus[self.thread.cpu]

    def emit(self, event: int, flags: int, *fields: int) -> int:
        """An event of this thread."""
        recorder, thread = self.recorder, self.thread
        recorder.now = now = recorder.now + 1
        recorder.rows[event].extend((now, thread.cpu, thread.tid, flags, *fields))
        return now

    def posted(self) -> None:
        """Something was posted: a poll may end."""
        if self.thread.pcpu is not None:
            self.thread.pcpu.poke()

    def _around(self, us: float) -> int:
        return 1 - int(log(1 - self.random.random()) * us * 1000)

    def _life(self) -> Work:
        yield USER, 1000 + self.random.randrange(20_000)
        yield from self._kvm_run()
        while True:
            yield from self._enter()
            inside = True
            while inside:
                ns = 1 << 50
                if self.kinds:
                    ns = 1 - int(log(1 - self.random.random()) * self.every_ns)
                irq = yield GUEST, ns
                if irq is not None:
                    inside = yield from self._interrupted(irq)
                elif self.kinds:
                    at = bisect(self.until, self.random.random() * self.until[-1])
                    inside = yield from self.kinds[min(at, len(self.kinds) - 1)]()

    # Entries and exits; each exit tells whether the guest runs again -------------

    def _enter(self) -> Work:
        descriptors, entry_ns = self.machine.descriptors, self.machine.gaps.entry_ns
        while True:
            if self.pcpu.need_resched:  # xfer_to_guest_mode_handle_work()
                yield YIELD, 0
            cpu = self.thread.cpu
            self.machine.pcpus[cpu].enter(OFF)
            descriptors.enter_guest_mode(self.name, cpu)
            if entry_ns:
                yield OFF, entry_ns
            if not self.pcpu.need_resched:
                break
            descriptors.leave_guest_mode(self.name, cpu)  # kvm_vcpu_exit_request()
            yield KERNEL, _STEP_NS
        self._vm_entry(cpu)

    def _vm_entry(self, cpu: int) -> None:
        self.emit(E.kvm_entry, IRQS_OFF, self.vcpu_id, self.rip)
        self.machine.follow(self.machine.descriptors.vm_entry(self.name, cpu))

    def _vm_exit(self, reason: int, intr_info: int = 0) -> None:
        fields = reason, self.rip, intr_info, self.vcpu_id, _ISA_VMX
        self.emit(E.kvm_exit, IRQS_OFF, *fields)
        self.machine.descriptors.vm_exit(self.name, self.thread.cpu)

    def _leave(self, ns: int) -> Work:
        self.machine.descriptors.leave_guest_mode(self.name, self.thread.cpu)
        if self.machine.gaps.exit_ns:
            yield OFF, self.machine.gaps.exit_ns
        yield KERNEL, ns

    def _interrupted(self, irq: Irq) -> Work:
        self._vm_exit(VmxExit.EXTERNAL_INTERRUPT, _INTR_INFO_VALID | irq.vector)
        self.machine.descriptors.leave_guest_mode(self.name, self.thread.cpu)
        yield from irq.handler(self.pcpu)  # handle_exit_irqoff()
        yield OFF, self.machine.gaps.exit_ns
        yield KERNEL, _STEP_NS
        return False

    def _fastpath(self, one: Exit) -> Work:
        self._vm_exit(VmxExit[one.reason])
        if one.reason == "MSR_WRITE":
            yield OFF, _STEP_NS
            self.emit(E.kvm_msr, IRQS_OFF, 1, _TSC_DEADLINE, self.machine.recorder.now)
        yield OFF, self._around(one.handler_us)
        if self.pcpu.need_resched:
            yield from self._leave(_STEP_NS)
            return False
        self.machine.descriptors.enter_guest_mode(self.name, self.thread.cpu)
        self._vm_entry(self.thread.cpu)
        return True

    def _handle_in_kvm(self, one: Exit) -> Work:
        reason = VmxExit[one.reason]
        self._vm_exit(reason)
        if reason in _TOLD or one.asleep_us:
            yield from self._leave(_STEP_NS)
            self._tell(reason)
            if one.asleep_us:
                yield from self._sleep(one.asleep_us, TASK_UNINTERRUPTIBLE)
            yield KERNEL, self._around(one.handler_us)
        else:
            yield from self._leave(_STEP_NS + self._around(one.handler_us))
        return False

    def _tell(self, reason: VmxExit) -> None:
        if reason == VmxExit.IO_INSTRUCTION:
            self.emit(E.kvm_pio, 0, 1, 0x510, 4, 1, 0)
        elif reason == VmxExit.MSR_WRITE:
            self.emit(E.kvm_msr, 0, 1, _TSC_DEADLINE, self.machine.recorder.now)
        elif reason == VmxExit.EPT_VIOLATION:
            self.emit(E.kvm_page_fault, 0, self.vcpu_id, self.rip, 0x1234000, 0x181)

    def _sleep(self, us: float, state: int) -> Work:
        """Until a timer's interrupt wakes the thread, wherever it comes."""
        self.machine.wake_after(self.thread, 2000 + self._around(us))
        yield SLEEP, state

    # Userspace -----------------------------------------------------------------

    def _handle_in_userspace(self, one: Exit) -> Work:
        reason = VmxExit[one.reason]
        self._vm_exit(reason)
        yield from self._leave(_STEP_NS)
        self._tell(reason)
        yield KERNEL, self._around(one.handler_us)
        self.emit(E.kvm_fpu, 0, 0)
        yield KERNEL, _STEP_NS
        self.in_run = False
        self._put(Put(), PutReason.USERSPACE)
        io = reason == VmxExit.IO_INSTRUCTION
        self.emit(E.kvm_userspace_exit, 0, _KVM_EXIT_IO if io else _KVM_EXIT_MMIO)
        self._syscall(E.sys_exit_ioctl, 0)
        if self.random.random() < one.ioctls:
            yield USER, self._around(one.userspace_us / 2)
            yield from self._other_ioctl()
        if self.random.random() < one.blocks:
            yield USER, _STEP_NS
            yield from self._sleep(one.userspace_us, TASK_INTERRUPTIBLE)
        else:
            yield USER, self._around(one.userspace_us)
        yield from self._kvm_run()
        return False

    def _kvm_run(self) -> Work:
        self._syscall(E.sys_enter_ioctl, _KVM_RUN)
        yield KERNEL, _STEP_NS
        self.in_run = True
        yield from self._load()
        self.emit(E.kvm_fpu, 0, 1)
        yield KERNEL, _STEP_NS

    def _other_ioctl(self) -> Work:
        self._syscall(E.sys_enter_ioctl, _KVM_GET_REGS)
        yield KERNEL, _STEP_NS
        yield from self._load()
        yield KERNEL, 2 * _STEP_NS
        self._put(Put(), PutReason.IOCTL)
        self._syscall(E.sys_exit_ioctl, 0)

    def _syscall(self, event: E, value: int) -> None:
        if self.syscalls:
            enter = event == E.sys_enter_ioctl
            self.emit(event, 0, _NR_IOCTL, *((17, value) if enter else (value,)))

    # Load and put --------------------------------------------------------------

    def _sched_in(self) -> Work:
        if self.machine.gaps.load_ns:
            yield KERNEL, self.machine.gaps.load_ns
        yield from self._load()

    def _sched_out(self, runnable: bool) -> None:
        preempted = kvm_sched_out_preempted(
            SchedOut(runnable, runnable, wants_to_run=self.in_run), self.rule
        )
        blocking = self.halts.blocking
        why = Put(preempted, blocking, blocking and self.halts.irqs_blocked)
        if why.blocking:
            reason = PutReason.BLOCKING
            if preempted:
                reason = PutReason.BLOCKING_PREEMPTED
            elif why.irqs_blocked:
                reason = PutReason.BLOCKING_IRQS_BLOCKED
        elif preempted:
            reason = PutReason.PREEMPTED
        else:
            reason = PutReason.RUNNABLE if runnable else PutReason.ASLEEP
        self._put(why, reason)
        # the notifier stays: it is called again when the thread comes back
        self.thread.notified = True

    def _load(self) -> Work:
        cpu, descriptors = self.thread.cpu, self.machine.descriptors
        if self.probes != "none":
            self.emit(E.pi_load, 0, cpu, *self._read())
        descriptors.load_clear_sn(self.name, cpu)
        if self.machine.gaps.scan_ns:
            yield KERNEL, self.machine.gaps.scan_ns
        descriptors.load_scan(self.name)
        if self.probes != "none":
            self.emit(E.pi_load_done, 0, *self._read())
        self.thread.notified = True
        self.on_load(self)

    def _put(self, why: Put, reason: PutReason) -> None:
        if self.probes != "none":
            wait = 0xFFFF888000000000 + 0x1000 * self.thread.tid
            flags = int(why.preempted), wait if why.blocking else 0
            self.emit(E.pi_put, 0, *flags, *self._read())
        self.on_put(self, reason)
        descriptors = self.machine.descriptors
        self.machine.recorder.stamp()
        consequences = descriptors.put(self.name, self.thread.cpu, why)
        if self.probes != "none":
            self.emit(E.pi_put_done, 0, *self._read())
        self.thread.notified = False
        self.machine.follow(consequences)

    def _read(self) -> tuple[int, ...]:
        """vcpu_id, vcpu->cpu, and struct pi_desc, as a probe reads them."""
        vcpu = self.machine.descriptors.state(self.name)
        pi, word = vcpu.pi, (1 << 64) - 1
        control = pi.on | pi.sn << 1 | pi.nv << 16 | pi.ndst << 32
        pir = (pi.pir >> shift & word for shift in (0, 64, 128, 192))
        cpu = 0xFFFFFFFF if vcpu.cpu is None else vcpu.cpu
        return self.vcpu_id, cpu, control, *pir

    def _halt(self) -> Work:
        halt = self.vm.halt
        self._vm_exit(VmxExit.HLT)
        yield from self._leave(_STEP_NS)
        irqs_blocked = self.random.random() < halt.irqs_off
        yield from self.halts.halt(irqs_blocked, self._around(halt.timer_us))
        if self.halts.timer_expired:
            post = self.posters.kvm_post(self, halt.vector, "timer")
            yield from self.posters.deliver(post, self.thread.tid, poster=self)
        yield KERNEL, _STEP_NS
        return False

    # IPIs ----------------------------------------------------------------------

    def _send_ipiv(self, vectors: tuple[int, ...]) -> Work:
        target = self.random.choice(self.others)
        self.posters.post_hw(target, self.random.choice(vectors), "ipiv", self.name)
        return True
        yield  # a generator, though it takes no time

    def _send_ipi(self, vectors: tuple[int, ...]) -> Work:
        target, vector = self.random.choice(self.others), self.random.choice(vectors)
        self._vm_exit(VmxExit.MSR_WRITE)
        yield from self._leave(_STEP_NS)
        self.emit(E.kvm_apic_ipi, 0, 0x4000 | vector, target.vcpu_id)
        yield KERNEL, _STEP_NS
        post = self.posters.kvm_post(target, vector, "ipi")
        yield from self.posters.deliver(post, self.thread.tid, poster=self)
        self.emit(E.kvm_msr, 0, 1, _ICR, target.vcpu_id << 32 | 0x4000 | vector)
        yield KERNEL, _STEP_NS
        return False


def _bound(function: Callable[..., T], *arguments: object) -> Callable[[], T]:
    return lambda: function(*arguments)
