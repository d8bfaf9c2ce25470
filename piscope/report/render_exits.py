"""VM-exits as text for people, within 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from piscope.report.exit_report import (
    BUDGET_PARTS,
    ExitBudget,
    ExitGroup,
    ExitReport,
    Outlier,
)
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
from piscope.report.render_words import duration_text, printable, share_text

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ("render_exits",)

_MOST_VCPUS = 16
# that are listed one by one; all are in the JSON


def render_exits(
    report: ExitReport, *, width: int = LEAST_COLUMNS, color: bool = False
) -> str:
    """The report, ending with a newline, its lines without trailing blanks.

    `width` is taken as 80 to 120 columns; `color` as render.render takes it.
    """
    columns = columns_within(width)
    return as_text(_sections(report, columns), columns=columns, color=color)


def _sections(report: ExitReport, width: int) -> Iterator[Iterator[RenderableType]]:
    yield _opening(report)
    yield _exits("VM-exits, from exit to entry", [report.all], width)
    if len(report.vms) > 1:
        yield _exits("The same by VM", report.vms, width)
    if len(report.vcpus) > 1:
        yield _exits("The same by vCPU", report.vcpus, width)
    yield _budgets(report.budgets, width)
    if report.outliers:
        yield _outliers(report.outliers, width)
    if report.cannot_tell:
        yield _gaps(report)


def _opening(report: ExitReport) -> Iterator[RenderableType]:
    trace = report.trace
    yield heading(f"piscope {report.piscope_version}: {printable(trace.path)}")
    lost = [
        f"{loss.cause}: {'?' if loss.events is None else f'{loss.events:,}'} events"
        f" ({loss.detail})"
        for loss in trace.losses
    ]
    yield facts(
        [
            ("format", trace.format),
            ("kernel", trace.kernel_release or "not told"),
            ("duration", f"{duration_text(trace.duration_ns)}"),
            *[("lost" if not i else "", text) for i, text in enumerate(lost)],
        ]
    )
    if report.narrowed:
        only = "; ".join(f"--{k} {v}" for k, v in report.narrowed.items())
        yield facts([("only", only)])


def _exits(
    title: str, groups: Sequence[ExitGroup], width: int
) -> Iterator[RenderableType]:
    yield heading(title)
    # p90 is in the JSON: eight numbers do not fit beside the longest name
    grid = Grid(("reason", "count", "time%", "min", "p50", "avg", "p99", "max"))
    busy = [group for group in groups if group.count]
    shown = sorted(busy, key=lambda g: g.total_ns, reverse=True)[:_MOST_VCPUS]
    shown.sort(key=busy.index)
    several = len(groups) > 1
    for group in shown:
        if several:
            grid.add(group.label, f"{group.count:,}", *[""] * 6, style="bold")
        for line in group.reasons:
            grid.add(
                line.reason,
                f"{line.count:,}",
                share_text(line.total_ns, group.total_ns),
                *map(_short, (line.min_ns, line.p50_ns, round(line.mean_ns))),
                *map(_short, (line.p99_ns, line.max_ns)),
                depth=int(several),
            )
        if not several:
            grid.add("all", f"{group.count:,}", _short(group.total_ns), *[""] * 5)
    if not busy:
        yield note("no VM-exit whose entry is known")
        return
    yield grid.render(width)
    if len(busy) > len(shown):
        yield note(f"and {len(busy) - len(shown):,} with less time (--json)")


def _short(duration_ns: int) -> str:
    # One word: a blank would let a narrow table fold it.
    return duration_text(duration_ns).replace(" ", "")


def _budgets(budgets: Sequence[ExitBudget], width: int) -> Iterator[RenderableType]:
    yield heading("Where each vCPU's time went, in percent of the wall time")
    parts = [p for p in BUDGET_PARTS if any(b.time_ns[p] for b in budgets)]
    grid = Grid(("vCPU", *parts, "not\nsure", "wall"))
    shown = sorted(budgets, key=lambda b: b.time_ns["guest"], reverse=True)
    shown = shown[:_MOST_VCPUS]
    shown.sort(key=budgets.index)
    for budget in shown:
        grid.add(
            budget.label,
            *(share_text(budget.time_ns[p], budget.wall_ns) for p in parts),
            share_text(budget.uncertain_ns, budget.wall_ns),
            _short(budget.wall_ns),
        )
    yield grid.render(width)
    if len(budgets) > len(shown):
        yield note(f"and {len(budgets) - len(shown):,} less in the guest (--json)")


def _outliers(outliers: Sequence[Outlier], width: int) -> Iterator[RenderableType]:
    yield heading("Longest against the median of their reason")
    grid = Grid(("reason", "vCPU", "at", "took", "times\nmedian", "of that"), 2)
    for one in outliers:
        spent = sorted(one.time_ns.items(), key=lambda item: -item[1])
        grid.add(
            one.reason,
            one.label,
            f"{one.ts_ns // 10**9}.{one.ts_ns % 10**9:09}",
            _short(one.dur_ns),
            f"{one.times_median:,.0f}",
            ", ".join(f"{part} {share_text(ns, one.dur_ns)}%" for part, ns in spent),
        )
    yield grid.render(width)


def _gaps(report: ExitReport) -> Iterator[RenderableType]:
    yield heading("What this trace could not show")
    yield remarks(report.cannot_tell)
