"""A long trace's exits, in slices: the report equals that on the whole trace.

Slices are so small, and the rows right at a cut so few, that nearly every exit and
interval lies across some cut.
"""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import CAPTURES, SAMPLES
from fake_source import FakeSource, Row

from piscope.commands.progress import Progress
from piscope.commands.watched import WatchedSource
from piscope.errors import UnanswerableError, UsageError
from piscope.exits_pipeline import report_exits
from piscope.report.exit_report import ExitReport
from piscope.report.selection import Selection
from piscope.slices import contexts
from piscope.sources import open_trace
from piscope.sources.raw import Loss, Source

TRACES = sorted(
    path
    for folder in (SAMPLES, SAMPLES / "proof")
    for path in folder.iterdir()
    if path.name.endswith((".trace.dat", ".perf.data"))
)
LAB = sorted(CAPTURES.glob("lab/*/*.trace.dat"))
TEXTS = sorted(CAPTURES.glob("lab/vmx-*/d_func*.txt.gz"))
F_2VM = SAMPLES / "vmx-6.12.117-ipiv.f_2vm.trace.dat"
G_LOST = SAMPLES / "vmx-6.12.117-ipiv.g_lost.trace.dat"


@pytest.fixture(autouse=True)
def few_rows_at_a_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "_AT_CUT", 16)
    monkeypatch.setattr(contexts, "_OF_CPU", 24)


def in_slices(source: Source, rows: int, **options: Any) -> ExitReport:
    return report_exits(
        source, rereadable=True, whole_rows=rows, slice_rows=rows, **options
    )


def same(path: Path, rows: int = 211, **options: Any) -> ExitReport:
    with closing(open_trace(str(path))) as source:
        whole = report_exits(source, **options)
    with closing(open_trace(str(path))) as source:
        parts = in_slices(source, rows, **options)
    assert parts.as_dict() == whole.as_dict()
    return whole


@pytest.mark.parametrize("path", TRACES, ids=lambda p: p.name)
def test_samples(path: Path) -> None:
    assert same(path, outliers=50).all.count


@pytest.mark.skipif(not LAB, reason="the lab's captures are not here")
@pytest.mark.parametrize("path", LAB[::7], ids=lambda p: f"{p.parent.name}.{p.name}")
def test_the_labs_captures(path: Path) -> None:
    same(path, 1511)


@pytest.mark.skipif(not TEXTS, reason="the lab's captures are not here")
@pytest.mark.parametrize("path", TEXTS[:2], ids=lambda p: f"{p.parent.name}.{p.name}")
def test_texts_of_the_function_tracer(path: Path, tmp_path: Path) -> None:
    text = tmp_path / path.stem
    text.write_bytes(gzip.decompress(path.read_bytes()))
    same(text, 1013)


@pytest.mark.parametrize("path", [F_2VM, G_LOST], ids=lambda p: p.name)
@pytest.mark.parametrize(
    "ignore", ["sched:*", "sched:sched_waking", "kvm:kvm_vcpu_wakeup", "kvm:kvm_entry"]
)
def test_without_some_events(path: Path, ignore: str) -> None:
    same(path, 307, ignore=(ignore,))


@pytest.mark.parametrize("path", [F_2VM, G_LOST], ids=lambda p: p.name)
def test_a_part_of_a_trace(path: Path) -> None:
    trace = same(path, 607).trace
    third = trace.duration_ns // 3
    span = {"start_ns": trace.start_ns + third, "end_ns": trace.end_ns - third}
    assert same(path, 101, **span).all.count


def test_some_vcpus_in_other_orders() -> None:
    for sort, outliers in (("count", 0), ("max", 1000)):
        chosen = Selection(vcpus=("1",))
        report = same(F_2VM, 503, selection=chosen, sort=sort, outliers=outliers)
        assert len(report.vcpus) == 2
        assert bool(report.outliers) == bool(outliers)


def _fake(seconds: int = 1) -> list[Row]:
    """Two vCPUs on two pCPUs; exits take 1 us, and now and then some seconds."""
    rows: list[Row] = []
    now_ns = 1000
    for n in range(2000):
        tid, cpu = 10 + n % 2, n % 2
        fields = {"vcpu_id": tid - 10}
        rows.append((now_ns, cpu, tid, "kvm:kvm_entry", fields))
        now_ns += 10
        exit_ = {"exit_reason": n % 7, "isa": 1, **fields}
        rows.append((now_ns, cpu, tid, "kvm:kvm_exit", exit_))
        now_ns += seconds * 10**9 if n % 100 == 99 else 1000 + n
    return rows


@pytest.mark.parametrize("seconds", [1, 4, 5, 9])
def test_long_exits_are_as_exact_as_short_ones(seconds: int) -> None:
    rows = _fake(seconds)
    whole = report_exits(FakeSource(rows))
    assert whole.all.reasons[0].max_ns > seconds * 10**9
    assert in_slices(FakeSource(rows), 97).as_dict() == whole.as_dict()


def test_many_reasons_are_others_alike() -> None:
    rows = [
        (*row[:4], {**row[4], "exit_reason": n // 3}) if "reason" in str(row) else row
        for n, row in enumerate(_fake())
    ]
    whole = report_exits(FakeSource(rows), outliers=2000)
    assert any(line.reason == "(others)" for line in whole.all.reasons)
    parts = in_slices(FakeSource(rows), 97, outliers=2000)
    assert parts.as_dict() == whole.as_dict()


def test_counts_and_losses_that_come_at_the_end_of_a_pass() -> None:
    """A source of many chunks tells them only then, and slices come before."""
    rows = _fake()
    losses = [
        Loss("missed-events", cpu=1, start_ns=rows[900][0], end_ns=rows[950][0]),
        Loss("lost-record", count=3),
    ]
    whole = report_exits(FakeSource(rows, losses=losses))
    assert whole.all.left_out["lost"]
    source = FakeSource(rows, losses=losses, chunk_rows=50, watermarks=True)
    assert in_slices(source, 97).as_dict() == whole.as_dict()
    assert source.passes == 3


def test_cycles_become_ns() -> None:
    clock = {"ts_unit": "cycles", "clock": "x86-tsc"}
    whole = report_exits(FakeSource(_fake(), **clock), tsc_khz=2_900_000)
    parts = in_slices(FakeSource(_fake(), **clock), 97, tsc_khz=2_900_000)
    assert parts.as_dict() == whole.as_dict()


def test_a_short_trace_is_read_once() -> None:
    rows = _fake()
    source = FakeSource(rows)
    report = report_exits(source, rereadable=True, whole_rows=len(rows))
    assert source.passes == 1
    assert report.as_dict() == report_exits(FakeSource(rows)).as_dict()


def test_what_can_be_read_once_is_read_once() -> None:
    source = FakeSource(_fake())
    assert report_exits(source, whole_rows=10).all.count
    assert source.passes == 1


def test_a_pipe_says_what_the_file_says() -> None:
    def said(argument: str, given: bytes) -> dict[str, Any]:
        command = [sys.executable, "-m", "piscope", "exits", argument, "--json"]
        done = subprocess.run(command, input=given, capture_output=True, check=True)
        report: dict[str, Any] = json.loads(done.stdout)
        del report["trace"]["path"]
        return report

    assert said("-", G_LOST.read_bytes()) == said(str(G_LOST), b"")


@pytest.mark.parametrize(
    ("rows", "info", "losses"),
    [
        ([row for row in _fake() if "exit" not in row[3]], {}, []),
        (_fake(), {"ts_unit": "cycles"}, []),
        (_fake(), {}, [Loss("sub-sampled")]),
    ],
)
def test_what_cannot_be_timed_is_refused_alike(
    rows: list[Row], info: dict[str, Any], losses: list[Loss]
) -> None:
    with pytest.raises(UnanswerableError) as whole:
        report_exits(FakeSource(rows, losses=losses, **info))
    with pytest.raises(UnanswerableError) as parts:
        in_slices(FakeSource(rows, losses=losses, **info), 97)
    assert str(parts.value) == str(whole.value)


def test_a_vcpu_that_is_not_there_is_refused_before_the_second_reading() -> None:
    source = FakeSource(_fake())
    with pytest.raises(UsageError, match="--vcpu 7"):
        in_slices(source, 97, selection=Selection(vcpus=("7",)))
    assert source.passes == 1


def test_exits_of_nobody() -> None:
    rows = [(*row[:2], 0, *row[3:]) for row in _fake()]
    whole = report_exits(FakeSource(rows))
    assert "threads that it does not tell" in whole.cannot_tell[0]
    assert in_slices(FakeSource(rows), 97).as_dict() == whole.as_dict()


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_tells_the_readings_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piscope.commands.progress._PATIENCE_S", 0.0)
    monkeypatch.setattr("piscope.commands.progress._REFRESH_S", 0.0)
    terminal = _Terminal()
    rows = _fake()
    with Progress(stream=terminal) as progress:
        source = FakeSource(rows, chunk_rows=500, watermarks=True)
        in_slices(WatchedSource(source, progress), 97)  # type: ignore[arg-type]
    lines = terminal.getvalue().split("\r\x1b[K")[1:]
    first = [line for line in lines if "reading" not in line and line]
    assert first[-1].startswith(f"{len(rows):,} events")
    assert any(
        line.startswith("[######") and line.endswith(", reading 2") for line in lines
    )
    assert lines[-2].startswith(f"[{'#' * 24}] 100% {len(rows):,} events")
    assert lines[-2].endswith(", reading 3")
