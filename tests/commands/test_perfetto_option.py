"""`piscope analyze --perfetto FILE`: when it is written, and when it is refused."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import pytest
from report.perfetto_reading import read_perfetto

from piscope.cli import run

SPARSE = "vmx-6.12.117-ipiv.e_min.ftrace.txt.gz"


def test_beside_the_report(
    samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, file = str(samples / SPARSE), tmp_path / "x.pftrace"
    assert run(["analyze", trace]) == 0
    report = capsys.readouterr()
    assert run(["analyze", trace, "--perfetto", str(file), "--vcpu", "vm0/vcpu1"]) == 0
    assert "only        --vcpu vm0/vcpu1" in capsys.readouterr().out
    assert run(["analyze", trace, "--perfetto", str(file)]) == 0
    assert capsys.readouterr() == report
    tracks = read_perfetto(file.read_bytes())
    assert {path[0] for path in tracks} == {
        "vm0",
        "pCPUs",
        "spurious notifications",
    }
    packed = tmp_path / "x.pftrace.gz"
    assert run(["analyze", trace, "--perfetto", str(packed)]) == 0
    assert gzip.decompress(packed.read_bytes()) == file.read_bytes()
    again = tmp_path / "again.pftrace.gz"
    assert run(["analyze", trace, "--perfetto", str(again)]) == 0
    assert again.read_bytes() == packed.read_bytes()


def test_without_the_package_it_says_what_to_install(
    samples: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "perfetto.protos.perfetto.trace", None)
    file = tmp_path / "x.pftrace"
    assert run(["analyze", str(samples / SPARSE), "--perfetto", str(file)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "pip install 'piscope[perfetto]'" in err
    assert not file.exists()


def test_one_trace_at_a_time(
    samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = str(samples / SPARSE)
    file = tmp_path / "x.pftrace"
    assert run(["analyze", trace, trace, "--perfetto", str(file)]) == 2
    assert "--perfetto is for one trace, not for 2" in capsys.readouterr().err
    assert not file.exists()


def test_a_trace_that_fails_leaves_the_old_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.dat"
    broken.write_bytes(b"\x17\x08\x44tracing" + bytes(100))
    file = tmp_path / "x.pftrace"
    file.write_bytes(b"old")
    assert run(["analyze", str(broken), "--perfetto", str(file)]) == 2
    assert file.read_bytes() == b"old"
    assert list(tmp_path.glob(".*")) == []
    assert capsys.readouterr().err.count("\n") == 1


def test_where_it_cant_be_written(
    samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "no" / "x.pftrace"
    assert run(["analyze", str(samples / SPARSE), "--perfetto", str(file)]) == 2
    err = capsys.readouterr().err
    assert str(file) in err
    assert err.count("\n") == 1
