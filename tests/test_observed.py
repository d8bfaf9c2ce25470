"""Notifications that left an event: drawn traces, and the kernels' own count (PIW).

Every lab capture has /proc/interrupts from before and after: PIW is how often the
kernel's handler of 0xF1 ran.
"""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
from test_lab_figures import WITHOUT_LOSSES, kernel_s_count, path_of
from timeline.scene import HARDIRQ, HLT, IRQS_OFF, SLEEPS, Scene, Vcpu

from piscope.observed import ObservedIrqs, Sign
from piscope.pipeline import analyze
from piscope.report.summarize import summarize
from piscope.sources.detect import open_trace
from piscope.timeline.observed import find_observed

IN_IRQ = IRQS_OFF | HARDIRQ
EXTERNAL_INTERRUPT = 1


@pytest.mark.parametrize("name", WITHOUT_LOSSES)
def test_wakeup_irqs_are_those_that_the_kernel_counted(name: str) -> None:
    with closing(open_trace(path_of(name))) as source:
        analysis = analyze(source, posted="none")
    seen = summarize(analysis).observed
    assert seen is not None
    if seen.wakeup_handler_calls is None and seen.unexplained_wakings is None:
        assert name.endswith(("d_func", "e_min"))  # nothing there shows one
        return
    if seen.wakeup_handler_calls is None and kernel_s_count(name, "PIW"):
        # wakings alone: an IRQ that wakes nobody leaves none
        assert seen.wakeup_irqs <= kernel_s_count(name, "PIW")
        return
    assert seen.wakeup_irqs == kernel_s_count(name, "PIW")
    assert seen.woken_blocked == seen.unexplained_wakings
    assert (seen.woken_elsewhere, seen.on_missing) == (0, 0)
    # the others woke up by themselves, or were woken by another IRQ of that instant
    assert seen.proved_seen >= 0.9 * seen.proved


class TestDrawn:
    @pytest.fixture
    def scene(self) -> Scene:
        """Halted vCPU 0, woken by somebody's IRQ; the other causes are recorded."""
        scene = Scene()
        for name in ("irq:softirq_raise", "irq_vectors:local_timer"):
            end = "" if name.endswith("raise") else "_entry"
            scene.event(f"{name}{end}", 2, 0, IN_IRQ)
        self.handled(scene, "irq_vectors:local_timer", end_only=True)
        self.handled(scene, "irq_vectors:reschedule")
        return scene

    def handled(self, scene: Scene, name: str, *, end_only: bool = False) -> None:
        if not end_only:
            scene.event(f"{name}_entry", 2, 0, IN_IRQ)
        scene.event(f"{name}_exit", 2, 0, IN_IRQ)

    def halted(self, scene: Scene) -> Vcpu:
        vcpu = scene.vcpu(0, cpu=0)
        vcpu.run()
        vcpu.enter()
        vcpu.exit(HLT)
        vcpu.out(SLEEPS)
        return vcpu

    def awake(self, vcpu: Vcpu) -> ObservedIrqs:
        vcpu.into()
        vcpu.wakeup()
        vcpu.enter()
        vcpu.scene.tick()
        events = vcpu.scene.events()
        return find_observed(events, vcpu.scene.timeline())

    def test_a_waking_that_nothing_else_explains(self, scene: Scene) -> None:
        vcpu = self.halted(scene)
        vcpu.woken(cpu=2, by=0, flags=IN_IRQ)
        seen = self.awake(vcpu)
        assert seen.sign.tolist() == [Sign.WAKING]
        assert (seen.vector.tolist(), seen.window.tolist()) == ([0xF1], [0])

    @pytest.mark.parametrize(
        "name", ["irq:irq_handler", "irq_vectors:local_timer", "irq_vectors:reschedule"]
    )
    def test_a_handler_explains_it(self, scene: Scene, name: str) -> None:
        vcpu = self.halted(scene)
        scene.event(f"{name}_entry", 2, 0, IN_IRQ)
        vcpu.woken(cpu=2, by=0, flags=IN_IRQ)
        scene.event(f"{name}_exit", 2, 0, IN_IRQ)
        assert len(self.awake(vcpu)) == 0

    def test_a_thread_explains_it(self, scene: Scene) -> None:
        vcpu = self.halted(scene)
        vcpu.woken(cpu=2, by=9, flags=IRQS_OFF)
        assert len(self.awake(vcpu)) == 0

    def test_without_the_other_causes_nothing_is_told(self) -> None:
        scene = Scene()
        vcpu = self.halted(scene)
        vcpu.woken(cpu=2, by=0, flags=IN_IRQ)
        seen = self.awake(vcpu)
        assert (len(seen), seen.wakings_told) == (0, False)

    def test_one_irq_may_leave_three_signs(self, scene: Scene) -> None:
        # pCPU 1: a guest is left by 0xF1, its handler runs and wakes vCPU 0
        vcpu = self.halted(scene)
        other = scene.vcpu(1, cpu=1)
        other.enter()
        fields = {"vcpu_id": 1, "exit_reason": EXTERNAL_INTERRUPT, "isa": 1}
        other.event("kvm:kvm_exit", IRQS_OFF, intr_info=0x8000_00F1, **fields)
        scene.event("pi:pi_wakeup", 1, other.tid, IN_IRQ)
        vcpu.woken(cpu=1, by=other.tid, flags=IN_IRQ)
        seen = self.awake(vcpu)
        assert seen.sign.tolist() == [Sign.VM_EXIT, Sign.HANDLER, Sign.WAKING]
        assert seen.again.tolist() == [False, True, True]

    def test_an_exit_by_the_notification_vector(self, scene: Scene) -> None:
        vcpu = scene.vcpu(0, cpu=0)
        vcpu.enter()
        for vector in (0xF2, 0x30):
            fields = {"vcpu_id": 0, "exit_reason": EXTERNAL_INTERRUPT, "isa": 1}
            vcpu.event("kvm:kvm_exit", IRQS_OFF, intr_info=1 << 31 | vector, **fields)
            vcpu.enter()
        scene.tick()
        seen = find_observed(scene.events(), scene.timeline())
        assert seen.vector.tolist() == [0xF2]
        assert not np.any(seen.again)
