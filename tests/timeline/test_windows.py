"""Puts, the windows they begin, and what probes read at both ends.

pi_put            unloaded             pi_load
  |-----------------------------------------|
  ON, PIR at return              ON, PIR at entry
"""

from __future__ import annotations

import pytest
from timeline.scene import (
    DEAD,
    F1,
    HLT,
    PREEMPTED,
    SLEEPS,
    Scene,
    Vcpu,
)

from piscope.tables import PutReason, Timeline, Windows


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def a(scene: Scene) -> Vcpu:
    return scene.vcpu(0, cpu=1)


def reasons(w: Windows) -> list[str]:
    return [PutReason(r).label for r in w.reason]


def probed_visit(
    a: Vcpu,
    put: tuple[int, int, int] = (0, 0, 0xF2),
    load: tuple[int, int, int] = (0, 0, 0),
) -> None:
    """One visit to userspace: (ON, SN, NV) after the put, (ON, SN, PIR) at the load."""
    a.run()
    a.enter()
    a.exit()
    a.unload()
    a.pi_put(after=put)
    a.event("kvm:kvm_userspace_exit", reason=2, errno=0)
    a.pi_load(on=load[0], sn=load[1], pir=load[2])
    a.run()
    a.enter()


def test_the_probes_are_the_loads_and_puts(scene: Scene, a: Vcpu) -> None:
    # kvm_fpu tells too, but a load or put is counted once
    probed_visit(a)
    scene.tick()
    t = scene.timeline()
    assert t.probes == ("pi_put", "pi_put_done_0x3e", "pi_load")
    assert reasons(t.windows) == ["userspace"]
    assert t.windows.probed.all()
    assert t.windows.certain.all()


def test_on_and_pir_of_a_window(scene: Scene, a: Vcpu) -> None:
    # SN=0, ON 0 -> 1, and PIR gained vector 0x41: bit 1 of the second word
    probed_visit(a, put=(0, 0, 0xF2), load=(1, 0, 1 << 0x41))
    scene.tick()
    w = scene.timeline().windows
    assert (w.on_put[0], w.on_load[0]) == (0, 1)
    assert w.new_pir[0].tolist() == [0, 2, 0, 0]
    assert (w.sn_put[0], w.nv_put[0]) == (0, 0xF2)


def test_what_was_in_pir_already_is_not_gained(scene: Scene, a: Vcpu) -> None:
    a.enter()
    a.exit()
    a.unload()
    a.pi_put(before=(1, 1 << 0x30), after=(1, 0, 0xF2))
    a.pi_load(on=1, pir=1 << 0x30 | 1 << 0xEC)
    a.enter()
    scene.tick()
    w = scene.timeline().windows
    assert w.new_pir[0].tolist() == [0, 0, 0, 1 << (0xEC - 192)]
    assert (w.on_before[0], w.pir_before[0], w.pir_load[0]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("preempted", "blocking", "expected"),
    [
        (0, 0, "runnable"),  # since 6.11: runnable, but not `wants_to_run`
        (1, 0, "preempted"),
        (0, 1, "blocking"),
        (1, 1, "blocking-preempted"),
    ],
)
def test_the_kernel_s_own_flags_decide(
    scene: Scene, a: Vcpu, preempted: int, blocking: int, expected: str
) -> None:
    # sched_switch says R+ inside a halt: which of the four it was is not traced
    a.enter()
    a.exit(HLT)
    a.out(PREEMPTED)
    a.pi_put(preempted=preempted, blocking=blocking)
    a.into()
    a.pi_load()
    a.wakeup()
    a.enter()
    scene.tick()
    w = scene.timeline().windows
    assert reasons(w) == [expected]
    assert w.certain.all()


def test_blocking_without_the_wakeup_vector_is_blocked_irqs(
    scene: Scene, a: Vcpu
) -> None:
    # IF=0: NV stays 0xF2; that the kernel arms 0xF1 at all, another put shows
    a.enter()
    for nv in (F1, 0xF2):
        a.exit(HLT)
        a.out(SLEEPS)
        a.pi_put(after=(0, 0, nv), blocking=1)
        a.into()
        a.pi_load(nv=nv)
        a.wakeup()
        a.enter()
    scene.tick()
    w = scene.timeline().windows
    assert reasons(w) == ["blocking", "blocking-irqs-blocked"]


def test_a_host_that_never_arms_the_vector_tells_nothing_of_it(
    scene: Scene, a: Vcpu
) -> None:
    a.enter()
    a.exit(HLT)
    a.out(SLEEPS)
    a.pi_put(after=(0, 0, 0xF2), blocking=1)
    a.into()
    a.pi_load()
    a.wakeup()
    a.enter()
    scene.tick()
    assert reasons(scene.timeline().windows) == ["blocking"]


def test_an_ioctl_s_load_and_put_are_a_window_of_their_own(
    scene: Scene, a: Vcpu
) -> None:
    # KVM_GET_REGS in the userspace phase: no stock event, but the probes see it
    a.run()
    a.enter()
    a.exit()
    a.unload()
    a.pi_put()
    a.event("kvm:kvm_userspace_exit", reason=2, errno=0)
    a.pi_load()
    a.pi_put()
    a.pi_load()
    a.run()
    a.enter()
    scene.tick()
    assert reasons(scene.timeline().windows) == ["userspace", "ioctl"]


def test_loads_by_the_vmm_before_the_thread_exists(scene: Scene, a: Vcpu) -> None:
    # the main thread (tid 7) creates the vCPU: load and put of vCPU 0, not of a thread
    main = scene.vcpu(0, cpu=0, tid=7)
    main.pi_load(sn=1)
    main.pi_put(after=(0, 1, 0xF2))
    a.pi_load(sn=1)
    a.run()
    a.enter()
    scene.tick()
    t = scene.timeline()
    assert [v.tid for v in t.vcpus.rows] == [100]
    assert reasons(t.windows) == ["ioctl"]
    assert (t.windows.put_cpu[0], t.windows.load_cpu[0]) == (0, 1)


def test_the_thread_that_destroys_a_vm_loads_other_vcpus(scene: Scene, a: Vcpu) -> None:
    # thread 101 leaves last: it loads vCPU 0, dead by then, and its own vCPU
    b = scene.vcpu(1, cpu=0)
    for v in (a, b):
        v.pi_load()
        v.run()
        v.enter()
        v.exit()
        v.unload()
        v.pi_put()
    a.out(DEAD)
    by_b = scene.vcpu(0, cpu=0, tid=101)
    load_ns = by_b.pi_load(on=1, pir=1 << 0x41)
    by_b.pi_put()
    b.pi_load()
    b.pi_put()
    b.out(DEAD)
    scene.tick()
    w = scene.timeline().windows
    assert w.vcpu.tolist() == [0, 0, 1, 1]
    assert w.load_ns[0] == load_ns
    assert (w.on_put[0], w.on_load[0]) == (0, 1)
    # behind its death there is nothing more to be notified
    assert w.load_ns[1] == w.put_ns[1]


def test_probes_that_give_the_address_of_the_vcpu(scene: Scene) -> None:
    # vcpu=%di: the thread's own is the one that it loads most
    a, b = scene.vcpu(0xFFFF_8880_0000_1000, tid=100), scene.vcpu(5, cpu=1, tid=101)
    b.vcpu_id = 0xFFFF_8880_0000_2000
    for v in (a, b):
        for _ in range(2):
            v.pi_load()
            v.pi_put()
    strange = scene.vcpu(a.vcpu_id, cpu=1, tid=101)
    strange.pi_load()
    strange.pi_put()
    for tid, vcpu_id in ((100, 0), (101, 1)):
        scene.event("kvm:kvm_entry", vcpu_id, tid, vcpu_id=vcpu_id)
    for row in scene.rows:
        if "vcpu" in row[4]:  # as the kernel's %di: 64 bits
            row[4]["vcpu"] -= 1 << 64
    w = scene.timeline().windows
    assert w.vcpu.tolist() == [0, 0, 0, 1, 1]


def test_one_probe_alone_is_not_used(scene: Scene, a: Vcpu) -> None:
    # with loads alone the puts would be guessed
    a.enter()
    a.exit()
    a.leave()
    a.pi_load()
    a.run()
    a.enter()
    scene.tick()
    t = scene.timeline()
    assert t.probes == ()
    assert reasons(t.windows) == ["userspace"]


def test_a_window_that_no_load_ends_is_no_window_of_what_follows(
    scene: Scene, a: Vcpu
) -> None:
    # put | LOST | entry, exit ... a post there finds the vCPU loaded
    a.run()
    a.enter()
    a.exit()
    a.out(PREEMPTED)
    scene.tick()
    scene.lose(0, 5_500, 6_500)
    scene.tick()
    a.enter()
    a.exit()
    scene.accept(0, 0x41)
    a.enter()
    scene.tick()
    t = scene.timeline()
    w = t.windows
    assert w.load_row.tolist() == [-1]
    assert w.end_row[0] < t.posts.at[0]
    assert t.span_ns[1] > w.load_ns[0]


def test_a_text_s_bare_probes_give_no_flags(scene: Scene, a: Vcpu) -> None:
    a.enter()
    a.exit()
    a.out(PREEMPTED)
    a.event("kprobes:p_vmx_vcpu_pi_put")
    a.into()
    a.event("kprobes:p_vmx_vcpu_pi_load")
    a.enter()
    scene.tick()
    t: Timeline = scene.timeline()
    w = t.windows
    assert t.probes == ("p_vmx_vcpu_pi_put", "p_vmx_vcpu_pi_load")
    assert reasons(w) == ["preempted"]
    assert not w.probed.any()
    assert (w.on_put[0], w.sn_put[0], w.nv_put[0]) == (-1, -1, -1)
