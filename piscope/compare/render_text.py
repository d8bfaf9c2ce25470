"""The comparison for people: 80 columns or more, the verdict first.

Every number is one of `Account`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from piscope.compare.account import Account, Capture, Figure, Pair, Rate, Span
from piscope.compare.verdict import number_text
from piscope.report.render_layout import (
    LEAST_COLUMNS,
    Grid,
    as_text,
    columns_within,
    facts,
    heading,
    note,
    remarks,
)
from piscope.report.render_markdown import as_markdown
from piscope.report.render_words import duration_text, printable

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = (
    "TOLD",
    "Told",
    "account_as_markdown",
    "account_as_text",
    "capture_facts",
    "told_figures",
)

TOLD: dict[tuple[str, str], tuple[str, int]] = {
    ("unloaded_notifications", ""): ("to unloaded vCPUs", 0),
    ("wrong_vcpu", ""): ("wrong vCPU", 1),
    ("residual_notifications", ""): ("to loaded vCPUs", 0),
    ("host_irqs", ""): ("host IRQs, known", 0),
    ("wakeups", ""): ("wakeups, known", 0),
    ("delivered", ""): ("delivered, known", 0),
    ("exposure_windows", ""): ("open windows", 0),
    ("exposure_ns", ""): ("time in them", 1),
    ("costs", "pir_scans"): ("PIR scans", 0),
    ("costs", "empty_scans"): ("in vain", 1),
    ("costs", "locked_ops"): ("locked ops", 0),
    ("costs", "list_locks"): ("list locks", 0),
    ("puts", ""): ("puts", 0),
    ("exits", ""): ("VM-exits", 0),
    ("entries", ""): ("VM-entries", 0),
    ("notification_exits", ""): ("0xf2 exits, seen", 0),
    ("wakeup_exits", ""): ("0xf1 exits, seen", 0),
    ("wakeup_handler_calls", ""): ("pi_wakeup_handler", 0),
}
"""Figures that the report for people has, in its order; all are in the JSON."""


def account_as_text(
    account: Account, *, width: int = LEAST_COLUMNS, color: bool = False
) -> str:
    """The whole comparison, ending with a newline; `width` is taken as 80 to 120."""
    columns = columns_within(width)
    return as_text(_sections(account, columns), columns=columns, color=color)


def account_as_markdown(account: Account) -> str:
    """The same as Markdown of 80 columns."""
    return as_markdown(_sections(account, LEAST_COLUMNS))


def _sections(account: Account, columns: int) -> Iterator[Iterator[RenderableType]]:
    yield _opening(account)
    yield _captures(account, columns)
    for pair in account.pairs:
        yield _by_time(account, pair, columns)
        for per in _PER_WORDS:
            yield _by_exits(account, pair, columns, per)
    yield _unfair(account)
    yield _remarks(account)


def _opening(account: Account) -> Iterator[RenderableType]:
    yield heading(f"piscope {account.piscope_version} compare")
    rows = [
        ("A", printable(account.a.path)),
        ("B", printable(account.b.path)),
        ("question", account.question),
    ]
    yield facts(rows)
    yield facts([("verdict", " ".join(account.verdict))], style="bold")


def _captures(account: Account, width: int) -> Iterator[RenderableType]:
    yield heading("What is compared")
    grid = Grid(("", "A", "B"), left=3)
    for label, *cells in capture_facts(account):
        grid.add(label, *cells)
    yield grid.render(width)


def capture_facts(account: Account) -> list[tuple[str, str, str]]:
    """Both captures side by side."""

    def of(capture: Capture) -> list[tuple[str, str]]:
        return [
            ("kernel", capture.kernel_release or "not told"),
            ("its policy", capture.captured_policy or "not known"),
            ("format", capture.format),
            ("duration", duration_text(capture.duration_ns)),
            ("vCPUs, pCPUs", f"{capture.vcpus:,}, {capture.cpus:,}"),
            ("exits, entries", f"{capture.exits:,}, {capture.entries:,}"),
            ("visible posts", f"{capture.posts:,}"),
            ("lost", _lost(capture)),
        ]

    return [
        (label, one, other)
        for (label, one), (_, other) in zip(of(account.a), of(account.b), strict=True)
    ]


def _lost(capture: Capture) -> str:
    if not capture.losses:
        return "nothing told"
    events = "some" if capture.lost_events is None else f"{capture.lost_events:,}"
    return f"{events} events"


def told_figures(account: Account, pair: Pair) -> Iterator[Told]:
    """The figures told of a pair of policies; those that are 0 in both are left out."""
    figures = {
        (f.metric, f.key): f
        for f in account.figures
        if (f.policy_a, f.policy_b) in ((pair.a, pair.b), (None, None))
    }
    for key, (words, depth) in TOLD.items():
        figure = figures.get(key)
        if figure is None or (figure.a.max == 0 and figure.b.max == 0):
            continue
        yield Told(words, depth, figure, {rate.per: rate for rate in figure.rates})


@dataclass(frozen=True, slots=True)
class Told:
    """A figure with its words, how deep they are indented, and its rates by `per`."""

    words: str
    depth: int
    figure: Figure
    rates: dict[str, Rate]


def _under(pair: Pair) -> str:
    if pair.a == pair.b:
        return f"both under {pair.a}"
    return f"A under {pair.a}, B under {pair.b}"


def _by_time(account: Account, pair: Pair, width: int) -> Iterator[RenderableType]:
    yield heading(f"A second: {_under(pair)}")
    values = Grid(("", "A", "B", "B/A, 95%", ""), left=1)
    more = Grid(("", "difference", "B/A", "p"), left=1)
    for told in told_figures(account, pair):
        rate = told.rates.get("second")
        if rate is None:
            continue
        values.add(*_cells(told, rate), depth=told.depth)
        difference = rate.difference
        more.add(
            told.words,
            _signed(difference.min, difference.max, told.figure.unit),
            _ratio(rate.ratio),
            _p_text(rate.p),
            depth=told.depth,
        )
    yield values.render(width)
    yield note("")
    yield more.render(width)


def _by_exits(
    account: Account, pair: Pair, width: int, per: str
) -> Iterator[RenderableType]:
    grid = Grid(("", "A", "B", "B/A, 95%", ""), left=1)
    for told in told_figures(account, pair):
        rate = told.rates.get(per)
        if rate is not None and told.figure.metric not in ("exits", "entries"):
            grid.add(*_cells(told, rate), depth=told.depth)
    if grid.rows:
        yield heading(f"{_PER_WORDS[per]}: {_under(pair)}")
        yield grid.render(width)


_PER_WORDS = {
    "1000_exits": "Per 1,000 VM-exits",
    "1000_entries": "Per 1,000 VM-entries",
}


def _cells(told: Told, rate: Rate) -> tuple[str, str, str, str, str]:
    unit = told.figure.unit
    return (
        told.words,
        _value(rate.a.min, rate.a.max, unit),
        _value(rate.b.min, rate.b.max, unit),
        _ratio(rate.confidence),
        rate.verdict,
    )


def _ratio(span: Span | None) -> str:
    return _span(span.min, span.max) if span is not None else "-"


def _value(least: float, most: float | None, unit: str) -> str:
    if most is None:
        return f"{_one(least, unit)} or more"
    ends = _one(least, unit), _one(most, unit)
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def _one(number: float, unit: str) -> str:
    return duration_text(round(number)) if unit == "ns" else number_text(number)


def _signed(least: float | None, most: float | None, unit: str) -> str:
    def of(number: float | None) -> str:
        if number is None:
            return "any"
        text = _one(abs(number), unit)
        if text == "0":
            return text
        return f"-{text}" if number < 0 else f"+{text}"

    ends = of(least), of(most)
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def _span(least: float | None, most: float | None) -> str:
    low = "0" if not least else number_text(least)
    high = "any" if most is None else number_text(most)
    return low if low == high else f"{low} to {high}"


def _p_text(p: float | None) -> str:
    if p is None:
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.9995 else "1"


def _unfair(account: Account) -> Iterator[RenderableType]:
    yield heading("What makes the comparison unfair")
    yield remarks(account.unfair or ["nothing that the captures tell of"])


def _remarks(account: Account) -> Iterator[RenderableType]:
    yield heading("How to read it")
    words = (
        "rises, falls: beyond the ranges and chance. noise: not beyond chance, whatever"
        " the ranges allow. open: that depends on what the traces leave open. same: the"
        " same, for sure. differs: beyond the ranges; chance is not judged for times."
    )
    yield remarks([*account.remarks, words])
