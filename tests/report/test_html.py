"""The page of `--html`, as bytes: its numbers, its escaping, what it may do."""

from __future__ import annotations

import base64
import builtins
import hashlib
import json
import re
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import SAMPLES
from report.page_reading import Page
from report.summaries import with_posts, without_posts

from piscope import pipeline
from piscope.errors import UsageError
from piscope.report.html import render_html, require_extra
from piscope.report.html_charts import Bars, Row, bars, pointer, resolve
from piscope.report.html_figures import KIND_COLORS, KIND_WORDS, charts_of
from piscope.report.json_form import as_json
from piscope.report.render_words import bounds_text
from piscope.report.summarize import summarize
from piscope.report.summary import Bounds, Summary
from piscope.sources.detect import open_trace
from piscope.tables import Kind

SLOW = "vmx-6.12.117-ipiv-us.o_wrong_vcpu_slow.trace.dat"


def analyzed(path: Path) -> pipeline.Analysis:
    with closing(open_trace(str(path))) as source:
        return pipeline.analyze(source)


@pytest.fixture(scope="module")
def slow() -> tuple[pipeline.Analysis, Summary, str]:
    analysis = analyzed(SAMPLES / SLOW)
    summary = summarize(analysis)
    return analysis, summary, render_html(analysis, summary)


def test_the_page_carries_the_json(slow: tuple[Any, Summary, str]) -> None:
    _, summary, html = slow
    expected = json.loads(json.dumps(as_json(summary)))
    assert Page(html).values("piscope-json") == expected


def test_every_bar_is_the_number_that_it_names(slow: tuple[Any, Summary, str]) -> None:
    page = Page(slow[2])
    document = page.values("piscope-json")
    charts = page.values("piscope-charts")
    drawn = 0
    for chart in charts:
        for trace in chart["figure"]["data"]:
            if trace["type"] != "bar":
                continue
            end, scale = trace["meta"]["end"], trace["meta"]["scale"]
            base = trace.get("base", [0] * len(trace["x"]))
            for at, low, length in zip(
                trace["customdata"], base, trace["x"], strict=True
            ):
                value = resolve(document, at)
                value = value[end] if isinstance(value, dict) else value or 0
                assert round((low + length) * scale) == value, (chart["name"], at)
                drawn += value > 0
    assert drawn > 20
    names = {chart["name"] for chart in charts}
    assert {"outcomes", "not-excluded", "removed-by-vm", "removed-by-vcpu"} <= names
    assert {"removed-by-reason", "removed-by-cpu", "vcpu-time", "costs"} <= names


def test_tiles_are_numbers_of_the_json(slow: tuple[Any, Summary, str]) -> None:
    page = Page(slow[2])
    document = page.values("piscope-json")
    told = [e for e in page.all("dd") if "data-pointer" in e.attributes]
    assert len(told) == 5
    for tile in told:
        at = tile.attributes["data-pointer"]
        assert at is not None
        value = resolve(document, at)
        assert tile.text == bounds_text(Bounds(value["min"], value["max"]))


def test_the_verdict_comes_first(slow: tuple[Any, Summary, str]) -> None:
    page = Page(slow[2])
    paragraphs = [e.text for e in page.all("p")]
    verdict = page.values("piscope-json")["verdict"]
    assert paragraphs[1 : 1 + len(verdict)] == verdict


def test_only_the_named_scripts_may_run(slow: tuple[Any, Summary, str]) -> None:
    page = Page(slow[2])
    (policy,) = [
        e.attributes["content"]
        for e in page.all("meta")
        if e.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert not re.search(r"https?:|\*|unsafe-eval", policy)
    script_src = re.search(r"script-src ([^;]*)", policy)
    assert script_src is not None
    assert "unsafe-inline" not in script_src[1]
    hashes = set(re.findall(r"sha256-([^']+)", policy))
    (own,) = [e for e in page.all("script") if "type" not in e.attributes]
    plotly = zlib.decompress(base64.b64decode(page.by_id("block-plotly").text))
    assert hashes == {
        base64.b64encode(hashlib.sha256(code).digest()).decode()
        for code in (own.text.encode(), plotly)
    }


def test_nothing_is_loaded(slow: tuple[Any, Summary, str]) -> None:
    page = Page(slow[2])
    assert not page.all("link") and not page.all("img") and not page.all("iframe")
    assert all("src" not in e.attributes for e in page.elements)
    assert all((e.attributes.get("href") or "#").startswith("#") for e in page.elements)
    (style,) = page.all("style")
    assert "url(" not in style.text and "@import" not in style.text


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[2J"


def test_what_a_trace_says_stays_text(slow: tuple[Any, Summary, str]) -> None:
    analysis, _, _ = slow
    summary = summarize(analysis)
    plain = Page(render_html(analysis, summary))
    summary.trace.path = f"/tmp/{HOSTILE}.dat"
    summary.trace.kernel_release = HOSTILE
    summary.trace.notes = [HOSTILE]
    summary.cannot_tell.append(HOSTILE)
    for vcpu in summary.vcpus:
        vcpu.comm = HOSTILE
    assert summary.removed is not None
    for group in (*summary.removed.by_vcpu, *summary.removed.by_cpu):
        group.name = HOSTILE
    html = render_html(analysis, summary)
    page = Page(html)
    assert len(page.all("script")) == len(plain.all("script"))
    assert not page.all("img")
    assert not [a for e in page.elements for a in e.attributes if a.startswith("on")]
    assert "\x1b" not in html
    assert page.values("piscope-json")["trace"]["path"] == summary.trace.path
    texts = [text.text for text in page.all("th")]
    assert any("<script>alert(1)</script>" in text for text in texts)
    # plotly.js takes labels for a markup of its own
    for chart in page.values("piscope-charts"):
        layout = chart["figure"]["layout"]
        labels = "".join(layout["yaxis"]["ticktext"]).replace("<br>", "")
        hovers = "".join(t for d in chart["figure"]["data"] for t in d["hovertext"])
        assert "<" not in labels + hovers


def test_a_page_of_odd_summaries(slow: tuple[Any, Summary, str]) -> None:
    analysis, _, _ = slow
    for summary in (with_posts(), without_posts()):
        page = Page(render_html(analysis, summary))
        expected = json.loads(json.dumps(as_json(summary)))
        assert page.values("piscope-json") == expected
        headings = [e.text for e in page.all("h2")]
        assert "Quality of the data" in headings
        assert len(set(headings)) == len(headings)


def test_sections_have_one_id_each(slow: tuple[Any, Summary, str]) -> None:
    page = Page(slow[2])
    ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(set(ids)) == len(ids)
    assert {
        str(e.attributes["href"])[1:] for e in page.all("a") if "href" in e.attributes
    } <= set(ids)
    for table in page.all("table"):
        assert "div" in table.inside


def test_figures_are_what_plotly_knows(slow: tuple[Any, Summary, str]) -> None:
    from plotly.graph_objects import Figure

    for chart in Page(slow[2]).values("piscope-charts"):
        Figure(chart["figure"])  # raises for a property that there is not


def test_every_kind_has_a_color_and_words() -> None:
    kinds = {kind.label for kind in Kind}
    assert set(KIND_COLORS) == set(KIND_WORDS) == kinds
    assert len(set(KIND_COLORS.values())) == len(kinds)


def test_pointers() -> None:
    document = {"vm0/vcpu1": [{"a~b": 3}], "none": None}
    assert pointer("vm0/vcpu1", 0, "a~b") == "/vm0~1vcpu1/0/a~0b"
    assert resolve(document, pointer("vm0/vcpu1", 0, "a~b")) == 3
    assert resolve(document, "/missing/too") is None


def test_a_range_is_drawn_hatched_on_top_of_what_is_proven() -> None:
    document = {"a": {"min": 3, "max": 3}, "b": {"min": 2, "max": 9}}
    rows = (Row("a", ("/a",)), Row("b", ("/b",)))
    chart = bars(document, Bars("n", "t", ("one",), rows, what="which"))
    assert chart is not None and chart.ranges and chart.grid is not None
    proven, rest = chart.figure["data"]
    assert proven["x"] == rest["base"] == [3, 2]
    assert rest["x"] == [0, 7]
    assert rest["marker"]["pattern"]["shape"] == "/"
    assert [cells for _, cells, _ in chart.grid.rows] == [["a", "3"], ["b", "2 to 9"]]


def test_a_curve_is_drawn_with_what_lies_between_its_ends() -> None:
    def line(low: float, high: float) -> dict[str, list[float]]:
        return {"min": [low, 2 * low], "max": [high, 2 * high], "sd": [1.0, 1.0]}

    curve = {
        "rates_hz": [1.0, 1000.0],
        "host_irqs": {"a<b>": line(3, 9), "quiet": line(0, 0)},
        "wrong_vcpu": {},
        "removed": line(3, 9),
    }
    document = {"rates": {"curve": curve}}
    (chart,) = charts_of("rates", document)
    Figure = pytest.importorskip("plotly.graph_objects").Figure  # noqa: N806
    Figure(chart.figure)
    data = chart.figure["data"]
    assert [d["name"] for d in data] == [
        *("a&lt;b&gt;", "a&lt;b&gt;", "quiet", "removed", "removed")
    ]
    for trace in data:
        assert trace["x"] == resolve(document, trace["meta"]["x"])
        assert trace["y"] == resolve(document, trace["meta"]["y"])
    assert ["fill" in d for d in data] == [False, True, False, False, True]
    assert charts_of("rates", {}) == charts_of("rates", {"rates": None}) == []


def test_no_chart_of_nothing() -> None:
    rows = (Row("a", ("/a",)),)
    assert bars({"a": {"min": 0, "max": 0}}, Bars("n", "t", ("one",), rows)) is None
    assert charts_of("gaps", {}) == []


def test_without_the_extra_one_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_plotly(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("plotly"):
            raise ImportError("No module named 'plotly'", name="plotly")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_plotly)
    with pytest.raises(UsageError, match=r"^an HTML page needs plotly.*piscope\[html"):
        require_extra()
