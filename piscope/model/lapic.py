"""The pCPU's side: where a notification lands, and what it is taken for there.

Descriptors say what is sent; whether that becomes a host IRQ (PIN, PIW), nothing at
all, or processing in a guest it was not meant for depends on the pCPU at the moment of
acceptance. To be read beside the SDM's chapter on the local APIC (one IRR bit per
vector) and on posted-interrupt processing, and vcpu_enter_guest() in x86.c.

    host, IRQs on             accepted: PIN (0xF2) or PIW (0xF1)
    host, IRQs off            latched, until IRQs go on or a VM-entry
    guest, APICv active       0xF2: processed, no exit; 0xF1: VM-exit, then PIW
    guest, inhibited or L2    VM-exit, then PIN or PIW

Scalar and slow, for proofs; what a trace needs of it is done elsewhere in bulk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from piscope.model import descriptor, posting
from piscope.model.descriptor import (
    POSTED_INTR_VECTOR,
    POSTED_INTR_WAKEUP_VECTOR,
    Mode,
    Put,
    Step,
    Vcpu,
)
from piscope.model.policy import DEFAULT_PLATFORM, Platform, Policy

__all__ = ("Happening", "Host", "Pcpu")


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that an event led to.

    notify, self_ipi  `vector` was sent to `cpu`; for `vcpu`
    coalesced         it found the vector latched already: one interrupt for both
    pin, piw          host IRQ 0xF2 or 0xF1 on `cpu`; piw: it woke `woken`, of which
                      `asleep` were
    hwpi              posted-interrupt processing in the guest `vcpu`, of bits `moved`;
                      `on_was`; `wrong`: no notification was meant for this vCPU
    vmexit            `vector` ended the run of the guest `vcpu`
    silenced          a post sent nothing: `why`
    wake              KVM's post woke `vcpu`, if in `asleep`
    sync              vmx_sync_pir_to_irr moved bits
    not_posted        APICv is inhibited: KVM leaves the descriptor alone
    """

    kind: Literal[
        "notify",
        "self_ipi",
        "coalesced",
        "pin",
        "piw",
        "hwpi",
        "vmexit",
        "silenced",
        "wake",
        "sync",
        "not_posted",
    ]
    cpu: int | None = None
    vcpu: str | None = None
    vector: int | None = None
    woken: tuple[str, ...] = ()
    asleep: tuple[str, ...] = ()
    moved: int = 0
    on_was: bool = False
    wrong: bool = False
    why: str | None = None


@dataclass(slots=True)
class Pcpu:
    """A physical CPU.

    irr    latched vectors, and for which vCPUs each was sent
    guest  the vCPU in non-root mode, None: the CPU is in root mode
    wakeup_list  blocked vCPUs, in the order in which they were added
    """

    irqs_on: bool = True
    irr: dict[int, set[str]] = field(default_factory=dict)
    guest: str | None = None
    wakeup_list: list[str] = field(default_factory=list)


class Host:
    """pCPUs and vCPUs under one policy; every method is one event.

    Counts: `totals` of happenings by kind ("wrong" for hwpi that are), `pin_of` and
    `piw_of` by pCPU, `sent_of` by (pCPU, vector), `costs` of load and put.
    """

    def __init__(
        self,
        policy: Policy,
        platform: Platform = DEFAULT_PLATFORM,
        vcpus: Iterable[str] = ("A",),
    ) -> None:
        self.policy = policy
        self.platform = platform
        self.vcpus = {name: Vcpu() for name in vcpus}
        self.cpus: dict[int, Pcpu] = {}
        self.inhibited: set[str] = set()
        self.asleep: set[str] = set()
        self.totals: Counter[str] = Counter()
        self.pin_of: Counter[int] = Counter()
        self.piw_of: Counter[int] = Counter()
        self.sent_of: Counter[tuple[int, int]] = Counter()
        self.costs: Counter[str] = Counter()
        self.log: list[Happening] = []

    def take_log(self) -> list[Happening]:
        """What happened since this was last called, in order."""
        log, self.log = self.log, []
        return log

    # The vCPU's own thread -----------------------------------------------------

    def load(self, name: str, cpu: int) -> None:
        """kvm_arch_vcpu_load on that pCPU."""
        if self.load_clear_sn(name, cpu):
            self.load_scan(name)

    def load_clear_sn(self, name: str, cpu: int) -> bool:
        """pi_load up to the point where SN is clear; whether a scan of PIR follows."""
        step, scan = descriptor.vmx_vcpu_pi_load_clear_sn(
            self.vcpus[name], cpu, self.policy, self.platform
        )
        self._commit(name, step, costs=True)
        self.asleep.discard(name)
        return scan

    def load_scan(self, name: str) -> None:
        """The rest of pi_load."""
        self._commit(name, descriptor.after_clear_sn(self.vcpus[name]), costs=True)

    def put(self, name: str, why: Put) -> None:
        """kvm_arch_vcpu_put, or kvm_sched_out: IRQs are off meanwhile."""
        vcpu = self.vcpus[name]
        assert vcpu.cpu is not None, f"{name} is put before it was loaded"
        irqs_on = self._cpu(vcpu.cpu).irqs_on
        self.irq_off(vcpu.cpu)
        step = descriptor.vmx_vcpu_pi_put(vcpu, why, self.policy, self.platform)
        if why.blocking and not why.preempted:
            self.asleep.add(name)
        self._commit(name, step, costs=True)
        if irqs_on:
            self.irq_on(vcpu.cpu)

    def pre_block(self, name: str, irqs_blocked: bool = False) -> bool:
        """Up to 5.16: pi_pre_block; True: the vCPU is not to block."""
        step, pending = descriptor.pi_pre_block(
            self.vcpus[name], irqs_blocked, self.policy, self.platform
        )
        self._commit(name, step, costs=True)
        return pending

    def post_block(self, name: str) -> None:
        """Up to 5.16: pi_post_block."""
        self._commit(name, descriptor.pi_post_block(self.vcpus[name]), costs=True)

    def sync(self, name: str) -> None:
        """vmx_sync_pir_to_irr."""
        vcpu = self.vcpus[name]
        step = posting.vmx_sync_pir_to_irr(vcpu, self.policy, self.platform)
        if (vcpu.pi.on or vcpu.pi.pir) and not step.vcpu.pi.pir:
            self._happen(Happening("sync", vcpu=name))
        self._commit(name, step)

    def mode_in_guest(self, name: str) -> None:
        """vcpu->mode = IN_GUEST_MODE; the caller has switched IRQs off."""
        self.vcpus[name] = replace(self.vcpus[name], mode=Mode.IN_GUEST_MODE)

    def mode_outside_guest(self, name: str) -> None:
        """vcpu->mode = OUTSIDE_GUEST_MODE."""
        step = posting.vcpu_outside_guest(self.vcpus[name], self.policy, self.platform)
        self._commit(name, step)

    def vm_entry(self, name: str) -> None:
        """The CPU enters the guest; what is latched is taken right after."""
        vcpu = self.vcpus[name]
        assert vcpu.cpu is not None, f"{name} runs before it was loaded"
        if self.platform.td_vcpu:
            self._commit(name, posting.tdx_vcpu_run(vcpu))
        self._cpu(vcpu.cpu).guest = name
        self._accept(vcpu.cpu)

    def vm_exit(self, name: str) -> None:
        """The CPU leaves the guest, IRQs off."""
        vcpu = self.vcpus[name]
        assert vcpu.cpu is not None, f"{name} exits before it was loaded"
        pcpu = self._cpu(vcpu.cpu)
        pcpu.guest, pcpu.irqs_on = None, False
        self._commit(name, posting.vm_exit(vcpu, self.policy, self.platform))

    def enter(self, name: str) -> None:
        """vcpu_enter_guest from IRQs off to VM-entry."""
        cpu = self.vcpus[name].cpu
        assert cpu is not None, f"{name} runs before it was loaded"
        self.irq_off(cpu)
        self.mode_in_guest(name)
        self.sync(name)
        self.vm_entry(name)

    def exit(self, name: str) -> None:
        """A VM-exit that is handled with IRQs on."""
        self.vm_exit(name)
        self.mode_outside_guest(name)
        cpu = self.vcpus[name].cpu
        assert cpu is not None, f"{name} exits before it was loaded"
        self.irq_on(cpu)

    # The pCPU ------------------------------------------------------------------

    def irq_off(self, cpu: int) -> None:
        """local_irq_disable()."""
        self._cpu(cpu).irqs_on = False

    def irq_on(self, cpu: int) -> None:
        """local_irq_enable(): what is latched is taken now."""
        self._cpu(cpu).irqs_on = True
        self._accept(cpu)

    def inhibit(self, name: str) -> None:
        """APICv is inhibited for the vCPU, or it runs L2: 0xF2 ends its run.

        Of a vCPU in L2 only the hardware's part is modeled.
        """
        self.inhibited.add(name)

    # Posting -------------------------------------------------------------------

    def post_hw(self, name: str, vector: int, urgent: bool = False) -> None:
        """VT-d posts; IPI virtualization does the same."""
        self._posted(name, posting.post_by_iommu(self.vcpus[name], vector, urgent))

    def post_sw(self, name: str, vector: int, poster: str | None = None) -> None:
        """KVM posts, on the thread of the vCPU `poster` or elsewhere."""
        if name in self.inhibited:
            self._happen(Happening("not_posted", vcpu=name, vector=vector))
            return
        self._posted(
            name,
            posting.vmx_deliver_posted_interrupt(
                self.vcpus[name], vector, by_running_vcpu=poster == name
            ),
        )

    def _posted(self, name: str, step: Step) -> None:
        if step.silenced:
            self._happen(Happening("silenced", vcpu=name, why=step.silenced))
        self._commit(name, step)

    # What follows from it ------------------------------------------------------

    def _cpu(self, cpu: int) -> Pcpu:
        return self.cpus.setdefault(cpu, Pcpu())

    def _happen(self, happening: Happening) -> None:
        self.log.append(happening)
        self.totals["wrong" if happening.wrong else happening.kind] += 1

    def _commit(self, name: str, step: Step, costs: bool = False) -> None:
        self._relist(name, step.vcpu.wakeup_cpu)
        self.vcpus[name] = step.vcpu
        if costs:
            self.costs["locked_ops"] += step.locked_ops
            self.costs["pir_scans"] += step.pir_scans
            self.costs["list_locks"] += step.list_locks
        for effect in step.effects:
            if effect.kind == "wake":
                asleep = (name,) if name in self.asleep else ()
                self._happen(Happening("wake", vcpu=name, asleep=asleep))
                self.asleep.discard(name)
            else:
                self._send(effect, name)

    def _relist(self, name: str, listed: int | None) -> None:
        before = self.vcpus[name].wakeup_cpu
        if before == listed:
            return
        if before is not None:
            self._cpu(before).wakeup_list.remove(name)
        if listed is not None:
            self._cpu(listed).wakeup_list.append(name)

    def _send(self, effect: descriptor.Effect, name: str) -> None:
        cpu, vector = effect.cpu, effect.vector
        kind: Literal["notify", "self_ipi"] = (
            "notify" if effect.kind == "notify" else "self_ipi"
        )
        self._happen(Happening(kind, cpu, name, vector))
        self.sent_of[cpu, vector] += 1
        irr = self._cpu(cpu).irr
        if vector in irr:
            self._happen(Happening("coalesced", cpu, name, vector))
        irr.setdefault(vector, set()).add(name)
        self._accept(cpu)

    def _accept(self, cpu: int) -> None:
        pcpu = self._cpu(cpu)
        # The higher vector has the higher priority.
        while pcpu.irr and (pcpu.guest is not None or pcpu.irqs_on):
            vector = max(pcpu.irr)
            meant_for = pcpu.irr.pop(vector)
            guest = pcpu.guest
            if guest is None:
                self._host_irq(cpu, vector)
            elif vector == POSTED_INTR_VECTOR and guest not in self.inhibited:
                self._process(guest, wrong=guest not in meant_for)
            else:
                self._happen(Happening("vmexit", cpu, guest, vector))
                self.vm_exit(guest)
                # handle_exit_irqoff() calls the handler, IRQs still off.
                self._host_irq(cpu, vector)
                self.mode_outside_guest(guest)
                pcpu.irqs_on = True

    def _process(self, guest: str, wrong: bool) -> None:
        before = self.vcpus[guest]
        step = posting.process_notification(before)
        on_was, moved = before.pi.on, before.pi.pir
        self._happen(
            Happening("hwpi", vcpu=guest, moved=moved, on_was=on_was, wrong=wrong)
        )
        self._commit(guest, step)

    def _host_irq(self, cpu: int, vector: int) -> None:
        if vector != POSTED_INTR_WAKEUP_VECTOR:
            self._happen(Happening("pin", cpu))
            self.pin_of[cpu] += 1
            return
        listed = [(name, self.vcpus[name]) for name in self._cpu(cpu).wakeup_list]
        numbers = descriptor.pi_wakeup_handler(list(enumerate(v for _, v in listed)))
        woken = tuple(listed[number][0] for number in numbers)
        asleep = tuple(name for name in woken if name in self.asleep)
        self._happen(Happening("piw", cpu, woken=woken, asleep=asleep))
        self.piw_of[cpu] += 1
        self.asleep.difference_update(woken)
