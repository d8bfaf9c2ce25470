"""The descriptors of all vCPUs: what the captured kernel's did, and others' would have.

All behavior is the reference's (`model.lapic.Host`, `model.descriptor`). One host is
the captured kernel's: what it says of wakeups and exits is what happens on the machine.
Beside it runs one for each question of the scenario, over the same loads, puts, entries
and exits, so that its answers are true by construction, all else being the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from piscope.model.descriptor import Put, Vcpu
from piscope.model.policy import DEFAULT_PLATFORM, Platform
from piscope.synth.events import Recorder
from piscope.synth.replica import CAPTURED, Consequence, Post, Replica
from piscope.synth.scenario import Replay

__all__ = ("Descriptors",)


class Descriptors:
    """All hosts, told of the same things; what the machine does is kept here once.

    irqs_on  bool by pCPU
    guest    the vCPU in non-root mode on each pCPU, or None
    on_cpu   the vCPU that is loaded on each pCPU, or None
    in_mode  vCPUs whose mode is IN_GUEST_MODE
    pin, piw counts by pCPU, in the captured host
    """

    def __init__(
        self,
        clock: Recorder,
        policy: str,
        platform: Platform,
        vcpus: list[str],
        pcpus: int,
        replays: Iterable[Replay] = (),
    ) -> None:
        self.clock = clock
        self.irqs_on = [True] * pcpus
        self.guest: list[str | None] = [None] * pcpus
        self.on_cpu: list[str | None] = [None] * pcpus
        self.in_mode: set[str] = set()
        self.captured = Replica(self, CAPTURED, policy, "none", platform, vcpus)
        self.replicas = [self.captured]
        for one in replays:
            name = f"{one.policy}/{one.posted}"
            self.replicas.append(
                Replica(self, name, one.policy, one.posted, DEFAULT_PLATFORM, vcpus)
            )
        self.names = [replica.name for replica in self.replicas]

    @property
    def legacy(self) -> bool:
        """The captured kernel arms the wakeup vector in pi_pre_block."""
        return not self.captured.host.policy.block_in_put

    def state(self, name: str) -> Vcpu:
        """A vCPU of the captured host."""
        return self.captured.host.vcpus[name]

    # The vCPU's own thread -----------------------------------------------------

    def load(self, name: str, cpu: int) -> None:
        """pi_load, all of it."""
        if self.load_clear_sn(name, cpu):
            self.load_scan(name)

    def load_clear_sn(self, name: str, cpu: int) -> bool:
        """pi_load up to where SN is clear; whether some host scans PIR next."""
        scan = False
        for one in self.replicas:
            one.catch_up(cpu)
            one.scans[name] = one.host.load_clear_sn(name, cpu)
            one.settle(name, cpu)
            scan |= one.scans[name]
        self.on_cpu[cpu] = name
        return scan

    def load_scan(self, name: str) -> None:
        """The rest of pi_load."""
        for one in self.replicas:
            if one.scans.pop(name, False):
                one.host.load_scan(name)
                one.settle(name, None)

    def put(self, name: str, cpu: int, why: Put) -> list[Consequence]:
        """pi_put."""
        for one in self.replicas:
            one.catch_up(cpu)
            one.host.put(name, why)
            one.settle(name, cpu)
        self.on_cpu[cpu] = None
        return self._consequences()

    def pre_block(self, name: str, irqs_blocked: bool) -> bool:
        """Up to 5.16: pi_pre_block; True: the captured vCPU does not block."""
        pending = False
        for one in self.replicas:
            if not one.host.policy.block_in_put:
                found = one.host.pre_block(name, irqs_blocked)
                one.settle(name, None)
                pending |= found and one is self.captured
        return pending

    def post_block(self, name: str) -> None:
        """Up to 5.16: pi_post_block."""
        for one in self.replicas:
            if not one.host.policy.block_in_put:
                one.host.post_block(name)
                one.settle(name, None)

    def sync(self, name: str) -> bool:
        """vmx_sync_pir_to_irr; whether an interrupt is pending in the captured host."""
        for one in self.replicas:
            if name in one.loud:
                one.catch_up(one.host.vcpus[name].cpu or 0)
                one.host.sync(name)
                one.settle(name, None)
        return self.captured.host.vcpus[name].virr != 0

    def enter_guest_mode(self, name: str, cpu: int) -> None:
        """IRQs are off; mode = IN_GUEST_MODE, and the sync."""
        for one in self.replicas:
            if one.awake(name, cpu):
                one.host.mode_in_guest(name)
                one.host.sync(name)
                one.settle(name, cpu)
            else:
                one.stale.add(cpu)
        self.in_mode.add(name)

    def vm_entry(self, name: str, cpu: int) -> list[Consequence]:
        """The guest runs, and takes what is latched and what is pending."""
        for one in self.replicas:
            if one.awake(name, cpu):
                one.host.vm_entry(name)
                one.settle(name, cpu)
            else:
                one.stale.add(cpu)
        self.guest[cpu] = name
        self._taken(name)
        return self._consequences()

    def vm_exit(self, name: str, cpu: int) -> None:
        """The guest was left, IRQs are off."""
        for one in self.replicas:
            if one.awake(name, cpu):
                # the captured host may have done so by itself, for an interrupt
                if one.host.cpus[cpu].guest == name:
                    one.host.vm_exit(name)
                    one.settle(name, cpu)
                else:
                    one.host.irq_off(cpu)
            else:
                one.stale.add(cpu)
        self.guest[cpu] = None
        self.irqs_on[cpu] = False

    def leave_guest_mode(self, name: str, cpu: int) -> None:
        """mode = OUTSIDE_GUEST_MODE."""
        for one in self.replicas:
            if one.awake(name, cpu):
                one.host.mode_outside_guest(name)
                one.settle(name, cpu)
            else:
                one.stale.add(cpu)
        self.in_mode.discard(name)

    # The pCPU ------------------------------------------------------------------

    def irq_off(self, cpu: int) -> None:
        """local_irq_disable()."""
        self.irqs_on[cpu] = False
        for one in self.replicas:
            if cpu in one.latched:
                one.host.irq_off(cpu)
            else:
                one.stale.add(cpu)

    def irq_on(self, cpu: int) -> list[Consequence]:
        """local_irq_enable()."""
        self.irqs_on[cpu] = True
        for one in self.replicas:
            if cpu in one.latched:
                one.host.irq_on(cpu)
                one.settle(None, cpu)
            else:
                one.stale.add(cpu)
        return self._consequences()

    # Posting -------------------------------------------------------------------

    def post_hw(self, post: Post) -> list[Consequence]:
        """VT-d or IPI virtualization posts."""
        for one in self.replicas:
            one.post_hw(post)
        return self._consequences(post.vcpu)

    def post_msi(self, post: Post) -> None:
        """KVM was given an MSI: the moment at which a device would have posted it."""
        for one in self.replicas:
            if one.posted == "msi" and post.unicast_msi:
                one.post_hw(post)

    def post_sw(self, post: Post, poster: str | None) -> list[Consequence]:
        """KVM posts, on the thread of the vCPU `poster` or elsewhere."""
        for one in self.replicas:
            if not (one.posted == "msi" and post.unicast_msi):
                one.post_sw(post, poster)
        return self._consequences(post.vcpu)

    # ---------------------------------------------------------------------------

    def _taken(self, name: str) -> None:
        """The guest runs: it takes all interrupts that are in its virtual IRR."""
        for one in self.replicas:
            vcpu = one.host.vcpus[name]
            if vcpu.virr:
                one.host.vcpus[name] = replace(vcpu, virr=0)

    def _consequences(self, posted: str = "") -> list[Consequence]:
        found = self.captured.consequences
        if posted:
            found.append(Consequence("posted", vcpu=posted))
        if found:
            self.captured.consequences = []
        return found
