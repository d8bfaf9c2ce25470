"""A Perfetto trace of an analysis in parts has the events of the whole's."""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report.perfetto_reading import Event, ReadTrack, read_perfetto
from split_analysis import even_cuts, split
from timeline.scene import Scene
from timeline.streams import scenes
from trace_processor import TraceProcessor, ui_folder

from piscope import pipeline
from piscope.errors import UsageError
from piscope.pipeline import Analysis, Part
from piscope.report import perfetto_counters, perfetto_tracks
from piscope.report.perfetto import PerfettoFile, write_perfetto
from piscope.report.selection import Selection
from piscope.sliced_pipeline import parts_of
from piscope.slices import contexts
from piscope.sources.detect import open_trace

HIDDEN = "proof/vmx-6.17.13-ipiv-sn.j_one_pcpu.trace.dat"
LOST = "vmx-6.12.117-ipiv.g_lost.trace.dat"
RICH = "vmx-6.17.13-ipiv-tools.p_rich.perf.data"
SPARSE = "vmx-6.12.117-ipiv.e_min.ftrace.txt.gz"

Tracks = dict[tuple[str, ...], ReadTrack]


def analyzed(path: Path, **options: object) -> Analysis:
    source = open_trace(str(path))
    try:
        return pipeline.analyze(source, **options)  # type: ignore[arg-type]
    finally:
        source.close()


def of_whole(analysis: Analysis, selection: Selection | None = None) -> bytes:
    file = io.BytesIO()
    write_perfetto(file, analysis, selection)
    return file.getvalue()


def of_parts(parts: Iterable[Part], selection: Selection | None = None) -> bytes:
    file = io.BytesIO()
    with PerfettoFile(file, selection) as perfetto:
        for part in parts:
            perfetto.add(part)
        perfetto.finish()
    return file.getvalue()


def sliced(path: Path, rows: int, selection: Selection | None = None) -> bytes:
    source = open_trace(str(path))
    try:
        return of_parts(parts_of(source, slice_rows=rows), selection)
    finally:
        source.close()


def told(event: Event) -> tuple[object, ...]:
    """An event without the numbers of its flows."""
    arguments = tuple(event.arguments.items())
    flows = len(event.flows), len(event.ends)
    return (event.ts_ns, event.type, event.name, arguments, event.value, flows)


def flows_of(tracks: Tracks) -> Counter[tuple[object, ...]]:
    """From which event of which track each flow leads to which of which."""
    ends = {
        flow: (path, told(event))
        for path, track in tracks.items()
        for event in track.events
        for flow in event.ends
    }
    return Counter(
        (path, told(event), *ends[flow])
        for path, track in tracks.items()
        for event in track.events
        for flow in event.flows
    )


def same(parts: bytes, whole: bytes) -> None:
    mine, theirs = read_perfetto(parts), read_perfetto(whole)
    assert mine.keys() == theirs.keys()
    for path, track in theirs.items():
        other = mine[path]
        assert (other.rank, other.unit, other.description) == (
            track.rank,
            track.unit,
            track.description,
        )
        if any(event.type == "TYPE_SLICE_BEGIN" for event in track.events):
            assert other.slices() == track.slices(), path
        elif track.unit:
            assert other.events == track.events, path
        assert Counter(map(told, other.events)) == Counter(map(told, track.events)), (
            path
        )
    assert flows_of(mine) == flows_of(theirs)


@pytest.mark.parametrize("name", [HIDDEN, LOST, RICH])
def test_any_split(samples: Path, name: str) -> None:
    analysis = analyzed(samples / name)
    whole = of_whole(analysis)
    n = len(analysis.events)
    odd = sorted([1, *random.Random(n).choices(range(n + 1), k=3), n - 1, n - 1])
    for cuts in (*(even_cuts(analysis, parts) for parts in (2, 3, 11)), odd):
        same(of_parts(split(analysis, cuts)), whole)


@pytest.mark.parametrize("name", [HIDDEN, LOST])
def test_slices(samples: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "_AT_CUT", 16)
    monkeypatch.setattr(contexts, "_OF_CPU", 24)
    same(sliced(samples / name, 307), of_whole(analyzed(samples / name)))


def test_slices_without_switches(samples: Path) -> None:
    # pCPUs of which only the vCPUs' own intervals tell who ran
    options = {"ignore": ("sched:sched_switch",)}
    whole = of_whole(analyzed(samples / LOST, **options))
    source = open_trace(str(samples / LOST))
    parts = of_parts(parts_of(source, slice_rows=307, ignore=options["ignore"]))
    source.close()
    same(parts, whole)


def test_a_selection(samples: Path) -> None:
    analysis = analyzed(samples / RICH)
    cuts = even_cuts(analysis, 5)
    for selection in (
        Selection(vcpus=("1", "2")),
        Selection(cpus=frozenset({1})),
        Selection(vcpus=("0",), cpus=frozenset({0})),
    ):
        whole = of_whole(analysis, selection)
        same(of_parts(split(analysis, cuts), selection), whole)


def without_switches(scene: Scene) -> None:
    scene.rows = [row for row in scene.rows if row[3] != "sched:sched_switch"]
    scene.flags = [0] * len(scene.rows)
    scene.tick()


@pytest.mark.parametrize("change", [lambda _: None, without_switches])
@given(data=st.data(), scene=scenes(), chunk=st.integers(1, 40))
@settings(max_examples=60)
def test_any_timeline(
    change: Callable[[Scene], None], data: st.DataObject, scene: Scene, chunk: int
) -> None:
    change(scene)
    analysis = pipeline.analyze(scene.source())
    cut = st.integers(0, len(analysis.events))
    cuts = sorted(data.draw(st.lists(cut, max_size=5)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perfetto_tracks, "_CHUNK", chunk)
        patch.setattr(perfetto_counters, "_AT_A_TIME", chunk)
        same(of_parts(split(analysis, cuts)), of_whole(analysis))


def test_a_post_that_is_known_later_has_its_own_clock(samples: Path) -> None:
    # it stands where its window begins, and is the part's in which the window ends
    analysis = analyzed(samples / HIDDEN)
    pb = perfetto_tracks.definitions()
    own_clocks = [
        sum(p.HasField("timestamp_clock_id") for p in pb.Trace.FromString(data).packet)
        for data in (
            of_whole(analysis),
            of_parts(split(analysis, even_cuts(analysis, 11))),
        )
    ]
    assert own_clocks[0] == 0
    assert own_clocks[1] > 5


def test_instants_in_any_order_and_before_zero() -> None:
    file = io.BytesIO()
    writer = perfetto_tracks.TrackWriter(file, -4000)
    track = writer.track("a")
    for ts_ns in ([-1000, 500, -2000, 500], [400, 600], [-4000]):
        writer.instants(track, np.array(ts_ns), np.zeros(len(ts_ns), int), ["x"])
    (read,) = read_perfetto(file.getvalue()).values()
    times = [event.ts_ns for event in read.events]
    assert times == [0, 2000, 3000, 4400, 4500, 4500, 4600]


def test_it_needs_a_part() -> None:
    with pytest.raises(ValueError, match="at least one part"):
        PerfettoFile(io.BytesIO()).finish()


def test_what_the_trace_does_not_hold_is_refused(samples: Path) -> None:
    analysis = analyzed(samples / SPARSE)
    with pytest.raises(UsageError, match="--vcpu vm9/vcpu9"):
        of_whole(analysis, Selection(vcpus=("vm9/vcpu9",)))


@pytest.mark.tool("node")
def test_trace_processor_reads_the_same(
    samples: Path, tool: Callable[[str], str]
) -> None:
    analysis = analyzed(samples / HIDDEN)
    parts = of_parts(split(analysis, even_cuts(analysis, 40)))
    read = []
    for data in (of_whole(analysis), parts):
        with TraceProcessor(tool("node"), ui_folder(), data) as perfetto:
            complaints = perfetto.query(
                "select name, value from stats where value > 0"
                " and severity in ('error', 'data_loss')"
            )
            assert complaints == []
            slices = perfetto.query(
                "select t.name as track, p.name as parent, ts, dur, depth,"
                " slice.name as name, extract_arg(arg_set_id,"
                " 'debug.or_up_to_ns_later') as later from slice"
                " join track t on track_id = t.id"
                " left join track p on t.parent_id = p.id"
            )
            counts = perfetto.query(
                "select t.name as track, p.name as parent, ts, value from counter"
                " join track t on track_id = t.id join track p on t.parent_id = p.id"
            )
            flows = perfetto.query(
                "select a.ts as ts, a.name as name, b.name as hit from flow"
                " join slice a on slice_out = a.id join slice b on slice_in = b.id"
            )
        assert len(flows) > 100
        read.append(
            [Counter(tuple(row.items()) for row in r) for r in (slices, counts, flows)]
        )
    assert read[0] == read[1]
