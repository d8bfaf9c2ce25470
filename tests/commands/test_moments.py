"""Every form of an instant, exactly, and every wrong one with a reason."""

from __future__ import annotations

import pytest

from piscope.commands.moments import parse_moment
from piscope.errors import UsageError

# A trace from 10 s to 30 s: |10 ........ 20 ........ 30|
FIRST_NS, LAST_NS = 10_000_000_000, 29_999_999_999


@pytest.mark.parametrize(
    ("text", "expected_ns"),
    [
        ("24006.249294487", 24_006_249_294_487),
        ("12", 12_000_000_000),
        ("0.1", 100_000_000),
        ("1.5s", 11_500_000_000),
        ("+1.5s", 11_500_000_000),
        ("200ms", 10_200_000_000),
        ("+3us", 10_000_003_000),
        ("7ns", 10_000_000_007),
        ("+2", 12_000_000_000),
        ("-200ms", 29_800_000_000),
        ("-1", 29_000_000_000),
        ("0%", 10_000_000_000),
        ("45%", 19_000_000_000),
        ("12.5%", 12_500_000_000),
        ("100%", 30_000_000_000),
    ],
)
def test_forms(text: str, expected_ns: int) -> None:
    assert parse_moment(text).resolve(FIRST_NS, LAST_NS) == expected_ns


@pytest.mark.parametrize(
    "text",
    ["", "now", "1.5h", "1,5s", ".5s", "1e9", "nan", "--5s", "+45%", "101%", "9" * 40],
)
def test_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_moment(text)


def test_absolute_needs_no_trace() -> None:
    assert not parse_moment("24006.249294487").is_relative
    assert parse_moment("1.5s").is_relative
    assert parse_moment("45%").is_relative


def test_a_clock_that_counts() -> None:
    assert parse_moment("303280081900681").resolve(None, None, counts=True) == (
        303280081900681
    )
    assert parse_moment("+5").resolve(100, 200, counts=True) == 105
    assert parse_moment("50%").resolve(100, 199, counts=True) == 150
    with pytest.raises(UsageError, match="does not count nanoseconds"):
        parse_moment("5ms").resolve(100, 200, counts=True)


def test_an_empty_trace_has_no_instants() -> None:
    assert parse_moment("50%").resolve(None, None) == 0
