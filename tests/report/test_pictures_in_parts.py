"""The page and the timeline of an analysis in parts are those of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest
from conftest import SAMPLES
from split_analysis import even_cuts, split

from piscope import pipeline
from piscope.commands.timeline_run import View, draw_parts
from piscope.pipeline import Analysis, Part
from piscope.report import html_hits, html_lives, timeline_pages
from piscope.report.html import Page, render_html
from piscope.report.html_strips import BUDGET_BYTES, Packed, TimelineTally
from piscope.report.selection import Selection
from piscope.report.summarize import summarize
from piscope.report.summary import Summary
from piscope.sliced_pipeline import parts_of
from piscope.slices import contexts
from piscope.sources.detect import open_trace

TWO_VMS = "vmx-6.17.13-ipiv.f_2vm.trace.dat"
SLOW = "vmx-6.12.117-ipiv-us.n_userspace_slow.trace.dat"
LOST = "vmx-6.12.117-ipiv.g_lost.trace.dat"

WITHOUT_SWITCHES = {"ignore": ("sched:sched_switch",)}


def whole_of(name: str, **options: object) -> Analysis:
    with closing(open_trace(str(SAMPLES / name))) as source:
        return pipeline.analyze(source, **options)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Trace:
    analysis: Analysis
    slices: list[Part]


@pytest.fixture(scope="module", params=((TWO_VMS, 1009), (SLOW, 307), (LOST, 307)))
def trace(request: pytest.FixtureRequest) -> Trace:
    name, rows = request.param
    return Trace(whole_of(name), sliced(name, rows))


class Again:
    """Parts that are made anew each time."""

    def __init__(self, make: Callable[[], Iterable[Part]]) -> None:
        self._make = make
        self.passes = 0

    def __iter__(self) -> Iterator[Part]:
        self.passes += 1
        return iter(self._make())


def in_parts(analysis: Analysis, count: int) -> Again:
    return Again(lambda: split(analysis, even_cuts(analysis, count)))


def sliced(name: str, rows: int, **options: object) -> list[Part]:
    with (
        pytest.MonkeyPatch.context() as patch,
        closing(open_trace(str(SAMPLES / name))) as source,
    ):
        patch.setattr(contexts, "_AT_CUT", 16)
        patch.setattr(contexts, "_OF_CPU", 24)
        return list(parts_of(source, slice_rows=rows, **options))  # type: ignore[arg-type]


def packed(
    parts: Iterable[Part], summary: Summary, selection: Selection | None, budget: int
) -> Packed:
    tally = TimelineTally(selection)
    for part in parts:
        tally.add(part)
    result = tally.pack(summary, budget_bytes=budget)
    assert result is not None
    return result


Text = Callable[[Iterable[Part], View], tuple[int, str]]


@pytest.fixture
def text(capfd: pytest.CaptureFixture[str]) -> Text:
    """The exit status and what is printed."""

    def drawn(parts: Iterable[Part], view: View) -> tuple[int, str]:
        selection = Selection(vcpus=view.vcpus)
        status = draw_parts(parts, view, selection, (None, None), 100)
        return status, capfd.readouterr().out

    return drawn


def few_at_once(patch: pytest.MonkeyPatch) -> None:
    """So few intervals, cells of columns, and rows of notifications are held."""
    patch.setattr(html_lives, "_MOST_INTERVALS", 10)
    patch.setattr(html_lives, "_MOST_CELLS", 500_000)
    patch.setattr(html_hits, "_MOST_ROWS", 50)


@pytest.mark.parametrize("budget", [BUDGET_BYTES, 20_000])
@pytest.mark.parametrize("few", [False, True])
def test_the_packed_timelines(
    trace: Trace, budget: int, few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    analysis = trace.analysis
    if few:
        few_at_once(monkeypatch)
    for selection in (None, Selection(vcpus=("0",), cpus=frozenset({0, 1}))):
        summary = summarize(analysis, selection)
        whole = packed([Part.of_whole(analysis)], summary, selection, budget)
        for parts in (*(in_parts(analysis, n) for n in (2, 3, 11)), trace.slices):
            assert packed(parts, summary, selection, budget) == whole
        assert whole.about["lives"]["mode"] == "columns" or not few


def test_the_page(trace: Trace) -> None:
    analysis = trace.analysis
    summary = summarize(analysis)
    page = Page()
    for part in in_parts(analysis, 3):
        page.add(part)
    assert page.render(summary) == render_html(analysis, summary)


def test_a_page_needs_a_part(trace: Trace) -> None:
    with pytest.raises(ValueError, match="at least one part"):
        Page().render(summarize(trace.analysis))


VIEWS = (
    View(with_cpus=True),
    View(policy="suppress-on-put", window="170ms", vcpus=("0",), with_cpus=True),
)


@pytest.mark.parametrize("view", VIEWS)
def test_the_drawn_timeline(trace: Trace, view: View, text: Text) -> None:
    analysis = trace.analysis
    whole = text([Part.of_whole(analysis)], view)
    for count in (2, 3, 11):
        assert text(in_parts(analysis, count), view) == whole
    assert text(trace.slices, view) == whole


def test_the_drawn_timeline_without_switches(text: Text) -> None:
    view = View(with_cpus=True, window="300ms")
    analysis = whole_of(SLOW, **WITHOUT_SWITCHES)
    whole = text([Part.of_whole(analysis)], view)
    assert text(in_parts(analysis, 11), view) == whole
    assert text(sliced(SLOW, 307, **WITHOUT_SWITCHES), view) == whole


def test_pages_for_which_there_is_no_memory_take_another_pass(
    text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    analysis = whole_of(SLOW)
    view = View(window="20ms", with_cpus=True)
    whole = text([Part.of_whole(analysis)], view)
    pages = whole[1].count("percent of time")
    monkeypatch.setattr(timeline_pages, "_CELLS_AT_ONCE", 8000)
    parts = in_parts(analysis, 3)
    assert text(parts, view) == whole
    assert 1 < parts.passes < pages
