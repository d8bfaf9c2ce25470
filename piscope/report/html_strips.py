"""The vCPUs' timelines in a few MB: what a page draws, zooms into, and tells of.

Few intervals are kept as they are, to the nanosecond. Of many, each vCPU's shares of
time are kept in as many columns as the budget allows, exact to 1/255 of a column. The
page adds up either to the width of its pixels, so that nothing is skipped for being
short. Notifications keep their instants, or their columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from piscope.report.html_figures import KIND_COLORS, KIND_WORDS
from piscope.report.html_hits import HitsTally
from piscope.report.html_lives import LivesTally
from piscope.report.own_part import AnalyzedPart, ChosenPart
from piscope.report.render_words import exit_reason_name
from piscope.report.selection import Selection
from piscope.report.summary import Summary
from piscope.tables import Kind, Vcpu

__all__ = ("BUDGET_BYTES", "Packed", "TimelineTally")

BUDGET_BYTES = 2_500_000
"""Deflated, that the timelines and the notifications may take in a page."""

_MOST_VCPUS = 256  # of which a picture can be drawn


@dataclass(frozen=True, slots=True)
class Packed:
    """The timelines as a page carries them.

    about   what the blocks hold and how to read them, plain values
    blocks  deflated, by name
    """

    about: dict[str, Any]
    blocks: dict[str, bytes]


class TimelineTally:
    """The timelines of the selected vCPUs, added part by part.

    It holds numbers of the finest columns that a page may have, and of no more
    intervals and notifications than a page may hold one by one.
    """

    def __init__(self, selection: Selection | None = None) -> None:
        """Notifications are narrowed to those of its pCPUs, as in a summary."""
        self._selection = selection or Selection()
        self._vcpus: list[Vcpu] = []
        self._span_ns = (0, 0)
        self._exits: set[int] = set()
        self._lives: LivesTally | None = None
        self._hits: HitsTally | None = None

    def add(self, part: AnalyzedPart) -> None:
        """Add what is a part's own; parts come in the order of the trace.

        Raises UsageError where the selection names what the trace does not hold.
        """
        mine = ChosenPart(part, self._selection)
        timeline = part.analysis.timeline
        if self._lives is None or self._hits is None:
            self._vcpus = [v for v in timeline.vcpus.rows if mine.chosen[v.vcpu]]
            self._span_ns = timeline.span_ns
            chosen = np.flatnonzero(mine.chosen).astype(np.int32)
            self._lives = LivesTally(chosen, self._span_ns)
            self._hits = HitsTally(self._span_ns)
        reason = timeline.intervals.reason[part.own.intervals(timeline.intervals)]
        self._exits.update(np.unique(reason[reason >= 0]).tolist())
        self._lives.add(mine.intervals())
        self._hits.add(mine)

    def pack(
        self, summary: Summary, *, budget_bytes: int = BUDGET_BYTES
    ) -> Packed | None:
        """The timelines of the summary's vCPUs; None if it has none, or no time passes.

        The summary is of the same selection. Of more vCPUs than a picture can hold
        those with most entries and puts.

        Raises ValueError where no part was added.
        """
        if self._lives is None or self._hits is None:
            raise ValueError("a page is of at least one part")
        begin_ns, end_ns = self._span_ns
        busy = {v.label: v.entries + sum(v.puts.values()) for v in summary.vcpus}
        label = {row.vcpu: row.label for row in self._vcpus if row.label in busy}
        busiest = sorted(label, key=lambda vcpu: -busy[label[vcpu]])
        shown = np.array(sorted(busiest[:_MOST_VCPUS]), np.int32)
        if not len(shown) or end_ns <= begin_ns:
            return None
        lives = self._lives.block(shown, 2 * budget_bytes // 3)
        hits = self._hits.block(shown, budget_bytes // 3)
        about = {
            "start_ns": str(begin_ns),  # a double does not hold every ns since 1970
            "duration_ns": end_ns - begin_ns,
            "vcpus": [label[vcpu] for vcpu in shown.tolist()],
            "left_out": len(label) - len(shown),
            "kinds": _kinds(),
            "exits": {x: exit_reason_name(str(x)) for x in sorted(self._exits)},
            "lives": lives.about,
            "notifications": hits.about,
        }
        blocks = {"lives": lives.deflated(), "notifications": hits.deflated()}
        return Packed(about, blocks)


def _kinds() -> list[dict[str, Any]]:
    """Every kind by its number, with what it takes to draw it."""
    order = list(KIND_COLORS)
    return [
        {
            "name": kind.label,
            "words": KIND_WORDS[kind.label],
            "color": KIND_COLORS[kind.label],
            "order": order.index(kind.label),
        }
        for kind in Kind
    ]
