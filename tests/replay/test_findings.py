"""What a post hits under each policy: one drawn timeline for each outcome.

Each post is an MSI that a device could have posted; the first outcome is that of
preempt-only (5.17 to 6.16), the second that of suppress-on-put (6.17 and later).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from timeline.scene import (
    F1,
    HARDIRQ,
    HLT,
    IO,
    IRQS_OFF,
    MSR_WRITE,
    PREEMPTED,
    SLEEPS,
    Scene,
    Vcpu,
)
from timeline.streams import scenes

from piscope.model.policy import POLICIES
from piscope.outcomes import Findings, Hit
from piscope.posted import Posted
from piscope.replay.findings import find, replay
from piscope.replay.pcpus import occupancy
from piscope.replay.stimuli import build_stimuli

OLD, NEW = "preempt-only", "suppress-on-put"


def findings(scene: Scene, policy: str, posted: Posted = "msi") -> Findings:
    events, t = scene.events(), scene.timeline()
    stimuli = build_stimuli(t, events, posted)
    places = occupancy(events, t.vcpus, t.intervals, t.acts)
    return find(t, stimuli, replay(t, stimuli, POLICIES[policy]), places)


def hits(scene: Scene, policy: str, posted: Posted = "msi") -> list[str]:
    """The outcomes that each post may have had: `guest`, `host|unknown`."""
    found = findings(scene, policy, posted)
    return [
        "|".join(h.label for h in Hit if int(bits) >> h & 1) for bits in found.possible
    ]


def post(scene: Scene, vcpu: Vcpu) -> None:
    """A device's MSI, on a pCPU where no vCPU runs."""
    scene.msi(0x51, cpu=7)
    scene.accept(vcpu.vcpu_id, 0x51, cpu=7)


# --- each takes the vCPU in its guest on pCPU 0, posts, and lets it go on


def in_the_guest(scene: Scene, a: Vcpu) -> None:
    # entry |  *  | exit
    post(scene, a)
    a.exit()


def handling_an_exit(scene: Scene, a: Vcpu) -> None:
    # exit |  *  | entry
    a.exit()
    post(scene, a)
    a.enter()


def polling(scene: Scene, a: Vcpu) -> None:
    # exit HLT |  *  | wakeup
    a.exit(HLT)
    post(scene, a)
    a.wakeup()


def in_userspace(scene: Scene, a: Vcpu) -> None:
    # put |  *  | load
    a.exit()
    a.leave()
    post(scene, a)
    a.run()


def in_userspace_twice(scene: Scene, a: Vcpu) -> None:
    # put |  *  *  | load
    a.exit()
    a.leave()
    post(scene, a)
    post(scene, a)
    a.run()


def in_userspace_with_on_set(scene: Scene, a: Vcpu) -> None:
    # exit |  *  | put |  *  | load: ON is set since the first
    a.exit()
    post(scene, a)
    a.leave()
    post(scene, a)
    a.run()


def preempted(scene: Scene, a: Vcpu) -> None:
    # switch R+ |  *  | switch in
    a.exit()
    a.out(PREEMPTED)
    post(scene, a)
    a.into()


def blocked(scene: Scene, a: Vcpu) -> None:
    # switch S |  *  | waking, switch in, wakeup
    a.exit(HLT)
    a.out(SLEEPS)
    post(scene, a)
    a.woken()
    a.into()
    a.wakeup()


def asleep_in_kvm(scene: Scene, a: Vcpu) -> None:
    # a fault-in: switch D |  *  | switch in
    a.exit(48)
    a.out(SLEEPS)
    post(scene, a)
    a.woken()
    a.into()


def another_guest_on_its_pcpu(scene: Scene, a: Vcpu) -> None:
    # pCPU 0: put of A | entry of B |  *  | exit of B
    b = scene.vcpu(1, cpu=0)
    a.exit()
    a.leave()
    a.out(SLEEPS, to=b.tid)
    b.enter()
    post(scene, a)
    b.exit()
    b.out(PREEMPTED, to=a.tid)
    a.run()


def another_vcpu_s_fast_path(scene: Scene, a: Vcpu) -> None:
    # B left its guest for a wrmsr and is back at once: IRQs may stay off meanwhile
    b = scene.vcpu(1, cpu=0)
    a.exit()
    a.leave()
    a.out(SLEEPS, to=b.tid)
    b.enter()
    b.exit(MSR_WRITE)
    post(scene, a)
    b.enter()
    b.exit()


def its_own_fast_path(scene: Scene, a: Vcpu) -> None:
    # exit wrmsr |  *  | entry: latched, and absorbed by the entry, or not
    a.exit(MSR_WRITE)
    post(scene, a)
    a.enter()


CASES = [
    (in_the_guest, ["guest"], ["guest"]),
    (handling_an_exit, ["host"], ["host"]),
    (polling, ["host"], ["host"]),
    (in_userspace, ["unloaded-host"], ["silent-sn"]),
    (in_userspace_twice, ["unloaded-host", "silent-on"], ["silent-sn", "silent-sn"]),
    (in_userspace_with_on_set, ["host", "silent-on"], ["host", "silent-on"]),
    (preempted, ["silent-sn"], ["silent-sn"]),
    (blocked, ["wakeup"], ["wakeup"]),
    (asleep_in_kvm, ["unloaded-host"], ["silent-sn"]),
    (another_guest_on_its_pcpu, ["wrong-vcpu"], ["silent-sn"]),
    (another_vcpu_s_fast_path, ["unloaded-host|wrong-vcpu"], ["silent-sn"]),
    (its_own_fast_path, ["host|latched"], ["host|latched"]),
]


@pytest.mark.parametrize(
    ("case", "old", "new"), CASES, ids=[c[0].__name__ for c in CASES]
)
def test_a_post_to_a_vcpu(
    case: Callable[[Scene, Vcpu], None], old: list[str], new: list[str]
) -> None:
    scene = Scene()
    a = scene.vcpu(0, cpu=0)
    a.run()
    a.enter()
    case(scene, a)
    scene.tick()
    assert hits(scene, OLD) == old
    assert hits(scene, NEW) == new


def test_every_outcome_has_a_case() -> None:
    told = {hit for _, old, new in CASES for h in old + new for hit in h.split("|")}
    elsewhere = {"silent-pir", "software", "unknown", "guest-exit"}  # below
    assert told | elsewhere == {hit.label for hit in Hit}


def test_a_notification_that_ends_the_guest_s_run() -> None:
    # APICv inhibited, or L2: the exit is EXTERNAL_INTERRUPT with vector 0xF2
    scene = Scene()
    a = scene.vcpu(0, cpu=0)
    a.run()
    a.enter()
    post(scene, a)
    a.event(
        "kvm:kvm_exit",
        IRQS_OFF,
        vcpu_id=0,
        exit_reason=1,
        isa=1,
        intr_info=0x8000_00F2,
    )
    a.enter()
    scene.tick()
    assert hits(scene, OLD) == hits(scene, NEW) == ["guest-exit"]


def test_the_notified_pcpu_is_that_of_the_last_load() -> None:
    # A moves in userspace to pCPU 3; NDST still names pCPU 0, where B is in its guest
    scene = Scene()
    a, b = scene.vcpu(0, cpu=0), scene.vcpu(1, cpu=0)
    a.run()
    a.enter()
    a.exit()
    a.leave()
    a.out(SLEEPS, to=b.tid)
    b.enter()
    a.into(cpu=3)
    post(scene, a)
    b.exit()
    a.run()
    scene.tick()
    found = findings(scene, OLD)
    assert (found.cpu[0], found.victim[0], found.wrong_share[0]) == (0, b.vcpu_id, 1)


def test_an_idle_pcpu_is_said_to_be_idle() -> None:
    scene = Scene()
    a = scene.vcpu(0, cpu=0)
    a.run()
    a.enter()
    a.exit()
    a.leave()
    a.out(SLEEPS, to=0)
    post(scene, a)
    a.into()
    a.run()
    scene.tick()
    assert findings(scene, OLD).idle.tolist() == [True]


def test_kvm_s_own_posts() -> None:
    # to userspace: ON is set, nobody notified; again: the vector is in PIR already
    scene = Scene()
    a = scene.vcpu(0, cpu=0)
    a.run()
    a.enter()
    a.exit()
    a.leave()
    post(scene, a)
    post(scene, a)
    a.run()
    scene.tick()
    assert hits(scene, OLD, "none") == ["software", "silent-pir"]


def test_a_put_of_unknown_reason_makes_its_window_s_posts_unknown() -> None:
    # R+ inside a halt: preempted while polling, or blocking as well
    scene = Scene()
    a = scene.vcpu(0, cpu=0)
    a.run()
    a.enter()
    a.exit(HLT)
    a.out(PREEMPTED)
    post(scene, a)
    a.into()
    a.wakeup()
    scene.tick()
    assert hits(scene, OLD) == ["silent-sn|unknown"]


def test_a_wait_for_sipi_may_be_a_halt_with_irqs_blocked() -> None:
    scene = Scene()
    a = scene.vcpu(0, cpu=0)
    a.run()
    a.out(SLEEPS)
    post(scene, a)
    a.into()
    a.wakeup()
    a.enter()
    scene.tick()
    assert hits(scene, OLD) == ["wakeup|unknown"]


@pytest.mark.parametrize("policy", [OLD, NEW])
def test_inside_a_gap_nothing_is_certain(policy: str) -> None:
    # events of pCPU 0 are lost, where the vCPU was in its guest
    scene = Scene()
    a = scene.vcpu(0, cpu=0)
    a.run()
    a.enter()
    scene.lose(0, 2_500, 8_500)
    post(scene, a)
    for _ in range(5):
        scene.tick(cpu=7)
    found = findings(scene, policy)
    for hit in Hit:
        assert not found.surely(hit).any()
    # it may have been put: neither is excluded
    assert found.maybe(Hit.UNLOADED_HOST).all()
    assert found.maybe(Hit.GUEST).all()


def test_a_loss_elsewhere_leaves_the_place_known_but_not_the_descriptor() -> None:
    # in the host on pCPU 0; somebody on pCPU 1 may have posted, and ON be set
    scene = Scene()
    a = scene.vcpu(0, cpu=0)
    a.into()
    a.run()
    a.enter()
    a.exit()
    scene.lose(1, 4_500, 9_500)
    post(scene, a)
    for _ in range(5):
        scene.tick(cpu=7)
    a.enter()
    found = findings(scene, OLD)
    assert found.maybe(Hit.HOST).all()
    assert found.maybe(Hit.SILENT_ON).all()
    assert not found.maybe(Hit.UNLOADED_HOST).any()


class TestHiddenPosts:
    """Probes betray a post by hardware at an unknown instant of the window."""

    def scene(self, guest_ns: int, other_ns: int) -> Scene:
        """A's window on pCPU 0; B in its guest there for a part of it."""
        scene = Scene()
        a, b = scene.vcpu(0, cpu=0), scene.vcpu(1, cpu=0)
        for v in (a, b):
            v.enter()
            v.exit()
        a.unload()
        a.pi_put(after=(0, 0, 0xF2))
        start_ns = scene.now_ns
        if guest_ns:
            b.enter()
            scene.now_ns += guest_ns - 1000
            b.exit()
        scene.now_ns += other_ns
        a.pi_load(on=1, pir=1 << 0x41)
        a.run()
        a.enter()
        scene.tick()
        self.window_ns = scene.now_ns - start_ns
        return scene

    def test_on_a_pcpu_that_stayed_in_the_host(self) -> None:
        assert hits(self.scene(0, 5000), OLD) == ["unloaded-host"]
        assert hits(self.scene(0, 5000), NEW) == ["silent-sn"]

    def test_on_a_pcpu_that_was_in_another_guest_for_a_while(self) -> None:
        found = findings(self.scene(30_000, 10_000), OLD)
        assert found.surely(Hit.UNLOADED_HOST, Hit.WRONG_VCPU).all()
        assert found.maybe(Hit.UNLOADED_HOST).all()
        assert found.maybe(Hit.WRONG_VCPU).all()
        assert found.wrong_share[0] == pytest.approx(30 / 43, abs=0.03)


def test_no_notification_names_no_pcpu() -> None:
    scene = Scene()
    a = scene.vcpu(0, cpu=0)
    a.run()
    a.enter()
    preempted(scene, a)
    scene.tick()
    assert findings(scene, OLD).cpu.tolist() == [-1]


def test_a_blocking_put_seen_by_probes_with_irqs_blocked() -> None:
    # IF=0 leaves NV=0xF2 and SN=0: an IRQ under preempt-only, silent since
    scene = Scene()
    a = scene.vcpu(0, cpu=0)
    a.enter()
    for nv in (F1, 0xF2):
        a.exit(HLT)
        a.out(SLEEPS)
        a.pi_put(after=(0, 0, nv), blocking=1)
        post(scene, a)
        a.woken()
        a.into()
        a.pi_load(on=1, pir=1 << 0x51)
        a.wakeup()
        a.enter()
    scene.tick()
    assert hits(scene, OLD) == ["wakeup", "unloaded-host"]
    assert hits(scene, NEW) == ["wakeup", "silent-sn"]


class TestOpenOrders:
    def test_kvm_and_hardware_posted_into_one_window(self) -> None:
        # the vCPU was blocked: either the device's notification woke it, or KVM did
        # and ON silenced the device
        scene = Scene()
        a = scene.vcpu(0, cpu=0)
        a.enter()
        a.exit(HLT)
        a.out(SLEEPS)
        a.pi_put(after=(0, 0, F1), blocking=1)
        scene.accept(0, 0x51, cpu=7)
        a.woken()
        a.into()
        a.pi_load(on=1, nv=F1, pir=1 << 0x51 | 1 << 0x41)
        a.wakeup()
        a.enter()
        scene.tick()
        assert hits(scene, OLD, "none") == [
            "wakeup|silent-on",
            "silent-on|software",
        ]

    def test_the_target_leaves_its_guest_while_kvm_posts(self) -> None:
        # accept ... exit ... [PIR, ON, IPI] ... apicv_accept: the IPI may find the host
        scene = Scene()
        a = scene.vcpu(0, cpu=0)
        a.run()
        a.enter()
        fields = {"apicid": 0, "vec": 0x41, "dm": 0, "tm": 0}
        scene.event("kvm:kvm_apic_accept_irq", 7, 9, **fields)
        a.exit()
        scene.event("kvm:kvm_apicv_accept_irq", 7, 9, **fields)
        a.enter()
        scene.tick()
        assert hits(scene, OLD, "none") == ["guest|host|software"]

    def test_a_post_between_kvm_fpu_and_kvm_userspace_exit(self) -> None:
        scene = Scene()
        a = scene.vcpu(0)
        a.run()
        a.enter()
        a.exit()
        a.unload()
        post(scene, a)
        post(scene, a)
        a.event("kvm:kvm_userspace_exit", reason=2, errno=0)
        post(scene, a)
        a.run()
        a.enter()
        found = findings(scene, NEW)
        assert found.certain.tolist() == [False] * 3
        first, second, third = (set(h.split("|")) for h in hits(scene, NEW))
        assert {"host", "silent-sn"} <= first
        assert {"host", "silent-sn", "silent-on"} <= second
        assert third == {"silent-sn", "silent-on"}  # ON, if one came before the put

    def test_a_post_of_an_interrupt_behind_the_switch(self) -> None:
        scene = Scene()
        a = scene.vcpu(0)
        a.run()
        a.enter()
        a.exit()
        a.out(PREEMPTED)
        a.into()
        scene.msi(0x51, cpu=a.cpu, tid=a.tid, flags=HARDIRQ)
        scene.accept(a.vcpu_id, 0x51, cpu=a.cpu, tid=a.tid, flags=HARDIRQ)
        a.event("kvm:kvm_eoi", apicid=0, vector=0x51)
        post(scene, a)
        a.enter()
        found = findings(scene, NEW)
        first, second = (set(h.split("|")) for h in hits(scene, NEW))
        assert {"host", "silent-sn"} <= first
        assert second == {"silent-on"}  # the load sets ON for what it finds in PIR
        assert not found.certain[0]

    def test_a_halting_thread_preempted_before_its_check(self) -> None:
        # load sets ON (PIR held a bit); whether check_block took it is not known
        scene = Scene()
        a = scene.vcpu(0, cpu=0)
        a.run()
        a.enter()
        a.exit(HLT)
        a.out(SLEEPS)
        post(scene, a)
        a.woken()
        a.into()
        a.out(PREEMPTED)
        post(scene, a)
        a.into()
        a.wakeup()
        a.enter()
        scene.tick()
        first, second = hits(scene, OLD)
        assert first == "wakeup"
        assert second == "silent-on|silent-sn|unknown"


def test_after_userspace_without_an_exit_in_between() -> None:
    # KVM_RUN that returns at once (immediate_exit): load and put, never in the guest
    scene = Scene()
    a = scene.vcpu(0, cpu=0)
    a.run()
    a.enter()
    a.exit(IO)
    a.leave()
    a.run()
    a.leave()
    post(scene, a)
    a.run()
    scene.tick()
    assert hits(scene, OLD) == ["unloaded-host"]


@settings(max_examples=200, deadline=None)
@given(scenes())
def test_any_stream_has_findings_of_its_own_posts(scene: Scene) -> None:
    for policy in (OLD, NEW):
        found = findings(scene, policy)
        assert (found.possible != 0).all(), "every post has some outcome"
        assert ((found.wrong_share >= 0) & (found.wrong_share <= 1)).all()
        for hit in Hit:
            least, most = found.count(hit)
            assert 0 <= least <= most <= len(found)
    least = findings(scene, NEW).count(Hit.UNLOADED_HOST, Hit.WRONG_VCPU)[0]
    assert least <= findings(scene, OLD).count(Hit.UNLOADED_HOST, Hit.WRONG_VCPU)[1]
