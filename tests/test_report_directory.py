"""`piscope report`: what other tools read of it, and that it appears whole."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from conftest import SAMPLES

import piscope
from piscope import arrow_tables, report_directory, schema
from piscope.cli import run
from piscope.errors import UsageError
from piscope.report_directory import write_report

TRACE = SAMPLES / "vmx-6.12.117-ipiv-us.m_userspace_msi.trace.dat"
OTHER = SAMPLES / "vmx-6.12.117-ipiv.g_lost.trace.dat"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "out"
    assert run(["report", str(TRACE), "-o", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def result() -> piscope.Result:
    return piscope.analyze(TRACE)


def test_the_manifest_lists_what_is_there(report: Path, result: piscope.Result) -> None:
    manifest = json.loads((report / "manifest.json").read_text())
    assert [t["name"] for t in manifest["tables"]] == list(schema.TABLES)
    for table in manifest["tables"]:
        metadata = pq.read_metadata(report / table["file"])
        assert metadata.num_rows == table["rows"]
        assert metadata.num_columns == len(table["columns"])
    files = {t["file"] for t in manifest["tables"]} | {"manifest.json", "summary.json"}
    assert {path.name for path in report.iterdir()} == files
    assert json.loads((report / "summary.json").read_text()) == result.as_dict()


def test_parquet_says_what_columns_mean(report: Path) -> None:
    for name, declared in schema.TABLES.items():
        read = pq.read_schema(report / f"{name}.parquet")
        assert json.loads(read.metadata[b"piscope"])["row"] == declared.row
        for column in declared.columns:
            field = read.field(column.name)
            assert field.nullable == column.nullable
            assert field.metadata[b"meaning"].decode() == column.meaning
            assert field.metadata.get(b"unit", b"").decode() == column.unit


def test_tables_come_back_as_they_were(report: Path, result: piscope.Result) -> None:
    for name in schema.TABLES:
        read = pq.read_table(report / f"{name}.parquet")
        assert read.to_pylist() == result.table(name).to_pylist()


def test_duckdb_joins_them(report: Path, result: piscope.Result) -> None:
    rows = duckdb.sql(
        f"""
        SELECT f.policy, count(*)
        FROM '{report}/FINDINGS.parquet' f
        JOIN '{report}/STIMULI.parquet' s USING (stimulus)
        JOIN '{report}/EVENTS.parquet' e ON e.row = s.row
        JOIN '{report}/VCPUS.parquet' v ON v.vcpu = s.vcpu
        GROUP BY ALL
        """
    ).fetchall()
    found = {p: len(r.findings) for p, r in result.analysis.results.items()}
    assert dict(rows) == found
    assert min(found.values()) > 0


def test_polars_reads_them(report: Path, result: piscope.Result) -> None:
    frame = pl.read_parquet(report / "INTERVALS.parquet")
    lengths = frame.group_by("vcpu").agg(
        (pl.col("end_ns") - pl.col("start_ns")).sum().alias("ns")
    )
    assert set(lengths["ns"]) == {result.summary.trace.duration_ns}
    windows = pl.read_parquet(report / "WINDOWS.parquet")
    assert windows["new_pir"].to_list() == (
        result.analysis.timeline.windows.new_pir.tolist()
    )


def test_pandas_reads_them(report: Path, result: piscope.Result) -> None:
    frame = pd.read_parquet(report / "WINDOWS.parquet")
    counts = frame["reason"].astype(str).value_counts().to_dict()
    expected: dict[str, int] = {}
    for vcpu in result.summary.vcpus:
        for reason, count in vcpu.puts.items():
            expected[reason] = expected.get(reason, 0) + count
    assert {k: v for k, v in counts.items() if v} == expected


def test_events_in_pieces_are_the_same(
    monkeypatch: pytest.MonkeyPatch, result: piscope.Result
) -> None:
    whole = result.events.to_pylist()
    monkeypatch.setattr(arrow_tables, "EVENTS_AT_ONCE", 1000)
    assert result.table("EVENTS").to_pylist() == whole


def test_an_older_report_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert run(["report", str(TRACE), "-o", str(folder)]) == 0
    assert run(["report", str(OTHER), "-o", str(folder)]) == 0
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["trace"]["path"] == str(OTHER)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_other_files_are_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("all of it")
    (tmp_path / "manifest.json").write_text('{"format": "something else"}')
    assert run(["report", str(OTHER), "-o", str(tmp_path)]) == 2
    assert "holds other files than a report" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "all of it"
    assert run(["report", str(OTHER), "-o", str(tmp_path / "thesis.tex")]) == 2
    assert "expected a directory" in capsys.readouterr().err
    assert run(["report", str(OTHER), "-o", str(tmp_path / "no" / "dir")]) == 2
    assert "can't be written" in capsys.readouterr().err


@pytest.mark.parametrize("old", [True, False])
def test_a_failed_report_leaves_what_was_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    result: piscope.Result,
    old: bool,
) -> None:
    folder = tmp_path / "out"
    if old:
        write_report(result.analysis, result.summary, folder)
    before = sorted(path.name for path in tmp_path.rglob("*"))

    def fails(path: Path, value: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report_directory, "_write_json", fails)
    with pytest.raises(UsageError, match="No space left on device"):
        write_report(result.analysis, result.summary, folder)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_schema_prints_every_column(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for name, declared in schema.TABLES.items():
        assert f"{name}: {declared.row}" in text
        for column in declared.columns:
            assert f"\n  {column.name} " in text
    assert run(["schema", "windows", "--json"]) == 0
    (table,) = json.loads(capsys.readouterr().out)
    assert [c["name"] for c in table["columns"]] == [
        c.name for c in schema.TABLES["WINDOWS"].columns
    ]
    assert run(["schema", "nonsense"]) == 2
    assert "expected one of EVENTS" in capsys.readouterr().err


def test_several_traces_are_one_dataset(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    again = tmp_path / TRACE.name
    again.write_bytes(TRACE.read_bytes())
    traces = [str(path) for path in (TRACE, OTHER, again)]
    options = ["--no-events", "--policy", "more-fastpath"]
    options += ["--fastpath", "IO_INSTRUCTION"]
    assert run(["report", "-q", *traces, "-o", str(folder), *options]) == 0
    manifest = json.loads((folder / "manifest.json").read_text())
    names = [trace["name"] for trace in manifest["traces"]]
    assert names == [TRACE.name, OTHER.name, f"{TRACE.name}-2"]
    assert manifest["options"]["fastpath"] == "IO_INSTRUCTION"
    digests = [trace["sha256"] for trace in manifest["traces"]]
    assert digests[0] == digests[2] != digests[1]
    assert not (folder / "EVENTS").exists()
    for name in ("FINDINGS", "WINDOWS"):
        counts = {trace["name"]: trace["rows"][name] for trace in manifest["traces"]}
        frame = pd.read_parquet(folder / name)
        told = frame.groupby("trace", observed=True).size().to_dict()
        assert told == {k: v for k, v in counts.items() if v}
        assert len(pl.read_parquet(folder / name)) == sum(counts.values())
    told = json.loads((folder / manifest["traces"][1]["summary"]).read_text())
    assert told["trace"]["path"] == str(OTHER)
    assert run(["report", "-q", str(OTHER), "-o", str(folder)]) == 0
    assert not (folder / "FINDINGS").exists(), "replaced as a whole"


def test_one_bad_trace_of_several_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    missing = str(tmp_path / "missing.dat")
    assert run(["report", "-q", str(TRACE), missing, "-o", str(folder)]) == 2
    assert "missing.dat" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_leaves_the_old_report_or_the_new_one(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert run(["report", "-q", str(OTHER), "-o", str(folder)]) == 0
    command = [sys.executable, "-m", "piscope", "report", "-q", str(TRACE)]
    child = subprocess.Popen([*command, "-o", str(folder)])
    # killed once it has begun to write
    while child.poll() is None and len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.001)
    child.kill()
    child.wait()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["trace"]["path"] in (str(OTHER), str(TRACE))
    for table in manifest["tables"]:
        assert pq.read_metadata(folder / table["file"]).num_rows == table["rows"]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_the_old_report_is_there_until_the_new_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    folder, made = tmp_path / "out", tmp_path / "made"
    for path in (folder, made):
        path.mkdir()
        (path / path.name).touch()
    if not can_exchange:
        monkeypatch.setattr(report_directory, "_RENAME_EXCHANGE", 1 << 30)
    report_directory._exchange(made, folder)
    assert [path.name for path in folder.iterdir()] == ["made"]
    assert [path.name for path in made.iterdir()] == ["out"]
