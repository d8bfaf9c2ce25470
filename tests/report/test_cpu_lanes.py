"""Whose thread a pCPU ran, counted by hand."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from timeline.scene import SLEEPS, Scene, lived
from timeline.streams import scenes

from piscope.report.cpu_lanes import cpu_lanes
from piscope.report.cpu_stays import LostTimes, cpu_stays
from piscope.report.strips import column_edges


@given(scenes(), st.integers(1, 25))
@settings(max_examples=80)
def test_without_switches_as_the_intervals_say(scene: Scene, columns: int) -> None:
    scene.rows = [row for row in scene.rows if row[3] != "sched:sched_switch"]
    scene.flags = [0] * len(scene.rows)
    scene.tick()
    events, t = scene.events(), scene.timeline()
    i = t.intervals
    edges = column_edges(t.span_ns[0], t.span_ns[1], columns)
    lanes = cpu_lanes(cpu_stays(t, events), edges)
    ran = np.zeros((len(lanes.cpus), columns, len(t.vcpus)), np.int64)
    for row in range(len(i)):
        for line in np.flatnonzero(lanes.cpus == i.cpu[row]).tolist():
            for column in range(columns):
                begin = max(int(i.start_ns[row]), int(edges[column]))
                length = min(int(i.end_ns[row]), int(edges[column + 1])) - begin
                ran[line, column, i.vcpu[row]] += max(length, 0)
    assert not lanes.idle_ns.any()
    assert (lanes.vcpu_ns == ran.max(axis=2, initial=0)).all()
    some = ran.any(axis=2)
    assert ((lanes.vcpu >= 0) == some).all()
    longest = np.take_along_axis(ran, np.maximum(lanes.vcpu, 0)[:, :, None], axis=2)
    assert (longest[:, :, 0] == lanes.vcpu_ns)[some].all()


@given(scenes(), st.integers(1, 25))
@settings(max_examples=80)
def test_the_parts_of_a_column_sum_to_its_width(scene: Scene, columns: int) -> None:
    events, t = scene.events(), scene.timeline()
    edges = column_edges(t.span_ns[0], t.span_ns[1], columns)
    lanes = cpu_lanes(cpu_stays(t, events), edges)
    parts = (lanes.vcpu_ns, lanes.idle_ns, lanes.other_ns, lanes.open_ns)
    assert all((part >= 0).all() for part in parts)
    assert (sum(parts) == np.diff(edges)).all()
    for line, cpu in enumerate(lanes.cpus.tolist()):
        if events.has("sched_switch") and not scene.losses:
            own = events.cpu[events.rows("sched_switch")] == cpu
            assert not (own.any() and lanes.open_ns[line].any()), "a switch tells all"


def a_stay() -> Scene:
    #  us: 1 to 5 b's life on pCPU 1; on pCPU 0: 6 tick, 7 switch to a, 8 entry,
    #  9 exit, 10 switch to idle, 12 end
    scene = Scene()
    a, b = scene.vcpu(0, cpu=0), scene.vcpu(1, cpu=1)
    lived(b)
    scene.tick(cpu=0)
    a.into(after=77)
    a.enter()
    a.exit()
    a.out(SLEEPS)
    scene.tick(cpu=0)
    scene.tick(cpu=0)
    return scene


def test_a_pcpu_runs_a_task_then_a_vcpu_then_idles() -> None:
    scene = a_stay()
    events, t = scene.events(), scene.timeline()
    lanes = cpu_lanes(cpu_stays(t, events), np.array([*t.span_ns]))
    own = next(v.vcpu for v in t.vcpus.rows if v.vcpu_id == 0)
    assert lanes.vcpu[0, 0] == own
    assert lanes.other_ns[0, 0] == 6000
    assert lanes.vcpu_ns[0, 0] == 3000
    assert lanes.idle_ns[0, 0] == 2000
    assert lanes.open_ns[0, 0] == 0


def test_behind_a_loss_nothing_is_known_until_the_next_switch() -> None:
    scene = a_stay()
    scene.lose(0, 8500, 8700)
    events, t = scene.events(), scene.timeline()
    lanes = cpu_lanes(cpu_stays(t, events), np.array([*t.span_ns]))
    assert lanes.vcpu_ns[0, 0] == 1500
    assert lanes.open_ns[0, 0] == 1500
    assert lanes.idle_ns[0, 0] == 2000


def test_lost_times_are_joined() -> None:
    scene = Scene()
    lived(scene.vcpu(0))
    scene.lose(0, 1000, 3000)
    scene.lose(1, 2000, 4000)
    scene.lose(2, None, 2500)
    scene.lose(None, 4500, 99_000)
    scene.lose(None, None, None)
    lost = LostTimes(scene.events(), 500, 5000)

    def spans(found: tuple[np.ndarray, np.ndarray]) -> list[tuple[int, int]]:
        return list(zip(*(column.tolist() for column in found), strict=True))

    assert spans(lost.of_any()) == [(500, 4000), (4500, 5000)]
    assert spans(lost.of_cpu(1)) == [(2000, 4000), (4500, 5000)]
    assert spans(lost.of_cpu(2)) == [(500, 2500), (4500, 5000)]
    assert spans(lost.of_cpu(7)) == [(4500, 5000)]
