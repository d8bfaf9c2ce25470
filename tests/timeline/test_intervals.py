"""Each vCPU's life is tiled: without gap or overlap, whatever the trace holds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from timeline.scene import HARDIRQ, HLT, IRQS_OFF, PREEMPTED, Scene
from timeline.streams import scenes
from timeline.tiling import assert_tiled, assert_windows_fit

from piscope.tables import Kind
from piscope.timeline.intervals import tile
from piscope.timeline.marks import build_lanes
from piscope.timeline.vcpus import find_vcpus


@settings(max_examples=300, deadline=None)
@given(scenes())
def test_any_stream_is_tiled(scene: Scene) -> None:
    events = scene.events()
    t = scene.timeline()
    assert_tiled(t)
    assert_windows_fit(t, len(events))
    a = t.acts
    assert (np.diff(a.vcpu) >= 0).all()
    assert (np.diff(a.row)[np.diff(a.vcpu) == 0] >= 0).all()
    assert (np.diff(t.posts.at) >= 0).all()


def test_irqs_off_are_proven_by_events_only() -> None:
    #   exit  | kvm_msr, IRQs off |  kvm_apic, IRQs on  | entry
    #   host-irqs-off             | host                | guest
    scene = Scene()
    a = scene.vcpu(0)
    a.enter()
    exit_ns = a.exit(32)
    off_ns = a.event("kvm:kvm_msr", IRQS_OFF, write=1, ecx=0x6E0, data=0)
    a.event("kvm:kvm_apic", rw=1, reg=0x300, val=0)
    a.enter()
    scene.tick()
    i = scene.timeline().intervals
    off = np.flatnonzero(i.kind == Kind.HOST_IRQS_OFF)
    assert i.start_ns[off].tolist() == [exit_ns]
    assert i.end_ns[off].tolist() == [off_ns]
    assert i.reason[off].tolist() == [32]


@pytest.mark.parametrize(("reason", "proven"), [(1, True), (30, False)])
def test_an_interrupt_shows_that_irqs_were_on(reason: int, proven: bool) -> None:
    # its handler runs with IRQs off; only the interrupt that ended the guest's run is
    # handled before they go on (EXTERNAL_INTERRUPT)
    scene = Scene()
    a = scene.vcpu(0)
    a.enter()
    a.exit(reason)
    a.event("irq:irq_handler_entry", IRQS_OFF | HARDIRQ, irq=4, name="timer")
    a.event("irq:irq_handler_exit", IRQS_OFF | HARDIRQ, irq=4)
    a.enter()
    scene.tick()
    kinds = scene.timeline().intervals.kind
    assert (Kind.HOST_IRQS_OFF in kinds) == proven


def test_traces_without_flags_prove_nothing() -> None:
    scene = Scene(events_flags=False)
    a = scene.vcpu(0)
    a.enter()
    a.exit(32)
    a.event("kvm:kvm_eoi", apicid=0, vector=0x41)
    a.enter()
    scene.tick()
    assert Kind.HOST_IRQS_OFF not in scene.timeline().intervals.kind


def test_a_vcpu_without_any_event_of_its_own_is_unknown_throughout() -> None:
    scene = Scene(guest_threads={100: 0, 101: 1})
    scene.vcpu(0).enter()
    scene.tick()
    i = scene.timeline().intervals
    assert i.kind[i.vcpu == 1].tolist() == [Kind.UNKNOWN]
    assert not i.certain[i.vcpu == 1].any()


def test_the_pcpu_of_an_interval() -> None:
    scene = Scene()
    a = scene.vcpu(0, cpu=3)
    a.run()
    a.enter()
    a.exit(HLT)
    a.out(PREEMPTED)
    a.into(cpu=5)
    a.enter()
    scene.tick()
    i = scene.timeline().intervals
    where = {Kind(k).label: c for k, c in zip(i.kind, i.cpu, strict=True)}
    assert where["preempted"] == -1
    assert where["guest"] == 5


def test_no_vcpu_has_no_interval() -> None:
    scene = Scene()
    scene.tick()
    events = scene.events()
    vcpus = find_vcpus(events)
    assert not len(vcpus)
    lanes = build_lanes(events, vcpus, [], [])
    nothing = np.empty(0, np.uint8)
    assert not len(tile(vcpus, lanes, nothing, nothing, (0, 1), True))
