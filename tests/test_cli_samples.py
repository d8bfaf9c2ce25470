"""The command line over the traces that come with the project, and their oracles."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import ROOT, SAMPLES

from piscope.cli import run

Tool = Callable[[str], str]

TRACE_DAT = sorted(SAMPLES.glob("*.trace.dat"))
PERF_DATA = sorted(SAMPLES.glob("*.perf.data"))
TEXT = sorted(SAMPLES.glob("*.ftrace.txt.gz"))


def _name(path: Path) -> str:
    return path.name


def _piscope(*arguments: str | Path, stdin: bytes = b"") -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "piscope", *map(str, arguments)],
        cwd=ROOT,
        input=stdin,
        stdout=subprocess.PIPE,
        check=False,
    )
    return done.returncode, done.stdout.decode()


@cache
def _events(path: Path) -> list[dict[str, object]]:
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "events.jsonl"
        assert run(["events", "-q", str(path), "-o", str(lines)]) == 0
        return [json.loads(line) for line in lines.read_text().splitlines()]


def _ns(seconds: str) -> int:
    whole, _, rest = seconds.partition(".")
    return int(whole) * 10**9 + int(rest.ljust(9, "0"))


def test_the_samples_are_there() -> None:
    assert len(TRACE_DAT) >= 10
    assert len(PERF_DATA) == 2
    assert len(TEXT) == 1
    described = (SAMPLES / "README.md").read_text()
    for path in (*TRACE_DAT, *PERF_DATA, *TEXT):
        name = re.sub(r"[.](trace[.]dat|perf[.]data|ftrace[.]txt[.]gz)$", "", path.name)
        assert f"`{name}`" in described


@pytest.mark.tool("trace-cmd")
@pytest.mark.parametrize("path", TRACE_DAT, ids=_name)
def test_the_same_events_as_trace_cmd(path: Path, tool: Tool) -> None:
    report = subprocess.run(
        [tool("trace-cmd"), "report", "-t", "-i", str(path)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    line = re.compile(r"^.*-(\d+) +\[(\d+)\] +([\d.]+): (\w+):", re.MULTILINE)
    expected = [
        (_ns(ts), int(cpu), int(tid), event)
        for tid, cpu, ts, event in line.findall(report)
    ]
    assert len(expected) > 1000
    # trace-cmd merges by time too, equal times by CPU: the order is the same.
    found = [(e["ts_ns"], e["cpu"], e["tid"], e["event"]) for e in _events(path)]
    assert found == expected


@pytest.mark.tool("perf")
@pytest.mark.parametrize("path", PERF_DATA, ids=_name)
def test_the_same_events_as_perf(path: Path, tool: Tool) -> None:
    script = subprocess.run(
        [tool("perf"), "script", "--ns", "-F", "tid,cpu,time,event", "-i", str(path)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    line = re.compile(r"^ *(-?\d+) +\[(\d+)\] +([\d.]+): +(\w+:\w+):", re.MULTILINE)
    expected = {
        (_ns(ts), int(cpu), event): int(tid)
        for tid, cpu, ts, event in line.findall(script)
    }
    assert len(expected) > 1000
    events = _events(path)
    found = {
        (e["ts_ns"], e["cpu"], f"{e['system']}:{e['event']}"): e["tid"] for e in events
    }
    assert len(found) == len(events)
    # The last events of a dying thread: perf has lost its id by then, and prints -1;
    # the record's common_pid still has it.
    gone = [key for key, tid in expected.items() if tid == -1]
    assert len(gone) < len(expected) / 100
    assert found == {**expected, **{key: found[key] for key in gone}}
    # perf script is not sorted; this is.
    times = [e["ts_ns"] for e in events]
    assert times == sorted(times)  # type: ignore[type-var]


@pytest.mark.parametrize("path", [*TRACE_DAT, *PERF_DATA, *TEXT], ids=_name)
def test_check_counts_what_events_gives(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = run(["check", "--json", str(path)])
    report = json.loads(capsys.readouterr().out)
    assert status == (3 if path.name.startswith("svm") else 0)
    assert report["host"] == path.name.partition("-")[0]
    counts = Counter(f"{e['system']}:{e['event']}" for e in _events(path))
    assert report["counts"] == counts
    assert report["events"] == counts.total()
    if "g_lost" in path.name:
        assert report["losses"]


@pytest.mark.parametrize(
    "name",
    [
        "vmx-6.17.13-ipiv.e_min.trace.dat",
        "vmx-6.17.13-ipiv-tools.p_min.perf.data",
        "vmx-6.12.117-ipiv.e_min.ftrace.txt.gz",
    ],
)
def test_a_pipe_gives_the_same(name: str) -> None:
    options = ("events", "-q", "--vcpu", "0", "--from", "10%", "--to", "-50ms")
    from_file = _piscope(*options, SAMPLES / name)
    assert from_file[0] == 0
    assert len(from_file[1].splitlines()) > 100
    assert _piscope(*options, "-", stdin=(SAMPLES / name).read_bytes()) == from_file
    # one pass is enough without --vcpu and relative times: nothing is copied
    plain = ("events", "-q", "-e", "kvm:*")
    assert _piscope(*plain, "-", stdin=(SAMPLES / name).read_bytes()) == _piscope(
        *plain, SAMPLES / name
    )


def test_parquet_says_what_the_lines_say(tmp_path: Path) -> None:
    path = SAMPLES / "vmx-6.17.13-ipiv-tools.p_rich.perf.data"
    assert run(["events", "-q", str(path), "-o", str(tmp_path / "e.parquet")]) == 0
    for row, event in zip(
        pq.read_table(tmp_path / "e.parquet").to_pylist(), _events(path), strict=True
    ):
        base = {k: v for k, v in event.items() if k != "fields"}
        assert {k: row.pop(k) for k in base} == base
        rest = json.loads(row.pop("fields") or "{}")
        typed = {k: v for k, v in row.items() if v is not None}
        assert {**typed, **rest} == event["fields"]
