"""Posts at a rate, the curve over a range of rates, and what the kernel counted."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from piscope.report.rates_report import (
    Counters,
    CountersInterval,
    Expectation,
    PredictedCount,
    RateCurve,
    RatePolicy,
    Rates,
)
from piscope.report.render_layout import (
    Grid,
    Note,
    Picture,
    facts,
    heading,
    note,
    remarks,
)
from piscope.report.summary import Summary

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ("counters_section", "rates_section")

_WORDS = {
    "host_irqs": "IRQs that the host takes",
    "unloaded_notifications": "sent, vCPU not loaded",
    "wrong_vcpu": "wrong vCPU: another's guest mode",
    "residual_notifications": "spurious in the host, vCPU loaded",
}
_DEPTH = {"wrong_vcpu": 1}


def rates_section(summary: Summary, width: int) -> Iterator[RenderableType]:
    """What is expected at the rates that were asked for."""
    rates = summary.rates
    if rates is None:
        return
    yield heading(f"If posts arrived at a rate{_by(rates.senders)}")
    if rates.rate_hz is not None:
        yield facts([("rate", _rates_text(rates))])
        yield _expected(rates).render(width)
        yield note(
            "Expected numbers, plus or minus the standard deviation of the number;"
            " a range is what the trace leaves open. For posts at independent instants"
            " (Poisson); at most one in each stretch from one sync to the next."
        )
    if rates.curve is not None:
        yield _table(rates.curve).render(width)
        yield from _plot(rates.curve, width)


def _by(senders: Sequence[str]) -> str:
    return f", as IPIs of {', '.join(senders)} in guest mode" if senders else ""


def _rates_text(rates: Rates) -> str:
    assert rates.rate_hz is not None
    each = set(rates.rate_hz.values())
    total = f"about {rates.posts or 0:,.0f} posts in all"
    if len(each) == 1:
        return f"{_hz(each.pop())} a second to each vCPU; {total}"
    named = ", ".join(f"{name} {_hz(hz)}" for name, hz in rates.rate_hz.items() if hz)
    return f"a second: {named or 'none'}; {total}"


def _expected(rates: Rates) -> Grid:
    names = list(rates.policies)
    gone = rates.removed
    grid = Grid(("expected", *names, *(["removed"] if gone is not None else [])))
    for key, words in _WORDS.items():
        columns: list[RatePolicy] = [rates.policies[name] for name in names]
        if gone is not None:
            columns.append(gone)
        cells = [_value(getattr(column, key)) for column in columns]
        grid.add(words, *cells, depth=_DEPTH.get(key, 0))
    return grid


def _value(found: Expectation) -> str:
    sd = f" ±{_number(found.sd)}" if found.sd else ""
    return f"{_range(found.min, found.max)}{sd}"


def _range(least: float, most: float) -> str:
    one, two = _number(least), _number(most)
    return one if one == two else f"{one} to {two}"


def _number(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:,.1f}" if abs(value) < 1000 else f"{value:,.0f}"


def _hz(value: float) -> str:
    for factor, unit in ((1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"


_MOST_ROWS = 13


def _table(curve: RateCurve) -> Grid:
    """Some of the rates, the first and the last among them."""
    names = list(curve.host_irqs)
    grid = Grid(
        (
            "posts a second\nto each vCPU",
            *(f"host IRQs\n{name}" for name in names),
            *(["removed"] if curve.removed is not None else []),
        )
    )
    n = len(curve.rates_hz)
    step = max(1, math.ceil((n - 1) / (_MOST_ROWS - 1)))
    shown = [*range(0, n - 1, step), n - 1]
    for i in shown:
        lines = [curve.host_irqs[name] for name in names]
        if curve.removed is not None:
            lines.append(curve.removed)
        cells = [
            _value(Expectation(line.min[i], line.max[i], line.sd[i])) for line in lines
        ]
        grid.add(_hz(curve.rates_hz[i]), *cells)
    return grid


_PLOT_ROWS = 12
_MARKS = "*o+x#@%"


def _plot(curve: RateCurve, width: int) -> Iterator[RenderableType]:
    """Host IRQs over the logarithm of the rate, a mark for each policy."""
    top = max(max(line.max, default=0.0) for line in curve.host_irqs.values())
    if top <= 0:
        return
    label = len(_number(top))
    columns = min(width, 100) - label - 16
    logs = [math.log(hz) for hz in curve.rates_hz]
    cells = [[" "] * (columns + 1) for _ in range(_PLOT_ROWS + 1)]
    for mark, line in zip(_MARKS, curve.host_irqs.values(), strict=False):
        middle = [(a + b) / 2 for a, b in zip(line.min, line.max, strict=True)]
        for x in range(columns + 1):
            at = logs[0] + (logs[-1] - logs[0]) * x / columns
            y = round(_between(logs, middle, at) / top * _PLOT_ROWS)
            here = cells[_PLOT_ROWS - y]
            here[x] = mark if here[x] == " " else "="
    rows = []
    for i, row in enumerate(cells):
        tick = _number(top * (_PLOT_ROWS - i) / _PLOT_ROWS) if i % 4 == 0 else ""
        rows.append(f"{tick:>{label}} |{''.join(row).rstrip()}")
    first, last = _hz(curve.rates_hz[0]), _hz(curve.rates_hz[-1])
    rows.append(f"{'':>{label}} +{'-' * (columns + 1)}")
    rows.append(f"{'':>{label}}  {first}{last:>{columns + 1 - len(first)}} a second")
    marks = zip(_MARKS, curve.host_irqs, strict=False)
    legend = "  ".join(f"{mark} {name}" for mark, name in marks)
    rows.append(f"{'':>{label}}  {legend}  = both")
    yield Note("")
    yield Picture(tuple(rows))


def _between(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """The polygon through the points, at x."""
    at = min(max(bisect_right(xs, x), 1), len(xs) - 1)
    share = (x - xs[at - 1]) / (xs[at] - xs[at - 1])
    return ys[at - 1] + (ys[at] - ys[at - 1]) * share


def counters_section(summary: Summary, width: int) -> Iterator[RenderableType]:
    """PIN and PIW beside the replay, and the rate that PIN tells."""
    counters = summary.counters
    if counters is None:
        return
    yield heading("What the kernel counted")
    yield _counted(counters).render(width)
    if counters.policy is not None:
        yield note(
            f"Predicted for {counters.policy} and the posts as they were: what the"
            " trace proves, and what it can't exclude."
        )
    if counters.estimates:
        yield Note("")
        yield heading(f"The rate of unseen posts that PIN tells{_by(counters.senders)}")
        yield _estimates(counters).render(width)
        yield note(
            "Likeliest rate (Poisson), and 99%: for the rate by likelihood ratio, for a"
            " predicted PIN from that and from its own spread."
        )
    if counters.notes:
        yield remarks(counters.notes)


def _counted(counters: Counters) -> Grid:
    grid = Grid(("counter", "counted", "predicted"))
    for i, interval in enumerate(counters.intervals):
        shown = [x for x in interval.lines if x.counted or (x.min or 0) or x.max]
        if len(counters.intervals) > 1:
            grid.add(_interval(interval, i), "", "")
        depth = 1 if len(counters.intervals) > 1 else 0
        for line in shown:
            predicted = ""
            if line.min is not None:
                most = "no limit" if line.max is None else f"{line.max:,}"
                predicted = most if line.min == line.max else f"{line.min:,} to {most}"
            grid.add(
                f"{line.counter} cpu{line.cpu}",
                f"{line.counted:,}",
                predicted,
                depth=depth,
            )
        if not shown:
            grid.add("PIN, NPI and PIW", "0", "", depth=depth)
    return grid


def _interval(interval: CountersInterval, number: int) -> str:
    if interval.start_ns is None or interval.end_ns is None:
        return f"interval {number + 1}"
    start, end = (ns / 1e9 for ns in (interval.start_ns, interval.end_ns))
    return f"from {start:.6f} to {end:.6f}"


def _estimates(counters: Counters) -> Grid:
    names = list(counters.total)
    grid = Grid(
        (
            "",
            "PIN",
            "posts a second",
            "99%",
            *(part for name in names for part in (f"PIN under\n{name}", "99%")),
        )
    )
    for line in counters.estimates:
        cells = [f"{line.counted:,}"]
        if line.min_hz is None:
            cells += ["none gives it", ""]
        else:
            cells += [
                _hz_range(line.min_hz, line.max_hz),
                _hz_range(line.low_hz, line.high_hz),
            ]
        for name in names:
            cells += _predicted(line.predicted.get(name))
        grid.add(f"cpu{line.cpu}", *cells)
    if len(counters.estimates) > 1 and names:
        total = sum(line.counted for line in counters.estimates)
        cells = [f"{total:,}", "", ""]
        for name in names:
            cells += _predicted(counters.total[name])
        grid.add("all", *cells)
    return grid


def _hz_range(least: float | None, most: float | None) -> str:
    if least is None:
        return "any"
    if most is None:
        return f"from {_hz(least)} on"
    one, two = _hz(least), _hz(most)
    return one if one == two else f"{one} to {two}"


def _predicted(count: PredictedCount | None) -> list[str]:
    if count is None:
        return ["", ""]
    whole = _range(round(count.min), round(count.max))
    return [
        whole.replace(".0", ""),
        f"{math.floor(count.low):,} to {math.ceil(count.high):,}",
    ]
