"""Strips: every ns of every interval in its column, and every notification once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timeline.scene import IO, MSR_WRITE, SLEEPS, Scene
from timeline.streams import scenes

from piscope import pipeline
from piscope.outcomes import Hit
from piscope.report import strips as module
from piscope.report.marks import Mark, marks
from piscope.report.strips import column_edges, covered_ns, strips
from piscope.tables import Kind, Timeline

OLD, NEW = pipeline.DEFAULT_POLICIES


def analyzed(scene: Scene) -> pipeline.Analysis:
    return pipeline.analyze(scene.source())


def by_hand(t: Timeline, edges: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The same numbers, interval by interval and column by column."""
    i = t.intervals
    shape = (len(t.vcpus), len(edges) - 1, len(Kind))
    time_ns, unsure_ns = np.zeros(shape, np.int64), np.zeros(shape[:2], np.int64)
    for row in range(len(i)):
        for column in range(len(edges) - 1):
            begin = max(int(i.start_ns[row]), edges[column])
            length = min(int(i.end_ns[row]), edges[column + 1]) - begin
            if length > 0:
                time_ns[i.vcpu[row], column, i.kind[row]] += length
                if not i.certain[row] and i.kind[row] != Kind.UNKNOWN:
                    unsure_ns[i.vcpu[row], column] += length
    return time_ns, unsure_ns


@given(
    scenes(),
    st.integers(-5_000, 70_000),
    st.integers(0, 80_000),
    st.integers(1, 40),
    st.integers(1, 5),
)
@settings(max_examples=150)
def test_as_by_hand(
    scene: Scene, start_ns: int, length_ns: int, columns: int, chunk: int
) -> None:
    t = scene.timeline()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        found = strips(t, start_ns, start_ns + length_ns, columns)
    expected, unsure = by_hand(t, found.edges_ns.tolist())
    assert (found.time_ns == expected).all()
    assert (found.uncertain_ns == unsure).all()
    assert (found.uncertain_ns <= found.time_ns[:, :, 1:].sum(axis=2)).all()


@given(scenes(), st.integers(1, 300))
@settings(max_examples=50)
def test_the_kinds_of_a_column_sum_to_its_width(scene: Scene, columns: int) -> None:
    t = scene.timeline()
    begin_ns, end_ns = t.span_ns
    found = strips(t, begin_ns, end_ns, columns)
    assert (found.time_ns.sum(axis=2) == np.diff(found.edges_ns)).all()
    told = found.shares().sum(axis=2)[:, np.diff(found.edges_ns) > 0]
    assert told == pytest.approx(1)


@given(st.integers(-(10**18), 10**18), st.integers(0, 10**18), st.integers(1, 5000))
def test_columns_are_as_even_as_can_be(first: int, length: int, columns: int) -> None:
    edges = column_edges(first, first + length, columns)
    assert edges[0] == first
    assert edges[-1] == first + length
    width = np.diff(edges)
    assert width.max() - width.min() <= 1


def test_there_is_a_column_and_time_goes_forward() -> None:
    with pytest.raises(ValueError, match="0 columns"):
        column_edges(0, 10, 0)
    with pytest.raises(ValueError, match="the end is before the start"):
        column_edges(10, 9, 1)


def test_no_stretch_covers_nothing() -> None:
    none = np.empty(0, np.int64)
    assert covered_ns(none, none, np.array([0, 5, 9])).tolist() == [0, 0]


def test_chosen_vcpus_in_their_order() -> None:
    scene = Scene()
    a, b = scene.vcpu(0, cpu=0), scene.vcpu(1, cpu=1)
    a.enter()
    b.enter()
    a.exit(IO)
    b.exit(IO)
    scene.tick()
    t = scene.timeline()
    all_ = strips(t, *t.span_ns, 7)
    two = strips(t, *t.span_ns, 7, vcpus=np.array([1, 0]))
    assert two.vcpus.tolist() == [1, 0]
    assert (two.time_ns == all_.time_ns[::-1]).all()


def test_what_dominates_a_column() -> None:
    #  guest 2 us | guest 1 us, KVM 1 us | after the trace
    scene = Scene()
    a = scene.vcpu(0)
    begin_ns = a.enter()
    scene.tick()
    scene.tick()
    a.exit(MSR_WRITE)
    a.event("kvm:kvm_msr", write=1, ecx=0x6E0, data=0)
    t = scene.timeline()
    found = strips(t, begin_ns, begin_ns + 6000, 3)
    kinds = [Kind(k) if k >= 0 else None for k in found.dominant()[0].tolist()]
    assert kinds == [Kind.GUEST, Kind.GUEST, None]


def in_userspace(scene: Scene) -> None:
    a = scene.vcpu(0)
    a.run()
    a.enter()
    a.exit(IO)
    a.leave()
    scene.msi(0x51, cpu=7)
    scene.accept(0, 0x51, cpu=7)
    a.run()
    a.enter()
    a.exit(IO)
    a.out(SLEEPS)
    scene.tick()


def test_a_notification_that_the_other_policy_does_not_send() -> None:
    scene = Scene()
    in_userspace(scene)
    analysis = analyzed(scene)
    sent_ns = int(analysis.timeline.posts.ts_ns[0])
    strip = strips(analysis.timeline, *analysis.timeline.span_ns, 11)
    before = marks(analysis, strip, OLD, other=NEW)
    at = int(np.searchsorted(strip.edges_ns, sent_ns, side="right")) - 1
    for mark in (Mark.UNLOADED_HOST, Mark.REMOVED):
        assert np.flatnonzero(before.certain[0, :, mark]).tolist() == [at], mark
        assert before.certain[0, at, mark] == before.possible[0, at, mark] == 1
    assert before.undated.sum() == 0, "its event tells when it was"
    after = marks(analysis, strip, NEW, other=OLD)
    assert after.possible.sum() == 0


@given(scenes(), st.integers(1, 50))
@settings(max_examples=60)
def test_each_notification_is_in_one_column(scene: Scene, columns: int) -> None:
    analysis = analyzed(scene)
    begin_ns, end_ns = analysis.timeline.span_ns
    strip = strips(analysis.timeline, begin_ns, end_ns + 1, columns)
    for policy, other in ((OLD, NEW), (NEW, OLD)):
        found = analysis.results[policy].findings
        counted = marks(analysis, strip, policy, other=other)
        assert (counted.certain <= counted.possible).all()
        for mark, hit in (
            (Mark.UNLOADED_HOST, Hit.UNLOADED_HOST),
            (Mark.WRONG_VCPU, Hit.WRONG_VCPU),
            (Mark.WAKEUP, Hit.WAKEUP),
            (Mark.RESIDUAL, Hit.HOST),
        ):
            least, most = found.count(hit)
            assert counted.certain[:, :, mark].sum() == least
            assert counted.possible[:, :, mark].sum() == most


def test_marks_name_the_hits_that_they_count() -> None:
    assert [mark.label for mark in Mark] == [
        "unloaded-host",
        "wrong-vcpu",
        "wakeup",
        "residual",
        "removed",
    ]
