"""A trace analyzed in slices: every table and the summary equal those of the whole.

Slices here are so small, and the rows right at a cut so few, that nearly every window,
halt and call chain of a capture lies across some cut.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import CAPTURES, SAMPLES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from timeline.scene import Scene
from timeline.streams import scenes

from piscope import pipeline
from piscope.arrow_tables import arrow_table
from piscope.errors import UnanswerableError
from piscope.part_tables import PartTables
from piscope.pipeline import Analysis
from piscope.report.summarize import summarize
from piscope.report.tally import Tallies
from piscope.sliced_pipeline import parts_of
from piscope.slices import contexts
from piscope.sources import trace_dat_batches
from piscope.sources.detect import open_trace
from piscope.sources.raw import Wanted

TRACES = sorted(
    path
    for folder in (SAMPLES, SAMPLES / "proof")
    for path in folder.glob("vmx-*")
    if path.name.endswith((".trace.dat", ".perf.data"))
)
LAB = sorted(CAPTURES.glob("lab/vmx-*/*.trace.dat"))
TEXTS = sorted(CAPTURES.glob("lab/vmx-*/d_func*.txt.gz"))
POLICIES = ("preempt-only", "suppress-on-put", "legacy-5.10", "suppress-at-exit")
TABLES = ("EVENTS", "INTERVALS", "WINDOWS", "POSTS", "STIMULI", "FINDINGS")
NUMBERS = ("window", "post", "stimulus")
"""Of rows, by table: another in parts. What they join to is compared."""


@pytest.fixture(autouse=True)
def few_rows_at_a_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "_AT_CUT", 16)
    monkeypatch.setattr(contexts, "_OF_CPU", 24)


@pytest.fixture(autouse=True)
def many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a long trace: what a source tells at the end of a pass comes late."""
    monkeypatch.setattr(trace_dat_batches, "_BATCH_BYTES", 1)
    monkeypatch.setattr(trace_dat_batches, "_LEAST_PAGES", 1)


def test_a_source_tells_its_counts_late() -> None:
    source = open_trace(str(TRACES[0]))
    chunks = source.chunks(Wanted({"*": None}))
    next(chunks)
    first = dict(source.counts)
    assert sum(1 for _ in chunks) > 5
    assert sum(first.values()) < sum(source.counts.values())


def whole_of(path: Path, **options: object) -> Analysis:
    source = open_trace(str(path))
    try:
        return pipeline.analyze(source, **options)  # type: ignore[arg-type]
    finally:
        source.close()


def rows_of(tables: dict[str, pa.Table]) -> dict[str, list[tuple[object, ...]]]:
    """Each table's rows, sorted; numbers of rows are what they join to."""
    windows = tables["WINDOWS"].to_pylist()
    window_of = {w["window"]: (w["vcpu"], w["put_row"]) for w in windows}
    posts = tables["POSTS"].to_pylist()
    post_of = {p["post"]: (p["row"], p["vcpu_id"], p["vector"]) for p in posts}
    stimuli = tables["STIMULI"].to_pylist()
    stimulus_of = {
        s["stimulus"]: (
            s["vcpu"],
            s["row"],
            s["letter"],
            post_of.get(s["post"]),
            window_of.get(s["window"]),
        )
        for s in stimuli
    }
    assert len(window_of) == len(windows)
    assert len(post_of) == len(posts)
    joined = {"window": window_of, "post": post_of, "stimulus": stimulus_of}

    def plain(name: str, value: object) -> str:
        known = joined.get(name)
        return repr(value if known is None or value is None else known[value])  # type: ignore[index]

    return {
        name: sorted(
            tuple(plain(key, value) for key, value in row.items())
            for row in table.to_pylist()
        )
        for name, table in tables.items()
    }


def sliced(path: Path, rows: int, **options: object) -> Iterator[pipeline.Part]:
    source = open_trace(str(path))
    try:
        yield from parts_of(source, slice_rows=rows, **options)  # type: ignore[arg-type]
    finally:
        source.close()


def same_summary(path: Path, rows: int, **options: object) -> None:
    whole = summarize(whole_of(path, **options))
    tallies = Tallies()
    for part in sliced(path, rows, **options):
        tallies.add(part)
    assert json.dumps(tallies.finish().as_dict()) == json.dumps(whole.as_dict())


@pytest.mark.parametrize("path", TRACES, ids=lambda p: p.name)
def test_every_table_is_that_of_the_whole(path: Path) -> None:
    analysis = whole_of(path, policies=POLICIES)
    rows = max(307, len(analysis.events) // 16)
    given = PartTables()
    found: dict[str, list[pa.Table]] = {name: [] for name in TABLES}
    tallies = Tallies()
    parts = 0
    for part in sliced(path, rows, policies=POLICIES):
        tallies.add(part)
        parts += 1
        for name, table in given.tables_of(part, TABLES):
            found[name].append(table)
    assert parts == -(-len(analysis.events) // rows)
    mine = rows_of({n: pa.concat_tables(t) for n, t in found.items()})
    whole = rows_of({name: arrow_table(analysis, name) for name in TABLES})
    for name in TABLES:
        assert mine[name] == whole[name], name
    assert tallies.finish() == summarize(analysis)


@pytest.mark.parametrize("posted", ["none", "ipi", "emulated,vhost"])
def test_what_is_posted_by_hardware(posted: str) -> None:
    for path in TRACES[::14]:
        same_summary(path, 607, posted=posted)


@pytest.mark.skipif(not LAB, reason="the lab's captures are not here")
@pytest.mark.parametrize("path", LAB[1::5], ids=lambda p: f"{p.parent.name}.{p.name}")
def test_the_labs_captures(path: Path) -> None:
    same_summary(path, 173)


@pytest.mark.skipif(not TEXTS, reason="the lab's captures are not here")
@pytest.mark.parametrize("path", TEXTS, ids=lambda p: f"{p.parent.name}.{p.name}")
def test_the_labs_texts(path: Path, tmp_path: Path) -> None:
    text = tmp_path / path.stem
    text.write_bytes(gzip.decompress(path.read_bytes()))
    same_summary(text, 257)


@settings(
    max_examples=60,
    deadline=None,
    # the fixtures set the same for every example
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(scenes(), st.integers(1, 40))
def test_any_stream(scene: Scene, rows: int) -> None:
    try:
        whole = summarize(pipeline.analyze(scene.source(), policies=POLICIES))
    except UnanswerableError:
        with pytest.raises(UnanswerableError):
            list(parts_of(scene.source(), policies=POLICIES, slice_rows=rows))
        return
    tallies = Tallies()
    for part in parts_of(scene.source(), policies=POLICIES, slice_rows=rows):
        tallies.add(part)
    assert json.dumps(tallies.finish().as_dict()) == json.dumps(whole.as_dict())


def test_a_part_of_a_trace() -> None:
    path = SAMPLES / "vmx-6.12.117-ipiv.f_2vm.trace.dat"
    begin_ns, end_ns = whole_of(path).timeline.span_ns
    third = (end_ns - begin_ns) // 3
    same_summary(path, 301, start_ns=begin_ns + third, end_ns=end_ns - third)


def test_without_switches_or_wakings() -> None:
    path = SAMPLES / "proof" / "vmx-6.12.117-ipiv.a_plain.trace.dat"
    for ignore in ("sched:*", "sched:sched_waking", "pi:*", "kvm:kvm_vcpu_wakeup"):
        same_summary(path, 509, ignore=(ignore,))


def test_a_trace_without_vcpus_is_refused_alike(tmp_path: Path) -> None:
    path = tmp_path / "other.txt"
    path.write_text(
        "# tracer: nop\n#\n"
        "   bash-12  [000] d..2.  1.000001: sched_waking: comm=a pid=3 prio=120 "
        "target_cpu=000\n"
    )
    with pytest.raises(UnanswerableError) as whole:
        whole_of(path)
    with pytest.raises(UnanswerableError) as parts:
        list(sliced(path, 100))
    assert str(parts.value) == str(whole.value)


def test_a_trace_without_events_is_refused_alike() -> None:
    path = SAMPLES / "vmx-6.17.13-ipiv.e_min.trace.dat"
    ignore = ("*:*",)
    with pytest.raises(UnanswerableError) as whole:
        whole_of(path, ignore=ignore)
    with pytest.raises(UnanswerableError) as parts:
        list(sliced(path, 100, ignore=ignore))
    assert str(parts.value) == str(whole.value)
