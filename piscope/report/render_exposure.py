"""The exposure: how often and how long vCPUs were open to notifications for nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from piscope.report.render_layout import Grid, heading, note
from piscope.report.render_trace import MOST_VCPUS
from piscope.report.render_verdict import hidden_windows
from piscope.report.render_words import (
    REASON_WORDS,
    bounds_text,
    duration_text,
    durations_text,
)
from piscope.report.summary import Bounds, Exposed, PolicySummary, Summary

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ("exposure_section",)


def exposure_section(summary: Summary, width: int) -> Iterator[RenderableType]:
    """Windows with SN=0 and NV=0xF2, by put reason and by vCPU, under each policy."""
    yield heading(
        "Exposure: vCPU not loaded, SN=0, NV=0xF2, so that a post sends an IRQ"
    )
    quiet = [p for p in summary.policies.values() if not p.exposure.windows.max]
    for policy in summary.policies.values():
        if policy not in quiet:
            yield _table(policy, summary).render(width)
            if hidden_windows(policy):
                yield note(f"{policy.name}: these windows{_hidden(policy)}.")
    for policy in quiet:
        yield note(f"{policy.name}: no window is open{_hidden(policy)}.")


def _table(policy: PolicySummary, summary: Summary) -> Grid:
    grid = Grid((policy.name, "windows", "a second", "time open", "longest"))
    seconds = summary.trace.duration_ns / 10**9

    def row(name: str, of: Exposed, depth: int) -> None:
        grid.add(
            name,
            bounds_text(of.windows),
            _rate(of.windows, seconds),
            durations_text(of.duration_ns),
            duration_text(of.longest_ns),
            depth=depth,
        )

    row("all", policy.exposure, 0)
    for reason, of in policy.exposure_by_reason.items():
        row(REASON_WORDS.get(reason, reason), of, 1)
    for name, of in _most(policy.exposure_by_vcpu):
        row(name, of, 1)
    closed = sum(1 for of in policy.exposure_by_vcpu.values() if not of.windows.max)
    left = len(policy.exposure_by_vcpu) - MOST_VCPUS - closed
    if left > 0:
        grid.add(f"{left:,} more vCPUs (--json)", "", "", "", "", depth=1)
    return grid


def _hidden(policy: PolicySummary) -> str:
    hidden = hidden_windows(policy)
    if not hidden:
        return ""
    return f", as far as events show; up to {hidden:,} more may hide (see below)"


def _most(by_vcpu: Mapping[str, Exposed]) -> list[tuple[str, Exposed]]:
    """The vCPUs with most open windows, in their own order."""
    opened = [(name, of) for name, of in by_vcpu.items() if of.windows.max]
    most = sorted(opened, key=lambda item: -item[1].windows.max)[:MOST_VCPUS]
    return [item for item in opened if item in most]


def _rate(windows: Bounds, seconds: float) -> str:
    if seconds <= 0:
        return "?"
    least, most = windows.min / seconds, windows.max / seconds
    return (
        f"{most:,.1f}" if windows.min == windows.max else f"{least:,.1f} to {most:,.1f}"
    )
