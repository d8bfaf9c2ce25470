"""Verdicts: a range against a limit, and a corpus against a baseline."""

from __future__ import annotations

import math

import pytest
from gate.jobs import measured
from hypothesis import given, settings
from hypothesis import strategies as st

from piscope import __version__
from piscope.corpus import Corpus, Trace
from piscope.gate.baseline import Baseline, parse_baseline
from piscope.gate.findings import Report, State, Verdict
from piscope.gate.judge import judge
from piscope.gate.measured import Failed, Measured
from piscope.gate.update import updated

KEPT, BROKEN, CANNOT_TELL = Verdict.KEPT, Verdict.BROKEN, Verdict.CANNOT_TELL


def _baseline(limits: str, **was: tuple[float, float]) -> Baseline:
    """Limits, and the losses that each trace had."""
    text = f"format = 1\n{limits}\n"
    return parse_baseline(
        updated(
            parse_baseline(text, "b.toml"),
            {name: measured("a", losses=ends) for name, ends in was.items()},
        ),
        "b.toml",
    )


def _judged(
    baseline: Baseline, *, partial: bool = False, **now: tuple[float, float] | str
) -> Report:
    results: dict[str, Measured | Failed] = {
        name: Failed(ends) if isinstance(ends, str) else measured("b", losses=ends)
        for name, ends in now.items()
    }
    corpus = Corpus(tuple(Trace(name, f"/c/{name}") for name in now))
    return judge(baseline, corpus, results, partial=partial)


def _verdict(limit: str, now: tuple[float, float], was: tuple[float, float]) -> Verdict:
    return _judged(_baseline(f"[limits.each]\n{limit}", t=was), t=now).verdict


@pytest.mark.parametrize(
    ("limit", "was", "now", "verdict"),
    [
        ("losses.max = 5", (0, 0), (5, 5), KEPT),
        ("losses.max = 5", (0, 0), (6, 6), BROKEN),
        ("losses.max = 5", (0, 0), (5, 6), CANNOT_TELL),
        ("losses = {max = 5, cannot_tell = 'pass'}", (0, 0), (5, 6), KEPT),
        ("losses = {max = 5, cannot_tell = 'pass'}", (0, 0), (6, 7), BROKEN),
        ("losses = {max = 5, cannot_tell = 'report'}", (0, 0), (0, 6), CANNOT_TELL),
        ("losses.max = 5", (0, 0), (0, math.inf), CANNOT_TELL),
        ("losses.min = 5", (0, 0), (4, 4), BROKEN),
        ("losses.min = 5", (0, 0), (4, 5), CANNOT_TELL),
        ("losses.min = 5", (0, 0), (5, 9), KEPT),
        ("losses = {min = 5, max = 7}", (0, 0), (5, 7), KEPT),
        ("losses = {min = 5, max = 7}", (0, 0), (5, 8), CANNOT_TELL),
        ("losses.increase_percent = 10", (10, 10), (11, 11), KEPT),
        ("losses.increase_percent = 10", (10, 10), (12, 12), BROKEN),
        ("losses.increase_percent = 10", (10, 20), (10, 22), KEPT),
        ("losses.increase_percent = 10", (10, 20), (10, 23), CANNOT_TELL),
        ("losses.increase_percent = 10", (10, 20), (12, 20), CANNOT_TELL),
        ("losses.increase_percent = 10", (10, 20), (23, 30), BROKEN),
        ("losses.increase_percent = 10", (0, math.inf), (0, math.inf), KEPT),
        ("losses.increase_percent = -100", (1, 1), (1, 1), BROKEN),
        ("losses.increase_percent = -100", (0, math.inf), (0, 0), KEPT),
        ("losses = {increase_percent=0, noise_below=5}", (0, 0), (5, 5), KEPT),
        ("losses = {increase_percent=0, noise_below=5}", (0, 0), (6, 6), BROKEN),
        ("losses = {increase_percent=0, noise_below=5}", (0, 0), (3, 6), CANNOT_TELL),
        # 2 s and 100 entries
        ("losses.per_second.max = 2", (0, 0), (4, 4), KEPT),
        ("losses.per_second.max = 2", (0, 0), (5, 5), BROKEN),
        ("losses.per_entry.max = 0.05", (0, 0), (5, 5), KEPT),
        ("losses.per_entry.max = 0.05", (0, 0), (6, 6), BROKEN),
    ],
)
def test_one_limit(
    limit: str, was: tuple[float, float], now: tuple[float, float], verdict: Verdict
) -> None:
    assert _verdict(limit, now, was) == verdict


_ranges = st.integers(0, 50).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(n, 60))
)


@settings(max_examples=40)
@given(_ranges, st.integers(0, 60))
def test_a_maximum_is_kept_or_broken_by_every_number_of_the_range(
    now: tuple[int, int], most: int
) -> None:
    verdict = _verdict(f"losses.max = {most}", now, (0, 0))
    kept = {number <= most for number in range(now[0], now[1] + 1)}
    assert kept == {KEPT: {True}, BROKEN: {False}, CANNOT_TELL: {True, False}}[verdict]


@settings(max_examples=40)
@given(_ranges, st.integers(0, 30), st.integers(0, 20), st.sampled_from(["", "per_"]))
def test_an_unchanged_trace_keeps_every_relative_limit(
    was: tuple[int, int], percent: int, noise: int, measure: str
) -> None:
    on = f"losses.{measure}second" if measure else "losses"
    limit = f"{on} = {{increase_percent = {percent}, noise_below = {noise}}}"
    assert _verdict(limit, was, was) == KEPT


@settings(max_examples=40)
@given(_ranges, _ranges, st.integers(0, 30))
def test_a_broken_increase_is_one_whatever_the_truth_was(
    was: tuple[int, int], now: tuple[int, int], percent: int
) -> None:
    if _verdict(f"losses.increase_percent = {percent}", now, was) == BROKEN:
        assert now[0] * 100 > was[1] * (100 + percent)


def test_states_of_traces() -> None:
    baseline = _baseline("[limits.each]\nlosses.max = 9", same=(1, 1), gone=(1, 1))
    corpus = Corpus((Trace("same", "/same"), Trace("new", "/new"), Trace("bad", "/b")))
    report = judge(
        baseline,
        corpus,
        {"same": measured("a"), "new": measured("c"), "bad": Failed("/b: no trace")},
    )
    assert {line.name: line.state for line in report.traces} == {
        "bad": State.UNREADABLE,
        "gone": State.MISSING,
        "new": State.NEW,
        "same": State.UNCHANGED,
    }
    assert report.exit_status == 2  # and yet the others are judged
    assert report.count(KEPT) == 2
    assert report.open()[0].why == "/b: no trace"


def test_a_changed_trace_is_judged_by_its_numbers() -> None:
    report = _judged(_baseline("[limits.each]\nlosses.max = 9", t=(1, 1)), t=(1, 1))
    assert [line.state for line in report.traces] == [State.CHANGED]
    assert report.exit_status == 0


def test_a_missing_trace_is_no_pass_unless_a_part_was_asked_for() -> None:
    baseline = _baseline("[limits.each]\nlosses.max = 9", t=(1, 1), gone=(1, 1))
    assert _judged(baseline, t=(1, 1)).exit_status == 3
    assert _judged(baseline, partial=True, t=(1, 1)).exit_status == 0


def test_a_new_trace_has_nothing_to_be_relative_to() -> None:
    baseline = _baseline("[limits.each]\nlosses.increase_percent = 10")
    report = _judged(baseline, t=(0, 0))
    assert report.exit_status == 3
    assert report.findings[0].why == "not in the baseline"


def test_a_result_that_never_came_counts() -> None:
    baseline = _baseline("[limits.each]\nlosses.max = 9")
    assert judge(baseline, Corpus((Trace("t", "/t"),)), {}).exit_status == 2


@pytest.mark.parametrize(
    ("now", "status"),
    [
        ({"a": (5, 5), "b": (5, 5), "c": (99, 99)}, 0),
        ({"a": (5, 5), "b": (6, 6), "c": (99, 99)}, 1),
        ({"a": (5, 5), "b": (5, 6), "c": (99, 99)}, 3),
    ],
)
def test_a_group_is_the_sum_of_its_traces(
    now: dict[str, tuple[float, float]], status: int
) -> None:
    limits = "[limits.groups.ab]\ntraces = ['[ab]']\nsum.losses.max = 10"
    report = _judged(_baseline(limits), **now)
    assert report.exit_status == status
    assert [(f.scope, f.name) for f in report.findings] == [("group", "ab")]


def test_a_sum_without_one_of_its_traces_is_not_kept() -> None:
    limits = "[limits.corpus]\nlosses = {max = 10, increase_percent = 900}"
    baseline = _baseline(limits, a=(1, 1), b=(1, 1))
    assert _judged(baseline, a=(1, 1), b=(1, 1)).exit_status == 0
    unread = _judged(baseline, a=(1, 1), b="/c/b: cut")
    assert unread.exit_status == 2
    (corpus,) = [f for f in unread.findings if f.scope == "corpus"]
    assert corpus.verdict == CANNOT_TELL
    assert corpus.why == "1 of 2 traces have no number"
    (broken,) = [
        f for f in _judged(baseline, a=(11, 11), b="x").findings if f.scope == "corpus"
    ]
    assert broken.verdict == BROKEN  # the rest can only add to it


def test_a_sum_points_at_the_trace_that_rose_most() -> None:
    baseline = _baseline(
        "[limits.corpus]\nlosses.increase_percent = 0", a=(9, 9), b=(0, 0)
    )
    (finding,) = _judged(baseline, a=(10, 10), b=(5, 5)).findings
    assert finding.verdict == BROKEN
    assert finding.command == "piscope check /c/b"


def test_numbers_of_another_version_are_said_and_still_compared() -> None:
    baseline = _baseline("[limits.each]\nlosses.increase_percent = 0", t=(1, 1))
    text = baseline.text.replace(f'piscope = "{__version__}"', 'piscope = "0.0.1"')
    report = _judged(parse_baseline(text, "b.toml"), t=(2, 2))
    assert report.exit_status == 2
    assert "0.0.1" in report.findings[0].why
    assert report.count(BROKEN) == 1


def test_a_trace_without_entries_has_no_rate() -> None:
    from dataclasses import replace

    baseline = _baseline("[limits.each]\nlosses.per_entry.max = 1")
    corpus = Corpus((Trace("t", "/t"),))
    report = judge(baseline, corpus, {"t": replace(measured(), entries=0)})
    assert report.exit_status == 3
