"""Small traces written as what vCPU threads do, one event a microsecond.

    scene = Scene()
    a = scene.vcpu(0, cpu=1)
    a.run()            KVM_RUN:  kvm_fpu load=1
    a.enter()          kvm_entry
    a.exit(HLT)        kvm_exit
    a.out(SLEEPS)      sched_switch to the idle task; a.into(cpu) comes back
    a.leave()          kvm_fpu load=0, kvm_userspace_exit

A thread's tid is 100 + its vcpu_id, unless given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fake_source import FakeSource, Row

from piscope.events.catalog import analysis_fields
from piscope.events.normalize import collect
from piscope.sources.raw import Loss, RawChunk, Wanted
from piscope.tables import Events, Timeline
from piscope.timeline.build import build_timeline

HLT, IO, MSR_WRITE = 12, 30, 32  # arch/x86/include/uapi/asm/vmx.h
RUNNABLE, SLEEPS, DISK, DEAD = 0x0, 0x1, 0x2, 0x10  # include/linux/sched.h
PREEMPTED = 0x100  # TASK_REPORT_MAX: "R+"
IRQS_OFF, HARDIRQ = 0x01, 0x08  # TRACE_FLAG_*
F1, F2 = 0xF1, 0xF2


class _Flagged(FakeSource):
    flags: Sequence[int] = ()

    def _chunk(self, part: list[tuple[int, Row]], wanted: Wanted) -> RawChunk:
        chunk = super()._chunk(part, wanted)
        chunk.flags[:] = [self.flags[seq] for seq, _ in part]
        return chunk


class Scene:
    """Events in time order; each is one microsecond after the last."""

    def __init__(self, **info: Any) -> None:
        self.rows: list[Row] = []
        self.flags: list[int] = []
        self.losses: list[Loss] = []
        self.now_ns = 0
        self.info = info

    def event(self, key: str, cpu: int, tid: int, flags: int = 0, **fields: Any) -> int:
        """Add an event; its instant."""
        self.now_ns += 1000
        self.rows.append((self.now_ns, cpu, tid, key, fields))
        self.flags.append(flags)
        return self.now_ns

    def vcpu(self, vcpu_id: int, cpu: int = 0, tid: int | None = None) -> Vcpu:
        return Vcpu(self, vcpu_id, cpu, 100 + vcpu_id if tid is None else tid)

    def tick(self, cpu: int = 0) -> int:
        """Something that concerns no vCPU: it only makes time pass."""
        return self.event("irq:irq_handler_exit", cpu, 0, HARDIRQ, irq=1)

    def msi(self, vector: int, cpu: int = 1, tid: int = 9, flags: int = 0) -> int:
        return self.event(
            "kvm:kvm_msi_set_irq", cpu, tid, flags, address=0, data=vector
        )

    def accept(
        self, vcpu_id: int, vector: int, cpu: int = 1, tid: int = 9, flags: int = 0
    ) -> int:
        """A post by KVM: kvm_apic_accept_irq, then kvm_apicv_accept_irq."""
        fields = {"apicid": vcpu_id, "vec": vector, "dm": 0, "tm": 0}
        self.event("kvm:kvm_apic_accept_irq", cpu, tid, flags, **fields)
        return self.event("kvm:kvm_apicv_accept_irq", cpu, tid, flags, **fields)

    def lose(self, cpu: int | None, start_ns: int | None, end_ns: int | None) -> None:
        self.losses.append(Loss("missed-events", cpu, start_ns, end_ns, 1))

    def source(self) -> FakeSource:
        source = _Flagged(self.rows, losses=self.losses, **self.info)
        source.flags = self.flags
        return source

    def events(self) -> Events:
        return collect(self.source(), Wanted(analysis_fields()))

    def timeline(self) -> Timeline:
        return build_timeline(self.events())


class Vcpu:
    """One vCPU thread, and the pCPU that it is on; every method adds its events."""

    def __init__(self, scene: Scene, vcpu_id: int, cpu: int, tid: int) -> None:
        self.scene, self.vcpu_id, self.cpu, self.tid = scene, vcpu_id, cpu, tid

    def event(self, key: str, flags: int = 0, **fields: Any) -> int:
        return self.scene.event(key, self.cpu, self.tid, flags, **fields)

    def run(self) -> int:
        return self.event("kvm:kvm_fpu", load=1)

    def enter(self) -> int:
        return self.event("kvm:kvm_entry", IRQS_OFF, vcpu_id=self.vcpu_id)

    def exit(self, reason: int = IO) -> int:
        return self.event(
            "kvm:kvm_exit", IRQS_OFF, vcpu_id=self.vcpu_id, exit_reason=reason, isa=1
        )

    def wakeup(self) -> int:
        return self.event("kvm:kvm_vcpu_wakeup", ns=1, waited=1, valid=1)

    def unload(self) -> int:
        return self.event("kvm:kvm_fpu", load=0)

    def leave(self) -> int:
        self.unload()
        return self.event("kvm:kvm_userspace_exit", reason=2, errno=0)

    def out(self, state: int = RUNNABLE, to: int = 0) -> int:
        return self.event(
            "sched:sched_switch",
            IRQS_OFF,
            prev_pid=self.tid,
            prev_state=state,
            next_pid=to,
        )

    def into(self, cpu: int | None = None, after: int = 0) -> int:
        self.cpu = self.cpu if cpu is None else cpu
        return self.scene.event(
            "sched:sched_switch",
            self.cpu,
            after,
            IRQS_OFF,
            prev_pid=after,
            prev_state=0,
            next_pid=self.tid,
        )

    def woken(self, cpu: int = 1, by: int = 9, flags: int = IRQS_OFF) -> int:
        return self.scene.event("sched:sched_waking", cpu, by, flags, pid=self.tid)

    def pi_load(self, on: int = 0, sn: int = 0, nv: int = F2, pir: int = 0) -> int:
        return self.event("pi:pi_load", **self._descriptor(on, sn, nv, pir))

    def pi_put(
        self,
        before: tuple[int, int] = (0, 0),
        after: tuple[int, int, int] = (0, 0, F2),
        *,
        preempted: int = 0,
        blocking: int = 0,
    ) -> int:
        """pi_put and its return: (ON, PIR) at the entry, (ON, SN, NV) at the return."""
        on, pir = before
        flags = {"preempted": preempted, "blocking": blocking}
        self.event("pi:pi_put", **self._descriptor(on, 0, F2, pir), **flags)
        on, sn, nv = after
        return self.event("pi:pi_put_done_0x3e", **self._descriptor(on, sn, nv, pir))

    def _descriptor(self, on: int, sn: int, nv: int, pir: int) -> dict[str, Any]:
        words = {f"pir{i}": (pir >> (64 * i)) & (2**64 - 1) for i in range(4)}
        control = (self.cpu << 40) | (nv << 16) | (sn << 1) | on
        return {"vcpu": self.vcpu_id, "ctl": control, **words}


def lived(*vcpus: Vcpu) -> None:
    """Each vCPU enters its guest once and returns to userspace: known from then on."""
    for vcpu in vcpus:
        vcpu.run()
        vcpu.enter()
        vcpu.exit()
        vcpu.leave()
