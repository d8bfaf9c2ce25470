"""Real texts: every line accounted for, and told alike by every tool.

The lab's `.ftrace.txt.gz` is the kernel's own text of the buffer that the `.dat`
beside it holds in binary, so text and record can be held against each other; and
trace-cmd and perf print the same recordings in all their modes.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import CAPTURES
from sources.text_reading import Row, read_text, rows_of

from piscope.errors import UnsupportedTraceError
from piscope.events.vmx_exits import VmxExit
from piscope.sources.ftrace_text import open_text
from piscope.sources.raw import Wanted
from piscope.sources.text_rows import LineCounts
from piscope.sources.trace_dat import open_trace_dat

LAB = sorted(CAPTURES.glob("lab/*/*.ftrace.txt.gz"))
# All of them are read for counts; these few, of each kind, also field by field.
COMPARED = [
    "svm-6.17.13/c_svm_min",
    "vmx-6.12.117-ipiv/a_plain",
    "vmx-6.12.117-noipiv/b_pid_x2apic",
    "vmx-6.17.13-ipiv/d_func",
    "vmx-6.17.13-ipiv/g_lost",
    "vmx-6.17.13-ipiv/b_pid_x2apic",
]


def capture_name(path: Path) -> str:
    return f"{path.parent.name}/{path.name.split('.')[0]}"


@cache
def expected_counts() -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {}
    table = CAPTURES / "lab" / "counts.tsv"
    for line in table.read_text().splitlines()[1:]:
        capture, event, count = line.split("\t")
        # The table splits the function tracer's events by function.
        name = event.partition(":")[0] if event.startswith("function:") else event
        name = "print" if name == "tracing_mark_write" else name.rpartition(":")[2]
        counts.setdefault(capture, Counter())[name] += int(count)
    return counts


@pytest.mark.parametrize("path", LAB, ids=capture_name)
def test_lab_counts(path: Path) -> None:
    source = open_text(path)
    for _ in source.chunks(Wanted({})):
        pass
    by_name = Counter()
    for key, count in source.counts.items():
        by_name[key.rpartition(":")[2]] += count
    assert by_name == expected_counts()[capture_name(path)]
    assert (source.lines.unparsed, source.lines.lost) == (0, 0)
    overwritten = path.name.startswith("g_lost")
    assert {loss.cause for loss in source.losses} == (
        {"overwritten"} if overwritten else set()
    )


# file | events, headers, unparsed | causes of losses | words of the notes
PUBLIC: list[tuple[str, tuple[int, int, int], set[str], tuple[str, ...]]] = [
    ("hip_host_report_allevents.txt", (16671, 1, 0), set(), ("plugins",)),
    (
        "kvmlist_amd_svm_no_task_columns_2024.txt",
        (24, 0, 0),
        set(),
        ("(cpu is -1)", "(tid is -1)", "no tasks"),
    ),
    ("latency_format_rt_2020.txt", (14, 0, 0), set(), ("8 characters",)),
    ("lkml_esxi_nested_tracefs_2023.txt", (42, 0, 0), set(), ()),
    ("perfscript_kvm_irq_old_perf.txt", (19, 0, 0), set(), ()),
    ("tracefs_2018_ctf_old_kvm_exit.txt", (27, 0, 1), {"unparsed-line"}, ()),
    ("tracefs_2018_sched_cpu0kvm_comm.txt", (8, 11, 0), {"overwritten"}, ()),
    ("hip_401bdc13.report_N_t.txt.gz", (7792, 1, 0), set(), ("not nanoseconds",)),
]


@pytest.mark.parametrize(
    ("name", "lines", "causes", "notes"), PUBLIC, ids=[row[0] for row in PUBLIC]
)
def test_public_texts(
    name: str,
    lines: tuple[int, int, int],
    causes: set[str],
    notes: tuple[str, ...],
    public_captures: Path,
) -> None:
    source = open_text(public_captures / name)
    rows = rows_of(source)
    events, headers, unparsed = lines
    assert source.lines == LineCounts(events, headers, 0, 0, unparsed)
    assert len(rows) == events
    assert {loss.cause for loss in source.losses} == causes
    assert len(source.info.notes) == len(notes)
    for words, note in zip(notes, source.info.notes, strict=True):
        assert words in note


def test_a_raw_report_of_a_raw_clock_is_refused(public_captures: Path) -> None:
    with pytest.raises(UnsupportedTraceError, match=r"line 2: .*report -N -t"):
        open_text(public_captures / "hip_401bdc13.report_R_t.txt.gz")


def test_a_host_report_with_plugins(public_captures: Path) -> None:
    source = open_text(public_captures / "hip_host_report_allevents.txt")
    rows = rows_of(source, Wanted({"kvm:*": None, "sched:sched_switch": None}))
    kinds = Counter(row.name for row in rows)
    assert (kinds["kvm_exit"], kinds["kvm_entry"]) == (810, 806)
    assert (kinds["sched_switch"], kinds["kvm_apicv_accept_irq"]) == (515, 278)
    exits = [row.fields for row in rows if row.name == "kvm_exit"]
    assert all("vcpu_id" not in e and "intr_info" not in e for e in exits)
    assert all(e["isa"] == 1 and "exit_reason" in e for e in exits)


def test_an_amd_host_shows_as_one(public_captures: Path) -> None:
    source = open_text(public_captures / "kvmlist_amd_svm_no_task_columns_2024.txt")
    exits = [row.fields for row in rows_of(source) if row.name == "kvm_exit"]
    assert {fields["isa"] for fields in exits} == {2}
    assert not any("exit_reason" in fields for fields in exits)


def test_a_kernel_of_2018_keeps_the_vector_in_info2(public_captures: Path) -> None:
    source = open_text(public_captures / "tracefs_2018_ctf_old_kvm_exit.txt")
    exits = [row.fields for row in rows_of(source) if row.name == "kvm_exit"]
    (taken,) = [e for e in exits if e["exit_reason"] == VmxExit.EXTERNAL_INTERRUPT]
    assert taken["info2"] == 0x800000F6
    assert "intr_info" not in taken


# --- text against record

TEXT_ONLY = {
    "kvm_msi_set_irq": {
        "dst", "vector", "dm", "logical", "level", "redirection_hint"
    },
}  # fmt: skip


RENAMED = {"kvm_write_tsc_offset": {"vcpu", "prev", "next"}}
"""Events of no known wording, whose print fmt uses other words than their fields."""


def by_cpu(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row.cpu)


@pytest.mark.parametrize("name", COMPARED)
def test_text_and_record_agree(name: str, lab: Path) -> None:
    text = by_cpu(rows_of(open_text(lab / f"{name}.ftrace.txt.gz")))
    record = by_cpu(rows_of(open_trace_dat(lab / f"{name}.trace.dat")))
    assert len(text) == len(record)
    compared: Counter[str] = Counter()
    for told, real in zip(text, record, strict=True):
        assert abs(told.ts_ns - real.ts_ns) <= 500  # the kernel rounds to us
        assert (told.cpu, told.tid, told.flags) == (real.cpu, real.tid, real.flags)
        assert told.name == real.name
        if told.system != "kprobes":  # a text names no groups
            assert told.system == real.system
        if told.name in ("function", "print"):  # symbols for addresses
            continue
        for field in told.fields.keys() & real.fields.keys():
            value = told.fields[field]
            expected = real.fields[field]
            if isinstance(expected, str):
                expected = expected.encode()
            assert value == expected, (told.name, field)
            compared[told.name] += 1
        own = told.fields.keys() - real.fields.keys() - {"__probe_ip_symbol"}
        assert own <= TEXT_ONLY.get(told.name, RENAMED.get(told.name, set()))
    for event in ("kvm_entry", "kvm_exit", "sched_switch"):
        assert compared[event]


def test_exit_reasons_are_those_of_the_record(lab: Path) -> None:
    record = open_trace_dat(lab / "vmx-6.17.13-ipiv/a_plain.trace.dat")
    print_fmt = record.formats["kvm:kvm_exit"].print_fmt
    # (REC->isa == 1) ? __print_symbolic(reason, { 0, "EXCEPTION_NMI" }, ...) : ...
    vmx = print_fmt.partition("isa == 1")[2].partition(") :")[0]
    names = {int(number): name for number, name in _SYMBOL.findall(vmx)}
    assert len(names) > 50
    assert names.items() <= {int(exit_): exit_.name for exit_ in VmxExit}.items()


_SYMBOL = re.compile(r'\{ (\d+), "(\w+)" \}')


# --- the same recording, printed in all modes

BASE = ["-N", "-t"]
# What a mode prints in words that lose something: event -> fields not compared.
PLUGINS: dict[str, set[str]] = {"sched_switch": {"prev_state"}}
RAW: dict[str, set[str]] = {"kvm_apic_ipi": {"icr_low"}}


def trace_cmd(path: Path, *mode: str) -> bytes:
    done = subprocess.run(
        ["trace-cmd", "report", *mode, "-i", path], capture_output=True, check=True
    )
    return done.stdout


def perf_script(path: Path, *mode: str) -> bytes:
    done = subprocess.run(
        ["perf", "script", *mode, "-i", path], capture_output=True, check=True
    )
    return done.stdout


def assert_alike(
    base: list[Row],
    other: list[Row],
    tolerance_ns: int,
    except_fields: dict[str, set[str]] | None = None,
) -> None:
    assert len(base) == len(other)
    for a, b in zip(base, other, strict=True):
        assert abs(a.ts_ns - b.ts_ns) <= tolerance_ns
        assert b.cpu in (a.cpu, -1)
        assert b.tid in (a.tid, -1)
        assert (a.system, a.name) == (b.system, b.name)
        skipped = (except_fields or {}).get(a.name, set())
        shared = (a.fields.keys() & b.fields.keys()) - skipped
        assert {f: a.fields[f] for f in shared} == {f: b.fields[f] for f in shared}


REPORTS: list[tuple[str, list[str]]] = [
    (name, mode)
    for name in (
        "vmx-6.17.13-ipiv/g_lost.trace.dat",
        "vmx-6.17.13-ipiv-tools/r_tsc_v6.dat",
        "vmx-6.12.117-noipiv/g_lost.trace.dat",
    )
    for mode in ([], ["-t"], ["-l"], ["-R"], ["-N"], ["-l", "-R"], ["-R", "-t"])
]


@cache
def base_report(path: Path) -> tuple[Any, list[Row]]:
    return read_text(trace_cmd(path, *BASE))


@pytest.mark.tool("trace-cmd")
@pytest.mark.parametrize(("name", "mode"), REPORTS, ids=str)
def test_reports_agree(name: str, mode: list[str], lab: Path) -> None:
    first, base = base_report(lab / name)
    source, rows = read_text(trace_cmd(lab / name, *mode))
    assert source.lines.unparsed == 0
    assert source.lines.lost == first.lines.lost == (2 if "g_lost" in name else 0)
    ticks = "tsc" in name
    assert source.info.ts_resolution_ns == (1 if ticks or "-t" in mode else 1000)
    assert source.info.ts_unit == ("cycles" if ticks else "ns")
    assert source.info.events_flags == ("-l" in mode)
    except_fields = RAW if "-R" in mode else {} if "-N" in mode else PLUGINS
    assert_alike(base, rows, 0 if ticks else 500, except_fields)
    if "-R" not in mode:
        with_plugins = any("plugins" in note for note in source.info.notes)
        assert with_plugins == ("-N" not in mode)


@pytest.mark.tool("trace-cmd")
def test_dropped_events_of_a_report(lab: Path) -> None:
    source, _ = base_report(lab / "vmx-6.12.117-ipiv/g_lost.trace.dat")
    assert [(x.cause, x.cpu, x.start_ns, x.count) for x in source.losses] == [
        ("lost-record", 0, None, 5868),
        ("lost-record", 1, None, None),
    ]
    assert all(loss.end_ns is not None for loss in source.losses)


COLUMNS = (
    "comm,pid,tid,cpu,time,event,trace",
    "tid,cpu,time,event,trace",
    "pid,tid,cpu,time,event,trace",
    "cpu,time,event,trace",
    "comm,tid,time,event,trace",
    "time,event,trace",
    "comm,tid,cpu,time,period,event,ip,sym,trace",
    "+flags",
    "+ip,+sym",
)


@pytest.mark.tool("perf")
@pytest.mark.parametrize("columns", [None, *COLUMNS])
def test_perf_scripts_agree(columns: str | None, lab: Path) -> None:
    path = lab / "vmx-6.17.13-ipiv-tools/p_min.perf.data"
    _, base = read_text(perf_script(path, "--ns"))
    mode = [] if columns is None else ["-F", columns]
    source, rows = read_text(perf_script(path, *mode))
    assert source.lines.unparsed == 0
    assert source.losses == []
    assert_alike(base, rows, 999)  # perf cuts, it does not round
    assert all(a.fields == b.fields for a, b in zip(base, rows, strict=True))
    counts = expected_counts()["vmx-6.17.13-ipiv-tools/p_min.perf.data"]
    assert Counter(row.name for row in rows) == counts
