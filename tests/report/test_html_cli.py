"""`piscope analyze --html FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from report.page_reading import Page

from piscope.commands.analyze import analyze
from piscope.errors import UsageError
from piscope.report.html_charts import resolve


def run(*arguments: object) -> int:
    words = [str(argument) for argument in arguments]
    with analyze.make_context("piscope analyze", words) as context:
        status: int = analyze.invoke(context)
    sys.stdout.flush()
    return status


@pytest.fixture
def sample(samples: Path) -> Path:
    return samples / "vmx-6.17.13-ipiv-us.n_userspace_slow.trace.dat"


def test_the_page_is_the_json_that_is_printed(
    sample: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "page.html"
    options = ("--vcpu", "0", "--from", "25%", "--posted", "none")
    assert run("--json", *options, "--html", path, sample) == 0
    out, err = capfd.readouterr()
    assert err == ""
    page = Page(path.read_text("utf-8"))
    assert page.values("piscope-json") == json.loads(out)
    assert page.values("piscope-timeline")["vcpus"] == ["vm0/vcpu0"]
    assert any("--vcpu 0; --from 25%" in e.text for e in page.all("dd"))


def test_the_report_is_printed_all_the_same(
    sample: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(sample)
    plain, _ = capfd.readouterr()
    run("--html", tmp_path / "page.html", sample)
    assert capfd.readouterr().out == plain


def test_it_is_a_few_mb(sample: Path, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    run("--html", path, sample)
    assert path.stat().st_size < 3_000_000, "plotly.js, some 2 MB, is most of it"


def test_one_page_for_one_trace(sample: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--html is for one trace, not for 2"):
        run("--html", tmp_path / "page.html", sample, sample)


def test_a_place_that_cannot_be_written_is_named(sample: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        run("--html", tmp_path / "nowhere" / "page.html", sample)
    assert list(tmp_path.iterdir()) == []


def test_a_curve_that_was_asked_for_is_drawn(sample: Path, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    run("--rate-curve", "1:100k", "--html", path, sample)
    page = Page(path.read_text("utf-8"))
    (curve,) = [
        chart
        for chart in page.values("piscope-charts")
        if chart["name"] == "rate-curve"
    ]
    document = page.values("piscope-json")
    assert len(curve["figure"]["data"]) >= 3
    for line in curve["figure"]["data"]:
        assert line["x"] == resolve(document, line["meta"]["x"])
        assert line["y"] == resolve(document, line["meta"]["y"])
        assert max(line["y"]) > 0
    assert not page.all("pre"), "the picture of letters is for terminals"
