"""The page of `--html` in a real Chromium: it draws, zooms, prints, and is right."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SAMPLES
from report.browser import Browser, browser

from piscope import pipeline
from piscope.report.html import render_html
from piscope.report.html_charts import resolve
from piscope.report.json_form import as_json
from piscope.report.marks import Mark, marks
from piscope.report.strips import strips
from piscope.report.summarize import summarize
from piscope.report.summary import Summary
from piscope.sources.detect import open_trace
from piscope.tables import Kind

pytestmark = pytest.mark.tool("chromium", "chromedriver")

TWO_VMS = "vmx-6.17.13-ipiv.f_2vm.trace.dat"
SLOW = "vmx-6.12.117-ipiv-us.n_userspace_slow.trace.dat"
LOSSY = "vmx-6.12.117-ipiv.g_lost.trace.dat"
POOR = "vmx-6.12.117-ipiv.e_min.ftrace.txt.gz"

Analyzed = tuple[pipeline.Analysis, Summary]


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    import shutil

    paths = [shutil.which(name) or "" for name in ("chromium", "chromedriver")]
    with browser(*paths, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def analyzed() -> Callable[[str], Analyzed]:
    done: dict[str, Analyzed] = {}

    def one(name: str) -> Analyzed:
        if name not in done:
            with closing(open_trace(str(SAMPLES / name))) as source:
                analysis = pipeline.analyze(source)
            done[name] = analysis, summarize(analysis)
        return done[name]

    return one


@pytest.fixture(scope="module")
def page(
    analyzed: Callable[[str], Analyzed], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """The page of a sample as a file."""
    folder = tmp_path_factory.mktemp("pages")

    def write(name: str, **options: Any) -> Path:
        path = folder / f"{name}{options or ''}.html"
        if not path.exists():
            html = render_html(*analyzed(name), **options)
            path.write_text(html, "utf-8")
        return path

    return write


TIMELINE = "const t = await piscope.ready;"


def timeline(chrome: Browser, script: str) -> Any:
    """What a script over the page's timeline `t` returns."""
    return chrome.wait_for(f"(async () => {{ {TIMELINE} {script} }})().then(done)")


@pytest.mark.parametrize("name", [LOSSY, POOR, SLOW, TWO_VMS])
def test_it_draws_without_a_word_and_asks_for_nothing(
    chrome: Browser, page: Callable[..., Path], name: str
) -> None:
    path = page(name)
    assert chrome.open(path, anew=True) == "drawn"
    assert chrome.messages() == []
    asked = [url for url in chrome.requests() if not url.startswith(("data:", "blob:"))]
    assert asked == [path.as_uri()]
    plots = chrome.run(
        "return [...document.querySelectorAll('.plot')].map("
        "  (p) => [p.id, p.querySelectorAll('.point path, image').length])"
    )
    assert len(plots) > 5
    assert all(drawn for _, drawn in plots), plots
    assert not chrome.run(
        "return document.querySelector('#without-charts:not([hidden])')"
    )


def test_what_is_drawn_is_the_json(
    chrome: Browser, page: Callable[..., Path], analyzed: Callable[[str], Analyzed]
) -> None:
    chrome.open(page(TWO_VMS))
    document = as_json(analyzed(TWO_VMS)[1])
    plots = chrome.run(
        "return [...document.querySelectorAll('.js-plotly-plot')]"
        "  .filter((p) => p.id !== 'strips')"
        "  .map((p) => p.data.map((d) => ({x: d.x, base: d.base, customdata:"
        "    d.customdata, meta: d.meta, text: d.text ?? null, name: p.id})))"
    )
    numbers = labels = 0
    for trace in [trace for plot in plots for trace in plot]:
        base = trace["base"] or [0] * len(trace["x"])
        for i, at in enumerate(trace["customdata"]):
            value = resolve(document, at)
            end = trace["meta"]["end"]
            value = value[end] if isinstance(value, dict) else value or 0
            drawn = (base[i] + trace["x"][i]) * trace["meta"]["scale"]
            assert round(drawn) == value, (trace["name"], at)
            numbers += 1
            if trace["text"] and trace["meta"]["scale"] == 1:
                told = trace["text"][i].rpartition(" to ")[2].replace(",", "")
                value = resolve(document, at) or 0
                assert int(told) == (value["max"] if isinstance(value, dict) else value)
                labels += 1
    assert numbers > 30 and labels > 20


def test_the_timeline_adds_up_to_the_json(
    chrome: Browser, page: Callable[..., Path], analyzed: Callable[[str], Analyzed]
) -> None:
    chrome.open(page(TWO_VMS))
    summary = analyzed(TWO_VMS)[1]
    sums = timeline(
        chrome,
        "return t.sums.map((s) => t.about.kinds.map((_, k) =>"
        "  s.filter((_, i) => i % (t.kinds + 1) === k).reduce((a, b) => a + b, 0)));",
    )
    labels = timeline(chrome, "return t.about.vcpus;")
    by_label = {vcpu.label: vcpu.time_ns for vcpu in summary.vcpus}
    assert set(labels) == set(by_label)
    for label, times in zip(labels, sums, strict=True):
        for kind in Kind:
            assert times[kind] == pytest.approx(by_label[label][kind.label], abs=2)


def test_a_zoomed_view_is_what_the_strips_say(
    chrome: Browser, page: Callable[..., Path], analyzed: Callable[[str], Analyzed]
) -> None:
    chrome.open(page(TWO_VMS))
    analysis, summary = analyzed(TWO_VMS)
    begin_ns, _ = analysis.timeline.span_ns
    columns = 200
    from_ns, width_ns = 50_000_000, 2_777_777
    to_ns = from_ns + columns * width_ns
    expected = strips(analysis.timeline, begin_ns + from_ns, begin_ns + to_ns, columns)
    script = f"""
      const [from, width, n] = [{from_ns}, {width_ns}, {columns}];
      return t.lives.map((life) => [...t.addUp(life, from, width, n)]);"""
    drawn = np.array(timeline(chrome, script)).reshape(
        len(summary.vcpus), columns, len(Kind) + 1
    )
    np.testing.assert_allclose(drawn[:, :, :-1], expected.time_ns, atol=1)
    known = expected.uncertain_ns
    unsure_unknown = drawn[:, :, -1] - known
    assert (unsure_unknown >= -1).all()  # the page also tells unknown kinds' ends
    hits = marks(analysis, expected, "preempt-only", other="suppress-on-put")
    script = f"""
      return t.hits[0].map((hits) => {{
        const c = t.countHits(hits, {from_ns}, {width_ns}, {columns});
        return [[...c.counts], [...c.undated]];
      }});"""
    told = timeline(chrome, script)
    counts = np.array([vcpu[0] for vcpu in told]).reshape(
        len(summary.vcpus), columns, len(Mark), 2
    )
    assert hits.possible.sum() > 50
    np.testing.assert_array_equal(counts[..., 0], hits.certain)
    np.testing.assert_array_equal(counts[..., 1], hits.possible)
    np.testing.assert_array_equal([vcpu[1] for vcpu in told], hits.undated)


def until(chrome: Browser, condition: str, seconds: float = 20) -> bool:
    """Whether a condition over the page's timeline `t` comes true in time."""
    found: bool = timeline(
        chrome,
        f"""const end = performance.now() + {seconds * 1000};
        while (!({condition}) && performance.now() < end) {{
          await new Promise((go) => setTimeout(go, 20));
        }}
        return Boolean({condition});""",
    )
    return found


SEEN = "!t.drawing"
"""What was asked for is drawn: the buttons draw before they return."""


def view(chrome: Browser) -> tuple[float, float]:
    low, high = timeline(chrome, "return t.view;")
    return low, high


def test_zoom_shows_more(chrome: Browser, page: Callable[..., Path]) -> None:
    from selenium.webdriver import ActionChains

    chrome.open(page(TWO_VMS))
    whole = view(chrome)
    drawn = chrome.run("return JSON.stringify(strips.data[0].z)")
    dx = chrome.run("return strips.data[0].dx")

    area = chrome.chrome.find_element("css selector", "#strips .nsewdrag")
    chrome.run("arguments[0].scrollIntoView({block: 'center'})", area)
    drag = ActionChains(chrome.chrome).move_to_element_with_offset(area, -100, 0)
    drag.click_and_hold().move_by_offset(100, 0).move_by_offset(100, 0).release()
    drag.perform()
    assert until(chrome, f"t.view[0] > 0 && {SEEN}")
    low, high = view(chrome)
    share = (high - low) / (whole[1] - whole[0])
    assert 0.1 < share < 0.25, "200 of some 1100 pixels"
    assert chrome.run("return JSON.stringify(strips.data[0].z)") != drawn
    assert chrome.run("return strips.data[0].dx") == pytest.approx(dx * share, rel=0.1)

    for name, change in (("zoom-in", 0.25), ("zoom-out", 1.0), ("later", 1.0)):
        chrome.run("document.getElementById(arguments[0]).click()", name)
        assert until(chrome, SEEN)
        now = view(chrome)
        assert now[1] - now[0] == pytest.approx((high - low) * change, rel=0.01)
    assert now[0] > low
    for _ in range(5):  # a busy machine may take two clicks for two
        ActionChains(chrome.chrome).double_click(area).perform()
        if until(chrome, f"t.view[0] === 0 && {SEEN}", 3):
            break
    assert view(chrome) == whole
    assert chrome.run("return JSON.stringify(strips.data[0].z)") == drawn

    chrome.run("document.getElementById('next-mark').click()")
    assert until(chrome, SEEN)
    low, high = view(chrome)
    nearest = timeline(
        chrome,
        "return Math.min(...t.hits[0].flatMap((hits) =>"
        "  [...hits.at].map((at) => Math.abs(at - (t.view[0] + t.view[1]) / 2))));",
    )
    assert nearest < 2 and high - low <= (whole[1] - whole[0]) / 50 + 1
    shown = chrome.run("return document.getElementById('shown').textContent")
    assert re.search(r"--from \d+\.\d{9} --to \d+\.\d{9}", shown)
    assert chrome.messages() == []


def test_a_tip_tells_what_is_under_the_pointer(
    chrome: Browser, page: Callable[..., Path]
) -> None:
    from selenium.webdriver import ActionChains

    chrome.open(page(SLOW))
    area = chrome.chrome.find_element("css selector", "#strips .nsewdrag")
    chrome.run("arguments[0].scrollIntoView({block: 'center'})", area)
    ActionChains(chrome.chrome).move_to_element_with_offset(area, 3, -12).perform()
    assert until(chrome, "!document.getElementById('tip').hidden")
    tip = chrome.run("return tip.hidden ? '' : tip.textContent")
    assert re.match(r"vm0/vcpu0, \d.* from \d+\.\d{9} on\n", tip), tip
    assert "userspace" in tip


def test_few_bytes_hold_columns_and_say_so(
    chrome: Browser, page: Callable[..., Path], analyzed: Callable[[str], Analyzed]
) -> None:
    path = page(TWO_VMS, budget_bytes=6_000)
    assert chrome.open(path) == "drawn"
    assert chrome.messages() == []
    mode, columns = timeline(
        chrome, "return [t.about.lives.mode, t.about.lives.columns];"
    )
    assert mode == "columns" and columns < 4096
    shown = chrome.run("return document.getElementById('shown').textContent")
    assert "the finest that this page holds is" in shown
    analysis, _ = analyzed(TWO_VMS)
    begin_ns, end_ns = analysis.timeline.span_ns
    expected = strips(analysis.timeline, begin_ns, end_ns, 64)
    script = (
        "return t.lives.map((l) => [...t.addUp(l, 0, t.about.duration_ns / 64, 64)]);"
    )
    drawn = np.array(timeline(chrome, script)).reshape(-1, 64, len(Kind) + 1)
    width_ns = (end_ns - begin_ns) / 64
    error = np.abs(drawn[:, :, :-1] - expected.time_ns) / width_ns
    assert error.max() < len(Kind) / 255
    chrome.run(
        "for (let i = 0; i < 12; i++) document.getElementById('zoom-in').click()"
    )
    assert until(chrome, SEEN)
    low, high = view(chrome)
    assert high - low >= 15 * (end_ns - begin_ns) / columns
    assert chrome.run("return strips.data[0].dx") * 1e9 == pytest.approx(
        (end_ns - begin_ns) / columns
    )


def test_a_curve_is_drawn(chrome: Browser, tmp_path: Path) -> None:
    from piscope.commands.analyze import analyze

    path = tmp_path / "page.html"
    words = ["--rate-curve", "1:100k", "--html", str(path), str(SAMPLES / SLOW)]
    with analyze.make_context("piscope analyze", words) as context:
        assert analyze.invoke(context) == 0
    assert chrome.open(path) == "drawn"
    assert chrome.messages() == []
    lines = chrome.run(
        "return [...document.querySelectorAll('#chart-rate-curve .js-line')]"
        "  .map((line) => line.getBoundingClientRect().width)"
    )
    assert len(lines) >= 3 and min(lines) > 200


def luminance(color: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [
        p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
    ]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_are_readable(
    chrome: Browser, page: Callable[..., Path], dark: bool
) -> None:
    chrome.open(page(SLOW), dark=dark)
    colors = chrome.run(
        """const all = (selector, what) =>
          [...document.querySelectorAll(selector)]
            .map((e) => getComputedStyle(e)[what]);
        const inks = [...all('.plot text', 'fill'),
                      ...all('td, th, dt, .note, a', 'color')];
        return [all('body', 'backgroundColor')[0], [...new Set(inks)]];"""
    )
    page_light = luminance(colors[0])
    assert (page_light < 0.05) if dark else (page_light > 0.9)
    for color in colors[1]:
        light, deep = sorted((luminance(color), page_light), reverse=True)
        assert (light + 0.05) / (deep + 0.05) >= 4.5, color


def test_a_phone_shows_it_without_scrolling_aside(
    chrome: Browser, page: Callable[..., Path]
) -> None:
    assert chrome.open(page(TWO_VMS), width=390, touch=True) == "drawn"
    assert chrome.run("return document.documentElement.scrollWidth") <= 390
    outside = chrome.run(
        "return [...document.querySelectorAll('.plot svg, button, select')]"
        "  .filter((e) => e.getBoundingClientRect().right > 390.5)"
        "  .map((e) => e.outerHTML)"
    )
    assert outside == []
    assert chrome.run("return strips._fullLayout.dragmode") is False
    chrome.run("document.getElementById('zoom-in').click()")
    low, high = view(chrome)
    assert high - low == pytest.approx(
        timeline(chrome, "return t.about.duration_ns;") / 4, rel=0.01
    )


def test_it_prints_on_white_within_the_sheet(
    chrome: Browser, page: Callable[..., Path]
) -> None:
    chrome.open(page(SLOW), dark=True)
    width = chrome.run("return strips._fullLayout.width")
    chrome.run(
        "addEventListener('beforeprint', () => { window.widths ="
        "  [...document.querySelectorAll('.js-plotly-plot')]"
        "    .map((p) => p._fullLayout.width) })"
    )
    pdf = chrome.pdf()
    assert pdf.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 12
    widths = chrome.run("return window.widths")
    assert widths and max(widths) <= 700
    chrome.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    white = chrome.run("return getComputedStyle(document.body).backgroundColor")
    hidden = chrome.run(
        "return getComputedStyle(document.querySelector('.controls')).display"
    )
    chrome.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert (white, hidden) == ("rgb(255, 255, 255)", "none")
    assert until(chrome, f"t.plot._fullLayout.width === {width}")
    assert chrome.messages() == []


def test_names_of_the_trace_stay_names(
    chrome: Browser, analyzed: Callable[[str], Analyzed], tmp_path: Path
) -> None:
    hostile = "<script>piscope.bad=1</script><img src=x onerror=piscope.bad=1><b>"
    analysis, _ = analyzed(SLOW)
    vcpus = analysis.timeline.vcpus
    rows = vcpus.rows
    vcpus.rows = [replace(row, label=f"{i}{hostile}") for i, row in enumerate(rows)]
    try:
        summary = summarize(analysis)
        for vcpu in summary.vcpus:
            vcpu.comm = hostile
        path = tmp_path / f"{hostile.replace('/', '')}.html"
        path.write_text(render_html(analysis, summary), "utf-8")
        assert chrome.open(path) == "drawn"
    finally:
        vcpus.rows = rows
    assert chrome.messages() == []
    assert chrome.run("return piscope.bad ?? null") is None
    assert chrome.run("return document.querySelectorAll('img, b').length") == 0
    labels = chrome.run(
        "return [...document.querySelectorAll('.ytick text')].map((e) => e.textContent)"
    )
    assert any("<script>" in label for label in labels)
