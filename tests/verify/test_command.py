"""`piscope verify` over real captures: its forms, its options, its exit status."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from piscope.commands.verify import verify as command
from piscope.errors import TraceFormatError, UsageError

Run = Callable[..., tuple[int, str, str]]

OLD = "vmx-6.12.117-ipiv.f_2vm.trace.dat"
NEW = "vmx-6.17.13-ipiv.f_2vm.trace.dat"
NO_WAKEUP = "vmx-6.12.117-noipiv-us.k_userspace_ipi.trace.dat"
PERF = "vmx-6.17.13-ipiv-tools.p_rich.perf.data"
NO_PROBES = "vmx-6.17.13-ipiv.e_min.trace.dat"
AMD = "svm-6.17.13.c_svm_min.trace.dat"


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], samples: Path) -> Run:
    """Run the command on samples by name; gives exit status, stdout and stderr."""

    def of(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        words = [str(a) for a in arguments]
        words = [str(samples / w) if (samples / w).is_file() else w for w in words]
        with command.make_context("piscope verify", words) as context:
            status = command.invoke(context)
        sys.stdout.flush()
        out, err = capfd.readouterr()
        return status, out, err

    return of


@pytest.mark.parametrize(
    ("policy", "trace", "status", "says"),
    [
        (None, OLD, 0, "Found: preempt-only; the VM needs PI wakeup"),
        (None, NEW, 0, "Found: suppress-on-put; the VM needs PI wakeup"),
        (None, PERF, 0, "Found: suppress-on-put; the VM needs PI wakeup"),
        (None, NO_WAKEUP, 0, "the VM needs no PI wakeup"),
        ("preempt-only", OLD, 0, "This kernel does preempt-only"),
        ("suppress-on-put", OLD, 1, "disagree with suppress-on-put"),
        ("suppress-on-put", NEW, 0, "This kernel does suppress-on-put"),
        ("preempt-only", NEW, 1, "disagree with preempt-only"),
        ("suppress-on-put", NO_WAKEUP, 3, "Capture a VM that needs it"),
        (None, NO_PROBES, 3, "no probe on"),
        (None, AMD, 3, "an AMD"),
    ],
)
def test_verdicts(
    run: Run, policy: str | None, trace: str, status: int, says: str
) -> None:
    asked = () if policy is None else ("--policy", policy)
    got, out, err = run(*asked, trace)
    assert (got, err) == (status, "")
    assert says in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out


def test_the_account_is_all_there(run: Run) -> None:
    _, out, _ = run(OLD)
    for heading in (
        "What was read",
        "What agrees with preempt-only",
        "The rules",
        "Transitions that each known policy does not allow",
        "PIN and PIW",
        "Remarks",
    ):
        assert heading in out, heading


def test_limit_is_kept_and_groups_are_not_cut(run: Run) -> None:
    _, out, _ = run("--policy", "suppress-on-put", "--limit", 2, OLD)
    assert out.count("\n  differs") == 2
    _, out, _ = run("--policy", "suppress-on-put", "--limit", 0, OLD)
    assert "\n  differs" not in out
    assert "Disagreements: " in out


def test_json_is_the_documented_account(run: Run) -> None:
    status, out, _ = run("--json", "--policy", "suppress-on-put", "--limit", 1, OLD)
    value = json.loads(out)
    assert (status, value["status"]) == (1, 1)
    assert value["disagreements"] == sum(g["transitions"] for g in value["groups"])
    assert value["transitions"] == sum(k["transitions"] for k in value["kinds"])
    assert len(value["listed"]) == 1
    assert value["listed"][0]["expected"]["SN"] == ["1"]
    document = (ROOT / "docs" / "verify.md").read_text()
    for key in _keys(value):
        assert f"`{key}`" in document, key


def _keys(value: Any) -> set[str]:
    """Every key of the JSON that is a name, and not one of the trace's values."""
    open_maps = {
        "probes",
        "cuts",
        "apic_ids",
        "rivals",
        "expected",
        "observed",
        "fields",
    }
    found: set[str] = set()
    if isinstance(value, dict):
        for key, inner in value.items():
            found.add(key)
            if key not in open_maps:
                found |= _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            found |= _keys(inner)
    return found


def test_several_traces_are_one_list_or_one_table(run: Run) -> None:
    status, out, _ = run("--json", OLD, NEW)
    assert status == 0
    assert [a["policy"] for a in json.loads(out)] == ["preempt-only", "suppress-on-put"]
    status, out, _ = run("--format", "md", OLD, NO_PROBES)
    assert status == 3
    rows = out.splitlines()
    assert len(rows) == 4
    assert "| preempt-only |" in rows[2]
    assert "can't tell" in rows[3]


def test_interrupts_by_option(run: Run, tmp_path: Path) -> None:
    head = "           CPU0       CPU1\n"
    before, after = tmp_path / "before", tmp_path / "after"
    before.write_text(head + "PIN: 0 0 x\nPIW: 0 0 x\n")
    after.write_text(head + "PIN: 0 0 x\nPIW: 70 70 x\n")
    _, out, _ = run("--interrupts", before, after, "--json", OLD)
    assert {c["counted"] for c in json.loads(out)["counters"]} == {0, 70}
    after.write_text(head + "PIN: 999999 0 x\nPIW: 70 70 x\n")
    status, out, _ = run("--interrupts", before, after, OLD)
    assert status == 1
    assert "PIN of pCPU 0" in out
    with pytest.raises(TraceFormatError, match="falls"):
        run("--interrupts", after, before, OLD)
    after.write_text("nothing\n")
    with pytest.raises(TraceFormatError, match="0 tables"):
        run("--interrupts", before, after, OLD)


def test_requests_that_make_no_sense(run: Run) -> None:
    with pytest.raises(UsageError, match="one trace"):
        run("--interrupts", "a", "b", OLD, NEW)
    with pytest.raises(UsageError, match="--xapic"):
        run("--xapic", OLD)
    with pytest.raises(UsageError, match="--arg"):
        run("--arg", "what=x", OLD)


def test_apic_ids_given(run: Run) -> None:
    assert run("--apic-ids", "0=0,1=1", "--xapic", OLD)[0] == 0
    status, out, _ = run("--apic-ids", "0=0,1=2", "--xapic", OLD)
    assert status == 1
    assert "NDST is 0x100 (no pCPU known), expected 0x200 (pCPU 1)" in " ".join(
        out.split()
    )
