"""docs/queries.md: what it prints is what the real libraries give.

python tests/test_queries.py    writes the outputs anew
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pytest

from piscope.cli import run

ROOT = Path(__file__).resolve().parent.parent
DOC = ROOT / "docs" / "queries.md"
TRACES = (
    "vmx-6.12.117-ipiv-us.m_userspace_msi.trace.dat",
    "vmx-6.12.117-ipiv-us.o_wrong_vcpu_slow.trace.dat",
    "vmx-6.12.117-ipiv.f_2vm.trace.dat",
)
_QUERY = re.compile(
    r"```(?P<kind>sql|python)\n(?P<code>.*?)```\n(?:\n```text\n(?P<said>.*?)```\n)?",
    re.DOTALL,
)


def queries() -> list[re.Match[str]]:
    return list(_QUERY.finditer(DOC.read_text("utf-8")))


def write_dataset(folder: Path) -> None:
    traces = [str(ROOT / "sample_traces" / name) for name in TRACES]
    assert run(["report", "-q", "-o", str(folder / "report"), *traces]) == 0


def output(kind: str, code: str) -> str:
    """What a query prints, run where the dataset is."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if kind == "sql":
            print(duckdb.sql(code).df().to_string(index=False))
        else:
            exec(code, {"pl": pl, "pd": pd})
    return "".join(f"{line.rstrip()}\n" for line in printed.getvalue().splitlines())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("queries")
    write_dataset(folder)
    return folder


def test_the_traces_are_those_that_the_text_names() -> None:
    text = DOC.read_text("utf-8")
    assert re.findall(r"sample_traces/(\S+)", text) == list(TRACES)
    assert {query["kind"] for query in queries()} == {"sql", "python"}
    assert len(queries()) == 5


@pytest.mark.parametrize("number", range(5))
def test_query(number: int, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    query = queries()[number]
    monkeypatch.chdir(dataset)
    assert output(query["kind"], query["code"]) == query["said"]


if __name__ == "__main__":

    def anew(query: re.Match[str]) -> str:
        said = output(query["kind"], query["code"])
        return f"```{query['kind']}\n{query['code']}```\n\n```text\n{said}```\n"

    with tempfile.TemporaryDirectory() as name:
        write_dataset(Path(name))
        os.chdir(name)
        DOC.write_text(_QUERY.sub(anew, DOC.read_text("utf-8")), "utf-8")
