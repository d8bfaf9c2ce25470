"""The life of a vCPU thread, one behavior a test; the walk equals the scalar one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from timeline.scene import (
    DEAD,
    DISK,
    HLT,
    PREEMPTED,
    RUNNABLE,
    SLEEPS,
    Scene,
    Vcpu,
    lived,
)

from piscope.tables import Kind, PutReason, Timeline
from piscope.timeline.lifecycle import Act, Life, Mark, step, tables, walk


def lives(timeline: Timeline, vcpu: int = 0) -> list[str]:
    """What a vCPU did, in order; stretches with IRQs off count as host."""
    i = timeline.intervals
    kinds = [Kind(k).label for k in i.kind[i.vcpu == vcpu]]
    kinds = ["host" if k == "host-irqs-off" else k for k in kinds]
    return [k for n, k in enumerate(kinds) if n == 0 or k != kinds[n - 1]]


def puts(timeline: Timeline) -> list[str]:
    return [PutReason(r).label for r in timeline.windows.reason]


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def a(scene: Scene) -> Vcpu:
    return scene.vcpu(0, cpu=0)


def test_a_visit_to_userspace(scene: Scene, a: Vcpu) -> None:
    # fpu=1 |  entry  |  exit  | fpu=0, userspace_exit |  fpu=1 | entry
    #       |  host   | guest  |  host |   userspace   |  host  | guest
    #     load                        put            load
    a.run()
    a.enter()
    a.exit()
    put_ns = a.unload()
    a.event("kvm:kvm_userspace_exit", reason=2, errno=0)
    load_ns = a.run()
    a.enter()
    scene.tick()
    t = scene.timeline()
    assert lives(t) == ["host", "guest", "host", "userspace", "host", "guest"]
    assert puts(t) == ["userspace"]
    assert (t.windows.put_ns[0], t.windows.load_ns[0]) == (put_ns, load_ns)
    assert t.windows.certain.all()


def test_preempted_in_kvm(scene: Scene, a: Vcpu) -> None:
    # entry | exit | switch R+ |            | switch in | entry
    # guest | host | preempted               | host      | guest
    #               put (pCPU 0)           load (pCPU 1)
    a.run()
    a.enter()
    a.exit()
    a.out(PREEMPTED)
    a.into(cpu=1)
    a.enter()
    scene.tick()
    t = scene.timeline()
    assert lives(t) == ["host", "guest", "host", "preempted", "host", "guest"]
    assert puts(t) == ["preempted"]
    assert (t.windows.put_cpu[0], t.windows.load_cpu[0]) == (0, 1)


def test_preempted_in_userspace_has_no_effect(scene: Scene, a: Vcpu) -> None:
    # userspace: switch R+ ... switch in on another pCPU: the vCPU is put already
    lived(a)
    a.out(PREEMPTED)
    a.into(cpu=1)
    a.out(SLEEPS)
    a.into(cpu=0)
    a.run()
    a.enter()
    scene.tick()
    t = scene.timeline()
    assert puts(t) == ["userspace"]
    # NDST still names the pCPU of the last load
    assert t.windows.put_cpu[0] == 0
    assert lives(t)[-3:] == ["userspace", "host", "guest"]


def test_a_halt_that_blocks(scene: Scene, a: Vcpu) -> None:
    # exit HLT | switch S |          | switch in | wakeup | entry
    #   poll   | blocked             | poll      | host   | guest
    #           sync, put            load, sync    sync
    a.run()
    a.enter()
    a.exit(HLT)
    a.out(SLEEPS)
    a.into()
    a.wakeup()
    a.enter()
    scene.tick()
    t = scene.timeline()
    assert lives(t) == ["host", "guest", "poll", "blocked", "poll", "host", "guest"]
    assert puts(t) == ["blocking"]
    put = t.acts.act[(t.acts.act & Act.PUT) != 0]
    assert (put & Act.SYNC_BEFORE).all()


def test_a_halt_that_only_polls(scene: Scene, a: Vcpu) -> None:
    # exit HLT |            | wakeup | entry       no switch: loaded all the time
    a.run()
    a.enter()
    a.exit(HLT)
    a.wakeup()
    a.enter()
    scene.tick()
    t = scene.timeline()
    assert lives(t) == ["host", "guest", "poll", "host", "guest"]
    assert puts(t) == []


def test_several_sleeps_in_one_halt(scene: Scene, a: Vcpu) -> None:
    # a useless wakeup: check_block finds nothing and the thread sleeps again
    a.run()
    a.enter()
    a.exit(HLT)
    for _ in range(3):
        a.out(SLEEPS)
        a.into()
    a.wakeup()
    a.enter()
    scene.tick()
    assert puts(scene.timeline()) == ["blocking"] * 3


def test_switched_out_runnable_inside_a_halt_is_open(scene: Scene, a: Vcpu) -> None:
    # polling, or waiting already: whether the rcuwait was active is not traced
    a.run()
    a.enter()
    a.exit(HLT)
    a.out(PREEMPTED)
    a.into()
    a.wakeup()
    a.enter()
    scene.tick()
    t = scene.timeline()
    assert puts(t) == ["preempted"]
    assert not t.windows.certain.any()


def test_hlt_that_returns_at_once_is_no_halt(scene: Scene, a: Vcpu) -> None:
    # an event is pending: no kvm_vcpu_wakeup, and the preemption is a plain one
    a.run()
    a.enter()
    a.exit(HLT)
    a.wakeup()
    a.enter()
    a.exit(HLT)
    a.out(PREEMPTED)
    a.into()
    a.enter()
    scene.tick()
    t = scene.timeline()
    assert puts(t) == ["preempted"]
    assert t.windows.certain.all()


def test_a_sleep_in_kvm_that_is_no_halt(scene: Scene, a: Vcpu) -> None:
    # a fault-in: switch D between exit and entry
    a.run()
    a.enter()
    a.exit(48)
    a.out(DISK)
    a.into()
    a.enter()
    scene.tick()
    t = scene.timeline()
    assert lives(t)[3] == "asleep"
    assert puts(t) == ["asleep"]


def test_an_uninterruptible_sleep_behind_hlt_is_no_halt(scene: Scene, a: Vcpu) -> None:
    # kvm_vcpu_block sets TASK_INTERRUPTIBLE; without kvm_vcpu_wakeup in the trace
    # nothing else tells the two apart
    a.run()
    a.enter()
    a.exit(HLT)
    a.out(DISK)
    a.into()
    a.enter()
    scene.tick()
    assert puts(scene.timeline()) == ["asleep"]


def test_a_sleep_that_nothing_ended_was_a_preemption(scene: Scene, a: Vcpu) -> None:
    # "S" read racily (fixed by 8feb053d5319, v6.16): no wakeup, yet it runs again
    a.run()
    a.enter()
    a.exit()
    a.out(SLEEPS)
    a.into()
    a.enter()
    other = scene.vcpu(1, cpu=1)
    other.woken()
    t = scene.timeline()
    assert puts(t) == ["preempted"]
    assert not t.windows.certain[0]


def test_a_dead_thread_is_gone(scene: Scene, a: Vcpu) -> None:
    lived(a)
    died_ns = a.out(DEAD)
    for _ in range(3):
        scene.tick()
    t = scene.timeline()
    assert lives(t)[-1] == "unknown"
    assert t.windows.load_row.tolist() == [-1]
    assert t.windows.load_ns.tolist() == [died_ns]


def test_a_trace_that_begins_in_the_guest(scene: Scene, a: Vcpu) -> None:
    # the first event of the vCPU is its exit: it was in the guest before
    scene.tick()
    a.exit()
    a.enter()
    scene.tick()
    assert lives(scene.timeline()) == ["guest", "host", "guest"]


def test_a_trace_that_begins_while_switched_out(scene: Scene, a: Vcpu) -> None:
    # where it slept is not known, nor that a load followed, until an entry shows it
    scene.tick()
    a.into()
    a.enter()
    scene.tick()
    t = scene.timeline()
    assert lives(t) == ["unknown", "guest"]
    assert puts(t) == []


def test_a_trace_that_ends_while_blocked(scene: Scene, a: Vcpu) -> None:
    # no kvm_vcpu_wakeup any more: the exit's reason decides
    a.run()
    a.enter()
    a.exit(HLT)
    a.wakeup()
    a.enter()
    a.exit(HLT)
    a.out(SLEEPS)
    end_ns = scene.tick()
    t = scene.timeline()
    assert puts(t) == ["blocking"]
    assert t.windows.load_row.tolist() == [-1]
    assert t.windows.load_ns.tolist() == [end_ns]


def test_two_exits_in_a_row(scene: Scene, a: Vcpu) -> None:
    # up to 5.10 a fast path re-enters without kvm_entry: an entry lies in between
    a.run()
    a.enter()
    a.exit(32)
    a.exit(32)
    a.enter()
    scene.tick()
    t = scene.timeline()
    assert puts(t) == []
    entered = (t.acts.act & Act.ENTER) != 0
    assert entered.sum() == 3
    assert (t.acts.act[entered] & Act.UNSURE != 0).tolist() == [False, True, False]


def test_a_wait_for_sipi_is_no_sure_block(scene: Scene, a: Vcpu) -> None:
    # never in its guest so far: IF is 0 and no wakeup vector armed
    a.run()
    a.out(SLEEPS)
    a.into()
    a.wakeup()
    a.enter()
    scene.tick()
    t = scene.timeline()
    assert puts(t) == ["blocking"]
    assert not t.windows.certain.any()


def test_without_kvm_fpu_a_load_is_seen_at_the_entry(scene: Scene, a: Vcpu) -> None:
    # exit | userspace_exit |      entry         perf list without kvm_fpu
    a.enter()
    a.exit()
    put_ns = a.event("kvm:kvm_userspace_exit", reason=2, errno=0)
    load_ns = a.enter()
    scene.tick()
    t = scene.timeline()
    assert puts(t) == ["userspace"]
    assert (t.windows.put_ns[0], t.windows.load_ns[0]) == (put_ns, load_ns)
    loads = t.acts.act[(t.acts.act & Act.LOAD) != 0]
    assert (loads & Act.UNSURE).all()


def test_without_userspace_events_nothing_is_claimed_of_them(
    scene: Scene, a: Vcpu
) -> None:
    # kvm_entry, kvm_exit, sched_switch: a preemption may have been in userspace
    a.enter()
    a.exit(30)
    a.out(PREEMPTED)
    a.into()
    a.enter()
    a.exit(HLT)
    a.out(SLEEPS)
    a.into()
    a.enter()
    scene.tick()
    t = scene.timeline()
    assert not t.userspace_visible
    assert puts(t) == ["preempted", "blocking"]
    assert t.windows.certain.tolist() == [False, True]
    kinds = t.intervals.kind
    host = t.intervals.certain[(kinds == Kind.HOST) & (t.intervals.reason == 30)]
    assert len(host) and not host.any()


@pytest.mark.parametrize("probed", [False, True])
def test_every_state_and_mark_has_an_answer(probed: bool) -> None:
    for life in Life:
        for mark in Mark:
            after, act = step(life, mark, probed)
            assert after in Life
            # of one event the put comes last: both only where the load was missed
            if act & Act.LOAD and act & Act.PUT:
                assert act & Act.UNSURE
            if probed and mark not in (Mark.PI_LOAD, Mark.PI_PUT):
                assert not act & (Act.LOAD | Act.PUT)


@given(
    st.lists(st.sampled_from(list(Mark)), max_size=300),
    st.lists(st.integers(0, 300), max_size=4),
    st.booleans(),
)
def test_the_walk_is_the_scalar_walk(
    marks: list[Mark], cuts: list[int], probed: bool
) -> None:
    starts = sorted({0, *(min(c, len(marks)) for c in cuts)})
    expected = []
    life = Life.UNKNOWN
    for i, mark in enumerate(marks):
        if i in starts:
            life = Life.UNKNOWN
        expected.append(life)
        life = step(life, mark, probed)[0]
    after, _ = tables(probed)
    got = walk(np.array(marks, np.uint8), np.array(starts, np.int64), after)
    assert got.tolist() == expected


def test_the_walk_over_a_chain_without_a_known_mark() -> None:
    # sleeps and returns for thousands of marks, none of which tells by itself
    marks = [Mark.EXIT_HALT, *[Mark.OUT_BLOCK, Mark.IN] * 5000]
    after, _ = tables(False)
    got = walk(np.array(marks, np.uint8), np.array([0], np.int64), after)
    assert got[1:3].tolist() == [Life.HALT, Life.BLOCKED]
    assert got[-2:].tolist() == [Life.HALT, Life.BLOCKED]


def test_a_runnable_state_is_a_preemption_even_without_its_flag(
    scene: Scene, a: Vcpu
) -> None:
    # cond_resched(): "R", not "R+"; kvm_sched_out looks at on_rq
    a.run()
    a.enter()
    a.exit()
    a.out(RUNNABLE)
    a.into()
    a.enter()
    scene.tick()
    assert puts(scene.timeline()) == ["preempted"]
