"""Measure piscope beside trace-cmd and perf, in turns, on captures of 500 MB.

    python -m benchmarks [--size MB] [--rounds N]

The captures are multiplied from samples (see make_capture.py, make_perf_data.py) and
kept in build/bench. What counts is the ratio within one round: whatever else the
machine does, it does to all of them. Wall time and peak memory of whole processes,
output thrown away; the median of the rounds is printed, as Markdown.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_SAMPLES = _ROOT / "sample_traces"
_TRACE_DAT = _SAMPLES / "vmx-6.12.117-ipiv.f_2vm.trace.dat"
_PERF_DATA = _SAMPLES / "vmx-6.17.13-ipiv-tools.p_min.perf.data"


@dataclass(frozen=True)
class Job:
    """One command, and the name of the one that it is compared with (None: base)."""

    name: str
    command: Sequence[str]
    base: str | None = None


@dataclass(frozen=True)
class Cost:
    """What one run took."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def run(command: Sequence[str], *, may_end_with: Collection[int] = (0,)) -> Cost:
    """Run a command to its end, with one of these statuses, and measure it alone."""
    with Path(os.devnull).open("w", encoding="ascii") as nowhere:
        begin = time.monotonic()
        child = subprocess.Popen(command, stdout=nowhere, stderr=nowhere)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.monotonic() - begin
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in may_end_with:
        raise SystemExit(f"exit status {child.returncode}: {' '.join(command)}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def measure(jobs: Sequence[Job], rounds: int, events: int) -> None:
    """Run all jobs in turns and print one line for each."""
    costs: dict[str, list[Cost]] = {job.name: [] for job in jobs}
    for _ in range(rounds):
        for job in jobs:
            costs[job.name].append(run(job.command))
    print("| | wall s | CPU s | M events/s | peak MB | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for job in jobs:
        mine = costs[job.name]
        wall = statistics.median(c.seconds for c in mine)
        cpu = statistics.median(c.cpu_seconds for c in mine)
        peak = max(c.peak_mb for c in mine)
        ratio = "1"
        if job.base is not None:
            pairs = zip(costs[job.base], mine, strict=True)
            ratio = f"{statistics.median(b.seconds / m.seconds for b, m in pairs):.1f}"
        print(
            f"| {job.name} | {wall:.2f} | {cpu:.2f} | {events / wall / 1e6:.2f} "
            f"| {peak:.0f} | {ratio} |"
        )
    print(flush=True)


def multiplied(script: str, source: Path, target: Path, size_mb: int) -> int:
    """Make the capture if it is not there; the number of its events."""
    count = target.with_suffix(".events")
    if not (target.exists() and count.exists()):
        target.parent.mkdir(parents=True, exist_ok=True)
        size = [f"--size={size_mb}M"] if script == "make_capture.py" else [str(size_mb)]
        subprocess.run(
            [sys.executable, str(_ROOT / "benchmarks" / script), source, target, *size],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        decoded = subprocess.run(
            [sys.executable, "-m", "benchmarks.decode", str(target)],
            check=True,
            capture_output=True,
            text=True,
            cwd=_ROOT,
        ).stdout
        count.write_text(decoded.split()[2], encoding="ascii")
    return int(count.read_text(encoding="ascii"))


def main() -> None:
    """Measure what is installed, and say what is not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=500, help="of each capture, in MB")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.chdir(_ROOT)
    folder = _ROOT / "build" / "bench"
    piscope = [sys.executable, "-m", "piscope"]
    decode = [sys.executable, "-m", "benchmarks.decode"]
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores\n")

    dat = folder / f"{options.size}.trace.dat"
    events = multiplied("make_capture.py", _TRACE_DAT, dat, options.size)
    print(f"trace.dat, {dat.stat().st_size / 1e6:.0f} MB, {events:,} events\n")
    jobs = []
    if shutil.which("trace-cmd"):
        report = ["trace-cmd", "report", "-i", str(dat)]
        jobs.append(Job("trace-cmd report", report))
    else:
        print("TOOL MISSING: trace-cmd (Debian package trace-cmd): no ratio\n")
    base = jobs[0].name if jobs else None
    jobs += [
        Job("piscope: decode with the needed fields", [*decode, str(dat)], base),
        Job("piscope analyze", [*piscope, "analyze", "-q", str(dat)], base),
        Job("piscope exits", [*piscope, "exits", "-q", str(dat)], base),
    ]
    measure(jobs, options.rounds, events)

    perf = folder / f"{options.size}.perf.data"
    events = multiplied("make_perf_data.py", _PERF_DATA, perf, options.size)
    print(f"perf.data, {perf.stat().st_size / 1e6:.0f} MB, {events:,} samples\n")
    jobs = []
    if shutil.which("perf"):
        jobs.append(
            Job("perf script --ns", ["perf", "script", "--ns", "-i", str(perf)])
        )
    else:
        print("TOOL MISSING: perf (Debian package linux-perf): no ratio\n")
    base = jobs[0].name if jobs else None
    jobs += [
        Job("piscope: decode with the needed fields", [*decode, str(perf)], base),
        Job("piscope analyze", [*piscope, "analyze", "-q", str(perf)], base),
    ]
    measure(jobs, options.rounds, events)


if __name__ == "__main__":
    main()
