"""Legal lives of vCPUs, with the truth beside them; and a trace that lost part of it.

    host = Host(Random(1), vcpus=2, cpus=3)
    host.live(100)              a hundred events, and where each vCPU was after each
    host.lose([(1, 20, 40)])    the same, but pCPU 1 lost its events among rows 20..39

Written from what a scheduler and KVM do, not from the timeline's own rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from timeline.scene import (
    DISK,
    HARDIRQ,
    HLT,
    IO,
    IRQS_OFF,
    PREEMPTED,
    RUNNABLE,
    SLEEPS,
    Scene,
    Vcpu,
)

from piscope.sources.raw import Loss


@dataclass(frozen=True)
class Truth:
    """Where one vCPU is between two events.

    kind    as Kind's labels, `host` whether IRQs are on or off
    cpu     -1: on none
    reason  the last VM-exit's, -1: none in KVM so far
    """

    kind: str
    cpu: int
    reason: int
    irqs_off: bool


@dataclass(frozen=True)
class TruePut:
    """One put and the load that followed it (None: the scene ended before)."""

    vcpu: int
    reason: str
    put_ns: int
    cpu: int
    load_ns: int | None = None
    load_cpu: int = -1


class _Thread:
    """A vCPU thread: its state, and what it may do next."""

    def __init__(self, host: Host, vcpu: Vcpu) -> None:
        self.host, self.vcpu = host, vcpu
        self.kind = "userspace"
        self.running = False  # on a pCPU
        self.woken = True  # may be switched in
        self.halted = False  # inside kvm_vcpu_halt
        self.straight_back = False  # a HLT that finds an interrupt pending
        self.leaving = False  # between kvm_fpu load=0 and kvm_userspace_exit
        self.irqs_off = False
        self.reason = -1

    @property
    def truth(self) -> Truth:
        cpu = self.vcpu.cpu if self.running else -1
        return Truth(self.kind, cpu, self.reason, self.irqs_off)

    def choices(self) -> list[str]:
        if not self.running:
            return ["come_in"] if self.woken else ["wake"]
        if self.leaving:
            return ["left"]
        if self.straight_back:
            return ["enter"]
        return {
            "userspace": ["run", "run", "switch_out"],
            "guest": ["exit", "exit", "halt"],
            "host": ["enter", "enter", "enter", "leave", "switch_out", "work"],
            "poll": ["end_halt", "block", "block", "switch_out"],
        }[self.kind]

    def step(self) -> None:
        getattr(self, "_" + self.host.random.choice(self.choices()))()

    def _run(self) -> None:
        if self.host.probes:
            self._load()
            self.vcpu.run()
        else:
            self.vcpu.run()
            self._load()
        self.kind = "host"

    def _enter(self) -> None:
        self.vcpu.enter()
        self.kind, self.irqs_off, self.straight_back = "guest", False, False

    def _exit(self) -> None:
        self.reason = self.host.random.choice((IO, 1))
        self.vcpu.exit(self.reason)
        self.kind, self.irqs_off = "host", True

    def _halt(self) -> None:
        self.reason = HLT
        self.vcpu.exit(HLT)
        self.straight_back = self.host.random.random() < 0.3
        self.halted = not self.straight_back
        self.kind, self.irqs_off = "poll" if self.halted else "host", True

    def _end_halt(self) -> None:
        self.vcpu.wakeup()
        self.kind, self.halted, self.irqs_off = "host", False, False

    def _work(self) -> None:
        """An event of the exit's handler; without the flag it shows that IRQs are on.

        Behind that a lock may turn them off again for a moment.
        """
        flags = self.host.random.choice((0, IRQS_OFF))
        self.irqs_off &= flags != 0
        if flags or self.host.random.random() < 0.5:
            self.vcpu.event("kvm:kvm_msr", flags, write=1, ecx=0, data=0)
        else:
            self.vcpu.event("kvm:kvm_pio", rw=1, port=0, size=1, count=1, val=0)

    def _leave(self) -> None:
        self.vcpu.unload()
        self._put("userspace")
        self.kind, self.leaving = "userspace", True

    def _left(self) -> None:
        self.vcpu.event("kvm:kvm_userspace_exit", reason=2, errno=0)
        self.leaving = False

    def _block(self) -> None:
        self._out(SLEEPS, "blocked", "blocking")

    def _switch_out(self) -> None:
        state = self.host.random.choice((RUNNABLE, PREEMPTED, SLEEPS, DISK))
        if self.kind == "userspace":
            self._out(state, "userspace", None)
        elif state in (RUNNABLE, PREEMPTED):
            self._out(state, "preempted", "preempted")
        elif self.kind == "poll":
            self._out(SLEEPS, "blocked", "blocking")
        else:
            self._out(state, "asleep", "asleep")

    def _out(self, state: int, kind: str, reason: str | None) -> None:
        nxt = self.host.random.choice([None, *self.host.ready()])
        self.vcpu.out(state, to=0 if nxt is None else nxt.vcpu.tid)
        if reason is not None:
            self._put(reason)
        self.kind, self.running, self.irqs_off = kind, False, False
        self.woken = state in (RUNNABLE, PREEMPTED)
        if nxt is not None:
            nxt.vcpu.cpu = self.vcpu.cpu
            nxt.arrive()

    def _wake(self) -> None:
        self.vcpu.woken(self.host.random.randrange(self.host.cpus))
        self.woken = True

    def _come_in(self) -> None:
        free = self.host.free()
        if free:
            self.vcpu.into(self.host.random.choice(free))
            self.arrive()
        else:
            self.host.scene.tick(self.host.random.randrange(self.host.cpus))

    def arrive(self) -> None:
        self.running = True
        if self.kind != "userspace":
            self._load()
            self.kind = "poll" if self.halted else "host"

    def _put(self, reason: str) -> None:
        host = self.host
        put_ns = host.scene.now_ns
        if host.probes:
            put_ns += 1000
            flags = (int(reason == "preempted"), int(reason == "blocking"))
            self.vcpu.pi_put(preempted=flags[0], blocking=flags[1])
        self._open = len(host.puts)
        host.puts.append(TruePut(self.vcpu.vcpu_id, reason, put_ns, self.vcpu.cpu))

    _open: int | None = None

    def _load(self) -> None:
        if self.host.probes:
            self.vcpu.pi_load()
        if self._open is not None:
            p = self.host.puts[self._open]
            self.host.puts[self._open] = TruePut(
                p.vcpu, p.reason, p.put_ns, p.cpu, self.host.scene.now_ns, self.vcpu.cpu
            )
            self._open = None


class Host:
    """Some vCPU threads on some pCPUs; at most one thread on each."""

    def __init__(
        self, random: Random, vcpus: int, cpus: int, probes: bool = False
    ) -> None:
        self.random, self.cpus, self.probes = random, cpus, probes
        self.scene = Scene(cpus=tuple(range(cpus)))
        self.threads = [_Thread(self, self.scene.vcpu(i, 0)) for i in range(vcpus)]
        self.not_recorded: tuple[str, ...] = ()
        self.puts: list[TruePut] = []
        self.after: list[list[Truth]] = []
        """Behind each event: where every vCPU is."""
        for thread, cpu in zip(self.threads, self.free(), strict=False):
            thread.vcpu.cpu = cpu
            thread.running = True

    def free(self) -> list[int]:
        taken = {t.vcpu.cpu for t in self.threads if t.running}
        return [cpu for cpu in range(self.cpus) if cpu not in taken]

    def ready(self) -> list[_Thread]:
        return [t for t in self.threads if not t.running and t.woken]

    def live(self, steps: int) -> None:
        for _ in range(steps):
            if self.random.random() < 0.15:
                flags = self.random.choice((0, HARDIRQ))
                cpu = self.random.randrange(self.cpus)
                self.scene.event("irq:irq_handler_exit", cpu, 0, flags, irq=1)
            else:
                self.random.choice(self.threads).step()
            while len(self.after) < len(self.scene.rows):
                self.after.append([t.truth for t in self.threads])

    def lose(self, gaps: list[tuple[int | None, int, int]]) -> Scene:
        """What a trace holds that lost these: (pCPU or None for all, rows)."""
        rows = self.scene.rows
        lost = {
            row
            for cpu, first, last in gaps
            for row in range(first, min(last, len(rows)))
            if cpu in (None, rows[row][1])
        }
        kept = [
            row
            for row, (*_, key, _) in enumerate(rows)
            if row not in lost and key.partition(":")[2] not in self.not_recorded
        ]
        seen = Scene(**self.scene.info)
        seen.now_ns = self.scene.now_ns
        seen.rows = [rows[row] for row in kept]
        seen.flags = [self.scene.flags[row] for row in kept]
        for cpu, first, last in gaps:
            mine = [row for row in kept if cpu in (None, rows[row][1])]
            start = max((rows[r][0] for r in mine if r < first), default=None)
            end = min((rows[r][0] for r in mine if r >= last), default=None)
            if not lost.isdisjoint(range(first, last)):
                seen.losses.append(Loss("missed-events", cpu, start, end))
        return seen
