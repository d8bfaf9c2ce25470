"""piscope from Python: the same result as the commands, with tables that join."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import ROOT, SAMPLES

import piscope
from piscope import schema
from piscope.cli import run
from piscope.errors import UsageError
from piscope.events.catalog import analysis_fields
from piscope.pipeline import Analysis
from piscope.tables import Kind

TRACE = SAMPLES / "vmx-6.12.117-ipiv-us.m_userspace_msi.trace.dat"
LOSSY = SAMPLES / "vmx-6.12.117-ipiv.g_lost.trace.dat"
TEXT = SAMPLES / "vmx-6.12.117-ipiv.e_min.ftrace.txt.gz"


@pytest.fixture(scope="module", params=[TRACE, LOSSY, TEXT], ids=lambda p: p.name)
def result(request: pytest.FixtureRequest) -> piscope.Result:
    return piscope.analyze(request.param)


def test_importing_piscope_loads_nothing_heavy() -> None:
    script = (
        "import sys, piscope; dir(piscope)\n"
        "print([m for m in ('numpy', 'pyarrow', 'rich', 'click') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout == "[]\n"


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        piscope.nonsense  # noqa: B018
    for name in dir(piscope):
        assert getattr(piscope, name) is not None


def test_the_same_numbers_as_the_command(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["analyze", str(TRACE), "--json"]) == 0
    printed = json.loads(capfd.readouterr().out)
    assert piscope.analyze(TRACE).as_dict() == printed
    assert run(["analyze", str(TRACE), "--width", "80"]) == 0
    assert str(piscope.analyze(str(TRACE))) == capfd.readouterr().out


def test_exits_are_those_of_the_command(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["exits", str(TRACE), "--json"]) == 0
    result = piscope.exits(TRACE)
    assert result.as_dict() == json.loads(capfd.readouterr().out)
    assert run(["exits", str(TRACE), "--width", "80"]) == 0
    assert str(result) == capfd.readouterr().out
    assert result.table.num_rows > 100


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"policies": ["nonsense"]}, "'nonsense' is no policy"),
        ({"posted": "all"}, "'all' is no origin"),
        ({"vcpus": ["99"]}, "--vcpu 99"),
    ],
)
def test_wrong_arguments(arguments: dict[str, list[str]], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        piscope.analyze(TRACE, **arguments)  # type: ignore[arg-type]


def test_every_table_is_what_the_schema_says(result: piscope.Result) -> None:
    for name in schema.TABLES:
        table = getattr(result, name.lower())
        table.validate(full=True)
        assert schema.check(name, table) is table
    assert result.events.num_rows == len(result.analysis.events)


def test_every_join_finds_its_row(result: piscope.Result) -> None:
    for declared in schema.TABLES.values():
        for column in declared.columns:
            if column.joins is None:
                continue
            target, _, key = column.joins.partition(".")
            values = result.table(declared.name).column(column.name).drop_null()
            known = result.table(target).column(key)
            found = pc.is_in(values, value_set=known.combine_chunks())
            assert pc.all(found, min_count=0).as_py(), f"{declared.name}.{column.name}"


def test_unknown_is_null_and_never_minus_one(result: piscope.Result) -> None:
    for name in ("INTERVALS", "WINDOWS", "STIMULI", "FINDINGS", "POSTS"):
        table = result.table(name)
        for field in table.schema:
            if pa.types.is_integer(field.type):
                assert (pc.min(table.column(field.name)).as_py() or 0) >= 0, field


def test_names_and_values_survive(result: piscope.Result) -> None:
    analysis: Analysis = result.analysis
    rows = analysis.timeline.intervals
    assert result.intervals.column("kind").to_pylist() == [
        Kind(kind).label for kind in rows.kind
    ]
    assert result.events.column("ts_ns").to_numpy().tolist() == (
        analysis.events.ts_ns.tolist()
    )
    exits = result.events.filter(pc.equal(result.events["event"], "kvm_exit"))
    reasons = analysis.events.column("kvm_exit", "exit_reason", "int64")
    assert reasons is not None
    assert exits.column("exit_reason").to_pylist() == reasons.tolist()


def test_to_pandas(result: piscope.Result) -> None:
    frame = result.intervals.to_pandas()
    assert str(frame["start_ns"].dtype) == "int64"  # no null made it a float
    lengths = (frame["end_ns"] - frame["start_ns"]).groupby(frame["vcpu"]).sum()
    assert set(lengths) == {result.summary.trace.duration_ns}


def test_kernel_fields_are_fields_that_are_read() -> None:
    read = {name for names in analysis_fields().values() for name in names or ()}
    assert set(schema.KERNEL_FIELDS) <= read
    assert len(set(schema.KERNEL_FIELDS)) == len(schema.KERNEL_FIELDS)


def _without_column(table: pa.Table) -> pa.Table:
    return table.drop_columns(["label"])


def _with_null(table: pa.Table) -> pa.Table:
    nulls = pa.nulls(table.num_rows, pa.int32())
    return table.set_column(0, table.schema.field("vcpu"), nulls)


def _with_type(table: pa.Table) -> pa.Table:
    return table.set_column(0, "vcpu", table.column("vcpu").cast(pa.int64()))


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (_without_column, "columns"),
        (_with_null, "VCPUS.vcpu: 4 nulls"),
        (_with_type, "VCPUS.vcpu: type int64, expected int32"),
    ],
)
def test_check_finds(broken: Callable[[pa.Table], pa.Table], said: str) -> None:
    table = piscope.analyze(LOSSY).vcpus
    with pytest.raises(ValueError, match=said):
        schema.check("VCPUS", broken(table))


def test_the_example_of_the_guide_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    guide = (ROOT / "docs" / "python.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", guide, re.DOTALL | re.MULTILINE)
    assert blocks
    # a folder like the checkout's, in which the example may write
    (tmp_path / "sample_traces").symlink_to(SAMPLES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
