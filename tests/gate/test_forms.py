"""The forms of a report: readable, parseable, and none the worse for odd names."""

from __future__ import annotations

import json
import unicodedata
import xml.etree.ElementTree as ET

import pytest
from gate.jobs import measured

from piscope.corpus import Corpus, Trace
from piscope.gate.baseline import parse_baseline
from piscope.gate.findings import Report, Verdict
from piscope.gate.judge import judge
from piscope.gate.measured import Failed
from piscope.gate.render_ci import FORMS
from piscope.gate.update import updated

ODD = 'a|b`<&">]]>\x1b[31m,:%\n' + "é" * 60 + "漢" * 40


@pytest.fixture
def report() -> Report:
    """A kept, a broken and an untold limit, and an unreadable trace."""
    text = "format = 1\n[limits.each]\nlosses.max = 5\nlost_events.per_second.max = 1\n"
    baseline = parse_baseline(text, "odd, name.toml")
    text = updated(baseline, {"t": measured("t", losses=(1, 1))})
    corpus = Corpus((Trace("t", "/c/t x"), Trace(ODD, "/c/o"), Trace("bad", "/c/bad")))
    return judge(
        parse_baseline(text, "odd, name.toml"),
        corpus,
        {
            "t": measured("t", losses=(6, 7), lost_events=(0, float("inf"))),
            ODD: measured("o", losses=(0, 9)),
            "bad": Failed(f"/c/bad: {ODD.splitlines()[0]}"),
        },
    )


def test_a_terminal_gets_80_columns_but_for_commands_and_reasons(
    report: Report,
) -> None:
    text = FORMS["text"](report)
    assert "\x1b" not in text
    for line in text.splitlines():
        width = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)
        assert width <= 80 or line.startswith("    $ "), line
    assert "losses: max 5; was 1, is 6 to 7" in text
    assert "    $ piscope check '/c/t x'" in text
    assert text.startswith("piscope gate: NOT ANALYZED: 1 kept, 1 broken, 2 cannot")


def test_markdown_is_a_table_that_names_can_not_break(report: Report) -> None:
    rows = [r for r in FORMS["markdown"](report).splitlines() if r.startswith("|")]
    assert len(rows) == 2 + len(report.open())
    for row in rows:
        assert row.replace("\\|", "").count("|") == 7
        assert "<" not in row.replace("\\<", "")


def test_junit_counts_what_it_holds(report: Report) -> None:
    root = ET.fromstring(FORMS["junit"](report))
    cases = root.findall("./testsuite/testcase")
    assert int(root.get("tests", "")) == len(cases) == len(report.findings)
    assert int(root.get("failures", "")) == len(root.findall(".//failure")) == 1
    assert int(root.get("errors", "")) == len(root.findall(".//error")) == 3
    (failure,) = root.findall(".//failure")
    assert "to see why: piscope check '/c/t x'" in (failure.text or "")


def test_sarif_points_at_the_limit(report: Report) -> None:
    (run,) = json.loads(FORMS["sarif"](report))["runs"]
    rules = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    assert {result["ruleId"] for result in run["results"]} <= rules
    (broken,) = [r for r in run["results"] if "broken" in r["message"]["text"]]
    place = broken["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "odd%2C%20name.toml"
    assert place["region"] == {"startLine": 3}
    levels = [result["level"] for result in run["results"]]
    assert levels == ["error", "error", "warning", "warning"]


def test_github_annotations_are_one_line_each(report: Report) -> None:
    lines = FORMS["github"](report).splitlines()
    assert len(lines) == len(report.open()) + 1
    assert all(line.startswith(("::error ", "::warning ")) for line in lines)
    assert lines[1].startswith("::error file=odd%2C name.toml,line=3,title=")


def test_json_holds_everything(report: Report) -> None:
    document = json.loads(FORMS["json"](report))
    assert document["exit_status"] == 2
    assert len(document["findings"]) == len(report.findings)
    assert [line["state"] for line in document["traces"]].count("unreadable") == 1
    (untold,) = [
        f
        for f in document["findings"]
        if f["verdict"] == Verdict.CANNOT_TELL and f["name"] == "t"
    ]
    assert untold["is"] == {"min": 0, "max": None}
