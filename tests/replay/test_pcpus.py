"""Who was on which pCPU, when: stretches, and how much of an interval they cover."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from timeline.scene import MSR_WRITE, PREEMPTED, Scene
from timeline.streams import scenes

from piscope.replay.pcpus import Occupancy, Stretches, occupancy


def of(scene: Scene) -> Occupancy:
    events, t = scene.events(), scene.timeline()
    return occupancy(events, t.vcpus, t.intervals, t.acts)


def who(stretches: Stretches, cpu: int, ts_ns: int) -> int:
    return int(stretches.at(np.array([cpu]), np.array([ts_ns]))[0])


def test_two_vcpus_take_turns_on_a_pcpu() -> None:
    #  A: entry ... exit, switch          B: switch, entry ... exit
    scene = Scene()
    a, b = scene.vcpu(0, cpu=0), scene.vcpu(1, cpu=0)
    a.run()
    entered_ns = a.enter()
    left_ns = a.exit()
    switched_ns = a.out(PREEMPTED, to=b.tid)
    b.run()
    b_entered_ns = b.enter()
    b.exit()
    scene.tick()
    places = of(scene)
    assert who(places.guest, 0, entered_ns) == 0
    assert who(places.guest, 0, left_ns) == -1, "half-open"
    assert who(places.kvm, 0, left_ns) == 0
    assert who(places.kvm, 0, switched_ns) == -1
    assert who(places.guest, 0, b_entered_ns) == 1
    assert who(places.guest, 1, b_entered_ns) == -1, "another pCPU"


def test_an_exit_with_its_entry_right_behind_may_be_a_fast_path() -> None:
    scene = Scene()
    a = scene.vcpu(0, cpu=0)
    a.enter()
    quick_ns = a.exit(MSR_WRITE)
    a.enter()
    slow_ns = a.exit(MSR_WRITE)
    a.event("kvm:kvm_msr", write=1, ecx=0x6E0, data=0)
    a.enter()
    scene.tick()
    maybe = of(scene).maybe
    assert who(maybe, 0, quick_ns) == 0
    assert who(maybe, 0, slow_ns) == -1


def test_the_idle_task() -> None:
    scene = Scene()
    a = scene.vcpu(0, cpu=0)
    a.enter()
    a.exit()
    idle_ns = a.out(PREEMPTED, to=0)
    back_ns = a.into()
    scene.tick()
    places = of(scene)
    assert places.idle_known
    assert who(places.idle, 0, idle_ns) >= 0
    assert who(places.idle, 0, back_ns) == -1
    assert who(places.idle, 1, idle_ns) == -1


def test_a_pcpu_that_idles_to_the_end() -> None:
    scene = Scene()
    a = scene.vcpu(0, cpu=0)
    a.enter()
    a.exit()
    a.out(PREEMPTED, to=0)
    last_ns = scene.tick() - 1
    assert who(of(scene).idle, 0, last_ns) >= 0


def test_without_sched_switch_idle_is_not_known() -> None:
    scene = Scene()
    scene.vcpu(0).enter()
    scene.tick()
    places = of(scene)
    assert not places.idle_known
    assert len(places.idle.cpu) == 0


stretches = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 9), st.integers(0, 5)), max_size=12
)
questions = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 120), st.integers(0, 60)), max_size=8
)


@given(stretches, questions)
def test_coverage_is_the_count_of_covered_instants(
    drawn: list[tuple[int, int, int]], asked: list[tuple[int, int, int]]
) -> None:
    # of each pCPU, stretches one behind the other: (cpu, length, pause before it)
    at_ns = dict.fromkeys(range(3), 0)
    rows = []
    for n, (cpu, length_ns, pause_ns) in enumerate(sorted(drawn, key=lambda d: d[0])):
        start_ns = at_ns[cpu] + pause_ns
        at_ns[cpu] = start_ns + length_ns
        rows.append((cpu, start_ns, start_ns + length_ns, n))
    columns = np.array(rows, np.int64).reshape(-1, 4).T
    s = Stretches(
        columns[0].astype(np.int32), columns[1], columns[2], columns[3].astype(np.int32)
    )
    for cpu, start_ns, length_ns in asked:
        owners = [
            next((n for c, a, b, n in rows if c == cpu and a <= t < b), -1)
            for t in range(start_ns, start_ns + length_ns)
        ]
        covered = s.covered_ns(
            np.array([cpu]), np.array([start_ns]), np.array([start_ns + length_ns])
        )
        assert covered.tolist() == [sum(n >= 0 for n in owners)]
        assert [who(s, cpu, start_ns + k) for k in range(length_ns)] == owners


@settings(max_examples=100, deadline=None)
@given(scenes())
def test_nobody_shares_a_pcpu(scene: Scene) -> None:
    places = of(scene)
    for s in (places.guest, places.maybe, places.kvm, places.idle):
        same = s.cpu[1:] == s.cpu[:-1]
        assert (np.diff(s.cpu) >= 0).all()
        assert (s.start_ns[1:][same] >= s.end_ns[:-1][same]).all()
        assert (s.end_ns >= s.start_ns).all()
