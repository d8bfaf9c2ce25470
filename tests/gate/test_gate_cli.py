"""`piscope gate` over the sample traces: each kind of ending, and the cache."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from piscope.cli import run
from piscope.gate.metrics import METRICS

Gate = Callable[..., tuple[int, str, str]]

OLD = "vmx-6.12.117-ipiv-us.{}.trace.dat"
NEW = "vmx-6.17.13-ipiv-us.{}.trace.dat"


@pytest.fixture
def gate(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Gate:
    """Run `piscope gate ... --baseline tmp/b.toml` with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def command(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        baseline = str(tmp_path / "b.toml")
        status = run(["gate", "--baseline", baseline, "-j", "1", *arguments])
        out, err = capfd.readouterr()
        return status, out, err

    return command


@pytest.fixture
def newer(gate: Gate, samples: Path) -> str:
    """The argument of a trace whose baseline is there."""
    argument = f"slow={samples / NEW.format('n_userspace_slow')}"
    status, out, err = gate(argument, "--update")
    assert (status, err) == (0, "")
    assert out.endswith("b.toml: 1 traces\n")
    return argument


def test_the_same_corpus_passes_out_of_the_cache(gate: Gate, newer: str) -> None:
    status, out, _ = gate(newer)
    assert (status, out) == (
        0,
        "piscope gate: pass: 8 kept\n1 trace: 1 unchanged; 1 from the cache\n",
    )
    assert gate(newer, "--no-cache")[1].endswith("; 0 from the cache\n")


def test_an_older_kernel_is_a_regression(gate: Gate, newer: str, samples: Path) -> None:
    status, out, _ = gate(f"slow={samples / OLD.format('n_userspace_slow')}")
    assert status == 1
    assert "unloaded_notifications.captured.per_entry" in out
    assert "--policy preempt-only" in out
    assert "a kernel of preempt-only, the baseline's was of suppress-on-put" in out


def test_a_sparse_trace_can_not_tell(gate: Gate, newer: str, samples: Path) -> None:
    status, out, _ = gate(f"slow={samples / 'vmx-6.17.13-ipiv.e_min.trace.dat'}")
    assert status == 3
    assert "CANNOT TELL" in out


def test_an_unreadable_trace_does_not_keep_the_others_from_it(
    gate: Gate, newer: str, samples: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.dat"
    cut.write_bytes(b"\x17\x08\x44tracing7\0")
    amd = samples / "svm-6.17.13.c_svm_min.trace.dat"
    status, out, _ = gate(newer, str(cut), str(amd), f"gone={tmp_path / 'gone.dat'}")
    assert status == 2
    assert "8 kept, 3 not analyzed" in out
    for said in ("an AMD (SVM) host", "No such file", str(cut)):
        assert said in " ".join(out.split())


SLOW = OLD.format("n_userspace_slow")
TWO_VMS = "vmx-6.12.117-ipiv.f_2vm.trace.dat"
LOST = "vmx-6.12.117-ipiv.g_lost.trace.dat"


@pytest.mark.parametrize(
    ("limit", "trace", "status"),
    [
        ("spurious_host_irqs.suppress-on-put.max = 0", SLOW, 0),
        ("spurious_host_irqs.captured.max = 10", SLOW, 1),
        ("unloaded_notifications.captured.per_second.max = 50", SLOW, 1),
        ("unloaded_notifications.captured.per_entry.max = 0.1", SLOW, 1),
        ("unloaded_by_reason.userspace.captured.max = 10", SLOW, 1),
        ("unloaded_by_reason.blocking.captured.max = 10", SLOW, 0),
        ("exposure_ns.captured.per_second.max = 1e6", SLOW, 1),
        ("exposure_longest_ns.captured.max = 1_000_000", SLOW, 1),
        ("exposure_windows_by_reason.userspace.captured.max = 10", SLOW, 1),
        ("costs.locked_ops.suppress-on-put.per_entry.max = 1", SLOW, 1),
        ("verify_disagreements.suppress-on-put.max = 0", SLOW, 1),
        ("verify_disagreements.captured.max = 0", SLOW, 0),
        ("verify_disagreements.captured.max = 0", LOST, 3),
        ("entries.min = 100_000", SLOW, 1),
        ("residual_by_exit_reason.12.captured.max = 0", TWO_VMS, 1),
        ("residual_by_exit_reason.12.captured.max = 100", TWO_VMS, 3),
        # The kernel's own counters prove some there, but no trace does.
        ("wrong_vcpu.captured.max = 0", OLD.format("o_wrong_vcpu_slow"), 3),
        ("losses.max = 0", LOST, 1),
        ("lost_events.max = 100_000", LOST, 3),
    ],
)
def test_each_kind_of_limit(
    gate: Gate, samples: Path, tmp_path: Path, limit: str, trace: str, status: int
) -> None:
    (tmp_path / "b.toml").write_text(f"format = 1\n[limits.each]\n{limit}\n")
    assert gate(str(samples / trace))[0] == status


def test_the_baseline_of_the_samples_holds_and_is_what_update_writes(
    gate: Gate, samples: Path, tmp_path: Path
) -> None:
    # After a change that is meant to change numbers, and a look at the diff:
    # piscope gate sample_traces --baseline sample_traces/gate-baseline.toml --update
    committed = samples / "gate-baseline.toml"
    shutil.copy(committed, tmp_path / "b.toml")
    assert gate(str(samples))[0] == 0
    assert gate(str(samples), "--update")[0] == 0
    assert (tmp_path / "b.toml").read_text() == committed.read_text()


def test_an_update_without_any_number_leaves_the_baseline(
    gate: Gate, newer: str, tmp_path: Path
) -> None:
    before = (tmp_path / "b.toml").read_bytes()
    status, out, _ = gate(str(tmp_path / "gone.dat"), "--update")
    assert (status, "left as it is" in out) == (2, True)
    assert (tmp_path / "b.toml").read_bytes() == before


def test_the_lab_is_held_to_its_own_baseline(
    gate: Gate, lab: Path, tmp_path: Path
) -> None:
    corpus = str(lab / "vmx-6.17.13-ipiv-us")
    assert gate(corpus, "--update")[0] == 0
    assert gate(corpus)[0] == 0
    older = lab / "vmx-6.12.117-ipiv-us"  # the same sessions on the older kernel
    status, out, _ = gate(str(older), "--partial")
    assert status == 1
    assert "exposure_ns.captured.per_second" in out


def test_every_form_is_written_as_well(gate: Gate, newer: str, tmp_path: Path) -> None:
    outputs = [
        f"--output={form}={tmp_path / form}"
        for form in ("markdown", "junit", "sarif", "github", "json", "text")
    ]
    status, out, _ = gate(newer, *outputs, "--format", "json")
    assert status == 0
    assert json.loads((tmp_path / "json").read_text()) == json.loads(out)
    assert all((tmp_path / output.split("=")[1]).stat().st_size for output in outputs)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--output", "xml=a"), "expected FORMAT=FILE"),
        (("--update", "--partial"), "not with --partial"),
        (("--memory", "2T"), "expected 512M or 2G"),
        (("/no/such/*.dat",), "no trace in"),
    ],
)
def test_bad_arguments(gate: Gate, arguments: tuple[str, ...], said: str) -> None:
    traces = () if arguments[0].startswith("/") else ("/t.dat",)
    status, out, err = gate(*traces, *arguments)
    if "no trace" in said:
        (status, out, err) = gate(*arguments, "--update")
    assert (status, out) == (2, "")
    assert said in err


def test_a_baseline_that_is_not_there(gate: Gate) -> None:
    status, _, err = gate("/t.dat")
    assert status == 2
    assert "b.toml: can't be read: No such file" in err


def test_a_damaged_entry_of_the_cache_is_measured_anew(
    gate: Gate, newer: str, tmp_path: Path
) -> None:
    (entry,) = (tmp_path / "cache").rglob("*.json")
    whole = entry.read_bytes()
    for damage in (b"", whole[:100], b"[" * 100_000, b'{"sha256": 3}', b"null"):
        entry.write_bytes(damage)
        assert gate(newer)[:2] == (
            0,
            "piscope gate: pass: 8 kept\n1 trace: 1 unchanged; 0 from the cache\n",
        )
        assert entry.read_bytes() == whole


def test_a_cache_that_can_not_be_written_to_costs_nothing_else(
    gate: Gate, newer: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    assert gate(newer, "--cache", str(tmp_path / "file" / "x"))[0] == 0


def test_a_changed_option_is_another_result(
    gate: Gate, newer: str, tmp_path: Path
) -> None:
    baseline = tmp_path / "b.toml"
    text = baseline.read_text().replace('posted = "msi"', 'posted = "none"')
    baseline.write_text(text)
    assert gate(newer)[1].endswith("; 0 from the cache\n")
    assert gate(newer)[1].endswith("; 1 from the cache\n")


def test_a_trace_in_memory_is_the_same_trace(
    gate: Gate, newer: str, samples: Path
) -> None:
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    data = (samples / NEW.format("n_userspace_slow")).read_bytes()
    system.pipe("/ci/slow", data)
    try:
        status, out, _ = gate("memory://ci/slow", "--no-cache")
    finally:
        system.rm("/ci", recursive=True)
    assert (status, "1 unchanged" in out) == (0, True)


def test_results_are_a_dataset(gate: Gate, newer: str, tmp_path: Path) -> None:
    import pyarrow.dataset as ds

    assert gate(newer, "--results", str(tmp_path / "r"))[0] == 0
    table = ds.dataset(tmp_path / "r", format="parquet", partitioning="hive")
    rows = table.to_table(
        filter=(ds.field("metric") == "unloaded_notifications")
        & (ds.field("policy") == "preempt-only")
    ).to_pylist()
    assert [(row["trace"], row["min"]) for row in rows] == [("slow", 243)]


def test_interrupted_it_leaves_what_is_finished(samples: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    sample = (samples / NEW.format("n_userspace_slow")).read_bytes()
    for n in range(200):  # bytes after the last section change the digest only
        (corpus / f"{n}.dat").write_bytes(sample + bytes([n]))
    command = [sys.executable, "-m", "piscope", "gate", str(corpus), "--update"]
    command += ["--baseline", str(tmp_path / "b.toml"), "--cache", str(tmp_path / "k")]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    end_s = time.monotonic() + 30
    while time.monotonic() < end_s and not list((tmp_path / "k").rglob("*.json")):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    assert "of 200 traces are done; the next run takes them from the cache" in err
    assert err.endswith("piscope: interrupted\n")
    assert list((tmp_path / "k").rglob("*.json"))
    assert not (tmp_path / "b.toml").exists()
    shutil.rmtree(corpus)


def test_the_page_lists_every_metric(samples: Path) -> None:
    page = (samples.parent / "docs" / "gate.md").read_text()
    for name, metric in METRICS.items():
        keys = f" by {metric.keys}" if metric.keys else ""
        policy = "yes" if metric.policied else ""
        assert (
            f"| `{name}` | {metric.unit}{keys} | {policy} | {metric.meaning} |" in page
        )
