"""The report: names, percentiles, budgets, outliers, and what it looks like."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import SAMPLES
from fake_source import FakeSource, Row
from hypothesis import given, settings
from hypothesis import strategies as st

from piscope import pipeline
from piscope.errors import PiscopeError
from piscope.exits_pipeline import report_exits
from piscope.report.exit_names import OTHER, exit_names
from piscope.report.exit_report import BUDGET_PARTS, ExitReport
from piscope.report.render_exits import render_exits
from piscope.report.summarize import summarize
from piscope.sources import open_trace
from piscope.sources.raw import EventFormat

Command = Callable[..., tuple[int, str, str]]

PRINT_FMT = (
    '"reason %s%s%s", (REC->isa == 1) ? __print_symbolic(REC->exit_reason & 0xffff, '
    '{ 0, "EXCEPTION_NMI" }, { 12, "MY_HLT" }) : __print_symbolic(REC->exit_reason, '
    '{ 0x078, "hlt" }, { 0x040 + 14, "PF excp" }, { 0x078, "again" }), '
    '__print_flags(REC->exit_reason & ~0xffff, " ", { 0x80000000, "FAILED_VMENTRY" })'
)


def _format(print_fmt: str) -> EventFormat:
    return EventFormat("kvm", "kvm_exit", 1, (), (), print_fmt)


@pytest.mark.parametrize(
    ("reason", "isa", "name"),
    [
        (12, 1, "MY_HLT"),  # the trace's own name wins
        (10, 1, "CPUID"),  # not in the trace's table: the kernel's
        (0x80000021, 1, "INVALID_STATE FAILED_VMENTRY"),
        (0x20000000 | 12, 1, "MY_HLT 0x20000000"),
        (999, 1, "0x3e7"),
        (0x78, 2, "hlt"),
        (0x4E, 2, "PF excp"),
        (0x80000000, 2, "0x80000000"),  # flags are VMX's
        (-1, 0, "(not told)"),
        (OTHER, 0, "(others)"),
    ],
)
def test_names(reason: int, isa: int, name: str) -> None:
    assert exit_names(_format(PRINT_FMT)).name(reason, isa) == name


def test_names_without_a_format() -> None:
    assert exit_names(None).name(12, 1) == "HLT"
    assert exit_names(None).name(0x78, 2) == "0x78"


@given(st.text(max_size=200))
def test_any_print_fmt_gives_names(text: str) -> None:
    names = exit_names(_format(f"isa == 2 __print_symbolic({text}"))
    assert names.name(12, 1)


@pytest.mark.parametrize("name", ["p_min.perf.data", "p_rich.perf.data"])
def test_the_traces_own_table_is_read_whole(name: str, samples: Path) -> None:
    source = open_trace(str(samples / f"vmx-6.17.13-ipiv-tools.{name}"))
    own = exit_names(source.formats["kvm:kvm_exit"]).own
    source.close()
    assert own[1][12] == "HLT"
    assert own[2][0x78] == "hlt"
    symbols = source.formats["kvm:kvm_exit"].print_fmt.partition("__print_flags")[0]
    # SVM's table names two numbers twice
    assert symbols.count("{") - 2 <= len(own[1]) + len(own[2]) <= symbols.count("{")


def _exits(durations_ns: list[int], reason: int = 12) -> list[Row]:
    rows: list[Row] = []
    now_ns = 1000
    for dur_ns in durations_ns:
        rows.append((now_ns, 0, 10, "kvm:kvm_entry", {"vcpu_id": 0}))
        rows.append(
            (now_ns + 100, 0, 10, "kvm:kvm_exit", {"exit_reason": reason, "isa": 1})
        )
        now_ns += 100 + dur_ns
    rows.append((now_ns, 0, 10, "kvm:kvm_entry", {"vcpu_id": 0}))
    return rows


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=300))
def test_statistics_of_any_durations(durations_ns: list[int]) -> None:
    (line,) = report_exits(FakeSource(_exits(durations_ns))).all.reasons
    ordered = np.sort(durations_ns)
    assert line.count == len(ordered)
    assert line.total_ns == int(ordered.sum())
    assert (line.min_ns, line.max_ns) == (ordered[0], ordered[-1])
    for percent, found_ns in ((50, line.p50_ns), (90, line.p90_ns), (99, line.p99_ns)):
        expected = np.percentile(ordered, percent, method="inverted_cdf")
        assert found_ns == int(expected)


def test_the_longest_exit_is_found_at_its_time() -> None:
    report = report_exits(FakeSource(_exits([10, 20, 9000, 10])), outliers=1)
    (line,), (one,) = report.all.reasons, report.outliers
    # 1000 entry, 1100 exit; each round 100 ns in the guest
    assert line.max_at_ns == one.ts_ns == 1000 + 110 + 120 + 100
    assert (one.dur_ns, one.times_median) == (9000, 900.0)


def test_exits_of_nobody_are_told() -> None:
    # a text without its task column: thread 0 is the idle task's, and no vCPU's
    exit_ = (5, 0, 0, "kvm:kvm_exit", {"exit_reason": 12, "isa": 1})
    report = report_exits(FakeSource([*_exits([10]), exit_]))
    assert report.all.count == 1
    assert "1 VM-exit is left out: of threads" in report.cannot_tell[0]


def test_many_reasons_become_others() -> None:
    rows: list[Row] = [(0, 0, 10, "kvm:kvm_entry", {"vcpu_id": 0})]
    for n in range(600):
        fields = {"exit_reason": n << 16, "isa": 1}
        rows.append((10 * n + 1, 0, 10, "kvm:kvm_exit", fields))
        rows.append((10 * n + 3, 0, 10, "kvm:kvm_entry", {"vcpu_id": 0}))
    report = report_exits(FakeSource(rows))
    others = [r for r in report.all.reasons if r.reason == "(others)"]
    assert [r.count for r in others] == [600 - 512]
    assert report.all.count == 600


_PARTS_OF = {
    "guest": ("guest",),
    "host": ("host", "host-irqs-off"),
    "halt": ("poll", "blocked"),
    "steal": ("preempted",),
    "userspace": ("userspace",),
    "asleep": ("asleep",),
    "unknown": ("unknown",),
}


@pytest.mark.parametrize(
    "name",
    [
        "vmx-6.17.13-ipiv-tools.p_min.perf.data",
        "vmx-6.12.117-ipiv.g_lost.trace.dat",
        "vmx-6.17.13-ipiv.e_min.trace.dat",
        "vmx-6.12.117-ipiv-us.o_wrong_vcpu_slow.trace.dat",
    ],
)
def test_budgets_sum_to_wall_time_and_are_those_of_the_analysis(
    name: str, samples: Path
) -> None:
    source = open_trace(str(samples / name))
    analysis = pipeline.analyze(source)
    begin_ns, end_ns = analysis.timeline.span_ns
    report = report_exits(source)
    source.close()
    vcpus = {v.label: v.time_ns for v in summarize(analysis).vcpus}
    same_span = report.trace.duration_ns == end_ns - begin_ns
    assert same_span or "_min." not in name
    for budget in report.budgets:
        assert sum(budget.time_ns.values()) == budget.wall_ns
        if not same_span:  # the analysis reads events that a budget does not need
            continue
        theirs = vcpus[budget.label]
        assert budget.time_ns == {
            part: sum(theirs[kind] for kind in kinds)
            for part, kinds in _PARTS_OF.items()
        }
    assert set(BUDGET_PARTS) == set(_PARTS_OF)


def test_svm_halts_are_halts(samples: Path) -> None:
    source = open_trace(str(samples / "svm-6.17.13.c_svm_min.trace.dat"))
    report = report_exits(source)
    source.close()
    halts = next(r for r in report.all.reasons if r.reason == "hlt")
    halted_ns = sum(b.time_ns["halt"] for b in report.budgets)
    assert halted_ns > 0.9 * halts.total_ns
    assert {r.isa for r in report.all.reasons} == {2}


def _lab_report(samples: Path, name: str) -> ExitReport:
    source = open_trace(str(samples / name))
    try:
        return report_exits(source)
    finally:
        source.close()


@pytest.mark.parametrize("width", [80, 120])
def test_lines_fit_and_nothing_is_cut(samples: Path, width: int) -> None:
    report = _lab_report(samples, "vmx-6.17.13-ipiv.f_2vm.trace.dat")
    lines = render_exits(report, width=width).splitlines()
    assert max(map(len, lines)) <= width
    longest = next(line for line in lines if line.startswith("  HLT"))
    assert longest.endswith("ms")


def test_json_and_rows_say_the_same(
    piscope: Command, samples: Path, tmp_path: Path
) -> None:
    trace = str(samples / "vmx-6.17.13-ipiv.f_2vm.trace.dat")
    status, out, _ = piscope("exits", trace, "--json", "--outliers", "3")
    assert status == 0
    document = json.loads(out)
    rows_csv, rows_parquet = tmp_path / "rows.csv", tmp_path / "rows.parquet"
    for path in (rows_csv, rows_parquet):
        assert piscope("exits", trace, "-o", str(path), "--outliers", "3")[0] == 0
    rows = pq.read_table(rows_parquet).to_pylist()
    exits = {
        (r["label"], r["name"], r["statistic"]): r["value"]
        for r in rows
        if r["section"] == "exits"
    }
    for group in (document["all"], *document["vms"], *document["vcpus"]):
        for line in group["reasons"]:
            for statistic in ("count", "total_ns", "p90_ns", "mean_ns", "max_at_ns"):
                key = (group["label"], line["reason"], statistic)
                assert exits[key] == line[statistic]
    assert len([r for r in rows if r["statistic"] == "times_median"]) == 3
    with rows_csv.open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)


def test_selection_narrows(piscope: Command, samples: Path) -> None:
    trace = str(samples / "vmx-6.17.13-ipiv-tools.p_rich.perf.data")
    _, out, _ = piscope("exits", trace, "--json", "--vcpu", "1")
    document = json.loads(out)
    assert [v["vcpu_id"] for v in document["vcpus"]] == [1]
    assert document["all"]["count"] == document["vcpus"][0]["count"] == 249
    _, out, _ = piscope("exits", trace, "--json", "--from", "25%", "--to", "75%")
    narrowed = json.loads(out)
    assert 0 < narrowed["all"]["count"] < 1098
    assert narrowed["narrowed"] == {"from": "25%", "to": "75%"}
    _, out, _ = piscope("exits", trace, "--json", "--ignore", "sched_switch")
    assert any("sched_switch" in said for said in json.loads(out)["cannot_tell"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--vcpu", "99"), "--vcpu 99"),
        (("-o", "rows.txt"), ".parquet"),
        (("-o", "rows.csv", "--json"), "--json"),
        (("--from", "noon"), "not an instant"),
        (("--ignore", "kvm_exit"), "no kvm_exit"),
    ],
)
def test_wrong_requests(
    piscope: Command, samples: Path, arguments: tuple[str, ...], said: str
) -> None:
    trace = str(samples / "vmx-6.17.13-ipiv-tools.p_min.perf.data")
    status, out, err = piscope("exits", trace, *arguments)
    assert (status, out) == (2, "")
    assert said in err


@pytest.mark.parametrize(
    "name",
    ["vmx-6.17.13-ipiv-tools.p_min.perf.data", "vmx-6.17.13-ipiv.e_min.trace.dat"],
)
@given(data=st.data())
@settings(max_examples=20)
def test_damaged_files_end_politely(
    name: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    damaged = bytearray((SAMPLES / name).read_bytes())
    places = st.lists(
        st.tuples(st.integers(0, len(damaged) - 1), st.integers(0, 255)), max_size=40
    )
    for at, byte in data.draw(places):
        damaged[at] = byte
    path = tmp_path_factory.mktemp("damaged") / "trace"
    path.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    try:
        with closing(open_trace(str(path))) as source:
            report = report_exits(source)
    except PiscopeError:
        return
    for budget in report.budgets:
        assert sum(budget.time_ns.values()) == budget.wall_ns
    assert render_exits(report)
