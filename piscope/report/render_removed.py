"""Where the removed notifications were, and in which windows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from piscope.report.render_layout import Grid, facts, heading, note
from piscope.report.render_words import REASON_WORDS, bounds_text, duration_text
from piscope.report.summary import Group, Removed, Summary, WindowLine

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ("removed_section",)

_MOST_GROUPS = 8


def removed_section(summary: Summary, width: int) -> Iterator[RenderableType]:
    """By VM, vCPU, put reason and pCPU, then the kinds of window; for two policies."""
    removed = summary.removed
    if removed is None:
        return
    total = bounds_text(removed.total)
    if removed.total.max:
        yield heading(f"Where the removed ones were: {total} by known posts")
        yield facts(_groups(removed))
    else:
        yield heading("Where removed ones could have been: no known post is one")
    if not removed.windows:
        yield note(
            f"No window is open under {removed.before} and closed under"
            f" {removed.after}."
        )
        return
    yield note("")
    yield _windows(removed.windows).render(width)
    yield note(
        f"Windows that are open under {removed.before} and closed under"
        f" {removed.after}; a notification goes to the pCPU that the vCPU last ran on."
    )


def _groups(removed: Removed) -> Iterator[tuple[str, str]]:
    for label, groups in (
        ("by VM", removed.by_vm),
        ("by vCPU", removed.by_vcpu),
        ("by reason", [_in_words(group) for group in removed.by_reason]),
        ("by pCPU", removed.by_cpu),
    ):
        shown = [f"{g.name}: {bounds_text(g.removed)}" for g in groups[:_MOST_GROUPS]]
        if len(groups) > len(shown):
            shown.append(f"{len(groups) - len(shown):,} more (--json)")
        yield label, ", ".join(shown)


def _in_words(group: Group) -> Group:
    return Group(REASON_WORDS.get(group.name, group.name), group.removed)


def _windows(lines: list[WindowLine]) -> Grid:
    grid = Grid(
        ("vCPU", "while it was", "pCPU", "windows", "removed", "longest", "in all"),
        left=2,
    )
    for line in lines:
        grid.add(
            line.vcpu,
            REASON_WORDS.get(line.reason, line.reason),
            str(line.cpu),
            f"{line.windows:,}",
            bounds_text(line.removed),
            duration_text(line.longest_ns),
            duration_text(line.total_ns),
        )
    return grid
