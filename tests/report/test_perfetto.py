"""A Perfetto trace says what the tables say, and keeps the format's rules."""

from __future__ import annotations

import io
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report.perfetto_reading import ReadTrack, read_perfetto
from timeline.scene import IO, SLEEPS, Scene
from timeline.streams import scenes
from trace_processor import TraceProcessor, ui_folder

from piscope import api, pipeline
from piscope.outcomes import Hit
from piscope.report import perfetto_tracks
from piscope.report.perfetto import write_perfetto
from piscope.report.perfetto_counters import COUNTED
from piscope.report.selection import Selection
from piscope.report.summarize import summarize
from piscope.tables import Kind

OLD, NEW = pipeline.DEFAULT_POLICIES
Tracks = dict[tuple[str, ...], ReadTrack]
SAMPLES = (
    "vmx-6.17.13-ipiv-tools.p_rich.perf.data",
    "vmx-6.12.117-ipiv-us.n_userspace_slow.trace.dat",
    "vmx-6.12.117-ipiv.g_lost.trace.dat",
    "vmx-6.12.117-ipiv.f_2vm.trace.dat",
    "vmx-6.12.117-ipiv.e_min.ftrace.txt.gz",
)


def written(analysis: pipeline.Analysis, selection: Selection | None = None) -> bytes:
    file = io.BytesIO()
    write_perfetto(file, analysis, selection)
    return file.getvalue()


def check(analysis: pipeline.Analysis, selection: Selection) -> Tracks:
    """The tracks, after everything in them was compared with the tables."""
    tracks = read_perfetto(written(analysis, selection))
    summary = summarize(analysis, selection)
    labels = {v.label for v in summary.vcpus}
    times_of_kinds(tracks, analysis, labels)
    assert {
        path[1] for path in tracks if len(path) == 2 and "vm" in path[0].lower()
    } == (labels)
    for policy, said in summary.policies.items():
        outcomes = Counter(
            event.name
            for path, track in tracks.items()
            if path[-1] == policy and len(path) == 3 and path[1] in labels
            for event in track.events
        )
        for hit in Hit:
            sure = outcomes[hit.label]
            maybe = sum(
                n for name, n in outcomes.items() if hit.label in name.split("|")
            )
            assert (sure, maybe) == (
                said.outcomes[hit.label].min,
                said.outcomes[hit.label].max,
            )
        for what, hits in COUNTED.items():
            found = analysis.results[policy].findings
            mine = np.isin(
                analysis.stimuli.vcpu[found.stimulus],
                np.flatnonzero(selection.of_vcpus(analysis.timeline.vcpus)),
            ) & selection.of_cpus(found.cpu)
            for surely, which in (
                ("proven", found.surely(*hits)),
                ("not excluded", found.maybe(*hits)),
            ):
                track = tracks["spurious notifications", policy, f"{what}, {surely}"]
                values = [event.value for event in track.events]
                assert values[0] == 0
                assert all(b > a for a, b in pairwise(values)), "it only counts up"
                assert values[-1] == int((which & mine).sum())
            known = said.known["unloaded_notifications"]
            if what == "unloaded":
                ends = [
                    tracks["spurious notifications", policy, f"unloaded, {s}"].events[
                        -1
                    ]
                    for s in ("proven", "not excluded")
                ]
                assert [end.value for end in ends] == [known.min, known.max]
    return tracks


def times_of_kinds(
    tracks: Tracks, analysis: pipeline.Analysis, labels: set[str]
) -> None:
    i, (begin_ns, end_ns) = analysis.timeline.intervals, analysis.timeline.span_ns
    for row in analysis.timeline.vcpus.rows:
        if row.label not in labels:
            continue
        (track,) = (t for path, t in tracks.items() if path[1:] == (row.label,))
        slices = track.slices()
        if end_ns > begin_ns:
            assert slices[0].begin_ns == begin_ns
            assert slices[-1].end_ns == end_ns
        assert all(a.end_ns == b.begin_ns for a, b in pairwise(slices)), "they tile"
        assert all(a.name != b.name for a, b in pairwise(slices)), (
            "one stretch, one slice"
        )
        time_ns: Counter[tuple[str, bool]] = Counter()
        for one in slices:
            kind = one.name.partition(" (")[0]
            time_ns[kind.rstrip("?"), kind.endswith("?")] += one.end_ns - one.begin_ns
        expected: Counter[tuple[str, bool]] = Counter()
        mine = np.flatnonzero(i.vcpu == row.vcpu)
        for at in mine.tolist():
            kind = Kind(i.kind[at])
            open_ = not i.certain[at] and kind != Kind.UNKNOWN
            expected[kind.label, open_] += int(i.end_ns[at] - i.start_ns[at])
        assert +time_ns == +expected


@given(scenes(), st.integers(1, 40))
@settings(max_examples=60)
def test_any_timeline_keeps_the_rules(scene: Scene, chunk: int) -> None:
    analysis = pipeline.analyze(scene.source())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perfetto_tracks, "_CHUNK", chunk)
        check(analysis, Selection())


@pytest.mark.parametrize("name", SAMPLES)
def test_samples(samples: Path, name: str) -> None:
    check(api.analyze(samples / name).analysis, Selection())


def test_a_selection_narrows_vcpus_and_notifications(samples: Path) -> None:
    analysis = api.analyze(samples / SAMPLES[0]).analysis
    tracks = check(analysis, Selection(vcpus=("1", "2"), cpus=frozenset({1})))
    assert {path[1] for path in tracks if path[0] == "pCPUs" and path[1:]} == {"cpu1"}


def in_userspace() -> Scene:
    scene = Scene(comms={77: "kworker/0:1", 100: "CPU 0/KVM"}, tgids={100: 99})
    a = scene.vcpu(0)
    a.into(after=77)
    a.run()
    a.enter()
    a.exit(IO)
    a.leave()
    scene.msi(0x51, cpu=7, tid=9)
    scene.accept(0, 0x51, cpu=7, tid=9)
    a.run()
    a.enter()
    a.exit(IO)
    a.out(SLEEPS)
    scene.tick()
    return scene


def test_a_post_leads_to_what_it_hit_under_each_policy() -> None:
    analysis = pipeline.analyze(in_userspace().source())
    tracks = read_perfetto(written(analysis))
    vm, label = next(path for path in tracks if len(path) == 2 and "vcpu" in path[1])
    (post,) = tracks[vm, label, "posts"].events
    assert post.name.startswith("0x51 by ")
    assert post.arguments == {OLD: "unloaded-host", NEW: "silent-sn"}
    (before,) = tracks[vm, label, OLD].events
    assert before.name == "unloaded-host"
    assert before.arguments["not_loaded_because"] == "userspace"
    assert before.arguments["vcpu_was"] == "userspace"
    assert before.arguments["certain"] == "yes"
    assert before.arguments["state_table_rows"] == "12"
    (hit,) = tracks["pCPUs", "cpu0", OLD].events
    assert hit.name == f"unloaded-host, for {label}"
    assert hit.ts_ns == post.ts_ns
    assert post.flows == hit.ends, "under the other policy nothing is sent"
    (after,) = tracks[vm, label, NEW].events
    assert after.name == "silent-sn"
    assert ("pCPUs", "cpu0", NEW) not in tracks


def test_pcpus_name_threads() -> None:
    analysis = pipeline.analyze(in_userspace().source())
    tracks = read_perfetto(written(analysis))
    label = analysis.timeline.vcpus.rows[0].label
    names = [one.name for one in tracks["pCPUs", "cpu0"].slices()]
    assert names == [label, "idle"]
    assert tracks["pCPUs", "cpu7"].events == []


def test_a_post_that_no_event_shows_tells_its_window(samples: Path) -> None:
    analysis = api.analyze(samples / SAMPLES[1]).analysis
    tracks = read_perfetto(written(analysis))
    for place, name in (
        (("vm0", "vm0/vcpu0", "posts"), "0x"),
        (("vm0", "vm0/vcpu0", OLD), "unloaded-host"),
        (("pCPUs", "cpu0", OLD), "unloaded-host, for vm0/vcpu0"),
    ):
        (track,) = (
            t
            for path, t in tracks.items()
            if path[0].startswith(place[0]) and path[1:] == place[1:]
        )
        hidden = [e for e in track.events if "or_up_to_ns_later" in e.arguments]
        assert len(hidden) == 250
        assert all(e.arguments["or_up_to_ns_later"] > 0 for e in hidden)
        assert all(e.name.startswith(name) for e in hidden)


def test_names_in_a_trace_may_be_anything() -> None:
    scene = in_userspace()
    scene.info["comms"] = {77: "a\x00\udcff<b>\n", 100: "CPU 0/KVM"}
    scene.rows[0] = (*scene.rows[0][:4], {**scene.rows[0][4], "prev_pid": -5})
    tracks = read_perfetto(written(pipeline.analyze(scene.source())))
    assert ("pCPUs", "cpu0") in tracks


def test_times_before_zero_are_moved_and_it_says_so() -> None:
    scene = in_userspace()
    scene.rows = [(ts_ns - 5000, *rest) for ts_ns, *rest in scene.rows]
    analysis = pipeline.analyze(scene.source())
    assert analysis.timeline.span_ns[0] == -4000
    tracks = read_perfetto(written(analysis))
    first = next(t for path, t in tracks.items() if len(path) == 2 and t.events)
    assert first.events[0].ts_ns == 0
    top = next(t for path, t in tracks.items() if len(path) == 1)
    assert "all times moved by 4000 ns" in top.description


@pytest.mark.tool("node")
@pytest.mark.parametrize("name", [SAMPLES[0], SAMPLES[2]])
def test_trace_processor_reads_the_same(samples: Path, name: str, tool: object) -> None:
    folder = ui_folder()
    result = api.analyze(samples / name)
    analysis, summary = result.analysis, result.summary
    data = written(analysis)
    ours = read_perfetto(data)
    with TraceProcessor(tool("node"), folder, data) as perfetto:  # type: ignore[operator]
        complaints = perfetto.query(
            "select name, value from stats where value > 0"
            " and severity in ('error', 'data_loss')"
        )
        assert complaints == []
        for vcpu in summary.vcpus:
            rows = perfetto.query(
                "select slice.name as name, sum(dur) as ns from slice join track"
                f" on track_id = track.id where track.name = '{vcpu.label}'"
                " group by 1"
            )
            time_ns: Counter[str] = Counter()
            for row in rows:
                time_ns[row["name"].partition(" (")[0].rstrip("?")] += row["ns"]
            assert +time_ns == +Counter(vcpu.time_ns)
        for policy, said in summary.policies.items():
            for surely, number in (
                ("proven", said.known["unloaded_notifications"].min),
                ("not excluded", said.known["unloaded_notifications"].max),
            ):
                last = perfetto.one(
                    "select max(value) from counter join track t"
                    " on track_id = t.id join track p on t.parent_id = p.id"
                    f" where t.name = 'unloaded, {surely}' and p.name = '{policy}'"
                )
                assert last == number
        flows = sum(len(e.ends) for track in ours.values() for e in track.events)
        assert perfetto.one("select count(*) from flow") == flows
        apart = perfetto.one(
            "select count(*) from flow join slice a on slice_out = a.id"
            " join slice b on slice_in = b.id where a.ts != b.ts"
        )
        assert apart == 0
        paths = perfetto.query(
            "select t.name as name, p.name as parent from track t"
            " left join track p on t.parent_id = p.id"
        )
        assert Counter((row["parent"], row["name"]) for row in paths) == Counter(
            (path[-2] if len(path) > 1 else None, path[-1])
            for path, track in ours.items()
            if track.events or any(p[: len(path)] == path != p for p in ours)
        )
