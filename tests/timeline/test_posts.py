"""Who posted what to whom: accepts, the MSI before them, and shared vcpu_ids."""

from __future__ import annotations

import pytest
from timeline.scene import HARDIRQ, IRQS_OFF, PREEMPTED, SLEEPS, Scene, Vcpu

from piscope.tables import Posts


@pytest.fixture
def scene() -> Scene:
    scene = Scene()
    for vcpu_id in (0, 1, 2):
        scene.vcpu(vcpu_id, cpu=0).enter()
    return scene


def posts(scene: Scene) -> Posts:
    scene.tick()
    return scene.timeline().posts


def test_an_msi_is_posted_at_its_kvm_msi_set_irq(scene: Scene) -> None:
    # kvm_msi_set_irq, kvm_apic_accept_irq, [post], kvm_apicv_accept_irq
    posted_ns = scene.msi(0x51)
    scene.accept(1, 0x51)
    p = posts(scene)
    assert (p.vcpu.tolist(), p.vector.tolist()) == ([1], [0x51])
    assert p.msi.all() and p.unicast.all() and p.posted.all()
    assert p.ts_ns.tolist() == [posted_ns]


def test_an_ipi_is_no_msi(scene: Scene) -> None:
    began_ns = scene.now_ns + 1000
    scene.accept(2, 0x41, tid=100, cpu=0)
    p = posts(scene)
    assert not p.msi.any()
    assert p.ts_ns.tolist() == [began_ns]


def test_a_multicast_is_no_device_s_post(scene: Scene) -> None:
    # one MSI, two accepts: posting hardware knows one destination only
    scene.msi(0x51)
    scene.accept(1, 0x51)
    scene.accept(2, 0x51)
    p = posts(scene)
    assert p.msi.tolist() == [True, True]
    assert not p.unicast.any()


def test_an_msi_that_is_only_decoded(scene: Scene) -> None:
    # emitted by kvm_set_msi_irq on IRTE updates as well: no accept follows
    scene.msi(0x51)
    assert len(posts(scene)) == 0


def test_a_decoded_msi_before_another_post(scene: Scene) -> None:
    # the same thread decodes 0x51, then posts 0x52 by other means
    scene.msi(0x51)
    scene.accept(1, 0x52)
    assert not posts(scene).msi.any()


@pytest.mark.parametrize("between", ["kvm:kvm_entry", "kvm:kvm_exit", "switch"])
def test_a_call_chain_ends_with_the_thread(scene: Scene, between: str) -> None:
    poster = scene.vcpu(0, cpu=1, tid=100)
    scene.msi(0x51, cpu=1, tid=100)
    if between == "switch":
        poster.out(PREEMPTED)
        poster.into()
    else:
        poster.event(between, vcpu_id=0, exit_reason=1)
    scene.accept(1, 0x51, cpu=1, tid=100)
    assert not posts(scene).msi.any()


def test_an_interrupt_in_between_is_another_chain(scene: Scene) -> None:
    # thread: MSI 0x51 ...; interrupt: MSI 0x60 and its accept; thread: accept 0x51
    scene.msi(0x51)
    scene.msi(0x60, flags=IRQS_OFF | HARDIRQ)
    scene.accept(2, 0x60, flags=IRQS_OFF | HARDIRQ)
    scene.accept(1, 0x51)
    p = posts(scene)
    assert p.msi.all() and p.unicast.all()
    assert sorted(zip(p.vcpu.tolist(), p.vector.tolist(), strict=True)) == [
        (1, 0x51),
        (2, 0x60),
    ]


def test_without_kvm_apicv_accept_irq_every_accept_counts() -> None:
    # up to 5.14 the event does not exist
    scene = Scene()
    scene.vcpu(0).enter()
    scene.event("kvm:kvm_apic_accept_irq", 1, 9, apicid=0, vec=0x41, dm=0, tm=0)
    p = posts(scene)
    assert (p.vcpu.tolist(), p.posted.tolist()) == ([0], [True])


@pytest.mark.parametrize("delivery_mode", [0x200, 0x400, 0x500, 0x600])
def test_smi_nmi_init_and_sipi_are_not_posted(scene: Scene, delivery_mode: int) -> None:
    for name in ("kvm_apic_accept_irq", "kvm_apicv_accept_irq"):
        scene.event(f"kvm:{name}", 1, 9, apicid=0, vec=2, dm=delivery_mode, tm=0)
    assert len(posts(scene)) == 0


class TestTwoVmsWithTheSameIds:
    """vcpu_id 0 and 1 exist twice: threads 100, 101 and 200, 201; tgids unknown."""

    @pytest.fixture
    def scene(self) -> Scene:
        scene = Scene()
        for tid in (100, 101, 200, 201):
            self.vcpu(scene, tid).enter()
        return scene

    def vcpu(self, scene: Scene, tid: int) -> Vcpu:
        return scene.vcpu(tid % 100, cpu=tid // 100 - 1, tid=tid)

    def row_of(self, scene: Scene, tid: int) -> int:
        return next(v.vcpu for v in scene.timeline().vcpus.rows if v.tid == tid)

    def test_nobody_knows_the_target(self, scene: Scene) -> None:
        scene.accept(0, 0x51)
        p = posts(scene)
        assert (p.vcpu.tolist(), p.vcpu_id.tolist()) == ([-1], [0])

    def test_a_vcpu_s_own_thread_means_itself(self, scene: Scene) -> None:
        scene.accept(0, 0x30, cpu=1, tid=200)
        p = posts(scene)
        assert p.vcpu.tolist() == [self.row_of(scene, 200)]
        assert p.certain.all()

    def test_its_interrupts_do_not(self, scene: Scene) -> None:
        # a timer of the other VM may expire on this pCPU
        scene.accept(0, 0x30, cpu=1, tid=200, flags=IRQS_OFF | HARDIRQ)
        assert posts(scene).vcpu.tolist() == [-1]

    def wake_within(self, scene: Scene, tid: int, flags: int) -> None:
        sleeper = self.vcpu(scene, tid)
        sleeper.exit(12)
        sleeper.out(SLEEPS)
        fields = {"apicid": tid % 100, "vec": 0x51, "dm": 0, "tm": 0}
        scene.event("kvm:kvm_apic_accept_irq", 3, 9, **fields)
        sleeper.woken(cpu=3, by=9, flags=flags)
        scene.event("kvm:kvm_apicv_accept_irq", 3, 9, **fields)

    def test_who_is_woken_within_the_chain_was_meant(self, scene: Scene) -> None:
        self.wake_within(scene, 201, IRQS_OFF)
        p = posts(scene)
        assert p.vcpu.tolist() == [self.row_of(scene, 201)]
        assert p.certain.all()

    def test_a_wakeup_by_an_interrupt_in_between_says_nothing(
        self, scene: Scene
    ) -> None:
        self.wake_within(scene, 201, IRQS_OFF | HARDIRQ)
        assert posts(scene).vcpu.tolist() == [-1]

    def test_a_thread_means_again_whom_it_meant_before(self, scene: Scene) -> None:
        self.wake_within(scene, 201, IRQS_OFF)
        scene.accept(1, 0x52, cpu=3, tid=9)
        p = posts(scene)
        assert p.vcpu.tolist() == [self.row_of(scene, 201)] * 2
        assert p.certain.tolist() == [True, False]

    def test_a_thread_that_meant_both_is_no_evidence(self, scene: Scene) -> None:
        self.wake_within(scene, 201, IRQS_OFF)
        self.wake_within(scene, 101, IRQS_OFF)
        scene.accept(1, 0x52, cpu=3, tid=9)
        assert posts(scene).vcpu.tolist()[-1] == -1

    def test_tgids_make_vms_known(self) -> None:
        scene = Scene(tgids={100: 7, 101: 7, 200: 8, 201: 8})
        for tid in (100, 101, 200, 201):
            self.vcpu(scene, tid).enter()
        scene.accept(1, 0x41, cpu=0, tid=100)  # an IPI of thread 100
        scene.tick()
        t = scene.timeline()
        assert t.vcpus.vm_known
        assert t.posts.vcpu.tolist() == [self.row_of(scene, 101)]
