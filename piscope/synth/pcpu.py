"""A pCPU: who runs, what interrupts it, and the scheduler's switch.

What a thread does is a generator of stretches, `yield (where, ns)`. It is resumed when
the stretch has passed, or (in guest mode, and in a poll) when something ended it:

    GUEST   in the guest; an interrupt ends it: the generator gets the Irq
    KERNEL  in the host, IRQs on; an interrupt only makes it longer
    POLL    the same, but `poke` ends it
    USER    in userspace
    OFF     IRQs off: interrupts wait until the next stretch
    SLEEP   `ns` is the task state: switched out until somebody wakes it
    YIELD   still runnable, but another may run

Interrupt handlers are generators as well; a pCPU has a stack of them.

Source: kernel/sched/core.c (__schedule); virt/kvm/kvm_main.c for the notifiers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from piscope.synth.events import HARDIRQ, IRQS_OFF, E

if TYPE_CHECKING:
    from piscope.synth.machine import Machine

__all__ = (
    "GUEST",
    "KERNEL",
    "LOCAL_TIMER_VECTOR",
    "OFF",
    "POLL",
    "SLEEP",
    "TASK_INTERRUPTIBLE",
    "TASK_UNINTERRUPTIBLE",
    "USER",
    "YIELD",
    "Irq",
    "Pcpu",
    "Thread",
    "Work",
)

GUEST, KERNEL, POLL, USER, OFF, SLEEP, YIELD, IDLE = range(8)

Work = Generator[tuple[int, int], Any, Any]

# include/linux/sched.h
TASK_INTERRUPTIBLE, TASK_UNINTERRUPTIBLE, TASK_REPORT_MAX = 0x1, 0x2, 0x100

# arch/x86/include/asm/irq_vectors.h
LOCAL_TIMER_VECTOR, RESCHEDULE_VECTOR = 0xEC, 0xFD

_SWITCH_NS, _WAKE_NS, _IDLE_EXIT_NS, _TICK_NS = 700, 300, 1500, 900
_WAKEUP_GRANULARITY_NS = 1_000_000


@dataclass(slots=True, eq=False)
class Irq:
    """An interrupt: its vector, and what its handler does on a pCPU."""

    vector: int
    handler: Callable[[Pcpu], Work]


class Thread:
    """A task; `sched_out` and `sched_in` are called while it is `notified`."""

    __slots__ = (
        "allowed",
        "cpu",
        "notified",
        "pcpu",
        "remaining",
        "sched_in",
        "sched_out",
        "since_ns",
        "state",
        "tid",
        "where",
        "work",
    )

    def __init__(self, tid: int, allowed: tuple[int, ...], work: Work) -> None:
        self.tid, self.allowed, self.work = tid, allowed, work
        self.cpu = allowed[0]
        self.state = 0  # runnable; otherwise the task state that it sleeps in
        self.where, self.remaining = KERNEL, 0
        self.since_ns = 0
        self.notified = False
        self.sched_out: Callable[[bool], None] = _nothing
        self.sched_in: Callable[[], Work] = _no_work
        self.pcpu: Pcpu | None = None


def _nothing(_: bool) -> None: ...


def _no_work() -> Work:
    yield from ()


@dataclass(slots=True)
class _Frame:
    """A generator on a pCPU's stack, and what is left of its stretch."""

    work: Work
    where: int = KERNEL
    remaining: int = 0
    is_irq: bool = False


class Pcpu:
    """One physical CPU."""

    __slots__ = (
        "ends",
        "frames",
        "full",
        "machine",
        "need_resched",
        "next_tick",
        "number",
        "pending",
        "queue",
        "recorder",
        "running",
        "stepping",
        "token",
        "where",
    )

    def __init__(self, machine: Machine, number: int) -> None:
        self.machine, self.number = machine, number
        self.recorder = machine.recorder
        self.running: Thread | None = None  # None: the idle task
        self.queue: deque[Thread] = deque()
        self.frames: list[_Frame] = [_Frame(_no_work(), IDLE)]
        self.where, self.ends, self.token = IDLE, 0, 0
        self.pending: deque[Irq] = deque()
        self.need_resched = self.stepping = False
        self.next_tick = 0
        self.full = machine.scenario.host.preemption == "full"

    @property
    def tid(self) -> int:
        """Of the task that runs."""
        return self.running.tid if self.running is not None else 0

    # Time passes ---------------------------------------------------------------

    def arm(self, ns: int) -> None:
        """The stretch that runs ends so much later."""
        self.token += 1
        self.ends = self.recorder.now + ns
        self.machine.push(self.ends, self, self.token)

    def step(self, value: Irq | None = None) -> None:
        """Resume the generator on top, until it has a stretch that lasts."""
        self.stepping = True
        self._advance(value)
        self.stepping = False

    def _advance(self, value: Irq | None) -> None:
        while True:
            frame = self.frames[-1]
            try:
                where, ns = frame.work.send(value)
            except StopIteration:
                # a switch has put another task's frame in place of its own
                if self.frames[-1] is not frame or not self._pop():
                    return
                value = None
                continue
            value = None
            if where >= SLEEP:
                self._give_up(where, ns)
                return
            frame.where, frame.remaining = where, 0
            if where != self.where:
                self.enter(where)
            if self.pending and where != OFF:
                if where == GUEST:
                    value, self.where = self.pending.popleft(), OFF
                    continue
                frame.remaining = ns
                self._take_pending()
                return
            if ns > 0:
                self.arm(ns)
                return

    def enter(self, where: int) -> None:
        """A stretch of another kind begins; the IRQ flag with it."""
        was, self.where = self.where, where
        if where == OFF:
            if was != OFF:
                self.machine.descriptors.irq_off(self.number)
        elif was in (OFF, GUEST) and where != GUEST:
            # (IRQs are off behind a VM-exit, too)
            self.machine.follow(self.machine.descriptors.irq_on(self.number))

    def _pop(self) -> bool:
        """The generator on top is done; whether the one below is to be resumed."""
        done = self.frames.pop()
        if not self.frames:
            raise AssertionError("a thread's work never ends")
        below = self.frames[-1]
        self.enter(below.where)
        if self.pending:
            self._take_pending()
            return False
        if done.is_irq and self.need_resched and self._preemptible(below.where):
            kernel = below.where in (KERNEL, POLL)
            self.schedule(TASK_REPORT_MAX if kernel else 0)
            return False
        if below.where == IDLE:
            if self.queue:
                self.schedule(0)
            return False
        if below.remaining > 0:
            ns, below.remaining = below.remaining, 0
            self.arm(ns)
            return False
        return True

    def _preemptible(self, where: int) -> bool:
        if len(self.frames) > 1:
            return False
        return where in (USER, IDLE) or (self.full and where in (KERNEL, POLL))

    # Interrupts ----------------------------------------------------------------

    def interrupt(self, irq: Irq) -> None:
        """An interrupt arrives now."""
        if self.stepping or self.where == OFF:
            self.pending.append(irq)
        elif self.where == GUEST:
            self.token += 1
            self.where = OFF  # until the exit path says otherwise
            self.step(irq)
        else:
            top = self.frames[-1]
            top.remaining = max(self.ends - self.machine.recorder.now, 0)
            if self.where == IDLE:
                top.remaining = 0
            self._handle(irq)

    def _take_pending(self) -> None:
        self._handle(self.pending.popleft())

    def _handle(self, irq: Irq) -> None:
        self.token += 1
        self.enter(OFF)
        self.frames.append(_Frame(irq.handler(self), OFF, is_irq=True))
        self.step()

    def poke(self) -> None:
        """A poll has something to see."""
        top = self.frames[-1]
        if self.where == POLL:
            self.arm(40)
        elif self.frames[0].where == POLL and top.is_irq:
            self.frames[0].remaining = min(self.frames[0].remaining, 40)

    # Scheduling ----------------------------------------------------------------

    def _give_up(self, where: int, state: int) -> None:
        thread = self.running
        assert thread is not None
        self.frames[0].where, self.frames[0].remaining = KERNEL, 0
        if where == SLEEP:
            thread.state = state
        self.schedule(0)

    def schedule(self, preempted: int) -> None:
        """Another task runs; `preempted` is what sched_switch adds to the state."""
        thread, frame = self.running, self.frames[0]
        if thread is not None:
            thread.where, thread.remaining = frame.where, frame.remaining
        self.enter(OFF)
        self.token += 1
        self.frames = [_Frame(self._switch(preempted), OFF)]
        self.step()

    def _switch(self, preempted: int) -> Work:
        machine, recorder = self.machine, self.machine.recorder
        yield OFF, _SWITCH_NS
        previous = self.running
        self.need_resched = False
        runnable = previous is not None and not previous.state
        if previous is not None and runnable:
            self.queue.append(previous)
        following = self.queue.popleft() if self.queue else None
        if following is not previous:
            state = 0 if previous is None else previous.state
            recorder.emit(
                E.sched_switch,
                self.number,
                self.tid,
                IRQS_OFF,
                self.tid,
                state | (preempted if runnable else 0),
                0 if following is None else following.tid,
            )
            if previous is not None:
                previous.pcpu = None
                if previous.notified:
                    if machine.gaps.put_ns:
                        yield OFF, machine.gaps.put_ns
                    previous.sched_out(runnable)
            self.running = following
        if following is None:
            self.frames = [_Frame(_no_work(), IDLE)]
            self._resume(IDLE, 0)
            return
        following.cpu, following.pcpu = self.number, self
        following.since_ns = recorder.now
        self._tick_later()
        if following is not previous and following.notified:
            # finish_task_switch(): IRQs on, then the notifier
            yield KERNEL, 0
            yield from following.sched_in()
        self.frames = [_Frame(following.work, following.where, following.remaining)]
        self._resume(following.where, following.remaining)

    def _resume(self, where: int, remaining: int) -> None:
        # From within the switch's own generator: what follows is another event.
        self.enter(OFF if where == OFF else KERNEL)
        self.where = where
        self.token += 1
        self.frames[0].remaining = remaining
        self.machine.push(self.machine.recorder.now, self, -self.token)

    def resumed(self) -> None:
        """The task that was switched to goes on where it was."""
        if self.pending and self.where != OFF:
            self._take_pending()
        elif self.where == IDLE:
            if self.queue:
                self.schedule(0)
        else:
            ns, self.frames[0].remaining = self.frames[0].remaining, 0
            if ns > 0:
                self.arm(ns)
            else:
                self.step()

    def enqueue(self, thread: Thread, waker: Pcpu | None = None) -> None:
        """A task that was woken may run here."""
        self.queue.append(thread)
        now = self.machine.recorder.now
        if self.running is None:
            self.machine.call(now + _IDLE_EXIT_NS, self._leave_idle)
        elif now - self.running.since_ns > _WAKEUP_GRANULARITY_NS:
            self.need_resched = True
            if waker is not self:
                self.machine.call(now + _WAKE_NS, self._reschedule)

    def _leave_idle(self) -> None:
        if self.running is None and self.where == IDLE and self.queue:
            self.schedule(0)

    def _reschedule(self) -> None:
        if self.need_resched and self.running is not None:
            self.interrupt(Irq(RESCHEDULE_VECTOR, _reschedule))

    # The tick ------------------------------------------------------------------

    def _tick_later(self) -> None:
        now, period = self.machine.recorder.now, self.machine.tick_ns
        if self.next_tick <= now:
            phase = period * self.number // len(self.machine.pcpus)
            self.next_tick = now + period - (now - phase) % period
            self.machine.call(self.next_tick, self._tick)

    def _tick(self) -> None:
        if self.running is None:
            return
        self.next_tick = 0
        self._tick_later()
        self.interrupt(Irq(LOCAL_TIMER_VECTOR, self.machine.timer_irq))


def _reschedule(pcpu: Pcpu) -> Work:
    emit, at = pcpu.machine.recorder.emit, (pcpu.number, pcpu.tid, IRQS_OFF | HARDIRQ)
    emit(E.reschedule_entry, *at, RESCHEDULE_VECTOR)
    yield OFF, 200
    emit(E.reschedule_exit, *at, RESCHEDULE_VECTOR)
