"""Counts and times of VM-exits are those of `perf kvm stat report`."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from writers.perf_multiply import multiply

from piscope.exits_pipeline import report_exits
from piscope.report.exit_report import ExitGroup, ExitReport
from piscope.sources import open_trace

PERF_FILES = (
    "vmx-6.17.13-ipiv-tools.p_min.perf.data",
    "vmx-6.17.13-ipiv-tools.p_rich.perf.data",
)

_LINE = re.compile(
    r"^\s*(\S.*?)\s+(\d+)\s+([\d.]+)%\s+([\d.]+)%\s+([\d.]+)us\s+([\d.]+)us\s+([\d.]+)us"
)
_TOTAL = re.compile(r"Total Samples:(\d+), Total events handled time:([\d.]+)us")


def _perf(perf: str, trace: Path, *options: str) -> dict[str, tuple[str, ...]]:
    """What perf prints: reason -> count, time%, min, max, average; `total`."""
    done = subprocess.run(
        [perf, "kvm", "-i", str(trace), "stat", "report", "--event=vmexit", *options],
        capture_output=True,
        text=True,
        check=True,
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin", "PAGER": "cat"},
    )
    text = done.stdout + done.stderr
    lines = {
        m[1]: (m[2], m[4], m[5], m[6], m[7])
        for line in text.splitlines()
        if (m := _LINE.match(line))
    }
    total = _TOTAL.search(text)
    assert total is not None, text
    return {**lines, "total": (total[1], total[2])}


def _as_perf(group: ExitGroup) -> dict[str, tuple[str, ...]]:
    """The same lines of ours, rounded as perf prints them."""
    lines: dict[str, tuple[str, ...]] = {
        line.reason: (
            str(line.count),
            f"{100 * line.total_ns / group.total_ns:.2f}",
            f"{line.min_ns / 1000:.2f}",
            f"{line.max_ns / 1000:.2f}",
            f"{line.mean_ns / 1000:.2f}",
        )
        for line in group.reasons
    }
    return {**lines, "total": (str(group.count), f"{group.total_ns / 1000:.2f}")}


def _without_min(lines: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {name: (*line[:2], *line[3:]) for name, line in lines.items()}


def _report(trace: Path) -> ExitReport:
    source = open_trace(str(trace))
    try:
        return report_exits(source)
    finally:
        source.close()


@pytest.mark.parametrize("name", PERF_FILES)
def test_all_vcpus(name: str, samples: Path, tool: Callable[[str], str]) -> None:
    theirs = _perf(tool("perf"), samples / name)
    assert len(theirs) > 4
    assert _as_perf(_report(samples / name).all) == theirs


@pytest.mark.parametrize("name", PERF_FILES)
def test_one_vcpu(name: str, samples: Path, tool: Callable[[str], str]) -> None:
    seen = 0
    for group in _report(samples / name).vcpus:
        if not group.count:
            continue  # a thread that is a vCPU by its name only
        theirs = _perf(tool("perf"), samples / name, f"--vcpu={group.vcpu_id}")
        # perf 6.1 prints a minimum of 0 with --vcpu: it expands its per-vCPU counters
        # with zeros, and takes the least with that.
        assert _without_min(_as_perf(group)) == _without_min(theirs)
        seen += 1
    assert seen >= 2


def test_order_by_time_is_that_of_totals(samples: Path) -> None:
    reasons = _report(samples / PERF_FILES[1]).all.reasons
    totals = [line.total_ns for line in reasons]
    assert totals == sorted(totals, reverse=True)


def test_a_larger_file(
    samples: Path, tmp_path: Path, tool: Callable[[str], str]
) -> None:
    # Copies of a trace one after another: pairs across chunks and across copies.
    large = tmp_path / "large.perf.data"
    multiply(samples / PERF_FILES[1], large, 24 << 20)
    assert _as_perf(_report(large).all) == _perf(tool("perf"), large)
