"""Every label of the summary has words, and numbers have the unit that suits them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piscope.outcomes import Hit
from piscope.report.render_words import (
    KIND_HEADINGS,
    OUTCOME_WORDS,
    REASON_WORDS,
    STATE_WORDS,
    cpu_list,
    difference_text,
    duration_text,
    exit_reason_name,
    printable,
    share_text,
)
from piscope.report.summary import Bounds
from piscope.tables import Kind, PutReason


def test_no_label_without_words() -> None:
    assert set(OUTCOME_WORDS) == {hit.label for hit in Hit}
    assert set(REASON_WORDS) == {reason.label for reason in PutReason}
    assert set(KIND_HEADINGS) == {kind.label for kind in Kind}
    assert set(STATE_WORDS) == {kind.label for kind in Kind} | {"before-put"}


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0"),
        (1, "1 ns"),
        (999, "999 ns"),
        (1_000, "1.0 us"),
        (999_940, "999.9 us"),
        (999_960, "1.0 ms"),
        (3_200_000, "3.2 ms"),
        (999_999_999, "1.000 s"),
        (1_002_000_000, "1.002 s"),
        (3_600_000_000_000, "3,600 s"),
    ],
)
def test_durations(ns: int, text: str) -> None:
    assert duration_text(ns) == text


@given(st.integers(0, 10**18))
def test_durations_are_short(ns: int) -> None:
    number, _, unit = duration_text(ns).partition(" ")
    assert len(number) <= 13
    assert unit in {"", "ns", "us", "ms", "s"}


def test_small_shares_are_not_nothing() -> None:
    assert share_text(0, 10) == "0"
    assert share_text(1, 10**6) == "<0.1"
    assert share_text(1, 8) == "12.5"
    assert share_text(1, 0) == "0"


def test_differences_are_signed() -> None:
    assert difference_text(Bounds(-1250, -1250)) == "-1,250"
    assert difference_text(Bounds(-9, 5)) == "-9 to +5"
    assert difference_text(Bounds(0, 0)) == "0"
    assert difference_text(Bounds(-9, 9), same_range=True) == "same range"


def test_exit_reasons_by_name() -> None:
    assert exit_reason_name("48") == "EPT_VIOLATION"
    assert exit_reason_name("9999") == "exit reason 9999"
    assert exit_reason_name("?") == "exit reason ?"


def test_cpu_lists() -> None:
    assert cpu_list([0, 1, 2, 5]) == "0-2,5"
    assert cpu_list(list(range(0, 100, 2)), most=3) == "0,2,4,..."


def test_terminals_get_no_escapes() -> None:
    assert printable("a\x1b[31m\nb\u202e") == r"a\x1b[31m\nb\u202e"
