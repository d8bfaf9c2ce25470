"""Notifications that meet their vector latched on a pCPU: one IRQ for several."""

from __future__ import annotations

from timeline.scene import HARDIRQ, IRQS_OFF, SLEEPS, Scene, Vcpu, lived

from piscope.model.policy import POLICIES
from piscope.outcomes import Findings
from piscope.replay.findings import find, replay
from piscope.replay.pcpus import occupancy
from piscope.replay.stimuli import build_stimuli

EXTERNAL_INTERRUPT = 1


def found(scene: Scene) -> Findings:
    scene.tick(cpu=9)
    events, t = scene.events(), scene.timeline()
    stimuli = build_stimuli(t, events, "msi")
    places = occupancy(events, t.vcpus, t.intervals, t.acts)
    walked = replay(t, stimuli, POLICIES["preempt-only"])
    return find(t, stimuli, walked, places)


def in_userspace(scene: Scene, *vcpu_ids: int) -> list[Vcpu]:
    """vCPUs whose last load was on pCPU 0."""
    vcpus = [scene.vcpu(i, cpu=0) for i in vcpu_ids]
    for vcpu in vcpus:
        lived(vcpu)
        vcpu.out(SLEEPS)
    return vcpus


def post(scene: Scene, vcpu: Vcpu, cpu: int = 7) -> None:
    scene.msi(0x51, cpu=cpu)
    scene.accept(vcpu.vcpu_id, 0x51, cpu=cpu)


def test_two_within_one_stretch_with_irqs_off_are_one_irq() -> None:
    # pCPU 0: exit of C (an interrupt) | A * B * | its handler ... with IRQs off
    scene = Scene()
    a, b = in_userspace(scene, 0, 1)
    c = scene.vcpu(2, cpu=0)
    c.run()
    c.enter()
    c.exit(EXTERNAL_INTERRUPT)
    post(scene, a)
    post(scene, b)
    c.event("irq:irq_handler_exit", IRQS_OFF | HARDIRQ, irq=1)
    c.event("kvm:kvm_eoi", apicid=2, vector=1)
    c.enter()
    assert found(scene).coalesced.tolist() == [0, 1]


def test_an_event_with_irqs_on_parts_them() -> None:
    scene = Scene()
    a, b = in_userspace(scene, 0, 1)
    c = scene.vcpu(2, cpu=0)
    c.run()
    c.enter()
    c.exit()
    post(scene, a)
    c.event("kvm:kvm_eoi", apicid=2, vector=1)
    post(scene, b)
    c.enter()
    assert found(scene).coalesced.tolist() == [0, 0]


def test_where_the_last_event_says_off_it_stays_open() -> None:
    # the switch to the idle task, and nothing of pCPU 0 behind it
    scene = Scene()
    a, b = in_userspace(scene, 0, 1)
    post(scene, a)
    post(scene, b)
    assert found(scene).coalesced.tolist() == [0, -1]


def test_an_interrupt_that_is_taken_in_between_shows_that_irqs_went_on() -> None:
    scene = Scene()
    a, b = in_userspace(scene, 0, 1)
    post(scene, a)
    scene.event("irq:irq_handler_entry", 0, 0, IRQS_OFF | HARDIRQ, irq=1, name=b"x")
    post(scene, b)
    assert found(scene).coalesced.tolist() == [0, 0]


def test_what_a_guest_takes_is_never_latched() -> None:
    scene = Scene()
    a, b = in_userspace(scene, 0, 1)
    c = scene.vcpu(2, cpu=0)
    c.run()
    c.enter()
    post(scene, a)
    post(scene, b)
    c.exit()
    assert found(scene).coalesced.tolist() == [0, 0]


def test_another_pcpu_has_a_latch_of_its_own() -> None:
    scene = Scene()
    (a,) = in_userspace(scene, 0)
    b = scene.vcpu(1, cpu=1)
    lived(b)
    b.out(SLEEPS)
    post(scene, a)
    post(scene, b)
    assert found(scene).coalesced.tolist() == [0, 0]


def test_without_flags_nothing_excludes_it() -> None:
    scene = Scene(events_flags=False)
    a, b = in_userspace(scene, 0, 1)
    post(scene, a)
    post(scene, b)
    assert found(scene).coalesced.tolist() == [0, -1]
