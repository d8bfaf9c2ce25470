"""Which windows were open, what may have gone unseen, and what no policy avoids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from timeline.scene import (
    F1,
    F2,
    HLT,
    IO,
    PREEMPTED,
    SLEEPS,
    Scene,
    Vcpu,
)
from timeline.streams import scenes

from piscope.model.policy import POLICIES
from piscope.outcomes import Costs, Exposure, Residual
from piscope.replay.exposure import expose
from piscope.replay.findings import find, replay
from piscope.replay.pcpus import occupancy
from piscope.replay.recognize import learned_of, posting_by_hardware
from piscope.replay.stimuli import build_stimuli
from piscope.tables import Timeline

OLD, NEW = "preempt-only", "suppress-on-put"


def exposure(scene: Scene, policy: str) -> tuple[Exposure, Residual, Costs]:
    events, t = scene.events(), scene.timeline()
    stimuli = build_stimuli(t, events, "none")
    places = occupancy(events, t.vcpus, t.intervals, t.acts)
    replayed = replay(t, stimuli, POLICIES[policy])
    return expose(
        t, stimuli, replayed, find(t, stimuli, replayed, places), places, True
    )


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def a(scene: Scene) -> Vcpu:
    vcpu = scene.vcpu(0, cpu=0)
    vcpu.run()
    vcpu.enter()
    return vcpu


def one_of_each(scene: Scene, a: Vcpu) -> None:
    """Windows: userspace, preempted, blocking, asleep in KVM."""
    a.exit()
    a.leave()
    a.run()
    a.enter()
    a.exit()
    a.out(PREEMPTED)
    a.into()
    a.enter()
    a.exit(HLT)
    a.out(SLEEPS)
    a.woken()
    a.into()
    a.wakeup()
    a.enter()
    a.exit(48)
    a.out(SLEEPS)
    a.woken()
    a.into()
    a.enter()
    scene.tick()


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        # rows 12, 13, 16, 15 of the state table
        (OLD, [True, False, False, True]),
        (NEW, [False, False, False, False]),
        ("no-suppression", [True, True, False, True]),
    ],
)
def test_which_windows_are_open(
    scene: Scene, a: Vcpu, policy: str, expected: list[bool]
) -> None:
    one_of_each(scene, a)
    e, _, _ = exposure(scene, policy)
    assert e.exposed.tolist() == expected
    assert e.maybe.tolist() == expected
    # no probe looked into them: each open one may hold a notification
    assert e.unseen.tolist() == expected


def test_a_put_that_may_be_blocking_or_a_preemption(scene: Scene, a: Vcpu) -> None:
    # R+ inside a halt: SN is set either way, but the reason is not certain
    a.exit(HLT)
    a.out(PREEMPTED)
    a.into()
    a.wakeup()
    a.enter()
    scene.tick()
    e, _, _ = exposure(scene, OLD)
    assert not e.exposed.any()
    assert e.maybe.all()
    e, _, _ = exposure(scene, NEW)
    assert not e.maybe.any()


def test_on_at_the_put_silences_the_window(scene: Scene, a: Vcpu) -> None:
    a.exit()
    scene.accept(0, 0x41)  # KVM posts while the vCPU is in the host
    a.leave()
    a.run()
    a.enter()
    scene.tick()
    e, _, _ = exposure(scene, OLD)
    assert e.exposed.all()
    assert e.on_at_put.all()
    assert not e.unseen.any()


def test_another_guest_on_the_pcpu_may_have_taken_it(scene: Scene, a: Vcpu) -> None:
    b = scene.vcpu(1, cpu=0)
    a.exit()
    a.leave()
    a.out(SLEEPS, to=b.tid)
    b.enter()
    b.exit()
    b.out(PREEMPTED, to=a.tid)
    a.run()
    a.enter()
    scene.tick()
    e, _, _ = exposure(scene, OLD)
    of_a = scene.timeline().windows.vcpu == 0
    assert e.unseen_wrong[of_a].all()


def test_a_probed_window_tells_itself(scene: Scene, a: Vcpu) -> None:
    # SN=0, ON 0 at both ends: nothing was posted, and nothing can have gone unseen
    a.pi_load()
    a.exit()
    a.unload()
    a.pi_put()
    a.pi_load()
    a.run()
    a.enter()
    scene.tick()
    e, _, _ = exposure(scene, OLD)
    assert e.exposed.tolist() == [True]
    assert e.unseen.tolist() == [False]


def test_visits_to_userspace_that_leave_no_event() -> None:
    # kvm_entry and kvm_exit alone: a stretch behind an I/O exit may hide one
    scene = Scene()
    a = scene.vcpu(0)
    a.enter()
    for reason in (IO, 1, IO):
        a.exit(reason)
        a.enter()
    scene.tick()
    e, _, _ = exposure(scene, OLD)
    assert e.invisible.tolist() == [2], "EXTERNAL_INTERRUPT never leads there"
    e, _, _ = exposure(scene, NEW)
    assert e.invisible.tolist() == [0]


def hardware_of(timeline: Timeline) -> bool | None:
    return posting_by_hardware(learned_of(timeline.windows, None))


class TestPostingByHardware:
    def probed(self, *puts: tuple[int, int, int, int]) -> Scene:
        """One window for each (preempted, blocking, SN, NV), after one at creation."""
        scene = Scene()
        a = scene.vcpu(0)
        a.pi_load()
        a.pi_put(after=(0, 1, F2))
        a.pi_load()
        a.run()
        a.enter()
        for preempted, blocking, sn, nv in puts:
            a.exit(HLT if blocking else IO)
            a.out(SLEEPS if blocking else PREEMPTED)
            a.pi_put(after=(0, sn, nv), preempted=preempted, blocking=blocking)
            a.into()
            a.pi_load(sn=sn, nv=nv)
            if blocking:
                a.wakeup()
            a.enter()
        scene.tick()
        return scene

    def test_a_kernel_whose_puts_act(self) -> None:
        assert hardware_of(self.probed((1, 0, 1, F2)).timeline()) is True
        assert hardware_of(self.probed((0, 1, 0, F1)).timeline()) is True

    def test_a_kernel_whose_puts_never_act(self) -> None:
        t = self.probed((1, 0, 0, F2), (0, 1, 0, F2)).timeline()
        assert hardware_of(t) is False

    def test_sn_of_a_vcpu_s_creation_is_no_act(self) -> None:
        assert hardware_of(self.probed().timeline()) is None

    def test_without_probes_nobody_knows(self, scene: Scene, a: Vcpu) -> None:
        one_of_each(scene, a)
        assert hardware_of(scene.timeline()) is None

    def test_where_hardware_does_not_post_nothing_goes_unseen(self) -> None:
        e, residual, _ = exposure(self.probed((1, 0, 0, F2), (0, 1, 0, F2)), OLD)
        assert not e.unseen.any()
        assert len(residual.vcpu) == 0


class TestResidual:
    def visit(self, on_before: int, on_after: int, nv: int = F2) -> Scene:
        """A guest's run, then a put that probes find with these ON."""
        scene = Scene()
        a = scene.vcpu(0, cpu=3)
        a.pi_load()
        a.run()
        a.enter()
        a.exit(HLT if nv == F1 else IO)
        if nv == F1:
            a.out(SLEEPS)
        else:
            a.unload()
        pir = 1 << 0x41 if on_before else 0
        a.pi_put((on_before, pir), (on_after, 0, nv), blocking=int(nv == F1))
        if nv == F1:
            a.into()
        a.pi_load(on=on_after, nv=nv, pir=1 << 0x41 if on_after else 0)
        a.enter()
        scene.tick()
        return scene

    def seen(self, scene: Scene) -> list[bool]:
        _, residual, _ = exposure(scene, OLD)
        assert set(residual.cpu.tolist()) <= {3}
        return residual.surely[residual.seen].tolist()

    def test_on_that_no_known_post_explains(self) -> None:
        # an entry cleared ON: somebody posted between the exit and the put
        assert self.seen(self.visit(1, 1)) == [True]

    def test_on_that_was_set_while_the_put_ran(self) -> None:
        assert self.seen(self.visit(0, 1)) == [True]

    def test_on_that_was_set_while_the_put_armed_the_wakeup_vector(self) -> None:
        # before NV was written a notification, behind it a wakeup
        assert self.seen(self.visit(0, 1, F1)) == [False]

    def test_nothing_was_posted(self) -> None:
        assert self.seen(self.visit(0, 0)) == []

    def test_on_that_kvm_set_while_the_put_ran(self) -> None:
        scene = Scene()
        a = scene.vcpu(0, cpu=3)
        a.pi_load()
        a.run()
        a.enter()
        a.exit()
        a.unload()
        a.event("pi:pi_put", vcpu=0, ctl=F2 << 16, pir0=0, pir1=0, pir2=0, pir3=0)
        scene.accept(0, 0x41)
        on = 1 << 0x41
        a.event(
            "pi:pi_put_done_0x3e",
            vcpu=0,
            ctl=F2 << 16 | 1,
            pir0=0,
            pir1=2,
            pir2=0,
            pir3=0,
        )
        a.pi_load(on=1, pir=on)
        a.enter()
        scene.tick()
        assert self.seen(scene) == [False]

    def test_each_stretch_in_the_host_has_room_for_one(
        self, scene: Scene, a: Vcpu
    ) -> None:
        # without probes: up to the entry, to the put, and to the next entry
        a.exit()
        a.enter()
        a.exit()
        a.leave()
        a.run()
        a.enter()
        scene.tick()
        _, residual, _ = exposure(scene, NEW)
        assert len(residual.vcpu) == 4
        assert not residual.seen.any()


def test_costs_of_one_visit_to_userspace(scene: Scene, a: Vcpu) -> None:
    # suppress-on-put: SN is set by the put, and cleared by the load, which then scans
    a.exit()
    a.leave()
    a.run()
    a.enter()
    scene.tick()
    costs = {policy: exposure(scene, policy)[2] for policy in (OLD, NEW)}
    least = {p: (c.pir_scans[0, 0], c.locked_ops[0, 0]) for p, c in costs.items()}
    # the first load, on another pCPU, costs the same under both
    assert least[NEW][0] - least[OLD][0] == 1
    assert least[NEW][1] - least[OLD][1] == 1


@settings(max_examples=150, deadline=None)
@given(scenes())
def test_any_stream(scene: Scene) -> None:
    t = scene.timeline()
    for policy in (OLD, NEW):
        e, residual, costs = exposure(scene, policy)
        assert len(e.exposed) == len(t.windows)
        assert not (e.exposed & ~e.maybe).any(), "sure ones are among the possible"
        assert not (e.unseen & e.on_at_put).any()
        assert not (e.unseen_wrong & ~e.unseen).any()
        assert not (residual.surely & ~residual.seen).any()
        assert ((residual.vcpu >= 0) & (residual.vcpu < len(t.vcpus))).all()
        for name in ("pir_scans", "locked_ops", "list_locks"):
            least, most = getattr(costs, name).T
            assert (least <= most).all()
    assert not exposure(scene, NEW)[0].exposed.any(), "the patch leaves none open"
    assert np.array_equal(
        exposure(scene, OLD)[0].exposed, exposure(scene, OLD)[0].exposed
    )
