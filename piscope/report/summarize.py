"""An analysis made into the summary: counted, grouped, and said what it can't tell."""

from __future__ import annotations

from piscope.report.analyzed import Analyzed
from piscope.report.own_part import WholePart
from piscope.report.selection import Selection
from piscope.report.summarize_trace import summarize_losses
from piscope.report.summary import Summary
from piscope.report.tally import Tallies

__all__ = ("summarize", "summarize_losses")


def summarize(analysis: Analyzed, selection: Selection | None = None) -> Summary:
    """Count everything that a report says, once.

    Raises UsageError where the selection names what the trace does not hold.
    """
    tallies = Tallies(selection)
    tallies.add(WholePart(analysis))
    return tallies.finish()
