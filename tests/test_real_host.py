"""End to end on a real host: record a guest, read it, and agree with the recorders.

Needs root, tracefs and /dev/kvm; elsewhere it is skipped, with the reason. The
kernel's own ring buffer is used only while nobody else traces with it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from tiny_guest import KVM_EXIT_HLT, can_run_guests, run_guest

TRACEFS = Path("/sys/kernel/tracing")
EVENTS = ("events/sched/sched_switch", "events/kvm")
RUNS = 40

Tool = Callable[[str], str]


@pytest.fixture
def host() -> None:
    if os.geteuid() != 0:
        pytest.skip("HOST NOT TESTED: needs root")
    if not can_run_guests():
        pytest.skip("HOST NOT TESTED: needs /dev/kvm")
    try:
        run_guest(1)
    except OSError as e:
        pytest.skip(f"HOST NOT TESTED: /dev/kvm does not run a guest: {e}")


@pytest.fixture
def tracefs(host: None) -> Iterator[Path]:
    """tracefs with an empty ring buffer, in which RUNS round trips were recorded."""
    if not (TRACEFS / "events").is_dir():
        mount = ["mount", "-t", "tracefs", "nodev", str(TRACEFS)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("HOST NOT TESTED: no tracefs, and it can't be mounted")
    if (TRACEFS / "set_event").read_text() or "nop" not in (
        TRACEFS / "current_tracer"
    ).read_text():
        pytest.skip("HOST NOT TESTED: somebody else is tracing")
    (TRACEFS / "trace").write_text("")
    try:
        for event in EVENTS:
            (TRACEFS / event / "enable").write_text("1")
        assert run_guest(RUNS) == [KVM_EXIT_HLT] * RUNS
    finally:
        for event in EVENTS:
            (TRACEFS / event / "enable").write_text("0")
    yield TRACEFS
    (TRACEFS / "trace").write_text("")


def _piscope(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "piscope", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def _events(path: Path) -> list[dict[str, object]]:
    return [
        json.loads(line)
        for line in _piscope("events", str(path), "--format", "jsonl").splitlines()
    ]


def _keys(events: list[dict[str, object]]) -> Counter[tuple[object, ...]]:
    return Counter((e["ts_ns"], e["cpu"], e["tid"], e["event"]) for e in events)


def _ns(seconds: str) -> int:
    whole, _, rest = seconds.partition(".")
    return int(whole) * 10**9 + int(rest.ljust(9, "0"))


def _own(events: list[dict[str, object]]) -> Counter[object]:
    """How often each event happened in this process (other guests may run too)."""
    return Counter(e["event"] for e in events if e["tid"] == os.getpid())


@pytest.mark.tool("trace-cmd")
def test_extracted_trace_and_text(tracefs: Path, tool: Tool, tmp_path: Path) -> None:
    text, dat = tmp_path / "trace.txt", tmp_path / "trace.dat"
    text.write_bytes((tracefs / "trace").read_bytes())
    extract = [tool("trace-cmd"), "extract", "-o", str(dat)]
    subprocess.run(extract, cwd=tmp_path, capture_output=True, check=True)

    events = _events(dat)
    # Whether a halt in real mode is a VM-exit or is emulated depends on the host.
    assert _own(events)["kvm_userspace_exit"] == RUNS
    report = subprocess.run(
        [tool("trace-cmd"), "report", "-t", "-i", str(dat)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    line = re.compile(
        r"^.*-(\d+) +\[(\d+)\] +(?:[^\s\d]\S{4} +)?([\d.]+): (\w+):", re.M
    )
    expected = Counter(
        (_ns(ts), int(cpu), int(tid), event)
        for tid, cpu, ts, event in line.findall(report)
    )
    assert expected.total() > RUNS
    assert _keys(events) == expected

    of_text = _events(text)
    names = [Counter(e["event"] for e in each) for each in (of_text, events)]
    assert names[0] == names[1]
    rounded = Counter((e["ts_ns"] + 500) // 1000 * 1000 for e in events)  # type: ignore[operator]
    assert Counter(e["ts_ns"] for e in of_text) == rounded

    checked = json.loads(_piscope("check", "--json", "--need", "userspace", str(dat)))
    assert checked["kernel_release"] == os.uname().release
    entered = {e["tid"] for e in events if e["event"] == "kvm_entry"}
    assert {t["tid"] for t in checked["vcpu_threads"]} == entered


@pytest.mark.tool("perf")
def test_perf_record(host: None, tool: Tool, tmp_path: Path) -> None:
    data = tmp_path / "perf.data"
    recorder = subprocess.Popen(
        [tool("perf"), "record", "-a", "-e", "kvm:*", "-o", str(data), "sleep", "1.5"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # perf says nothing when it has begun: run until it has surely seen some.
    while recorder.poll() is None:
        run_guest(1)
    if recorder.returncode or not data.exists():
        pytest.skip("HOST NOT TESTED: perf record is not permitted here")

    events = _events(data)
    assert _own(events)["kvm_userspace_exit"] > 0
    script = subprocess.run(
        [tool("perf"), "script", "--ns", "-F", "tid,cpu,time,event", "-i", str(data)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    line = re.compile(r"^ *-?\d+ +\[(\d+)\] +([\d.]+): +\w+:(\w+):", re.MULTILINE)
    # Without the thread: perf prints -1 for one that was dying.
    expected = Counter(
        (_ns(ts), int(cpu), event) for cpu, ts, event in line.findall(script)
    )
    assert expected
    assert Counter((e["ts_ns"], e["cpu"], e["event"]) for e in events) == expected
