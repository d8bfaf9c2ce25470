"""A halted vCPU: it polls, it blocks, and somebody ends it.

To be read beside kvm_vcpu_halt and kvm_vcpu_block in virt/kvm/kvm_main.c, and
kvm_vcpu_check_block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from piscope.synth.events import HARDIRQ, IRQS_OFF, E
from piscope.synth.pcpu import (
    LOCAL_TIMER_VECTOR,
    OFF,
    POLL,
    SLEEP,
    TASK_INTERRUPTIBLE,
    Irq,
    Pcpu,
    Work,
)

if TYPE_CHECKING:
    from piscope.synth.vcpus import Guest

__all__ = ("Halts",)

# halt_poll_ns_grow_start and halt_poll_ns_grow
_POLL_START_NS, _POLL_GROW = 10_000, 2
_LEAST_NS, _STEP_NS = 2000, 250


class Halts:
    """The halts of one vCPU.

    blocking       kvm_vcpu_is_blocking(): its rcuwait is active
    irqs_blocked   it halted with IF=0: only a kick ends that
    timer_expired  its own timer ended the halt
    """

    def __init__(self, guest: Guest) -> None:
        self.guest, self.machine = guest, guest.machine
        self.blocking = self.irqs_blocked = False
        self.timer_expired = self._kicked = False
        self._poll_ns = self._number = 0

    def halt(self, irqs_blocked: bool, ns: int) -> Work:
        """vcpu_block(): until something is pending, or `ns` have passed."""
        self.irqs_blocked = irqs_blocked
        self.timer_expired = self._kicked = False
        self._number += 1
        number = self._number
        self.machine.call(
            self.machine.recorder.now + _LEAST_NS + ns, lambda: self._fire(number)
        )
        if not self._runnable():
            yield from self._kvm_vcpu_halt()
        self._number += 1  # the timer is canceled
        self.irqs_blocked = False

    def _runnable(self) -> bool:
        # kvm_vcpu_check_block(); PIR is looked at only with IF=1
        descriptors = self.machine.descriptors
        pending = not self.irqs_blocked and descriptors.sync(self.guest.name)
        return pending or self._kicked or self.timer_expired

    def _kvm_vcpu_halt(self) -> Work:
        guest, recorder = self.guest, self.machine.recorder
        descriptors = self.machine.descriptors
        start_ns, waited = recorder.now, False
        if descriptors.pre_block(guest.name, self.irqs_blocked):
            return
        most_ns = int(self.machine.scenario.host.halt_poll_us * 1000)
        stop_ns = start_ns + min(self._poll_ns, most_ns)
        while recorder.now < stop_ns and not self._runnable():
            if guest.pcpu.queue or guest.pcpu.need_resched:
                break
            yield POLL, stop_ns - recorder.now
        self.blocking = True
        while not self._runnable():
            waited = True
            yield SLEEP, TASK_INTERRUPTIBLE
        self.blocking = False
        descriptors.post_block(guest.name)
        halt_ns = recorder.now - start_ns
        self._adapt(halt_ns, most_ns)
        guest.emit(E.kvm_vcpu_wakeup, 0, halt_ns, waited, 1)

    def _adapt(self, halt_ns: int, most_ns: int) -> None:
        old = self._poll_ns
        if halt_ns <= old or not most_ns:
            return
        if old and halt_ns > most_ns:
            self._poll_ns = 0
        elif old < most_ns and halt_ns < most_ns:
            self._poll_ns = min(max(old * _POLL_GROW, _POLL_START_NS), most_ns)
        else:
            return
        grow, new = int(self._poll_ns > old), self._poll_ns
        self.guest.emit(E.kvm_halt_poll_ns, 0, grow, self.guest.vcpu_id, new, old)

    def _fire(self, number: int) -> None:
        if number == self._number:
            self.guest.pcpu.interrupt(Irq(LOCAL_TIMER_VECTOR, self._timer_irq))

    def _timer_irq(self, pcpu: Pcpu) -> Work:
        yield from self.machine.local_timer(pcpu, self._end)

    def _end(self, pcpu: Pcpu) -> Work:
        if self.irqs_blocked:
            self._kicked = True
        else:
            self.timer_expired = True
        yield OFF, _STEP_NS
        if self.blocking:
            self.machine.wake(self.guest.thread, pcpu, IRQS_OFF | HARDIRQ)
        self.guest.posted()
