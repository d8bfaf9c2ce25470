"""Markdown: valid, 80 columns, never markup by accident, and the terminal's numbers."""

from __future__ import annotations

import json
import re
from collections import Counter
from contextlib import closing
from functools import cache
from importlib.util import find_spec

import pytest
from conftest import SAMPLES
from hypothesis import given
from hypothesis import strategies as st
from report.markdown_reading import (
    BLOCKS,
    inline_text,
    kinds,
    tables_of,
    texts_of,
    tokens_of,
    unfolded,
)
from report.page_reading import Page

from piscope import pipeline
from piscope.cli import run as run_piscope
from piscope.report.html import render_html
from piscope.report.json_form import as_json
from piscope.report.render import render, render_markdown, sections
from piscope.report.render_layout import (
    Grid,
    Sheet,
    as_text,
    facts,
    heading,
    note,
    remarks,
)
from piscope.report.render_markdown import as_markdown
from piscope.report.render_words import COST_WORDS, OUTCOME_WORDS, printable
from piscope.report.summarize import summarize
from piscope.report.summary import Bounds, Summary
from piscope.sources.detect import open_trace

TRACES = sorted(
    path.name
    for path in SAMPLES.iterdir()
    if path.name.startswith("vmx-") and not path.name.endswith(".meta.txt")
)
NUMBER = re.compile(r"[0-9][0-9.,]*")


@cache
def _analysis(name: str) -> pipeline.Analysis:
    with closing(open_trace(str(SAMPLES / name))) as source:
        return pipeline.analyze(source)


@cache
def _summary(name: str) -> Summary:
    summary = summarize(_analysis(name))
    summary.trace.path = name
    return summary


def _numbers(text: str) -> Counter[str]:
    return Counter(NUMBER.findall(text))


@pytest.mark.parametrize("name", TRACES)
def test_it_is_valid_and_80_columns(name: str) -> None:
    text = render_markdown(_summary(name))
    assert max(map(len, text.splitlines())) <= 80
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert kinds(text) <= BLOCKS
    sheets = [
        shape
        for _, shapes in sections(_summary(name), 80)
        for shape in shapes
        if isinstance(shape, Sheet)
    ]
    tables = list(tables_of(text))
    assert len(tables) >= len(sheets) > 3
    for rows in tables:
        assert len({len(row) for row in rows}) == 1


@pytest.mark.parametrize("name", TRACES)
def test_terminal_and_markdown_hold_the_same_numbers(name: str) -> None:
    summary = _summary(name)
    wide = as_text((p for _, p in sections(summary, 99)), columns=500, color=False)
    read = " ".join(texts_of(render_markdown(summary)))
    assert _numbers(read) == _numbers(wide)
    # the report that people see is those sections, folded
    narrow = render(summary, width=80).replace(name, "")
    folded = _numbers("".join(narrow.split()))
    assert sum(folded.values()) > 0


def _rows_of_text(text: str) -> dict[str, list[str]]:
    rows: dict[str, list[str]] = {}
    for line in text.splitlines():
        label, *cells = re.split(r"\s{2,}", line.strip())
        rows.setdefault(label, cells)
    return rows


_TITLES = ("with all that can't be excluded",)


def _rows_of_markdown(text: str) -> dict[str, list[str]]:
    rows: dict[str, list[str]] = {}
    for table in tables_of(text):
        for label, *cells in unfolded(table, _TITLES):
            rows.setdefault(label.removeprefix("- "), cells)
    return rows


def _rows_of_page(page: str) -> dict[str, list[str]]:
    rows: list[list[str]] = []
    for element in Page(page).elements:
        if element.tag == "tr":
            rows.append([])
        elif element.tag in ("th", "td") and rows:
            rows[-1].append(" ".join(element.text.split()))
    found: dict[str, list[str]] = {}
    for label, *cells in rows:
        found.setdefault(label, cells)
    return found


@pytest.mark.parametrize("name", TRACES)
def test_every_form_says_what_json_says(name: str) -> None:
    summary = _summary(name)
    document = json.loads(json.dumps(as_json(summary)))
    wide = as_text((p for _, p in sections(summary, 99)), columns=500, color=False)
    compared = 0
    forms = [_rows_of_text(wide), _rows_of_markdown(render_markdown(summary))]
    if find_spec("plotly") and find_spec("jinja2"):  # the extra `html`
        forms.append(_rows_of_page(render_html(_analysis(name), summary)))
    for rows in forms:
        for key, words in (*OUTCOME_WORDS.items(), *COST_WORDS.items()):
            if words not in rows or key == "host":
                continue
            kind = "costs" if key in COST_WORDS else "outcomes"
            expected = [
                str(Bounds(**policy[kind][key]))
                for policy in document["policies"].values()
            ]
            assert rows[words][:2] == expected, words
            compared += 1
        for words, key in (
            ("to vCPUs not loaded", "unloaded_notifications"),
            ("to loaded vCPUs in the host", "residual_notifications"),
            ("of them wrong vCPU", "wrong_vcpu"),
        ):
            expected = [
                str(Bounds(**policy[key])) for policy in document["policies"].values()
            ]
            assert rows[words][:2] == expected, words
            compared += 1
    assert compared >= 6 * len(forms)
    verdict = " ".join(document["verdict"])
    assert verdict in " ".join(" ".join(texts_of(render_markdown(summary))).split())
    assert verdict in " ".join(wide.split())


def test_the_command_prints_each_form(capfd: pytest.CaptureFixture[str]) -> None:
    trace = str(SAMPLES / "vmx-6.17.13-ipiv-tools.p_min.perf.data")
    out: dict[str, str] = {}
    for words in (("--format", "md"), ("--format", "json"), ("--json",), ()):
        assert run_piscope(["analyze", *words, trace]) == 0
        out[" ".join(words)] = capfd.readouterr().out
    assert out["--format json"] == out["--json"]
    json.loads(out["--json"])
    assert tokens_of(out["--format md"])[0].tag == "h1"
    assert out[""].startswith("piscope ")


def test_several_traces_are_one_document(capfd: pytest.CaptureFixture[str]) -> None:
    traces = [str(SAMPLES / name) for name in TRACES[:2]]
    run_piscope(["analyze", "--format", "md", *traces])
    out = capfd.readouterr().out
    titles = [t for t in tokens_of(out) if t.type == "heading_open" and t.tag == "h1"]
    assert len(titles) == 2


# --- nothing becomes markup by accident

WORDS = st.text(
    st.sampled_from("ab1 .-+*_`#|<>[]()!&;:~=\\/'\"\té—")
    | st.characters(codec="utf-8"),
    max_size=40,
)


def _read(text: str) -> str:
    return " ".join(printable(text).split())


def _found(text: str) -> list[str]:
    """What is read below the title."""
    return [" ".join(t.split()) for t in texts_of(text)[1:]]


@given(WORDS)
def test_a_note_is_read_as_it_was_written(text: str) -> None:
    made = as_markdown([[heading("title"), note(text)]])
    found = texts_of(made)[1:]
    assert [" ".join(t.split()) for t in found] == (
        [_read(text)] if text.strip(" ") else []
    )
    assert kinds(made) <= BLOCKS


@given(st.lists(WORDS, min_size=1, max_size=4))
def test_remarks_and_facts_are_items(texts: list[str]) -> None:
    texts = [f"x{text}" for text in texts]
    made = as_markdown([[heading("title"), remarks(texts)]])
    assert [" ".join(t.split()) for t in texts_of(made)[1:]] == [
        _read(t) for t in texts
    ]
    made = as_markdown([[heading("title"), facts([("label", t) for t in texts])]])
    assert _found(made) == [f"label: {_read(t)}" for t in texts]
    assert kinds(made) <= BLOCKS


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4))
def test_cells_are_read_as_they_were_written(rows: list[tuple[str, str]]) -> None:
    grid = Grid(("name", "count"))
    for label, count in rows:
        grid.add(f"x{label}", f"1{count}")
    made = as_markdown([[heading("title"), grid.render(80)]], columns=1000)
    (table,) = tables_of(made)
    assert table[0] == ["name", "count"]
    assert table[1:] == [[_read(f"x{a}"), _read(f"1{b}")] for a, b in rows]


@given(st.lists(st.text("ab 12", min_size=1, max_size=60), min_size=3, max_size=3))
def test_a_table_too_wide_is_folded_and_loses_no_word(cells: list[str]) -> None:
    cells = [f"x {cell}" for cell in cells]
    grid = Grid(("one", "two", "three"))
    grid.add(*cells)
    made = as_markdown([[heading("title"), grid.render(80)]], columns=80)
    words = [word for cell in cells for word in cell.split()]
    if max(map(len, words)) <= 20:
        assert max(map(len, made.splitlines())) <= 80
    (table,) = tables_of(made)
    for i, cell in enumerate(cells):
        assert " ".join(" ".join(row[i] for row in table[1:]).split()) == _read(cell)


def test_a_number_keeps_its_unit() -> None:
    grid = Grid(("a rather long heading of the first column", "time\nspent in it"))
    grid.add("something with several words in it", "1,234.5 ms to 2,345.6 ms")
    lines = as_markdown([[grid.render(60)]], columns=44).splitlines()
    assert not any(re.search(r"\d +\|", line) and "ms" not in line for line in lines)
    assert "ms" in "".join(lines)


def test_a_deep_label_stays_deep_where_it_is_folded() -> None:
    grid = Grid(("", "n"))
    grid.add("some words that are to be folded", "1", depth=1)
    lines = as_markdown([[grid.render(80)]], columns=30).splitlines()
    assert lines[2].startswith("| - some")
    assert lines[3].startswith("|   ")


@pytest.mark.parametrize("first", [True, False])
def test_a_long_heading_has_several_lines(first: bool) -> None:
    text = "words " * 30
    parts = [heading(text)] if first else [heading("t"), heading(text)]
    made = as_markdown([parts])
    assert max(map(len, made.splitlines())) <= 80
    token = [t for t in tokens_of(made) if t.type == "inline"][-1]
    assert inline_text(token).split() == text.split()
    assert kinds(made) == {"heading", "inline"}


def test_a_shape_that_is_not_known_is_kept_as_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = as_markdown([[heading("t"), "a ``` b"]])
    (fence,) = [t for t in tokens_of(made) if t.type == "fence"]
    assert fence.content == "a ``` b\n"
