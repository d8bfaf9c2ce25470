"""The host: pCPUs, tasks and interrupts, and what is to happen when.

Time is that of the recorder, and whatever happens has an instant of its own.
Source: kernel/sched/core.c (try_to_wake_up).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from piscope.synth.descriptors import Descriptors
from piscope.synth.events import HARDIRQ, IRQS_OFF, E, Recorder
from piscope.synth.pcpu import LOCAL_TIMER_VECTOR, OFF, Irq, Pcpu, Thread, Work
from piscope.synth.replica import Consequence
from piscope.synth.scenario import Scenario

if TYPE_CHECKING:
    from piscope.synth.vcpus import Guest

__all__ = ("Machine",)

_WAKE_NS, _TICK_NS = 300, 900


class Machine:
    """The host: pCPUs, what is to happen when, and the descriptors of its vCPUs."""

    def __init__(
        self, scenario: Scenario, recorder: Recorder, descriptors: Descriptors
    ) -> None:
        self.scenario, self.recorder, self.descriptors = scenario, recorder, descriptors
        self.gaps = scenario.gaps
        self.tick_ns = 1_000_000_000 // scenario.host.tick_hz
        self.timeslice_ns = int(scenario.host.timeslice_us * 1000)
        self.pcpus = [Pcpu(self, number) for number in range(scenario.host.pcpus)]
        self.all_pcpus = tuple(range(len(self.pcpus)))
        self.guests: dict[str, Guest] = {}
        self._heap: list[tuple[int, int, Any, int]] = []
        self._sequence = 0

    def push(self, at_ns: int, what: Any, token: int) -> None:
        """A pCPU's stretch ends then, if it has that token still."""
        self._sequence += 1
        heapq.heappush(self._heap, (at_ns, self._sequence, what, token))

    def call(self, at_ns: int, what: Callable[[], None]) -> None:
        """Something happens then."""
        self.push(at_ns, what, 0)

    def run(self, until_ns: int, most: int) -> bool:
        """Let happen at most so many things, up to an instant; whether more is to."""
        heap, recorder = self._heap, self.recorder
        for _ in range(most):
            if not heap:
                return False
            at_ns, _, what, token = heap[0]
            if at_ns >= until_ns:
                return False
            heapq.heappop(heap)
            recorder.now = max(recorder.now, at_ns)
            if token == 0:
                what()
            elif token == what.token:
                what.step()
            elif token == -what.token:
                what.resumed()
        return True

    def start(self, thread: Thread, comm: str) -> None:
        """A task that is runnable from the beginning."""
        self.recorder.comms[thread.tid] = comm[:15]
        self._pcpu_for(thread).enqueue(thread)

    def wake_after(self, thread: Thread, ns: int) -> None:
        """A timer's interrupt on the task's pCPU wakes it then."""

        def body(pcpu: Pcpu) -> Work:
            yield OFF, _WAKE_NS
            self.wake(thread, pcpu, IRQS_OFF | HARDIRQ)

        irq = Irq(LOCAL_TIMER_VECTOR, lambda pcpu: self.local_timer(pcpu, body))
        self.call(self.recorder.now + ns, lambda: self.pcpus[thread.cpu].interrupt(irq))

    def timer_irq(self, pcpu: Pcpu) -> Work:
        """The local timer's interrupt, as the scheduler's tick."""
        yield from self.local_timer(pcpu, _nothing_here)
        running = pcpu.running
        if running is not None and pcpu.queue:
            ran_ns = self.recorder.now - running.since_ns
            pcpu.need_resched |= ran_ns >= self.timeslice_ns

    def local_timer(self, pcpu: Pcpu, body: Callable[[Pcpu], Work]) -> Work:
        """The local timer's interrupt, with what it does."""
        emit, at = self.recorder.emit, (pcpu.number, pcpu.tid, IRQS_OFF | HARDIRQ)
        emit(E.local_timer_entry, *at, LOCAL_TIMER_VECTOR)
        yield OFF, _TICK_NS
        yield from body(pcpu)
        emit(E.local_timer_exit, *at, LOCAL_TIMER_VECTOR)

    def wake(self, thread: Thread, waker: Pcpu, flags: int) -> None:
        """try_to_wake_up(), called on that pCPU."""
        if not thread.state:
            return
        emit, at = self.recorder.emit, (waker.number, waker.tid, flags | IRQS_OFF)
        emit(E.sched_waking, *at, thread.tid, thread.cpu)
        thread.state = 0
        if thread.pcpu is not None:  # it has not been switched out yet
            emit(E.sched_wakeup, *at, thread.tid, thread.cpu)
            return
        target = self._pcpu_for(thread)
        if target.number != thread.cpu:
            emit(E.sched_migrate_task, *at, thread.tid, thread.cpu, target.number)
        emit(E.sched_wakeup, *at, thread.tid, target.number)
        target.enqueue(thread, waker)

    def _pcpu_for(self, thread: Thread) -> Pcpu:
        best = self.pcpus[thread.cpu]
        if best.running is None and not best.queue:
            return best
        for number in thread.allowed:
            pcpu = self.pcpus[number]
            if pcpu.running is None and not pcpu.queue:
                return pcpu
            if len(pcpu.queue) < len(best.queue):
                best = pcpu
        return best

    def follow(self, consequences: list[Consequence]) -> None:
        """What an operation on the descriptors led to, on pCPUs and tasks."""
        for one in consequences:
            if one.kind == "posted":
                self.guests[one.vcpu].posted()
            elif one.kind == "irq":
                irq = Irq(one.vector, self._wakeup_irq(one.woken))
                self.pcpus[one.cpu].interrupt(irq)

    def _wakeup_irq(self, woken: tuple[str, ...]) -> Callable[[Pcpu], Work]:
        def handler(pcpu: Pcpu) -> Work:
            yield OFF, 150
            flags = IRQS_OFF | HARDIRQ
            self.recorder.emit(E.pi_wakeup, pcpu.number, pcpu.tid, flags)
            for name in woken:
                yield OFF, 100
                if self.guests[name].halts.blocking:
                    self.wake(self.guests[name].thread, pcpu, flags)

        return handler


def _nothing_here(_: Pcpu) -> Work:
    yield from ()
