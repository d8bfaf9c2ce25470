"""One host of the model beside the machine: the captured kernel's, or another's.

A vCPU is quiet while neither ON nor PIR is set, and nothing is latched on its pCPU.
What a quiet vCPU's entries and exits, and the IRQ flag meanwhile, do to a host is
undone by the next, so a host is told of them only when somebody posts: `catch_up`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from piscope.model.descriptor import (
    POSTED_INTR_VECTOR,
    POSTED_INTR_WAKEUP_VECTOR,
    Mode,
)
from piscope.model.lapic import Happening, Host
from piscope.model.policy import POLICIES, Platform
from piscope.outcomes import Hit

if TYPE_CHECKING:
    from piscope.synth.descriptors import Descriptors

__all__ = ("CAPTURED", "Consequence", "Fate", "Post", "Replica")

CAPTURED = "captured"


@dataclass(frozen=True, slots=True)
class Consequence:
    """What an operation led to on the captured machine.

    irq     `vector` is taken on `cpu`; its handler wakes `woken`
    wake    KVM's post wakes `vcpu`
    posted  `vcpu` has something pending that it had not
    """

    kind: str
    cpu: int = -1
    vcpu: str = ""
    vector: int = 0
    woken: tuple[str, ...] = ()


@dataclass(slots=True)
class Fate:
    """What became of one post in one replay.

    hit        None: not known yet
    cpu        that was notified, or None
    vector     of the notification, 0: none
    taken_ns   when it was taken, or None
    victim     vCPU in whose guest mode it was taken that is not the target, or None
    coalesced  the vector was latched already
    loaded     the target was between pi_load and pi_put
    """

    hit: Hit | None = None
    cpu: int | None = None
    vector: int = 0
    taken_ns: int | None = None
    victim: str | None = None
    coalesced: bool = False
    loaded: bool = False


@dataclass(slots=True)
class Post:
    """One post, as it was made.

    ts_ns      when PIR was changed
    begun_ns   first event of KVM's call chain, where a device would have posted; None:
               no event
    accept_ns  its last (kvm_apicv_accept_irq)
    agent      vtd, ipiv or kvm
    source     the scenario's device, or what else posted
    fates      by replay
    """

    number: int
    ts_ns: int
    vcpu: str
    vector: int
    agent: str
    source: str
    unicast_msi: bool = False
    begun_ns: int | None = None
    accept_ns: int | None = None
    fates: dict[str, Fate] = field(default_factory=dict)

    def settled(self, replays: int) -> bool:
        """Whether all is known of it."""
        return len(self.fates) == replays and all(
            fate.hit is not None for fate in self.fates.values()
        )


_WHY = {"on": Hit.SILENT_ON, "sn": Hit.SILENT_SN, "pir": Hit.SILENT_PIR}


class Replica:
    """One host, and what it is behind with.

    loud     vCPUs with ON or a bit in PIR
    latched  pCPUs with a vector in IRR
    stale    pCPUs whose state the host was not told
    pending  posts whose notification is latched, by (pCPU, vector)
    always   entries and exits matter to the descriptor even while it is quiet
    """

    def __init__(
        self,
        told: Descriptors,
        name: str,
        policy: str,
        posted: str,
        platform: Platform,
        vcpus: list[str],
    ) -> None:
        self.told, self.name, self.posted = told, name, posted
        self.host = Host(POLICIES[policy], platform, vcpus)
        self.loud: set[str] = set()
        self.latched: set[int] = set()
        self.stale: set[int] = set()
        self.scans: dict[str, bool] = {}
        self.pending: dict[tuple[int, int], list[tuple[Post, Fate]]] = {}
        self.consequences: list[Consequence] = []
        self.captured = name == CAPTURED
        # SN follows each entry and exit there
        self.always = self.host.policy.suppress_at_exit

    def awake(self, name: str, cpu: int) -> bool:
        """Whether the host has to be told now what the vCPU does on that pCPU."""
        if self.always or name in self.loud or cpu in self.latched:
            self.catch_up(cpu)
            return True
        return False

    def catch_up(self, cpu: int) -> None:
        """Tell the host what the pCPU is doing."""
        if cpu not in self.stale:
            return
        self.stale.discard(cpu)
        host, told = self.host, self.told
        pcpu = host._cpu(cpu)
        loaded, guest = told.on_cpu[cpu], told.guest[cpu]
        if pcpu.guest is not None and pcpu.guest != guest:
            left = pcpu.guest
            host.vm_exit(left)
            if left not in told.in_mode:
                host.mode_outside_guest(left)
        if loaded is not None:
            inside = host.vcpus[loaded].mode is Mode.IN_GUEST_MODE
            if loaded in told.in_mode and not inside:
                host.irq_off(cpu)
                host.mode_in_guest(loaded)
                host.sync(loaded)
            elif inside and loaded not in told.in_mode:
                host.mode_outside_guest(loaded)
        if guest is not None and pcpu.guest is None:
            host.irq_off(cpu)
            host.vm_entry(guest)
        elif pcpu.irqs_on != told.irqs_on[cpu]:
            (host.irq_on if told.irqs_on[cpu] else host.irq_off)(cpu)
        host.log.clear()

    def settle(self, name: str | None, cpu: int | None) -> None:
        """Read what the operation led to, and who is quiet now."""
        while self.host.log:
            for happening in self.host.take_log():
                self._happened(happening)
        if name is not None:
            self._hear(name)
        if cpu is not None:
            self._look(cpu)

    def _hear(self, name: str) -> None:
        pi = self.host.vcpus[name].pi
        (self.loud.add if pi.on or pi.pir else self.loud.discard)(name)

    def _look(self, cpu: int) -> None:
        irr = self.host._cpu(cpu).irr
        (self.latched.add if irr else self.latched.discard)(cpu)

    # Posts ---------------------------------------------------------------------

    def post_hw(self, post: Post) -> None:
        """Hardware posts."""
        self._before(post)
        self.host.post_hw(post.vcpu, post.vector)
        self._posted(post)

    def post_sw(self, post: Post, poster: str | None) -> None:
        """KVM posts."""
        self._before(post)
        self.host.post_sw(post.vcpu, post.vector, poster)
        self._posted(post)

    def _before(self, post: Post) -> None:
        vcpu = self.host.vcpus[post.vcpu]
        for cpu in {vcpu.cpu, vcpu.pi.ndst}:
            if cpu is not None:
                self.catch_up(cpu)

    def _posted(self, post: Post) -> None:
        fate = post.fates[self.name] = Fate(loaded=self.host.vcpus[post.vcpu].loaded)
        for happening in self.host.take_log():
            if happening.kind == "notify":
                assert happening.cpu is not None
                assert happening.vector is not None
                fate.cpu, fate.vector = happening.cpu, happening.vector
                if fate.vector == POSTED_INTR_WAKEUP_VECTOR:
                    fate.hit = Hit.WAKEUP
                key = fate.cpu, fate.vector
                self.pending.setdefault(key, []).append((post, fate))
            elif happening.kind == "coalesced":
                fate.coalesced = True
            elif happening.kind == "silenced":
                assert happening.why is not None
                fate.hit = _WHY[happening.why]
            self._happened(happening, immediate=True)
        if fate.hit is None and not fate.vector:
            fate.hit = Hit.SOFTWARE
        self.settle(None, None)
        self._hear(post.vcpu)
        if fate.cpu is not None:
            self._look(fate.cpu)
            guest = self.host._cpu(fate.cpu).guest
            if guest is not None:
                self._hear(guest)
                vcpu = self.host.vcpus[guest]
                if vcpu.virr:
                    self.host.vcpus[guest] = replace(vcpu, virr=0)

    def _happened(self, one: Happening, immediate: bool = False) -> None:
        if one.kind == "pin":
            assert one.cpu is not None
            for _, fate in self._take(one.cpu, POSTED_INTR_VECTOR):
                fate.hit = Hit.HOST if fate.loaded else Hit.UNLOADED_HOST
        elif one.kind == "piw":
            assert one.cpu is not None
            self._take(one.cpu, POSTED_INTR_WAKEUP_VECTOR)
            if self.captured:
                self.consequences.append(
                    Consequence(
                        "irq",
                        one.cpu,
                        vector=POSTED_INTR_WAKEUP_VECTOR,
                        woken=one.woken,
                    )
                )
        elif one.kind == "hwpi":
            assert one.vcpu is not None
            cpu = self.host.vcpus[one.vcpu].cpu
            assert cpu is not None
            for post, fate in self._take(cpu, POSTED_INTR_VECTOR):
                if post.vcpu == one.vcpu:
                    fate.hit = Hit.GUEST if immediate else Hit.LATCHED
                else:
                    fate.hit, fate.victim = Hit.WRONG_VCPU, one.vcpu
        elif one.kind == "vmexit" and not self.captured:
            # the machine did not leave its guest
            assert one.vcpu is not None
            self.host.enter(one.vcpu)
        elif one.kind == "wake" and self.captured:
            self.consequences.append(Consequence("wake", vcpu=one.vcpu or ""))

    def _take(self, cpu: int, vector: int) -> list[tuple[Post, Fate]]:
        taken = self.pending.pop((cpu, vector), [])
        for _, fate in taken:
            fate.taken_ns = self.told.clock.now
        return taken
