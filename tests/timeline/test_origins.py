"""Who posted: one small trace for each origin, drawn from what the kernel's code does.

In each picture `|` parts what one context traces from what another does, and time goes
down; the accept is kvm_apic_accept_irq and kvm_apicv_accept_irq.
"""

from __future__ import annotations

from typing import Any

import pytest
from timeline.scene import HARDIRQ, HLT, IO, IRQS_OFF, MSR_WRITE, SLEEPS, Scene, Vcpu

from piscope.origins import (
    EVIDENCE,
    ORIGINS,
    TARGETS,
    Evidence,
    Origin,
    Target,
)
from piscope.tables import Posts

VFIO = "vfio-msix[3](0000:3b:00.0)"
IN_IRQ = IRQS_OFF | HARDIRQ
VMCALL, PREEMPTION_TIMER, APIC_WRITE = 18, 52, 56
COMMS = {
    9: "qemu-kvm",
    20: "vhost-7",
    21: "kworker/1:2",
    22: "kvm-pit/7",
    23: "irq/45-vfio-msi",
    24: "ksoftirqd/1",
    25: "spdk_tgt",
}


def a_scene(**info: Any) -> Scene:
    """vCPUs 0, 1 and 2 (threads 100 to 102) of one VM, in their guests on pCPU 0."""
    scene = Scene(comms=COMMS, **info)
    for vcpu_id in (0, 1, 2):
        scene.vcpu(vcpu_id, cpu=0).enter()
    return scene


@pytest.fixture
def scene() -> Scene:
    return a_scene()


def posts(scene: Scene) -> Posts:
    scene.tick()
    return scene.timeline().posts


def told(scene: Scene) -> list[tuple[str, str]]:
    """Origin and evidence of each post."""
    p = posts(scene)
    pairs = zip(p.origin.tolist(), p.evidence.tolist(), strict=True)
    return [(Origin(o).label, Evidence(e).label) for o, e in pairs]


def handler(scene: Scene, irq: int, name: str, cpu: int = 1, tid: int = 0) -> int:
    return scene.event("irq:irq_handler_entry", cpu, tid, IN_IRQ, irq=irq, name=name)


def handled(scene: Scene, irq: int, cpu: int = 1, tid: int = 0) -> int:
    return scene.event("irq:irq_handler_exit", cpu, tid, IN_IRQ, irq=irq)


class TestDevices:
    def test_a_vfio_interrupt(self, scene: Scene) -> None:
        # pCPU 1: irq_handler_entry | kvm_msi_set_irq, accept | irq_handler_exit
        entry_ns = handler(scene, 45, VFIO)
        scene.msi(0x51, tid=0, flags=IN_IRQ)
        scene.accept(1, 0x51, tid=0, flags=IN_IRQ)
        handled(scene, 45)
        p = posts(scene)
        events = scene.events()
        assert p.origin.tolist() == [Origin.VFIO]
        assert p.evidence.tolist() == [Evidence.VFIO_IRQ]
        assert p.host_irq.tolist() == [45]
        assert [p.devices[d] for d in p.device] == [VFIO]
        assert p.postable.all()
        # VT-d would have posted when the host's interrupt came
        assert events.ts_ns[p.cause].tolist() == [entry_ns]

    def test_it_interrupts_a_vcpu_s_thread(self, scene: Scene) -> None:
        # the thread of vCPU 0 was interrupted: the handler posts, not the vCPU
        vcpu = scene.vcpu(0, cpu=0)
        vcpu.exit(1)
        handler(scene, 45, VFIO, cpu=0, tid=100)
        scene.msi(0x51, cpu=0, tid=100, flags=IN_IRQ)
        scene.accept(0, 0x51, cpu=0, tid=100, flags=IN_IRQ)
        handled(scene, 45, cpu=0, tid=100)
        assert told(scene) == [("vfio", "vfio-irq")]

    def test_without_flags_the_handler_s_events_tell(self) -> None:
        scene = a_scene(events_flags=False)
        handler(scene, 45, VFIO)
        scene.accept(1, 0x51, tid=0)
        handled(scene, 45)
        assert told(scene) == [("vfio", "vfio-irq")]

    def test_behind_the_handler_is_another_context(self, scene: Scene) -> None:
        handler(scene, 45, VFIO)
        handled(scene, 45)
        scene.accept(1, 0x51, tid=0, flags=IN_IRQ)
        assert told(scene) == [("unknown", "irq-context")]

    def test_a_handler_whose_exit_was_not_recorded_ends_with_the_context(
        self, scene: Scene
    ) -> None:
        handler(scene, 45, VFIO)
        scene.vcpu(0, cpu=1).into(cpu=1)
        scene.accept(1, 0x51, tid=0, flags=IN_IRQ)
        assert told(scene) == [("unknown", "irq-context")]

    def test_a_handler_on_another_pcpu(self, scene: Scene) -> None:
        handler(scene, 45, VFIO, cpu=2)
        scene.accept(1, 0x51, cpu=1, tid=0, flags=IN_IRQ)
        assert told(scene) == [("unknown", "irq-context")]

    def test_the_interrupt_of_something_else(self, scene: Scene) -> None:
        handler(scene, 33, "nvme0q1")
        scene.accept(1, 0x51, tid=0, flags=IN_IRQ)
        handled(scene, 33)
        p = posts(scene)
        assert (p.origin[0], p.evidence[0]) == (Origin.UNKNOWN, Evidence.OTHER_IRQ)
        assert (p.host_irq.tolist(), p.devices) == ([-1], ["nvme0q1"])

    def test_a_threaded_handler(self, scene: Scene) -> None:
        scene.msi(0x51, tid=23)
        scene.accept(1, 0x51, tid=23)
        p = posts(scene)
        assert p.origin.tolist() == [Origin.VFIO]
        assert p.host_irq.tolist() == [45]

    def test_an_intx_line_can_not_be_posted(self, scene: Scene) -> None:
        handler(scene, 16, "vfio-intx(0000:3b:00.0)")
        scene.event("kvm:kvm_set_irq", 1, 0, IN_IRQ, gsi=11, level=1)
        scene.accept(1, 0x51, tid=0, flags=IN_IRQ)
        handled(scene, 16)
        p = posts(scene)
        assert p.origin.tolist() == [Origin.VFIO]
        assert not p.postable.any()

    def test_deferred_work_is_followed_to_who_queued_it(self, scene: Scene) -> None:
        # handler: workqueue_queue_work | kworker: workqueue_execute_start, accept
        handler(scene, 45, VFIO)
        scene.event("workqueue:workqueue_queue_work", 1, 0, IN_IRQ, work=0xFF40)
        handled(scene, 45)
        scene.event("workqueue:workqueue_execute_start", 3, 21, work=0xFF40)
        scene.msi(0x51, cpu=3, tid=21)
        scene.accept(1, 0x51, cpu=3, tid=21)
        assert told(scene) == [("vfio", "vfio-irq")]

    def test_deferred_work_of_nobody_known(self, scene: Scene) -> None:
        scene.msi(0x51, tid=21)
        scene.accept(1, 0x51, tid=21)
        assert told(scene) == [("irqfd", "kworker")]


@pytest.mark.parametrize(
    ("tid", "origin", "evidence"),
    [
        (20, "vhost", "vhost-thread"),
        (22, "emulated", "pit-thread"),
        (24, "unknown", "none"),
        (99, "unknown", "none"),  # a thread without a name may be anybody's
    ],
)
def test_threads_by_their_names(
    scene: Scene, tid: int, origin: str, evidence: str
) -> None:
    scene.msi(0x51, tid=tid)
    scene.accept(1, 0x51, tid=tid)
    assert told(scene) == [(origin, evidence)]


class TestVmm:
    def test_an_msi_by_ioctl(self, scene: Scene) -> None:
        scene.msi(0x51)
        scene.accept(1, 0x51)
        assert told(scene) == [("emulated", "msi")]

    def test_an_eventfd_is_signaled_with_irqs_off(self, scene: Scene) -> None:
        # eventfd_signal holds the wait queue's lock, interrupts off
        scene.msi(0x51, flags=IRQS_OFF)
        scene.accept(1, 0x51, flags=IRQS_OFF)
        assert told(scene) == [("emulated", "eventfd")]

    def test_a_line_before(self, scene: Scene) -> None:
        scene.event("kvm:kvm_set_irq", 1, 9, gsi=11, level=1)
        scene.accept(1, 0x2B)
        assert told(scene) == [("emulated", "irq-line")]

    def test_a_line_behind(self, scene: Scene) -> None:
        # kvm_ioapic_set_irq is traced when the IOAPIC has delivered
        scene.accept(1, 0x2B)
        scene.event("kvm:kvm_ioapic_set_irq", 1, 9, e=0x1000_002B, pin=11)
        p = posts(scene)
        assert p.evidence.tolist() == [Evidence.IRQ_LINE]
        assert not p.postable.any()

    def test_a_line_of_another_vector_behind(self, scene: Scene) -> None:
        scene.accept(1, 0x2B)
        scene.event("kvm:kvm_ioapic_set_irq", 1, 9, e=0x30, pin=4)
        assert told(scene) == [("emulated", "user-thread")]

    def test_another_process(self) -> None:
        # a vhost-user backend writes to the irqfd that the VMM gave it
        tgids = {100: 7, 101: 7, 102: 7, 9: 7, 25: 25}
        scene = a_scene(tgids=tgids)
        scene.msi(0x51, tid=25, flags=IRQS_OFF)
        scene.accept(1, 0x51, tid=25, flags=IRQS_OFF)
        scene.msi(0x52, tid=9, flags=IRQS_OFF)
        scene.accept(1, 0x52, tid=9, flags=IRQS_OFF)
        assert told(scene) == [("vhost", "other-process"), ("emulated", "eventfd")]

    def test_a_vcpu_s_thread_in_userspace(self, scene: Scene) -> None:
        a = scene.vcpu(0, cpu=0)
        a.exit(IO)
        a.leave()
        scene.msi(0x51, cpu=0, tid=100)
        scene.accept(1, 0x51, cpu=0, tid=100)
        assert told(scene) == [("emulated", "vcpu-in-userspace")]


class TestVcpuThreads:
    @pytest.fixture
    def a(self, scene: Scene) -> Vcpu:
        return scene.vcpu(0, cpu=0)

    def ipi(self, a: Vcpu, icr: int, *targets: int) -> None:
        a.event("kvm:kvm_apic_ipi", icr_low=icr, dest_id=1)
        for target in targets:
            a.scene.accept(target, icr & 0xFF, cpu=a.cpu, tid=a.tid)

    def test_an_ipi(self, scene: Scene, a: Vcpu) -> None:
        # kvm_exit MSR_WRITE, kvm_apic_ipi, accept
        exit_ns = a.exit(MSR_WRITE)
        self.ipi(a, 0x40F1, 1)
        p = posts(scene)
        assert p.origin.tolist() == [Origin.IPI]
        assert p.postable.all()
        # IPI virtualization would have posted when the guest wrote the ICR
        assert scene.events().ts_ns[p.cause].tolist() == [exit_ns]

    @pytest.mark.parametrize(
        "icr",
        [
            0x0F1 | 1 << 11,  # logical
            0x0F1 | 1 << 8,  # lowest priority
            0x0F1 | 3 << 18,  # all but itself
            0x0F1 | 1 << 15,  # level
        ],
    )
    def test_ipis_that_ipi_virtualization_leaves(
        self, scene: Scene, a: Vcpu, icr: int
    ) -> None:
        a.exit(MSR_WRITE)
        self.ipi(a, icr, 1)
        p = posts(scene)
        assert p.origin.tolist() == [Origin.IPI]
        assert not p.postable.any()

    def test_an_ipi_to_several(self, scene: Scene, a: Vcpu) -> None:
        a.exit(APIC_WRITE)
        self.ipi(a, 0x0F1, 1, 2)
        p = posts(scene)
        assert (p.origin == Origin.IPI).all()
        assert not p.postable.any()

    def test_an_ipi_to_itself(self, scene: Scene, a: Vcpu) -> None:
        a.exit(APIC_WRITE)
        self.ipi(a, 0x0F1 | 1 << 18, 0)
        assert told(scene) == [("self", "self-ipi")]

    def test_an_ipi_of_an_earlier_exit(self, scene: Scene, a: Vcpu) -> None:
        a.exit(MSR_WRITE)
        self.ipi(a, 0x0F1)
        a.enter()
        a.exit(IO)
        scene.accept(1, 0xF1, cpu=0, tid=100)
        assert told(scene) == [("unknown", "own-thread")]

    def test_a_hypercall(self, scene: Scene, a: Vcpu) -> None:
        a.exit(VMCALL)
        a.event("kvm:kvm_hypercall", nr=10)
        scene.accept(1, 0xF1, cpu=0, tid=100)
        scene.accept(2, 0xF1, cpu=0, tid=100)
        assert told(scene) == [("ipi", "hypercall")] * 2
        assert not posts(scene).postable.any()

    def test_without_kvm_apic_ipi_the_exit_tells(self, scene: Scene, a: Vcpu) -> None:
        a.exit(APIC_WRITE)
        scene.accept(1, 0xF1, cpu=0, tid=100)
        assert told(scene) == [("ipi", "exit-reason")]

    def test_the_preemption_timer(self, scene: Scene, a: Vcpu) -> None:
        a.exit(PREEMPTION_TIMER)
        scene.accept(0, 0xEC, cpu=0, tid=100)
        assert told(scene) == [("timer", "preemption-timer")]

    def test_its_vector_tells_later(self, scene: Scene, a: Vcpu) -> None:
        a.exit(PREEMPTION_TIMER)
        scene.accept(0, 0xEC, cpu=0, tid=100)
        a.enter()
        a.exit(1)
        scene.accept(0, 0xEC, cpu=0, tid=100)
        scene.accept(0, 0x33, cpu=0, tid=100)
        assert told(scene)[1:] == [
            ("timer", "timer-vector"),
            ("unknown", "own-thread"),
        ]

    def test_the_vector_that_the_guest_set(self, scene: Scene, a: Vcpu) -> None:
        a.exit(MSR_WRITE)
        a.event("kvm:kvm_apic", rw=1, reg=0x320, val=0x400EC)
        a.enter()
        a.exit(1)
        scene.accept(0, 0xEC, cpu=0, tid=100)
        assert told(scene) == [("timer", "timer-vector")]

    def test_a_deadline_that_has_passed(self, scene: Scene, a: Vcpu) -> None:
        a.exit(MSR_WRITE)
        a.event("kvm:kvm_msr", write=1, ecx=0x6E0, data=1)
        scene.accept(0, 0xEC, cpu=0, tid=100)
        assert told(scene) == [("timer", "timer-write")]

    def halt(self, a: Vcpu, handler: str | None) -> None:
        a.exit(HLT)
        a.out(SLEEPS)
        if handler:
            a.scene.event(f"{handler}_entry", 1, 0, IN_IRQ)
        a.woken(cpu=1, by=0, flags=IN_IRQ)
        if handler:
            a.scene.event(f"{handler}_exit", 1, 0, IN_IRQ)
        a.into()
        a.wakeup()

    @pytest.mark.parametrize(
        ("handler", "evidence"),
        [
            ("irq_vectors:local_timer", "timer-wakeup"),
            (None, "pending-timer"),
        ],
    )
    def test_a_timer_that_ended_the_halt(
        self, scene: Scene, a: Vcpu, handler: str | None, evidence: str
    ) -> None:
        self.halt(a, handler)
        scene.accept(0, 0xEC, cpu=0, tid=100)
        assert told(scene) == [("timer", evidence)]

    def test_a_page_that_is_ready(self, scene: Scene, a: Vcpu) -> None:
        a.exit(1)
        a.event("kvm:kvm_async_pf_ready")
        scene.accept(0, 0xF3, cpu=0, tid=100)
        assert told(scene) == [("self", "async-pf")]

    def test_a_timer_posted_by_its_hrtimer(self, scene: Scene) -> None:
        # apic_timer_fn on a housekeeping pCPU (posted timer interrupts)
        scene.event("irq_vectors:local_timer_entry", 1, 0, IN_IRQ)
        scene.accept(0, 0xEC, cpu=1, tid=0, flags=IN_IRQ)
        scene.event("irq_vectors:local_timer_exit", 1, 0, IN_IRQ)
        assert told(scene) == [("timer", "timer-irq")]


class TestTargetsOfTwoVms:
    """vcpu_id 0 and 1 exist twice: threads 100, 101 and 200, 201."""

    def scene(self, **info: Any) -> Scene:
        scene = Scene(comms=COMMS, **info)
        for tid in (100, 101, 200, 201):
            scene.vcpu(tid % 100, cpu=tid // 100 - 1, tid=tid).enter()
        return scene

    def meant(self, scene: Scene) -> list[tuple[int | None, str]]:
        scene.tick()
        t = scene.timeline()
        return [
            (t.vcpus.rows[v].tid if v >= 0 else None, Target(by).label)
            for v, by in zip(t.posts.vcpu, t.posts.target_by, strict=True)
        ]

    def from_device(self, scene: Scene, vcpu_id: int, wake: Vcpu | None = None) -> None:
        handler(scene, 45, VFIO, cpu=3)
        fields = {"apicid": vcpu_id, "vec": 0x51, "dm": 0, "tm": 0}
        scene.event("kvm:kvm_apic_accept_irq", 3, 0, IN_IRQ, **fields)
        if wake:
            wake.woken(cpu=3, by=0, flags=IN_IRQ)
        scene.event("kvm:kvm_apicv_accept_irq", 3, 0, IN_IRQ, **fields)
        handled(scene, 45, cpu=3)

    def test_a_device_means_the_vm_that_it_meant_before(self) -> None:
        scene = self.scene()
        sleeper = scene.vcpu(1, cpu=1, tid=201)
        sleeper.exit(HLT)
        sleeper.out(SLEEPS)
        self.from_device(scene, 1, wake=sleeper)
        self.from_device(scene, 1)
        assert self.meant(scene) == [(201, "woken"), (201, "device")]

    def test_who_routed_the_interrupt(self) -> None:
        tgids = {100: 7, 101: 7, 200: 8, 201: 8, 9: 8}
        scene = self.scene(tgids=tgids)
        scene.event(
            "kvm:kvm_pi_irte_update", 2, 9, host_irq=45, vcpu_id=1, gvec=0x51, set=1
        )
        self.from_device(scene, 0)
        assert self.meant(scene) == [(200, "irte")]

    def test_a_vhost_worker_s_owner(self) -> None:
        scene = self.scene(tgids={100: 7, 101: 7, 200: 8, 201: 8})
        scene.msi(0x51, tid=20)  # vhost-7
        scene.accept(1, 0x51, tid=20)
        assert self.meant(scene) == [(101, "same-vm")]

    def test_the_other_one_slept_on(self) -> None:
        # 101 sleeps in a halt, and only a later post wakes it: this one meant 201
        scene = self.scene()
        sleeper = scene.vcpu(1, cpu=0, tid=101)
        sleeper.exit(HLT)
        sleeper.out(SLEEPS)
        scene.msi(0x51)
        scene.accept(1, 0x51)
        sleeper.woken(cpu=2, by=300)
        sleeper.into()
        sleeper.wakeup()
        sleeper.enter()
        p = self.meant(scene)
        assert p == [(201, "elimination")]
        assert not scene.timeline().posts.certain.any()

    def test_pir_without_the_vector(self) -> None:
        # both are away; at its load 100 has an empty PIR: the post meant 200
        scene = self.scene()
        vcpus = [scene.vcpu(0, cpu=i, tid=tid) for i, tid in enumerate((100, 200))]
        for vcpu in vcpus:
            vcpu.exit()
            vcpu.unload()
            vcpu.pi_put()
            vcpu.event("kvm:kvm_userspace_exit", reason=2, errno=0)
        scene.msi(0x51)
        scene.accept(0, 0x51)
        vcpus[0].pi_load()
        vcpus[1].pi_load(on=1, pir=1 << 0x51)
        assert self.meant(scene) == [(200, "pir")]
        assert scene.timeline().posts.certain.all()


@pytest.mark.parametrize(
    ("words", "texts"), [(Origin, ORIGINS), (Evidence, EVIDENCE), (Target, TARGETS)]
)
def test_every_word_is_explained(words: Any, texts: dict[Any, str]) -> None:
    assert list(texts) == list(words)
    assert len(set(texts.values())) == len(texts)
