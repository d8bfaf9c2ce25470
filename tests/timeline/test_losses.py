"""Lost events: what they leave open, and that nothing inside a gap is certain.

cpu 0   ---x  x x                 events lost from s to e
           s........e
a vCPU on cpu 0 at s               unknown from s on
a vCPU on no pCPU in s..e          unknown: it may have run on cpu 0 unseen
a vCPU on cpu 1                    goes on
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from timeline.scene import HLT, IO, PREEMPTED, SLEEPS, Scene
from timeline.streams import scenes

from piscope.sources.raw import Loss
from piscope.tables import Kind, PutReason
from piscope.timeline.losses import blind_rows, loss_gaps, unplaced_losses


def kind_at(scene: Scene, ts_ns: int, vcpu: int = 0) -> str:
    i = scene.timeline().intervals
    at = (i.vcpu == vcpu) & (i.start_ns <= ts_ns) & (ts_ns < i.end_ns)
    return Kind(int(i.kind[at][0])).label


def two_in_guest() -> Scene:
    """vCPU 0 in its guest on pCPU 0, vCPU 1 on pCPU 1, for a while."""
    scene = Scene()
    for vcpu in (scene.vcpu(0, cpu=0), scene.vcpu(1, cpu=1)):
        vcpu.into()
        vcpu.enter()
    for _ in range(20):
        scene.tick(cpu=0)
        scene.tick(cpu=1)
    return scene


def test_who_was_on_the_pcpu_is_unknown_and_the_other_goes_on() -> None:
    scene = two_in_guest()
    scene.lose(0, 10_500, 20_500)
    assert kind_at(scene, 9_000) == "guest"
    assert kind_at(scene, 12_000) == "unknown"
    assert kind_at(scene, 30_000) == "unknown"
    assert kind_at(scene, 12_000, vcpu=1) == "guest"


def test_a_loss_on_no_known_pcpu_concerns_all() -> None:
    scene = two_in_guest()
    scene.lose(None, 10_500, 20_500)
    assert kind_at(scene, 12_000, vcpu=0) == "unknown"
    assert kind_at(scene, 12_000, vcpu=1) == "unknown"


def test_who_was_off_may_have_run_unseen() -> None:
    scene = Scene()
    a = scene.vcpu(0, cpu=1)
    a.run()
    a.enter()
    a.exit(HLT)
    a.out(SLEEPS)
    put_ns = scene.now_ns
    for _ in range(10):
        scene.tick(cpu=1)
    scene.lose(0, 6_500, 8_500)
    a.into()
    a.wakeup()
    a.enter()
    scene.tick()
    t = scene.timeline()
    assert kind_at(scene, 5_500) == "blocked"
    assert kind_at(scene, 7_500) == "unknown"
    # its window is known up to the loss only
    assert t.windows.put_ns.tolist() == [put_ns]
    assert t.windows.load_row.tolist() == [-1]
    assert put_ns < t.windows.load_ns[0] <= 8_000


def test_who_is_switched_out_within_a_gap_is_lost_there() -> None:
    scene = Scene()
    a = scene.vcpu(0, cpu=1)
    a.enter()
    a.exit()
    a.out(PREEMPTED)
    for _ in range(5):
        scene.tick(cpu=1)
    a.into()
    a.enter()
    scene.tick()
    scene.lose(0, 1_500, 6_500)
    assert kind_at(scene, 2_500) == "host"
    assert kind_at(scene, 5_500) == "unknown"


def test_an_entry_makes_it_known_again() -> None:
    scene = two_in_guest()
    scene.lose(0, 10_500, 20_500)
    entered_ns = scene.vcpu(0, cpu=0).enter()
    scene.tick()
    assert kind_at(scene, entered_ns) == "guest"


def test_the_window_of_a_known_vcpu_survives_a_loss_elsewhere() -> None:
    # in userspace on pCPU 1 all the time: it can't be loaded elsewhere
    scene = Scene()
    a = scene.vcpu(0, cpu=1)
    a.into()
    a.run()
    a.enter()
    a.exit()
    a.leave()
    for _ in range(5):
        scene.tick(cpu=1)
    load_ns = a.run()
    a.enter()
    scene.tick()
    scene.lose(0, 6_500, 8_500)
    w = scene.timeline().windows
    assert w.load_ns.tolist() == [load_ns]


def test_an_overwritten_beginning_is_a_gap_from_the_start() -> None:
    # pCPU 1's buffer begins later than pCPU 0's
    scene = two_in_guest()
    scene.losses.append(Loss("overwritten", 1, None, 20_500, 7))
    events = scene.events()
    assert loss_gaps(events) == [(1, 0, 20)]
    assert kind_at(scene, 30_000, vcpu=0) == "guest"


@pytest.mark.parametrize(
    ("counts", "expected"), [((3,), 3), ((3, 4), 7), ((3, None), None), ((), 0)]
)
def test_losses_without_a_place_are_counted(
    counts: tuple[int | None, ...], expected: int | None
) -> None:
    scene = two_in_guest()
    for count in counts:
        scene.losses.append(Loss("cpustat-mismatch", None, None, None, count))
    assert unplaced_losses(scene.events()) == expected


def test_without_place_and_number_nothing_is_certain() -> None:
    scene = Scene()
    a = scene.vcpu(0)
    a.run()
    a.enter()
    a.exit()
    a.leave()
    a.run()
    a.enter()
    scene.tick()
    scene.losses.append(Loss("truncated"))
    t = scene.timeline()
    assert len(t.windows) == 1
    assert not t.windows.certain.any()
    assert not t.intervals.certain.any()


rows = st.integers(0, 50)


@given(st.lists(st.tuples(st.sampled_from((None, 0, 1)), rows, rows), max_size=12))
def test_blind_rows_are_the_union_of_all_gaps(
    drawn: list[tuple[int | None, int, int]],
) -> None:
    gaps = [(cpu, min(a, b), max(a, b)) for cpu, a, b in drawn]
    blind = blind_rows(gaps)
    covered = {r for _, first, last in gaps for r in range(first, last)}
    assert {r for first, last in blind.tolist() for r in range(first, last)} == covered
    assert (blind[1:, 0] > blind[:-1, 1]).all(), "ascending, and no two touch"
    # an instant between two rows at which events were lost is not forgotten
    for _, first, last in gaps:
        assert ((blind[:, 0] <= first) & (last <= blind[:, 1])).any()


def next_to_a_busy_pcpu(*steps: str) -> Scene:
    """vCPU 0 in its guest on pCPU 0, and pCPU 1 loses events while it emits some."""
    scene = Scene(cpus=(0, 1))
    a = scene.vcpu(0, cpu=0)
    a.enter()
    a.enter()
    for step in steps:
        match step:
            case "accept":
                scene.accept(0, 0x40, cpu=1, tid=100)
            case "woken":
                a.woken(cpu=1)
            case "other":
                scene.vcpu(1, cpu=1).enter()
    for _ in range(2):
        a.enter()
    scene.losses.append(Loss("missed-events", 1, 2_000, None, None))
    return scene


@settings(max_examples=150, deadline=None)
@given(scenes())
@example(next_to_a_busy_pcpu("accept"))
@example(next_to_a_busy_pcpu("woken"))
@example(next_to_a_busy_pcpu("other"))
def test_what_is_certain_in_a_gap_ran_on_another_pcpu(scene: Scene) -> None:
    events = scene.events()
    i = scene.timeline().intervals
    off = np.isin(i.kind, (Kind.PREEMPTED, Kind.BLOCKED, Kind.ASLEEP))
    for cpu, first, last in loss_gaps(events):
        if last - first < 2:
            continue
        start_ns, end_ns = events.ts_ns[first], events.ts_ns[last - 1]
        inside = (i.start_ns < end_ns) & (i.end_ns > start_ns) & (start_ns < end_ns)
        # nobody stays switched out through rows that may hide its return
        whole = inside & (i.start_ns <= start_ns) & (i.end_ns >= end_ns)
        assert not (whole & off & (i.start_ns < start_ns)).any()
        running = inside & (i.kind == Kind.GUEST) & (i.start_ns < start_ns)
        running &= i.end_ns > start_ns
        assert cpu is not None or not running.any()
        assert not (running & (i.cpu == cpu)).any()


@pytest.mark.parametrize("step", ["accept", "woken", "other"])
def test_a_vcpu_stays_on_its_own_pcpu_while_another_loses_events(step: str) -> None:
    i = next_to_a_busy_pcpu(step).timeline().intervals
    assert set(i.cpu[(i.vcpu == 0) & (i.kind == Kind.GUEST)]) == {0}


def test_a_halt_that_a_loss_cuts_is_a_halt() -> None:
    # kvm_vcpu_wakeup is lost: HLT and the sleep behind it tell
    scene = Scene()
    a = scene.vcpu(0)
    for _ in range(2):
        a.enter()
        a.exit(HLT)
        out_ns = a.out(SLEEPS)
        a.into()
        a.wakeup()
    lost = [row for row in scene.rows if row[0] > out_ns]
    scene.rows = [row for row in scene.rows if row[0] <= out_ns]
    scene.now_ns = lost[-1][0]
    scene.lose(0, out_ns, scene.now_ns + 500)
    a.enter()
    scene.tick()
    w = scene.timeline().windows
    assert [PutReason(r).label for r in w.reason] == ["blocking", "blocking"]
    assert w.certain.all()
    assert w.load_row[1] == -1


def test_a_loss_between_a_sleep_and_a_wakeup_makes_it_no_halt() -> None:
    # asleep in KVM | lost: back, in the guest, HLT | the end of that halt
    scene = Scene()
    a = scene.vcpu(0)
    a.enter()
    a.exit()
    out_ns = a.out(SLEEPS)
    scene.now_ns += 5_000
    a.into()
    a.wakeup()
    a.enter()
    scene.tick()
    scene.lose(0, out_ns, out_ns + 5_500)
    w = scene.timeline().windows
    assert [PutReason(r).label for r in w.reason] == ["asleep"]


def test_a_thread_that_may_have_left_unseen_is_unknown() -> None:
    # no sched_switch was recorded: in the host it may move to the pCPU that lost events
    scene = Scene()
    a, b = scene.vcpu(0, cpu=1), scene.vcpu(1, cpu=2)
    a.enter()
    a.exit()
    b.enter()
    for _ in range(5):
        scene.tick(cpu=0)
    scene.lose(0, 4_500, 7_500)
    assert kind_at(scene, 3_500) == "host"
    assert kind_at(scene, 5_000) == "unknown"
    assert kind_at(scene, 5_000, vcpu=1) == "guest"


def test_the_reason_of_an_exit_before_a_loss_is_not_that_of_what_follows() -> None:
    scene = Scene()
    a = scene.vcpu(0)
    a.enter()
    exit_ns = a.exit(IO)
    scene.lose(0, exit_ns, exit_ns + 500)
    run_ns = a.run()
    scene.tick()
    i = scene.timeline().intervals
    assert i.reason[i.start_ns == run_ns].tolist() == [-1]


def test_a_thread_whose_put_is_behind_its_switch_may_have_left() -> None:
    # pCPU 0 lost the load there, and all pCPUs the switch back to pCPU 1
    scene = Scene()
    a = scene.vcpu(0, cpu=1)
    a.into()
    a.pi_load()
    a.enter()
    a.exit(HLT)
    out_ns = a.out(SLEEPS)
    put_ns = a.pi_put()
    scene.tick(cpu=2)  # it was loaded on pCPU 0 before this
    scene.now_ns += 5_000
    back_ns = a.pi_load()
    a.wakeup()
    a.enter()
    scene.lose(0, out_ns, back_ns + 500)
    scene.lose(None, put_ns + 3_000, back_ns - 500)
    w = scene.timeline().windows
    assert w.load_row.tolist() == [-1]
    assert w.load_ns[0] <= put_ns
