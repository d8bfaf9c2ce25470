"""piscope posts: its report, list, files and coverage, over the samples."""

from __future__ import annotations

import csv
import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import SAMPLES

from piscope.cli import run
from piscope.origins import Origin
from piscope.pipeline import Analysis
from piscope.posts_pipeline import find_trace_posts
from piscope.report.posts_report import PostsReport
from piscope.sources.detect import open_trace

PLAIN = SAMPLES / "proof" / "vmx-6.12.117-noipiv.a_plain.trace.dat"
TWO_VMS = SAMPLES / "vmx-6.12.117-ipiv.f_2vm.trace.dat"
POOR = SAMPLES / "vmx-6.17.13-ipiv.e_min.trace.dat"
RICH = (PLAIN, TWO_VMS, SAMPLES / "proof" / "vmx-6.12.117-noipiv.f_2vm.trace.dat")

CONTEXT = {
    "timers": ("local_timer*",),
    "IPIs": ("kvm_apic_ipi",),
    "MSIs": ("kvm_msi_set_irq",),
    "wakings": ("sched_wak*",),
    "registers": ("kvm_apic", "kvm_msr"),
    "halts": ("kvm_vcpu_wakeup",),
    "userspace": ("kvm_userspace_exit", "kvm_fpu"),
    "probes": ("pi:*", "*pi_*"),
}


def found(path: Path, *ignore: str) -> tuple[Analysis, PostsReport]:
    """A trace as the only part, and its report."""
    with closing(open_trace(str(path))) as source:
        posts = find_trace_posts(source, ignore=ignore)
        (whole,) = posts
        return whole.part.analysis, posts.report()


def answers(of: Analysis) -> dict[tuple[int, int, int], tuple[int, int]]:
    """(time, pCPU, vector) of each post -> (origin, thread of the target)."""
    p, rows = of.timeline.posts, of.timeline.vcpus.rows
    keys = zip(of.events.ts_ns[p.row], p.cpu, p.vector, strict=True)
    values = (
        (int(o), rows[v].tid if v >= 0 else -1)
        for o, v in zip(p.origin, p.vcpu, strict=True)
    )
    return dict(
        zip(((int(a), int(b), int(c)) for a, b, c in keys), values, strict=True)
    )


@pytest.mark.parametrize("without", [*CONTEXT, "all of them"])
@pytest.mark.parametrize("path", RICH, ids=lambda p: p.name)
def test_a_poorer_trace_knows_less_and_nothing_else(path: Path, without: str) -> None:
    every = tuple(pattern for names in CONTEXT.values() for pattern in names)
    whole = answers(found(path)[0])
    poor = answers(found(path, *CONTEXT.get(without, every))[0])
    assert poor.keys() == whole.keys()
    for key, (origin, target) in poor.items():
        assert origin in (Origin.UNKNOWN, whole[key][0])
        assert target in (-1, whole[key][1])


def test_every_post_of_the_samples_has_an_origin() -> None:
    for path in RICH:
        _, report = found(path)
        assert report.known == report.targets == report.posts > 0
        assert sum(line.posts for line in report.origins) == report.posts
        for line in report.origins:
            for counts in (line.evidence, line.posters, line.vcpus, line.vectors):
                assert sum(counts.values()) == line.posts


def test_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["posts", str(PLAIN)]) == 0
    out = capsys.readouterr().out
    assert "known of 600 (100%)" in out
    for line in (
        "timer    the vCPU's local APIC timer                      275",
        "129: kvm_apic_ipi of that vector since the sender's VM-exit",
        "by CPU 1/KVM[233] 112, CPU 2/KVM[234] 17",
        "vm0/vcpu3              117    6  123",
    ):
        assert line in out
    assert max(map(len, out.splitlines())) <= 80


def test_what_would_have_told(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--ignore", "kvm_apic_ipi", "--ignore", "local_timer*"]
    assert run(["posts", *arguments, str(PLAIN)]) == 0
    out = capsys.readouterr().out
    assert "kvm:kvm_apic_ipi would tell that a vCPU sent an IPI" in out
    assert "irq_vectors:local_timer_entry and" in out
    assert "trace-cmd record -e kvm " in out
    assert "-e irq_vectors:local_timer_entry" in out.replace("\n  ", " ")


def test_a_trace_without_posts_can_not_tell(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["posts", str(POOR)]) == 3
    out = capsys.readouterr().out
    assert "no post is visible" in out
    assert "kvm:kvm_apicv_accept_irq" in out


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["posts", "--list", "--origin", "ipi", "-n", "3", str(PLAIN)]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == [
        "time",
        "cpu",
        "origin",
        "vector",
        "target",
        "poster;",
        "evidence",
    ]
    assert len(rows) == 3
    assert all(" ipi " in row and "; apic-ipi" in row for row in rows)


def test_narrowed(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--vcpu", "3", "--origin", "ipi,emulated", "--json", "--to", "50%"]
    assert run(["posts", *arguments, str(PLAIN)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["narrowed"]) == {"vcpu", "origin", "to"}
    assert {line["origin"] for line in report["origins"]} == {"ipi", "emulated"}
    assert all(set(line["vcpus"]) == {"vm0/vcpu3"} for line in report["origins"])
    assert 0 < report["posts"] < 123


def test_files_hold_the_same_rows(tmp_path: Path) -> None:
    for suffix in ("parquet", "csv", "jsonl"):
        assert run(["posts", "-o", str(tmp_path / f"p.{suffix}"), str(PLAIN)]) == 0
    table = pq.read_table(tmp_path / "p.parquet")
    lines = [json.loads(x) for x in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert table.to_pylist() == lines
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["ts_ns"] for r in rows] == [str(x["ts_ns"]) for x in lines]
    assert [r["thread"] for r in rows] == [x["thread"] for x in lines]
    assert table.schema.field("origin").metadata[b"meaning"]
    assert np.all(np.diff(table["ts_ns"].to_numpy()) >= 0)


def test_coverage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["posts", "--coverage", str(PLAIN), str(POOR)]) == 0
    capsys.readouterr()
    assert run(["posts", "--coverage", str(PLAIN), str(POOR), "/nowhere.dat"]) == 2
    out = capsys.readouterr().out
    assert "100%" in out
    assert "vmx-6.17.13-ipiv.e_min: no post is visible" in out
    assert "nowhere: can't be read: No such file or directory" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--origin", "ipi,dma"], "'dma' is no origin, expected some of unknown, vfio"),
        (["--list", "--coverage"], "--list and --coverage: give one of them"),
        (["-o", "x.txt"], "expected a name ending in .parquet"),
        (["-o", "x.csv", "--json"], "--format goes to standard output"),
        (["--vcpu", "9"], "--vcpu 9: this trace has vm0/vcpu0"),
        (["--from", "soon"], "soon"),
    ],
)
def test_arguments_that_make_no_sense(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["posts", *arguments, str(PLAIN)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
