"""Measure what each command takes of long traces, and that it does not grow with them.

    python -m benchmarks.memory [--size MB]

A sample multiplied to SIZE and to twice that, and ten million events of `piscope synth`
(32 pCPUs, 8 VMs, 32 vCPUs); kept in build/bench. Peak memory of whole processes, one
run each, output thrown away; `make bench` measures times.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.__main__ import _ROOT, _TRACE_DAT, multiplied, run

_SYNTH_EVENTS = 10_000_000


def commands(trace: str, folder: str) -> dict[str, list[str]]:
    """By name, the arguments of piscope; what they write goes to the folder."""
    return {
        "analyze": ["analyze", trace],
        "analyze --html --perfetto": [
            *("analyze", trace, "--html", f"{folder}/page.html"),
            *("--perfetto", f"{folder}/trace.pftrace.gz"),
        ],
        "report": ["report", trace, "-o", f"{folder}/report"],
        "timeline --cpus": ["timeline", trace, "--cpus"],
        "explain": ["explain", trace, "--hit", "wakeup", "--nth", "100"],
        "compare": ["compare", trace, str(_TRACE_DAT)],
        "exits": ["exits", trace],
        "posts": ["posts", trace],
        "gate": [
            *("gate", trace, "--baseline", f"{folder}/baseline.toml", "--update"),
            *("--no-cache", "--jobs", "1"),
        ],
    }


def synthesized(path: Path) -> int:
    """Make the capture of a simulated host if it is not there; how many events."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                *(sys.executable, "-m", "piscope", "synth", "big", "-q"),
                *("--events", str(_SYNTH_EVENTS), "-o", str(path)),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    return _SYNTH_EVENTS


def main() -> None:
    """Print a table, a row for each command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=500, help="of the shorter, in MB")
    options = parser.parse_args()
    os.chdir(_ROOT)
    bench = _ROOT / "build" / "bench"
    traces: list[tuple[Path, int]] = []
    for size in (options.size, 2 * options.size):
        path = bench / f"{size}.trace.dat"
        events = multiplied("make_capture.py", _TRACE_DAT, path, size)
        traces.append((path, events))
    synth = bench / "synth.trace.dat"
    traces.append((synth, synthesized(synth)))
    print("| | " + " | ".join(f"{n / 1e6:.1f} M" for _, n in traces) + " |")
    print("| --- |" + " ---: |" * len(traces))
    with tempfile.TemporaryDirectory() as folder:
        for name in commands("", folder):
            cells = []
            for path, _ in traces:
                arguments = commands(str(path), folder)[name]
                Path(folder, "baseline.toml").write_text("format = 1\n", "ascii")
                command = [sys.executable, "-m", "piscope", *arguments]
                cost = run(command, may_end_with=(0, 3))  # 3: it can't tell something
                cells.append(f"{cost.peak_mb:.0f} MB")
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
