"""The reader against trace-cmd, and against what the kernel itself printed.

Every trace.dat of the captures that lie beside a development checkout, and files
of the writer with clocks, instances and byte orders that these do not have.
"""

from __future__ import annotations

import csv
import gzip
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from trace_cmd_report import (
    FLAGGED,
    Ours,
    assert_fields,
    by_cpu,
    keys,
    parsed,
    read,
    report,
)
from writers import trace_dat as w
from writers.ring_buffer import PageShape
from writers.trace_events import Event

from piscope.sources.raw import EventFormat, Wanted
from piscope.sources.trace_dat import open_trace_dat

ROOT = Path(__file__).resolve().parents[2]
CAPTURES = ROOT.parent / "shared" / "captures"
SAMPLES = ROOT / "sample_traces"
EVERY = Wanted({"*": None})

ZLIB = ("hip_401bdc13.dat",)  # Debian's trace-cmd has no zlib: compared with its text


def captures(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.dat")) if folder.is_dir() else []


def params(paths: Iterable[Path], base: Path) -> list[Any]:
    found = [pytest.param(p, id=str(p.relative_to(base))) for p in paths]
    skip = pytest.mark.skip(reason=f"no captures in {base.name}")
    return found or [pytest.param(Path(), marks=skip, id="none")]


# Those that are shipped are not compared twice.
IN_SAMPLES = {path.name for path in captures(SAMPLES)}
LAB = params(
    [
        path
        for path in captures(CAPTURES / "lab")
        if f"{path.parent.name}.{path.name}" not in IN_SAMPLES
    ],
    CAPTURES,
)
PUBLIC = params(
    [p for p in captures(CAPTURES / "public") if not p.name.startswith("hip_")],
    CAPTURES,
)
SHIPPED = params(captures(SAMPLES), SAMPLES)


def compare_with_trace_cmd(path: Path, every: int) -> None:
    ours = read(path, every)
    theirs = by_cpu(report(path))
    assert {c: len(r) for c, r in ours.rows.items()} == {
        c: len(r) for c, r in theirs.items()
    }
    compared = 0
    for cpu, rows in theirs.items():
        assert keys(ours.rows[cpu]) == keys(rows)
        for at in range(0, len(rows), every):
            event = rows[at].event
            layouts = [f for k, f in layouts_of(ours) if k.endswith(f":{event}")]
            if len(layouts) == 1 and layouts[0].fields:
                text = rows[at].fields
                values = ours.values[(cpu, at)]
                compared += assert_fields(text, layouts[0], values)
    assert compared > 0


def layouts_of(ours: Ours) -> list[tuple[str, EventFormat]]:
    return [(key, ours.source.formats[key]) for key in ours.source.counts]


@pytest.mark.tool("trace-cmd")
@pytest.mark.parametrize("path", LAB)
def test_lab_captures_equal_trace_cmd(path: Path) -> None:
    compare_with_trace_cmd(path, every=23)


@pytest.mark.tool("trace-cmd")
@pytest.mark.parametrize("path", PUBLIC)
def test_public_captures_equal_trace_cmd(path: Path) -> None:
    compare_with_trace_cmd(path, every=1)


@pytest.mark.tool("trace-cmd")
@pytest.mark.parametrize("path", SHIPPED)
def test_sample_traces_equal_trace_cmd(path: Path) -> None:
    compare_with_trace_cmd(path, every=11)


@pytest.mark.parametrize("text", ["R_t", "N_t"])
def test_a_zlib_capture_equals_the_text_of_trace_cmd_3_4(text: str) -> None:
    folder = CAPTURES / "public"
    path = folder / "hip_401bdc13.dat"
    if not path.exists():
        pytest.skip("no public captures")
    with gzip.open(folder / f"hip_401bdc13.report_{text}.txt.gz", "rt") as file:
        rows = list(parsed((line.rstrip("\n") for line in file), FLAGGED))
    ours = read(path, every=1)
    theirs = by_cpu(rows)
    assert sum(map(len, theirs.values())) == 7792
    compared = 0
    for cpu, own in theirs.items():
        assert keys(ours.rows[cpu]) == keys(own)
        if text == "R_t":
            for at, row in enumerate(own):
                layout = ours.source.formats[f"kvm:{row.event}"]
                values = ours.values[(cpu, at)]
                compared += assert_fields(row.fields, layout, values)
    assert compared > 20_000 or text == "N_t"


def test_event_numbers_equal_those_that_were_counted_when_recording() -> None:
    table = CAPTURES / "lab" / "counts.tsv"
    if not table.exists():
        pytest.skip("no lab captures")
    expected: dict[str, Counter[str]] = defaultdict(Counter)
    with table.open() as file:
        for row in csv.DictReader(file, delimiter="\t"):
            expected[row["capture"]][row["event"]] += int(row["count"])
    checked = 0
    for path in captures(CAPTURES / "lab"):
        name = str(path.relative_to(CAPTURES / "lab")).removesuffix(".dat")
        counts = expected.get(name) or expected.get(name.removesuffix(".trace"))
        if not counts:
            continue
        source = open_trace_dat(path)
        rows = sum(len(c) for c in source.chunks(Wanted({}, others=True)))
        found: Counter[str] = Counter()
        for key, count in source.counts.items():
            # The text, from which they were counted, has another name for it.
            name_there = "tracing_mark_write" if key == "ftrace:print" else ""
            found[name_there or key.partition(":")[2]] += count
        # There, events of the function tracer are counted by function.
        for name_there in [n for n in counts if n.startswith("function:")]:
            counts["function"] += counts.pop(name_there)
        assert found == counts, name
        assert rows == sum(counts.values())
        checked += 1
    assert checked >= 40


FTRACE = re.compile(r"^\s*.*-(\d+) +\[(\d+)\] (\S+) +(\d+)\.(\d+): (?:([\w]+): )?(.*)$")
# kernel/trace/trace_output.c, trace_print_lat_fmt().
IRQS_OFF, HARDIRQ, SOFTIRQ, NMI = 0x01, 0x08, 0x10, 0x40


def ftrace_flags(shown: str) -> int:
    flags = IRQS_OFF if shown[0] in "dD" else 0
    flags |= HARDIRQ if shown[2] in "hHZ" else 0
    # Inside an NMI, nothing is shown of softirqs.
    return flags | (SOFTIRQ if shown[2] in "sH" else 0)


@pytest.mark.parametrize("path", LAB[::5])
def test_times_and_flags_equal_what_the_kernel_printed(path: Path) -> None:
    text = path.with_name(path.name.replace(".trace.dat", ".ftrace.txt.gz"))
    if text == path or not text.exists():
        pytest.skip("no text of the same buffer")
    theirs: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    with gzip.open(text, "rt", errors="replace") as file:
        for line in file:
            match = FTRACE.match(line)
            if match and not line.startswith(("#", "CPU:")):
                tid, cpu, shown, seconds, micros = match.groups()[:5]
                ts_us = int(seconds) * 10**6 + int(micros)
                theirs[int(cpu)].append((ts_us, int(tid), ftrace_flags(shown)))
    source = open_trace_dat(path)
    ours: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    mask = IRQS_OFF | HARDIRQ | SOFTIRQ
    for chunk in source.chunks(Wanted({}, others=True)):
        columns = (chunk.cpu, (chunk.ts_ns + 500) // 1000, chunk.tid, chunk.flags)
        rows = zip(*(c.tolist() for c in columns), strict=True)
        for cpu, ts_us, tid, flags in rows:
            ours[cpu].append((ts_us, tid, flags & mask))
    assert sum(map(len, theirs.values())) > 100
    for cpu, rows in theirs.items():
        assert ours[cpu] == rows


def some_events(count: int = 300, start: int = 10**12) -> list[Event]:
    out = []
    for i in range(count):
        cpu = i % 3
        name = ("kvm_entry", "kvm_exit", "sched_switch", "all_kinds")[i // 3 % 4]
        values = {"vcpu_id": i % 4, "exit_reason": i, "prev_comm": "a b", "minus": -i}
        values |= {
            "guest_rip": (1 << 63) + i,
            "relative": f"r{i}",
            "wide": -i,
            "blob": b"ab",
        }
        ts = start + i * 1_000_003 + i // 5 * 200_000_000
        out.append(Event(name, ts, cpu, 100 + cpu, values, flags=i % 2))
    return out


TSC = w.Recording().u("IIQ", 735842807, 31, 0)


def time_shift(
    samples: list[tuple[int, int, int, int]], flags: int, cpus: int
) -> bytes:
    """The data of a TIME_SHIFT option; samples are (time, offset, scaling, bits)."""
    made = w.Recording()
    out = made.u("QII", 77, flags, cpus)
    for _ in range(cpus):
        out += made.u("I", len(samples))
        out += made.u(f"{len(samples)}Q", *(s[0] for s in samples))
        out += made.u(f"{len(samples)}q", *(s[1] for s in samples))
        out += made.u(f"{len(samples)}Q", *(s[2] for s in samples))
    for _ in range(cpus):
        out += made.u(f"{len(samples)}Q", *(s[3] for s in samples))
    return out


ONE = [(10**12, -777, 1, 0)]
TWO = [(10**12, 1000, 3, 1), (10**12 + 10**9, -5000, 1, 0)]
MANY = [(10**12 + i * 10**9, 100 * i * (-1) ** i, 1, 0) for i in range(9)]

VARIANTS: dict[str, Callable[[], w.Recording]] = {
    "v6": lambda: w.recording(some_events(), version=6),
    "v7-zstd": lambda: w.recording(some_events(3000), compressor="zstd"),
    "v7-instances": lambda: w.recording(
        some_events(), instances={"one": some_events(60), "two": some_events(30)}
    ),
    "v6-instances": lambda: w.recording(
        some_events(), version=6, instances={"one": some_events(60)}
    ),
    "v6-big-endian-32": lambda: w.recording(
        some_events(), version=6, shape=PageShape("big", 4)
    ),
    "v7-big-endian-64": lambda: w.recording(some_events(), shape=PageShape("big", 8)),
    "32-bit": lambda: w.recording(some_events(), shape=PageShape("little", 4)),
    "absolute": lambda: w.recording(some_events(), shape=PageShape(stamps="absolute")),
    "extend": lambda: w.recording(some_events(), shape=PageShape(stamps="extend")),
    "padding": lambda: w.recording(some_events(), shape=PageShape(padding=True)),
    "long-lengths": lambda: w.recording(
        some_events(), shape=PageShape(long_length=True)
    ),
    "64k-pages": lambda: w.recording(
        some_events(3000), shape=PageShape(page_size=65536)
    ),
    "tsc2nsec": lambda: w.recording(
        some_events(), clock="x86-tsc", options=[(w.TSC2NSEC, TSC)]
    ),
    "cycles": lambda: w.recording(some_events(), clock="x86-tsc"),
    "offset": lambda: w.recording(some_events(), options=[(w.OFFSET, b"-1234567\0")]),
    "date": lambda: w.recording(some_events(), options=[(w.DATE, b"0x5f5e100\0")]),
    "shift-one": lambda: w.recording(
        some_events(), options=[(w.TIME_SHIFT, time_shift(ONE, 0, 3))]
    ),
    "shift-two": lambda: w.recording(
        some_events(), options=[(w.TIME_SHIFT, time_shift(TWO, 0, 2))]
    ),
    "shift-two-interpolated": lambda: w.recording(
        some_events(), options=[(w.TIME_SHIFT, time_shift(TWO, 1, 3))]
    ),
    "shift-many-interpolated": lambda: w.recording(
        some_events(), options=[(w.TIME_SHIFT, time_shift(MANY, 1, 3))]
    ),
    "sparse-cpus": lambda: w.recording(
        [Event("kvm_entry", 5 + c, c, 1) for c in (1, 4, 19)], cpu_count=20
    ),
    "missed": lambda: w.recording(
        some_events(), per_page=20, missed={(0, 0): None, (1, 2): 99, (2, 1): None}
    ),
}


@pytest.mark.tool("trace-cmd")
@pytest.mark.parametrize("variant", VARIANTS)
def test_written_files_equal_trace_cmd(variant: str, tmp_path: Path) -> None:
    path = tmp_path / "written.dat"
    made = VARIANTS[variant]()
    path.write_bytes(w.trace_dat(made))
    ours = read(path)
    # trace-cmd merges instances into the order of time; each is in its own order.
    theirs = by_cpu(report(path))
    assert sum(map(len, theirs.values())) > 0
    for cpu, rows in theirs.items():
        assert sorted(keys(ours.rows[cpu])) == sorted(keys(rows))
        if len(made.buffers) == 1:
            assert keys(ours.rows[cpu]) == keys(rows)
            for at, row in enumerate(rows):
                layout = dict(layouts_of(ours))
                found = [f for k, f in layout.items() if k.endswith(f":{row.event}")]
                assert assert_fields(row.fields, found[0], ours.values[(cpu, at)])
