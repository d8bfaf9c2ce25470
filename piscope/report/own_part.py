"""A part of an analysis as the tallies read it: what of its tables is to be counted."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from piscope.outcomes import Findings
from piscope.parts import Own
from piscope.report.analyzed import Analyzed
from piscope.report.selection import Selection
from piscope.tables import Intervals, PutReason

__all__ = ("AnalyzedPart", "ChosenPart", "WholePart", "rows_of", "runs")


class AnalyzedPart(Protocol):
    """What is read of pipeline.Part."""

    @property
    def analysis(self) -> Analyzed:
        """The tables, those of the context included."""

    @property
    def own(self) -> Own:
        """Which of their rows are the part's own."""


class WholePart:
    """An analysis that was made at once, as the only part."""

    def __init__(self, analysis: Analyzed) -> None:
        self.analysis = analysis
        self.own = Own(0, len(analysis.events))


class ChosenPart:
    """A part, and which of its own rows a selection leaves.

    chosen   bool[vCPUs]    selected vCPUs
    windows  bool[windows]  own ones of any vCPU
    puts     bool[windows]  own ones of a selected vCPU, put on a selected pCPU
    stimuli  bool[stimuli]  own ones of a selected vCPU
    """

    def __init__(self, part: AnalyzedPart, selection: Selection) -> None:
        """Raises UsageError where the selection names what the trace does not hold."""
        self.analysis, self.own, self.selection = part.analysis, part.own, selection
        timeline, stimuli = self.analysis.timeline, self.analysis.stimuli
        w = timeline.windows
        self.chosen = selection.of_vcpus(timeline.vcpus)
        self.windows = self.own.windows(w)
        self.puts = self.windows & self.chosen[w.vcpu] & selection.of_cpus(w.put_cpu)
        self.stimuli = self.own.stimuli(stimuli, timeline.posts, w)
        self.stimuli &= self.chosen[stimuli.vcpu]

    def intervals(self) -> Intervals:
        """The own ones of the selected vCPUs, in the order of INTERVALS."""
        i = self.analysis.timeline.intervals
        mine = self.own.intervals(i) & self.chosen[i.vcpu]
        return i if mine.all() else rows_of(i, mine)

    def findings(self, findings: Findings) -> npt.NDArray[np.bool_]:
        """bool[findings]: own ones of a selected vCPU that went to a selected pCPU."""
        result: npt.NDArray[np.bool_] = self.stimuli[findings.stimulus]
        result &= self.selection.of_cpus(findings.cpu)
        return result

    def put_reasons(self, findings: Findings) -> npt.NDArray[np.uint8]:
        """uint8[findings]: PutReason of the window that each fell into."""
        # outside of any, but maybe not loaded: where the trace lost the vCPU
        result = np.full(len(findings), PutReason.UNKNOWN, np.uint8)
        inside = findings.window >= 0
        windows = self.analysis.timeline.windows
        result[inside] = windows.reason[findings.window[inside]]
        return result


def rows_of(intervals: Intervals, which: npt.NDArray[Any]) -> Intervals:
    """These rows of INTERVALS: a mask, or indices."""
    return Intervals(*(getattr(intervals, f.name)[which] for f in fields(intervals)))


def runs(vcpu: npt.NDArray[np.int32], vcpus: int) -> list[slice]:
    """Each vCPU's rows of a table that holds vCPU after vCPU."""
    ends = np.searchsorted(vcpu, np.arange(vcpus + 1)).tolist()
    return [slice(*pair) for pair in pairwise(ends)]
