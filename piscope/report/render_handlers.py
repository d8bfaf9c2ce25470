"""The handlers that would gain most from a fast path, ranked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from piscope.report.render_layout import Grid, facts, heading, note
from piscope.report.render_words import bounds_text, duration_text
from piscope.report.summary import Bounds, Handler, Observed, Summary

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ("handler_section",)

_MOST = 8


def handler_section(summary: Summary, width: int) -> Iterator[RenderableType]:
    """By VM-exit reason: known residual notifications, and room for unseen ones."""
    if summary.handlers:
        yield heading("Which handlers would gain from a fast path")
        yield _table(summary).render(width)
        left = len(summary.handlers) - _MOST
        if left > 0:
            yield note(f"{left:,} more exit reasons (--json).")
        yield note(
            "Straight back: neither slept nor went to userspace, so that with IRQs off"
            " until the entry there is no IRQ. Residual: to loaded vCPUs in the host,"
            f" under {next(iter(summary.policies))}; posts by hardware leave no event,"
            " and may have been wherever that time was spent."
        )
    if summary.observed is not None:
        seen = list(_seen(summary.observed))
        if seen:
            yield facts([("observed", "; ".join(seen))])


def _table(summary: Summary) -> Grid:
    first = next(iter(summary.policies))
    grid = Grid(
        (
            "VM-exit",
            "exits",
            "straight\nback",
            "time in\nthe host",
            "of it\nstraight",
            "residual,\nknown",
            "of it\nsavable",
        )
    )
    for line in summary.handlers[:_MOST]:
        grid.add(
            line.name,
            f"{line.exits:,}",
            f"{line.straight_back:,}",
            duration_text(line.host_ns),
            duration_text(line.straight_back_ns),
            bounds_text(_of(line, "residual", first)),
            bounds_text(_of(line, "savable", first)),
        )
    return grid


def _of(line: Handler, name: str, policy: str) -> Bounds:
    counts: dict[str, Bounds] = getattr(line, name)
    return counts.get(policy, Bounds())


def _seen(of: Observed) -> Iterator[str]:
    if of.notification_exits:
        yield f"{of.notification_exits:,} VM-exits by 0xF2 (L2, or APICv inhibited)"
    if of.wakeup_exits:
        yield f"{of.wakeup_exits:,} VM-exits by 0xF1"
    if of.wakeup_handler_calls is not None:
        yield f"pi_wakeup_handler ran {of.wakeup_handler_calls:,} times"
    if of.unexplained_wakings:
        yield (
            f"{of.unexplained_wakings:,} wakings of vCPUs in interrupts that only 0xF1"
            f" explains, {of.woken_blocked:,} of a vCPU that is blocked here"
        )
    if of.on_read:
        agree = of.on_read - of.on_missing
        yield f"at {agree:,} of the {of.on_read:,} loads behind them a probe read ON=1"
    if of.proved:
        yield (
            f"of {of.proved:,} wakeups that the replay proves {of.proved_seen:,} are"
            " among these wakings"
        )
