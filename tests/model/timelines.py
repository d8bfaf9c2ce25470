"""Random legal timelines: what schedulers, guests and posters may do, in any order.

A timeline is a list of calls of Host's methods. It does not depend on the policy, so
that two policies can be played over the same one.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from piscope.model.descriptor import Put, Vcpu
from piscope.model.lapic import Happening, Host
from piscope.model.policy import DEFAULT_PLATFORM

PUTS = [
    Put(preempted, blocking, irqs_blocked)
    for preempted in (False, True)
    for blocking in (False, True)
    for irqs_blocked in (False, True)
    if blocking or not irqs_blocked
]
VECTORS = (0x31, 0x41, 0x51)


class Scheduler:
    """One thread per pCPU, each vCPU loaded on one pCPU at most."""

    def __init__(self, random: Random, vcpus="AB", cpus=(0, 1)) -> None:
        self.random = random
        self.vcpus = vcpus
        self.cpus = cpus
        self.loaded: dict[str, int] = {}
        self.in_guest: set[str] = set()
        self.calls: list[tuple] = []

    def timeline(self, length: int) -> list[tuple]:
        while len(self.calls) < length:
            self.step()
        return self.calls

    def step(self) -> None:
        if self.random.random() < 0.25:
            self.posts(1)
            return
        vcpu = self.random.choice(self.vcpus)
        if vcpu in self.in_guest:
            self.leave(vcpu)
        elif vcpu in self.loaded:
            self.handle(vcpu)
        else:
            self.load(vcpu)

    def posts(self, most: int = 2) -> None:
        for _ in range(self.random.randint(int(most == 1), most)):
            how = self.random.choice(("post_hw", "post_hw", "post_sw"))
            vcpu = self.random.choice(self.vcpus)
            self.calls.append((how, vcpu, self.random.choice(VECTORS)))

    def load(self, vcpu: str) -> None:
        free = sorted(set(self.cpus) - set(self.loaded.values()))
        if not free:
            return
        cpu = self.random.choice(free)
        self.loaded[vcpu] = cpu
        if self.random.random() < 0.3:
            self.calls.append(("load_clear_sn", vcpu, cpu))
            self.posts()
            self.calls.append(("load_scan", vcpu))
        else:
            self.calls.append(("load", vcpu, cpu))

    def handle(self, vcpu: str) -> None:
        cpu = self.loaded[vcpu]
        match self.random.choice("seettippp"):
            case "s":
                self.calls.append(("sync", vcpu))
            case "e":
                self.calls.append(("enter", vcpu))
                self.in_guest.add(vcpu)
            case "t":
                self.slow_entry(vcpu, cpu)
            case "i":  # sched_out or vcpu_put, IRQs off for a while
                self.calls.append(("irq_off", cpu))
                self.posts()
                self.calls.append(("irq_on", cpu))
            case _:
                self.calls.append(("put", vcpu, self.random.choice(PUTS)))
                del self.loaded[vcpu]
                if self.random.random() < 0.4:
                    self.displace(vcpu, cpu)

    def displace(self, vcpu: str, cpu: int) -> None:
        """Another vCPU runs where one has just left, and that one is posted to."""
        others = [v for v in self.vcpus if v != vcpu and v not in self.loaded]
        if others:
            other = self.random.choice(others)
            self.calls += [("load", other, cpu), ("enter", other)]
            self.loaded[other] = cpu
            self.in_guest.add(other)
        self.calls.append(("post_hw", vcpu, self.random.choice(VECTORS)))

    def slow_entry(self, vcpu: str, cpu: int) -> None:
        self.calls += [("irq_off", cpu), ("mode_in_guest", vcpu)]
        self.posts()
        self.calls.append(("sync", vcpu))
        self.posts()
        if self.random.random() < 0.3:  # an exit request
            self.calls += [("mode_outside_guest", vcpu), ("irq_on", cpu)]
        else:
            self.calls.append(("vm_entry", vcpu))
            self.in_guest.add(vcpu)

    def leave(self, vcpu: str) -> None:
        cpu = self.loaded[vcpu]
        match self.random.randrange(3):
            case 0:
                self.calls.append(("exit", vcpu))
                self.in_guest.remove(vcpu)
            case 1:
                self.calls.append(("vm_exit", vcpu))
                self.posts()
                self.calls += [("mode_outside_guest", vcpu), ("irq_on", cpu)]
                self.in_guest.remove(vcpu)
            case _:  # fastpath
                self.calls.append(("vm_exit", vcpu))
                self.posts()
                self.calls += [("sync", vcpu), ("vm_entry", vcpu)]


@dataclass
class Played:
    """One call: what it was, the vCPUs before and after, and what happened.

    in_gap: vCPUs in the middle of pi_load, SN cleared and PIR not yet scanned.
    """

    call: tuple
    before: dict[str, Vcpu]
    after: dict[str, Vcpu]
    log: list[Happening]
    host: Host
    in_gap: frozenset[str]


def play(policy, timeline, check=lambda step: None, platform=DEFAULT_PLATFORM):
    """Play a timeline; a guest whose run was ended by an interrupt enters again."""
    names = sorted({c[1] for c in timeline if isinstance(c[1], str)})
    host = Host(policy, platform, names)
    steps: list[Played] = []
    in_gap: set[str] = set()

    def do(call):
        before = dict(host.vcpus)
        # On the same pCPU with SN=0 already, pi_load is done without a scan.
        skipped = call[0] == "load_scan" and call[1] not in in_gap
        scan_follows = None if skipped else getattr(host, call[0])(*call[1:])
        if call[0] == "load_clear_sn" and scan_follows:
            in_gap.add(call[1])
        elif call[0] == "load_scan":
            in_gap.discard(call[1])
        step = Played(
            call, before, dict(host.vcpus), host.take_log(), host, frozenset(in_gap)
        )
        steps.append(step)
        check(step)
        for happening in step.log:
            if happening.kind == "vmexit":
                do(("enter", happening.vcpu))

    for call in timeline:
        do(call)
    return host, steps
