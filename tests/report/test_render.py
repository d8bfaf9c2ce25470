"""The report: its order, its widths, and that nothing in a trace can spoil it.

`python tests/report/test_render.py` writes the golden texts anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report.summaries import exact, policy, vcpu, with_posts, without_posts

from piscope.report.render import render
from piscope.report.summary import Bounds, Summary

GOLDEN = Path(__file__).parent / "golden"
CASES: list[tuple[str, Callable[[], Summary], int]] = [
    ("with_posts-80", with_posts, 80),
    ("with_posts-120", with_posts, 120),
    ("without_posts-80", without_posts, 80),
]
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.parametrize(("name", "make", "width"), CASES, ids=[c[0] for c in CASES])
def test_golden(name: str, make: Callable[[], Summary], width: int) -> None:
    assert render(make(), width=width) == (GOLDEN / f"{name}.txt").read_text()


def test_sections_come_in_order() -> None:
    titles = (
        "question ",
        "verdict ",
        "What was analyzed",
        "What the vCPUs did",
        "What became of the notifications",
        "Where the removed ones were",
        "Exposure",
        "What it costs",
        "What this trace could not show",
    )
    text = render(with_posts())
    places = [text.index(title) for title in titles]
    assert places == sorted(places)
    assert "--posted msi" in text.splitlines()[1]


numbers = st.integers(0, 10**9)
ranges = st.builds(lambda a, b: Bounds(min(a, b), max(a, b)), numbers, numbers)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(80, 120),
    st.lists(ranges, min_size=4, max_size=4),
    st.text(max_size=60),
    st.sampled_from(["suppress-on-put", "no-suppression"]),
)
def test_nothing_is_wider_than_the_terminal_or_cut(
    width: int, some: list[Bounds], name: str, other: str
) -> None:
    summary = with_posts()
    first = summary.policies["preempt-only"]
    first.unloaded_notifications, first.residual_notifications = some[0], some[1]
    first.outcomes["guest"], first.costs["pir_scans"] = some[2], some[3]
    second = summary.policies.pop("suppress-on-put")
    summary.policies[other] = second
    second.name = other
    second.outcomes["guest"], second.unloaded_notifications = some[3], some[2]
    summary.trace.path = summary.trace.format = name
    summary.vcpus[0].comm = name
    text = render(summary, width=width)
    assert all(len(line) <= width for line in text.splitlines() if line.isascii())
    assert "\x1b" not in text
    assert "..." not in text.replace(name, "")
    assert "\N{HORIZONTAL ELLIPSIS}" not in text.replace(name, "")
    words = set(text.split())
    for bounds in some:  # never broken within a number
        assert f"{bounds.min:,}" in words
        assert f"{bounds.max:,}" in words


def test_markup_and_escapes_in_a_trace_stay_text() -> None:
    summary = with_posts()
    summary.vcpus[0].comm = "[red]\x1b[2J:skull:"
    summary.trace.notes = ["line one\nline two\x07"]
    for color in (False, True):
        text = _ANSI.sub("", render(summary, width=120, color=color))
        assert r"[red]\x1b[2J:skull:" in text
        assert r"line one\nline two\x07" in text


def test_color_only_repeats_what_the_words_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    plain = render(with_posts(), color=False)
    styled = render(with_posts(), color=True)
    assert styled != plain
    stripped = "".join(f"{x.rstrip()}\n" for x in _ANSI.sub("", styled).splitlines())
    assert stripped == plain
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", render(with_posts(), color=True))


def test_many_vcpus_are_cut_and_counted() -> None:
    summary = with_posts()
    summary.vcpus = [vcpu(f"vm0/vcpu{i}", 2000 + i, guest=1000) for i in range(300)]
    first = summary.policies["preempt-only"]
    one = first.exposure_by_vcpu["vm0/vcpu0"]
    first.exposure_by_vcpu = {v.label: one for v in summary.vcpus}
    text = render(summary)
    assert "and 284 less busy ones (--json)" in text
    assert "284 more vCPUs (--json)" in text
    assert len(text.splitlines()) < 180


def test_vcpus_without_events_are_counted_not_listed() -> None:
    summary = with_posts()
    summary.vcpus[1].entries, summary.vcpus[1].puts = 0, {}
    text = render(summary)
    assert "1 of 1 VM, and 1 without any event" in text
    assert summary.vcpus[1].label not in text[: text.index("What became")]


def test_one_policy_has_no_difference_and_three_have_two() -> None:
    summary = with_posts()
    summary.policies["more-fastpath"] = policy("more-fastpath")
    summary.removed = None
    text = render(summary)
    assert len(re.findall(r"known posts.*difference", text)) == 2
    assert "Where" not in text
    del summary.policies["more-fastpath"], summary.policies["suppress-on-put"]
    assert "difference" not in render(summary)


def test_equal_ranges_differ_by_nothing_that_is_known() -> None:
    text = render(with_posts())
    assert re.search(
        r"to loaded vCPUs in the host +7 to 346 +7 to 346 +same range", text
    )


def test_a_trace_without_posts_still_tells_timeline_exposure_and_costs() -> None:
    text = render(without_posts())
    for part in ("known posts: 0", "0 to 331", "0 to 262", "PIR scans", "user-"):
        assert part in text
    assert "- Posts by a device leave no event." in text


def test_selection_that_holds_nothing() -> None:
    summary = without_posts()
    summary.vcpus = []
    summary.narrowed = {"cpu": "7", "from": "1s"}
    summary.cannot_tell = []
    summary.policies["preempt-only"] = policy(
        "preempt-only", residual_notifications=exact(0)
    )
    text = render(summary)
    assert "--cpu 7; --from 1s" in text
    assert "no vCPU has an event" in text
    assert "no gap is known" in text


if __name__ == "__main__":
    for case, summary_of, columns in CASES:
        (GOLDEN / f"{case}.txt").write_text(render(summary_of(), width=columns))
