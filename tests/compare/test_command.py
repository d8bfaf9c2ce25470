"""`piscope compare` over real captures, before and after the patch."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from conftest import SAMPLES
from report.markdown_reading import BLOCKS, kinds, tables_of

from piscope.cli import run as run_piscope
from piscope.gate.measure import _measured
from piscope.gate.metrics import Value

Run = Callable[..., tuple[int, str, str]]

OLD = str(SAMPLES / "vmx-6.12.117-ipiv-us.n_userspace_slow.trace.dat")
NEW = str(SAMPLES / "vmx-6.17.13-ipiv-us.n_userspace_slow.trace.dat")
SPARSE_TEXT = str(SAMPLES / "vmx-6.12.117-ipiv.e_min.ftrace.txt.gz")
SPARSE = str(SAMPLES / "vmx-6.17.13-ipiv.e_min.trace.dat")
PERF = str(SAMPLES / "vmx-6.17.13-ipiv-tools.p_min.perf.data")
SVM = str(SAMPLES / "svm-6.17.13.c_svm_min.trace.dat")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run piscope; gives exit status, stdout and stderr."""

    def command(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = run_piscope(words)
        out, err = capfd.readouterr()
        return status, out, err

    return command


def _figure(account: dict[str, Any], metric: str, key: str = "") -> dict[str, Any]:
    return next(
        f for f in account["figures"] if (f["metric"], f["key"]) == (metric, key)
    )


def test_the_patch_shows(run: Run) -> None:
    status, out, err = run("compare", OLD, NEW, "--json")
    assert (status, err) == (0, "")
    account = json.loads(out)
    assert account["pairs"] == [{"a": "preempt-only", "b": "suppress-on-put"}]
    assert not account["cannot_tell"]
    main = _figure(account, "unloaded_notifications")
    assert [rate["verdict"] for rate in main["rates"]] == ["falls"] * 3
    assert main["b"] == {"min": 0, "max": 0}
    scans = _figure(account, "costs", "pir_scans")
    assert scans["rates"][0]["verdict"] == "rises"
    assert account["a"]["kernel_release"].startswith("6.12")


def test_numbers_are_those_of_analyze_and_of_the_gate(run: Run) -> None:
    import piscope

    _, out, _ = run("compare", OLD, NEW, "--json")
    account = json.loads(out)
    for name, path, policy in (
        ("a", OLD, "preempt-only"),
        ("b", NEW, "suppress-on-put"),
    ):
        summary = piscope.analyze(path).summary
        values = _measured(summary, "", 0).values
        seen = 0
        for figure in account["figures"]:
            wanted = figure[f"policy_{name}"]
            value = values.get(Value(figure["metric"], figure["key"], wanted or ""))
            if value is not None:
                seen += 1
                assert figure[name] == {"min": value.min, "max": value.max}
            assert wanted in (None, policy)
        assert seen >= 7
        seconds = summary.trace.duration_ns / 1e9
        main = _figure(account, "unloaded_notifications")
        bounds = summary.policies[policy].unloaded_notifications
        assert main["rates"][0][name]["min"] == pytest.approx(bounds.min / seconds)
        exits = sum(handler.exits for handler in summary.handlers)
        assert account[name]["exits"] == exits > 0
        assert main["rates"][1][name]["max"] == pytest.approx(1000 * bounds.max / exits)


def test_a_capture_is_the_same_as_itself(run: Run) -> None:
    status, out, _ = run("compare", OLD, OLD, "--json")
    account = json.loads(out)
    for figure in account["figures"]:
        exact = figure["a"]["min"] == figure["a"]["max"]
        for rate in figure["rates"]:
            assert rate["verdict"] in (("same",) if exact else ("open", "noise"))
    assert status in (0, 3)
    assert account["cannot_tell"] is (status == 3)


def test_under_one_policy_the_patch_is_gone(run: Run) -> None:
    status, out, _ = run("compare", OLD, NEW, "--policy", "suppress-on-put", "--json")
    account = json.loads(out)
    assert status == 0
    assert account["pairs"] == [{"a": "suppress-on-put", "b": "suppress-on-put"}]
    main = _figure(account, "unloaded_notifications")
    assert {rate["verdict"] for rate in main["rates"]} == {"same"}
    assert any("own kernel has preempt-only" in text for text in account["unfair"])


def test_open_windows_alone_can_not_tell(run: Run) -> None:
    status, out, err = run("compare", SPARSE_TEXT, SPARSE)
    assert (status, err) == (3, "")
    assert "can't tell" in " ".join(out.split())
    _, out, _ = run("compare", SPARSE_TEXT, SPARSE, "--json")
    account = json.loads(out)
    assert account["a"]["captured_policy"] is None
    assert [pair["a"] for pair in account["pairs"]] == [
        "preempt-only",
        "suppress-on-put",
    ]
    assert any("not known" in text for text in account["unfair"])


def test_what_is_unfair_is_said(run: Run) -> None:
    _, out, _ = run("compare", OLD, PERF, "--json")
    unfair = " ".join(json.loads(out)["unfair"])
    assert "The formats differ (trace.dat v7 (zstd); perf.data)" in unfair
    assert "One lasts longer" in unfair
    assert "Only A has probes" in unfair
    assert "Only A holds" in unfair


@pytest.mark.parametrize("form", ["terminal", "md"])
def test_forms_keep_to_80_columns(run: Run, form: str) -> None:
    status, out, err = run("compare", OLD, NEW, "--format", form, "--posted", "none")
    assert (status, err) == (0, "")
    lines = [line for line in out.splitlines() if "sample_traces" not in line]
    assert max(map(len, lines)) <= 80
    if form == "md":
        assert kinds(out) <= BLOCKS
        assert all(len({len(row) for row in rows}) == 1 for rows in tables_of(out))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nothing.dat", NEW), "nothing.dat"),
        ((OLD, SVM), "c_svm_min.trace.dat: an AMD (SVM) host"),
        (("-", "-"), "not both"),
    ],
)
def test_bad_input_is_one_line(run: Run, words: tuple[str, ...], said: str) -> None:
    status, out, err = run("compare", *words)
    assert (status, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
