"""Commands over a trace in slices say what they say of the same trace at once."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import SAMPLES
from report.perfetto_reading import read_perfetto

import piscope
from piscope import sliced_pipeline
from piscope.cli import run
from piscope.pipeline import Part

TRACE = str(SAMPLES / "vmx-6.12.117-ipiv.f_2vm.trace.dat")
OTHER = str(SAMPLES / "vmx-6.17.13-ipiv-us.n_userspace_slow.trace.dat")

Sliced = Callable[[], None]
Output = Callable[..., str]


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Output:
    """Run a command; gives what it prints."""

    def printed(*words: str) -> str:
        capsys.readouterr()
        status = run(words)
        out, err = capsys.readouterr()
        assert status in (0, 1, 3), err
        return str(out)

    return printed


@pytest.fixture
def sliced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sliced]:
    """Make every trace a long one; at the end some must have been in parts."""
    parts = 0
    real = sliced_pipeline.Parts.__iter__

    def counting(self: sliced_pipeline.Parts) -> Iterator[Part]:
        nonlocal parts
        for part in real(self):
            parts += not part.own.is_whole
            yield part

    def begin() -> None:
        monkeypatch.setattr(sliced_pipeline, "SLICE_ROWS", 1009)
        monkeypatch.setattr(sliced_pipeline, "WHOLE_ROWS", 0)
        monkeypatch.setattr(sliced_pipeline.Parts, "__iter__", counting)

    yield begin
    assert parts


ANALYZE = ("analyze", TRACE, "--json")


@pytest.mark.parametrize(
    "words",
    [
        ("analyze", TRACE, "--width", "100"),
        ("analyze", TRACE, "--format", "md"),
        (*ANALYZE, "--vcpu", "vcpu0[389]", "--policy", "legacy-5.10"),
        (*ANALYZE, "--from", "+200ms", "--to", "+600ms", "--posted", "none"),
        ("analyze", TRACE, OTHER, "--json"),
        ("timeline", TRACE, "--width", "90"),
        ("timeline", TRACE, "--cpus", "--window", "90ms", "--from", "+100ms"),
        ("compare", TRACE, OTHER, "--format", "json"),
        ("compare", OTHER, TRACE, "--policy", "suppress-on-put"),
    ],
    ids=lambda words: "-".join(w for w in words if "/" not in w),
)
def test_what_is_printed(
    words: tuple[str, ...], output: Output, sliced: Sliced
) -> None:
    whole = output(*words)
    sliced()
    assert output(*words) == whole


def test_a_gate(output: Output, sliced: Sliced) -> None:
    baseline = str(SAMPLES / "gate-baseline.toml")
    words = ("gate", TRACE, OTHER, "--baseline", baseline, "--format", "json")
    words = (*words, "--partial", "--no-cache", "--jobs", "1")
    whole = output(*words)
    sliced()
    assert output(*words) == whole


def test_a_report(output: Output, sliced: Sliced, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    output("report", TRACE, "-o", str(whole))
    sliced()
    output("report", TRACE, "-o", str(parts))
    assert (parts / "summary.json").read_text() == (whole / "summary.json").read_text()
    manifests = [json.loads((p / "manifest.json").read_text()) for p in (parts, whole)]
    assert manifests[0] == manifests[1]
    for table in manifests[0]["tables"]:
        file = table["file"]
        assert pq.read_schema(parts / file) == pq.read_schema(whole / file)
    events = [pq.read_table(p / "EVENTS.parquet").to_pylist() for p in (parts, whole)]
    assert events[0] == events[1]


def test_a_page(output: Output, sliced: Sliced, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.html", tmp_path / "parts.html"
    output("analyze", TRACE, "--html", str(whole))
    sliced()
    output("analyze", TRACE, "--html", str(parts))
    assert parts.read_bytes() == whole.read_bytes()


def test_a_perfetto_file(output: Output, sliced: Sliced, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.pftrace", tmp_path / "parts.pftrace.gz"
    page = tmp_path / "both.html"
    output("analyze", TRACE, "--perfetto", str(whole))
    sliced()
    output("analyze", TRACE, "--perfetto", str(parts), "--html", str(page))
    assert page.stat().st_size > 1 << 20
    found = [
        {
            path: sorted((e.ts_ns, e.type, e.name, e.value) for e in track.events)
            for path, track in read_perfetto(data).items()
        }
        for data in (whole.read_bytes(), gzip.decompress(parts.read_bytes()))
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "words",
    [
        ("--hit", "unloaded"),
        ("--hit", "wakeup"),
        ("--hit", "software", "--vcpu", "vcpu0[389]", "--nth", "40"),
        ("--at", "+400ms", "--vcpu", "vcpu1[387]"),
        ("--at", "+300ms"),
    ],
    ids=" ".join,
)
def test_an_explanation(
    words: tuple[str, ...], output: Output, sliced: Sliced, tmp_path: Path
) -> None:
    asked = ("explain", TRACE, *words, "--format", "json")
    whole = json.loads(output(*asked))
    sliced()
    parts = json.loads(output(*asked))
    output("report", TRACE, "-o", str(tmp_path / "report"))
    stimuli = pq.read_table(tmp_path / "report" / "STIMULI.parquet").to_pylist()
    findings = pq.read_table(tmp_path / "report" / "FINDINGS.parquet").to_pylist()
    note = parts["notification"]
    assert stimuli[note["stimulus"]]["stimulus"] == note["stimulus"]
    assert stimuli[note["stimulus"]]["ts_ns"] == note["ts_ns"]
    for policy, row in note["findings"].items():
        assert findings[row]["policy"] == policy
        assert findings[row]["stimulus"] == note["stimulus"]
        again = ("explain", TRACE, "--finding", str(row), "--format", "json")
        same = json.loads(output(*again))
        assert same["notification"] == note
        assert same["found_by"] == f"--finding {row}, of {policy}"
    for step in parts["steps"]:
        if step["stimulus"] is not None:
            assert stimuli[step["stimulus"]]["letter"].upper() == step[
                "letter"
            ].replace("_", "-")
    for account in (whole, parts):
        account["notification"].update(stimulus=None, findings=None)
        for step in account["steps"]:
            step["stimulus"] = None
    assert parts == whole


@pytest.mark.parametrize(
    "words",
    [
        ("--hit", "unloaded", "--nth", "70000"),
        ("--at", "+700ms"),
        ("--finding", "9999999"),
        ("--hit", "wakeup", "--vcpu", "none-such"),
    ],
    ids=" ".join,
)
def test_what_is_not_there(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], sliced: Sliced
) -> None:
    asked = ("explain", TRACE, *words)
    assert run(asked) == 2
    whole = capsys.readouterr().err
    sliced()
    assert run(asked) == 2
    assert capsys.readouterr().err == whole


def test_from_python(sliced: Sliced) -> None:
    whole = piscope.analyze(TRACE)
    sliced()
    parts = piscope.analyze(TRACE)
    assert parts.as_dict() == whole.as_dict()
    for name in ("EVENTS", "INTERVALS", "VCPUS", "LOSSES"):
        rows = [table.to_pylist() for table in parts.batches(name)]
        assert (len(rows) > 5) == (name in ("EVENTS", "INTERVALS")), name
        assert sorted(map(repr, chain(*rows))) == sorted(
            map(repr, whole.table(name).to_pylist())
        )
    assert parts.findings.num_rows == whole.findings.num_rows
    with pytest.raises(ValueError, match="at_once"):
        parts.analysis  # noqa: B018
    assert piscope.analyze(TRACE, at_once=True).findings == whole.findings
    with pytest.raises(KeyError):
        next(parts.batches("nonsense"))


def test_a_trace_that_ends_meanwhile_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(sliced_pipeline, "WHOLE_ROWS", 0)
    monkeypatch.setattr("piscope.slices.trace.find_contexts", broken)
    assert run(["report", TRACE, "-o", str(tmp_path / "report")]) == 2
    assert capsys.readouterr().err == f"piscope: error: {TRACE}: Input/output error\n"
    assert list(tmp_path.iterdir()) == []


def test_posts_at_a_rate_are_of_the_whole_trace(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*ANALYZE, "--rate", "500")
    whole = output(*words)
    monkeypatch.setattr(sliced_pipeline, "SLICE_ROWS", 1009)
    monkeypatch.setattr(sliced_pipeline, "WHOLE_ROWS", 0)
    assert output(*words) == whole
    assert json.loads(whole)["rates"] is not None
